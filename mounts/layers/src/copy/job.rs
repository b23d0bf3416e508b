//! Work that the walk hands to a worker.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::node::Attributes;

/// A file that was made and is empty.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) from: OwnedFd,
    pub(super) to: OwnedFd,
    pub(super) size: u64,
    pub(super) sparse: bool,
    pub(super) attributes: Attributes,
    pub(super) layer: usize,
    pub(super) path: PathBuf,
}
