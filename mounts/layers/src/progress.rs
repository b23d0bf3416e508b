//! Progress and cancellation of long work.

/// Receiver of progress, which may cancel. Called often and from several threads, so it must be quick.
pub trait Progress: Sync {
    /// Adds names made or written, and bytes of content, to the progress.
    fn advanced(&self, files: u64, bytes: u64);

    /// True to stop the work. Asked before each file and several times within a large one.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Ignores progress and never cancels.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn advanced(&self, _: u64, _: u64) {}
}
