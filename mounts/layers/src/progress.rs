//! How long work tells how far it is, and learns that nobody wants it any more.

/// Who watches. Called often and from several threads, so it must be quick.
pub trait Progress: Sync {
    /// That much more is done: names made or written, and bytes of content.
    fn advanced(&self, files: u64, bytes: u64);

    /// Whether to stop. Asked before each file and several times within a large one.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn advanced(&self, _: u64, _: u64) {}
}
