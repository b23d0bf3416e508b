//! Ends long work on layers early.

use std::io::{self, Read};

use layerd_layers::Progress;

use super::memory::Claim;
use crate::Root;

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

/// Ends work on a layer when the client, the snapshot or the daemon goes.
pub(super) struct Watch<'a> {
    pub(super) root: &'a Root,
    pub(super) client: &'a dyn Progress,
    pub(super) claim: Option<&'a Claim<'a>>,
}

impl Progress for Watch<'_> {
    fn advanced(&self, files: u64, bytes: u64) {
        self.client.advanced(files, bytes);
    }

    fn cancelled(&self) -> bool {
        self.client.cancelled()
            || self.claim.is_some_and(Claim::is_cancelled)
            || self.root.backlog.is_stopping()
    }
}
