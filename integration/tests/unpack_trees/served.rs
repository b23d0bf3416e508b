//! layerd itself, asked as containerd asks: Prepare, Apply, Commit.

use std::path::{Path, PathBuf};
use std::process::Command;

use layerd_integration::process::output;
use layerd_integration::snapshots::channel;
use layerd_integration::{Daemon, Snapshots};
use layerd_proto::containerd::services::diff::v1::ApplyRequest;
use layerd_proto::containerd::services::diff::v1::diff_client::DiffClient;
use layerd_proto::containerd::types::{Descriptor, Mount};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;

use super::Mode;
use super::sides::Said;

/// A layerd with a folder of blobs in place of containerd's.
pub(crate) struct Served {
    /// Kept running.
    _daemon: Daemon,
    blobs: PathBuf,
    mode: Mode,
    snapshots: Snapshots,
    runtime: Runtime,
    client: DiffClient<Channel>,
}

impl Served {
    /// Starts it in a directory.
    pub(crate) fn start(dir: &Path, mode: Mode) -> Self {
        let root = dir.join("c");
        let blobs = root.join("io.containerd.content.v1.content/blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let config = dir.join("layerd.toml");
        let text = format!(
            "durability = \"metadata\"\n[overlayfs]\nrebase = {}\n\
             [containerd]\naddress = \"{root}/nobody\"\nroot = \"{root}\"\n",
            mode == Mode::Rebase,
            root = root.display(),
        );
        std::fs::write(&config, text).unwrap();
        let daemon = Daemon::start_with(dir, &["--config", config.to_str().unwrap()]);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let channel = runtime.block_on(async { channel(daemon.socket().to_owned()) });
        Self {
            blobs,
            mode,
            snapshots: daemon.snapshots(),
            client: DiffClient::new(channel),
            runtime,
            _daemon: daemon,
        }
    }

    /// Unpacks a blob on top of `parent` and commits it as `name`; the directory it lies in. What
    /// it refuses is removed.
    pub(crate) fn unpack(&mut self, blob: &Path, name: &str, parent: &str) -> (PathBuf, Said) {
        let key = format!("{name} (active)");
        let (below, onto) = match self.mode {
            Mode::Sequential => (parent, ""),
            Mode::Rebase => ("", parent),
        };
        let labels = [("containerd.io/snapshot.ref", name)];
        let mounts = self.snapshots.prepare(&key, below, &labels).unwrap();
        let said = self.apply(blob, &mounts);
        match said {
            Ok(_) => self
                .snapshots
                .commit_onto(name, &key, onto, &labels)
                .unwrap(),
            Err(_) => self.snapshots.remove(&key).unwrap(),
        }
        (directory(&mounts[0]), said)
    }

    /// Whether layers are unpacked before those below them are known.
    pub(crate) fn is_early(&self) -> bool {
        self.mode == Mode::Rebase
    }

    fn apply(&mut self, blob: &Path, mounts: &[Mount]) -> Said {
        let said = output(Command::new("sha256sum").arg(blob));
        let hex = said.split(' ').next().unwrap();
        std::fs::copy(blob, self.blobs.join(hex)).unwrap();
        let size = std::fs::metadata(blob).unwrap().len();
        let diff = Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
            digest: format!("sha256:{hex}"),
            size: i64::try_from(size).unwrap(),
            ..Descriptor::default()
        };
        let request = ApplyRequest {
            diff: Some(diff),
            mounts: mounts.to_vec(),
            ..ApplyRequest::default()
        };
        let answer = self.runtime.block_on(self.client.apply(request));
        let applied = answer.map_err(|status| status.message().to_owned())?;
        let applied = applied.into_inner().applied.unwrap();
        Ok((applied.digest, applied.size.try_into().unwrap()))
    }
}

/// Where the layer of a mount lies.
fn directory(mount: &Mount) -> PathBuf {
    let upper = |option: &String| option.strip_prefix("upperdir=").map(PathBuf::from);
    let upper = mount.options.iter().find_map(upper);
    upper.unwrap_or_else(|| mount.source.clone().into())
}
