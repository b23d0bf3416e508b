//! containerd's services: `Snapshots` and `Diff`, as its proxy plugins call them.

pub(super) mod diff;
pub(super) mod snapshots;
