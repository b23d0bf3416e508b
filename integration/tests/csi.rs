//! The Container Storage Interface, as kubelet and its sidecars drive it. Every call is made ten times,
//! with restarts of layerd and of the client in between; docs/kubernetes.md has a row for each test.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "csi/apis.rs"]
mod apis;
#[path = "csi/client.rs"]
mod client;
#[path = "csi/controller.rs"]
mod controller;
#[path = "csi/identity.rs"]
mod identity;
#[path = "csi/inline.rs"]
mod inline;
#[path = "csi/lists.rs"]
mod lists;
#[path = "csi/manifests.rs"]
mod manifests;
#[path = "csi/node.rs"]
mod node;
#[path = "csi/refusals.rs"]
mod refusals;
#[path = "csi/sanity.rs"]
mod sanity;
#[path = "csi/snapshots.rs"]
mod snapshots;
#[path = "csi/socket.rs"]
mod socket;
#[path = "csi/stats.rs"]
mod stats;
#[path = "csi/vanished.rs"]
mod vanished;
#[path = "csi/world.rs"]
mod world;
