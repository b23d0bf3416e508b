//! The daemon without a network.
