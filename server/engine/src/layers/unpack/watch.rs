//! Ends long work on layers early.

use std::io::{self, Read};

use layerd_layers::Progress;

use super::memory::Claim;
use crate::{Root, reserve};

/// A source that fails with the next piece after a cancellation, however slowly pieces come.
pub(super) struct Watched<'a, R> {
    pub(super) source: R,
    pub(super) watch: &'a Watch<'a>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if self.watch.cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        Ok(count)
    }
}

/// Ends work on a layer when the client, the snapshot or the daemon goes, or the disk's reserve is reached.
pub(super) struct Watch<'a> {
    pub(super) root: &'a Root,
    pub(super) client: &'a dyn Progress,
    pub(super) claim: Option<&'a Claim<'a>>,
    /// Set if the work writes to the data directory.
    pub(super) reserve: Option<reserve::Watched<'a>>,
}

impl Progress for Watch<'_> {
    fn advanced(&self, files: u64, bytes: u64) {
        self.client.advanced(files, bytes);
        if let (Some(reserve), Some(claim)) = (&self.reserve, self.claim)
            && reserve.reaches(files, bytes)
        {
            claim.end_for_reserve();
        }
    }

    fn cancelled(&self) -> bool {
        self.client.cancelled()
            || self.claim.is_some_and(Claim::has_ended)
            || self.root.backlog.is_stopping()
    }
}
