//! Stacks for the tests of drivers.

use layerd_mounts::Slot;

use crate::driver::Stack;

/// Read-only stack of these layers, the nearest first.
pub(crate) fn view(parents: impl IntoIterator<Item = u64>) -> Stack {
    Stack {
        own: None,
        parents: parents.into_iter().map(Slot).collect(),
        writable: false,
        ids: None,
        limit: None,
    }
}

/// Writable stack of a layer of its own on these, the nearest first.
pub(crate) fn on(own: u64, parents: impl IntoIterator<Item = u64>) -> Stack {
    Stack {
        own: Some(Slot(own)),
        writable: true,
        ..view(parents)
    }
}
