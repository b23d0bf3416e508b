//! Harness of the end-to-end tests: the built daemon, the real clients, and images to give them.
//!
//! Everything a test starts or mounts lies below one [`Scratch`] directory. Its guard ends the
//! processes and detaches the mounts found there, also when the test fails, so nothing here has
//! to be cleaned up by name.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a harness reports by failing its test"
)]

pub mod activated;
pub mod collector;
pub mod daemon;
pub mod fd_store;
pub mod image;
pub mod metrics;
pub mod namespace;
pub mod peers;
pub mod plugin;
pub mod process;
pub mod scratch;
pub mod snapshots;
pub mod transcript;
pub mod tree;
pub mod wire;

pub use activated::Activated;
pub use collector::Collector;
pub use daemon::Daemon;
pub use fd_store::FdStore;
pub use image::{Entry, Image, Layer};
pub use namespace::UserNamespace;
pub use peers::{Containerd, Docker, Podman, PodmanVersion, Version};
pub use plugin::Plugin;
pub use scratch::Scratch;
pub use snapshots::Snapshots;
pub use transcript::Transcript;
pub use tree::Tree;
