//! The real clients, as `integration/peers/install.sh` unpacked them.

mod containerd;
mod docker;

use std::path::PathBuf;

pub use containerd::{Containerd, Extra, Version};
pub use docker::Docker;

use crate::scratch::target;

/// Where a peer is unpacked.
fn peer(name: &str) -> PathBuf {
    let dir = target().join("peers").join(name);
    assert!(
        dir.join("VERSIONS").exists(),
        "{name} is missing: run `make peers` (integration/peers/install.sh)"
    );
    dir
}

/// The tree of a small Debian with systemd, which nobody may change.
///
/// # Panics
/// If `make peers` has not made it.
#[must_use]
pub fn debian() -> PathBuf {
    peer("debian").join("tree")
}

/// Prometheus' own tool, which checks and tests rules.
///
/// # Panics
/// If `make peers` has not unpacked it.
#[must_use]
pub fn promtool() -> PathBuf {
    peer("prometheus").join("usr/bin/promtool")
}

/// Where a peer's programs are looked for: its own first, then the machine's (runc, mount).
fn search_path(dirs: &[PathBuf]) -> String {
    let system = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ];
    dirs.iter()
        .flat_map(|dir| [dir.join("usr/bin"), dir.join("usr/sbin")])
        .chain(system.map(PathBuf::from))
        .map(|dir| dir.display().to_string())
        .collect::<Vec<_>>()
        .join(":")
}
