//! Podman in the Debian it comes from: unpacked over a tree of that release, which is its root directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use super::{Debian, peer};
use crate::process::{Server, output, wait_until};

/// The releases of Podman that are tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodmanVersion {
    /// 4.3, of Debian 12.
    V4_3,
    /// 5.4, of Debian 13.
    V5,
}

/// A Podman with storage of its own.
#[derive(Debug)]
pub struct Podman {
    /// Keeps the mount namespace whose root is Podman's Debian. runc pivots there: from a chroot it would
    /// send `exec` to the machine's own root.
    namespace: Server,
    root: PathBuf,
    storage: PathBuf,
}

/// Makes the first argument the root of a mount namespace, and keeps that.
const PIVOT: &str = "cd \"$1\" && mkdir -p .old && pivot_root . .old && umount --lazy /.old && \
                     touch \"$2/ready\" && exec sleep infinity";

impl Podman {
    /// Lays Podman and its Debian under `dir`, with `shared` at its own path inside, so that volumes below
    /// it are seen there. The caller is in a mount namespace of its own, whose /run is Podman's too.
    ///
    /// # Panics
    /// If it is not installed, or the kernel has no overlayfs.
    #[must_use]
    pub fn new(version: PodmanVersion, dir: &Path, shared: &Path) -> Self {
        let root = lay(version, dir, shared);
        configure(&root);
        // Inside, and by a name that tells whose processes those of its containers are.
        let storage = dir.join("storage");
        let mut unshare = Command::new("unshare");
        unshare
            .args([
                "--mount",
                "--propagation",
                "private",
                "--",
                "sh",
                "-c",
                PIVOT,
                "sh",
            ])
            .args([&root, &storage]);
        let inside = root.join(storage.strip_prefix("/").expect("paths are absolute"));
        fs::create_dir_all(&inside).expect("the tree can be written");
        let namespace = Server::start(&unshare, &dir.join("namespace.log"));
        let ready = inside.join("ready");
        wait_until("a root for Podman", Duration::from_secs(10), || {
            ready.exists()
        });
        Self {
            namespace,
            root,
            storage,
        }
    }

    /// Its root directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Runs `podman` and returns its standard output.
    ///
    /// # Panics
    /// With everything it said, if it fails.
    pub fn podman(&self, arguments: &[&str]) -> String {
        output(&mut self.command(arguments))
    }

    /// A `podman` command, to be run by the caller.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1")
            .arg("--mount")
            .args(["--target", &self.namespace.pid().to_string()])
            .args(["podman", "--storage-driver", "vfs", "--root"])
            .arg(&self.storage)
            .args(arguments);
        command
    }
}

/// Lays Podman over its Debian, with the machine's own file systems and `shared` in it.
fn lay(version: PodmanVersion, dir: &Path, shared: &Path) -> PathBuf {
    let (name, debian) = match version {
        PodmanVersion::V4_3 => ("podman-4.3", Debian::Bookworm),
        PodmanVersion::V5 => ("podman-5", Debian::Trixie),
    };
    let parts = ["upper", "work", "root"].map(|part| dir.join(part));
    for part in &parts {
        fs::create_dir_all(part).expect("the directory can be written");
    }
    let [upper, work, root] = parts;
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        peer(name).join("tree").display(),
        debian.tree().display(),
        upper.display(),
        work.display()
    );
    let none = None::<&str>;
    mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .expect("overlayfs can be mounted");
    for path in [
        Path::new("/proc"),
        Path::new("/sys"),
        Path::new("/dev"),
        Path::new("/run"),
        shared,
    ] {
        let inside = root.join(path.strip_prefix("/").expect("paths are absolute"));
        fs::create_dir_all(&inside).expect("the tree can be written");
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(path), &inside, none, flags, none).expect("directories can be bound");
    }
    root
}

fn configure(root: &Path) {
    let settings = root.join("etc/containers");
    fs::create_dir_all(&settings).expect("the tree can be written");
    let text =
        "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n";
    fs::write(settings.join("containers.conf"), text).expect("the tree can be written");
    let policy = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
    fs::write(settings.join("policy.json"), policy).expect("the tree can be written");
}
