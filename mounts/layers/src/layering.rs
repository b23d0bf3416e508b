//! The two ways in which directories of layers relate to those below them.

use crate::copy::Markers;

/// Content of a layer's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layering {
    /// Only what differs from the layers below, with deletions noted as overlayfs, or AUFS, reads them.
    Diff(Markers),
    /// The whole tree, deletions executed: nothing below is needed to read it.
    Full,
}

impl Layering {
    /// Form of the notes of deletions in the directories; `None` if they are ordinary trees.
    #[must_use]
    pub fn markers(self) -> Option<Markers> {
        match self {
            Self::Diff(markers) => Some(markers),
            Self::Full => None,
        }
    }

    /// True if the directories hold changes as overlayfs reads them.
    #[must_use]
    pub fn is_overlayfs(self) -> bool {
        matches!(self, Self::Diff(Markers::Trusted | Markers::User))
    }
}
