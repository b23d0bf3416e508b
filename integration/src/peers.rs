//! The real clients, as `integration/peers/install.sh` unpacked them.

mod containerd;
mod docker;
mod podman;

use std::path::PathBuf;

pub use containerd::{Containerd, Extra, Version};
pub use docker::Docker;
pub use podman::{Podman, PodmanVersion};

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

/// Releases of Debian of which there is a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debian {
    /// 12, with containerd 1.6.
    Bookworm,
    /// 13, with containerd 1.7.
    Trixie,
    /// The next one, with containerd 2.1.
    Forky,
}

impl Debian {
    fn peer(self) -> PathBuf {
        peer(match self {
            Self::Bookworm => "debian-bookworm",
            Self::Trixie => "debian-trixie",
            Self::Forky => "debian-forky",
        })
    }

    /// The tree of a small one with systemd and without containerd; read only by agreement.
    ///
    /// # Panics
    /// If `make peers` has not made it.
    #[must_use]
    pub fn tree(self) -> PathBuf {
        self.peer().join("tree")
    }

    /// The directory of the packages that its containerd consists of.
    ///
    /// # Panics
    /// If `make peers` has not made it.
    #[must_use]
    pub fn containerd_packages(self) -> PathBuf {
        self.peer().join("debs")
    }
}

/// Prometheus' own tool, which checks and tests rules.
///
/// # Panics
/// If `make peers` has not unpacked it.
#[must_use]
pub fn promtool() -> PathBuf {
    peer("prometheus").join("usr/bin/promtool")
}

/// gRPC for Python, on gRPC's C core: a folder for `PYTHONPATH`.
///
/// # Panics
/// If `make peers` has not unpacked it.
#[must_use]
pub fn grpcio() -> PathBuf {
    peer("grpcio")
}

/// The Python packages that hold manifests to the schemas of Kubernetes' API.
///
/// # Panics
/// If `make peers` has not unpacked them.
#[must_use]
pub fn kubernetes_validate() -> PathBuf {
    peer("kubernetes-validate")
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
