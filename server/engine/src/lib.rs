//! The daemon without a network.

pub mod filter;
