//! layerd itself, asked as containerd asks: Prepare, Apply, Commit.

use std::path::{Path, PathBuf};
use std::process::Command;

use layerd_integration::process::output;
use layerd_integration::snapshots::channel;
use layerd_integration::{Daemon, Snapshots};
use layerd_proto::containerd::services::diff::v1::diff_client::DiffClient;
use layerd_proto::containerd::services::diff::v1::{ApplyRequest, ApplyResponse};
use layerd_proto::containerd::types::{Descriptor, Mount};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::Mode;
use super::sides::Said;

const REF: &str = "containerd.io/snapshot.ref";

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
            "durability = \"metadata\"\n[overlayfs]\nrebase = {}\nlayers = \"{form}\"\n\
             [containerd]\naddress = \"{root}/missing\"\nroot = \"{root}\"\n",
            mode == Mode::Rebase,
            form = match mode {
                Mode::Images => "images",
                Mode::Sequential | Mode::Rebase => "directories",
            },
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
        let mounts = self.prepare(name, parent);
        let request = self.request(blob, &mounts);
        let answer = self.runtime.block_on(self.client.apply(request));
        let said = said(answer);
        self.finish(name, parent, said.is_ok());
        let layer = match said.is_ok() && self.has_images() {
            true => self.image(name),
            false => directory(&mounts[0]),
        };
        (layer, said)
    }

    /// Where the image of a committed layer is mounted.
    fn image(&mut self, name: &str) -> PathBuf {
        let view = format!("{name} (view)");
        let mounts = self.snapshots.view(&view, name, &[]).unwrap();
        let lower = |option: &String| option.strip_prefix("lowerdir=").map(str::to_owned);
        let lowers = mounts[0].options.iter().find_map(lower);
        let all = lowers.unwrap_or_else(|| mounts[0].source.clone());
        let top = all.split(':').next().unwrap();
        assert!(top.ends_with("/f"), "an image: {top}");
        top.into()
    }

    /// True if layers are images, which keep no access times.
    pub(crate) fn has_images(&self) -> bool {
        self.mode == Mode::Images
    }

    /// As [`unpack`](Self::unpack), all layers of an image at once, the lowest first.
    pub(crate) fn unpack_together(&mut self, blobs: &[PathBuf]) -> Vec<(PathBuf, Said)> {
        let mut names = vec![String::new()];
        let mut all = JoinSet::new();
        let mut directories = Vec::new();
        for (index, blob) in blobs.iter().enumerate() {
            names.push(format!("together-{index}"));
            let mounts = self.prepare(&names[index + 1], &names[index]);
            directories.push(directory(&mounts[0]));
            let (request, mut client) = (self.request(blob, &mounts), self.client.clone());
            let call = async move { (index, said(client.apply(request).await)) };
            all.spawn_on(call, self.runtime.handle());
        }
        let mut answers = self.runtime.block_on(all.join_all());
        answers.sort_by_key(|(index, _)| *index);
        for (index, said) in &answers {
            self.finish(&names[index + 1], &names[*index], said.is_ok());
        }
        let said = answers.into_iter().map(|(_, said)| said);
        directories.into_iter().zip(said).collect()
    }

    /// True if layers are unpacked before those below them are known.
    pub(crate) fn is_early(&self) -> bool {
        self.mode == Mode::Rebase
    }

    fn prepare(&mut self, name: &str, parent: &str) -> Vec<Mount> {
        let below = if self.is_early() { "" } else { parent };
        let labels = [(REF, name)];
        self.snapshots
            .prepare(&active(name), below, &labels)
            .unwrap()
    }

    fn finish(&mut self, name: &str, parent: &str, whole: bool) {
        if !whole {
            return self.snapshots.remove(&active(name)).unwrap();
        }
        let onto = if self.is_early() { parent } else { "" };
        self.snapshots
            .commit_onto(name, &active(name), onto, &[(REF, name)])
            .unwrap();
    }

    fn request(&self, blob: &Path, mounts: &[Mount]) -> ApplyRequest {
        let said = output(Command::new("sha256sum").arg(blob));
        let hex = said.split(' ').next().unwrap();
        std::fs::copy(blob, self.blobs.join(hex)).unwrap();
        let size = std::fs::metadata(blob).unwrap().len();
        let compressed = blob.extension().is_some_and(|last| last == "gz");
        let form = if compressed { "tar+gzip" } else { "tar" };
        let diff = Descriptor {
            media_type: format!("application/vnd.oci.image.layer.v1.{form}"),
            digest: format!("sha256:{hex}"),
            size: i64::try_from(size).unwrap(),
            ..Descriptor::default()
        };
        ApplyRequest {
            diff: Some(diff),
            mounts: mounts.to_vec(),
            ..ApplyRequest::default()
        }
    }
}

fn said(answer: Result<Response<ApplyResponse>, Status>) -> Said {
    let applied = answer.map_err(|status| status.message().to_owned())?;
    let applied = applied.into_inner().applied.unwrap();
    Ok((applied.digest, applied.size.try_into().unwrap()))
}

/// The key of a layer while it is unpacked.
fn active(name: &str) -> String {
    format!("{name} (active)")
}

/// Where the layer of a mount lies.
fn directory(mount: &Mount) -> PathBuf {
    let upper = |option: &String| option.strip_prefix("upperdir=").map(PathBuf::from);
    let upper = mount.options.iter().find_map(upper);
    upper.unwrap_or_else(|| mount.source.clone().into())
}

/// True if a difference is one of access times alone.
pub(crate) fn is_access_time(difference: &str) -> bool {
    let side = |name: &str| {
        let said = difference
            .lines()
            .find_map(|line| line.strip_prefix(name))?;
        let mut words: Vec<&str> = said.split(' ').collect();
        let at = words.iter().position(|word| *word == "read")?;
        words.remove(at + 1);
        Some(words)
    };
    side("    ours   ").is_some_and(|ours| Some(ours) == side("    theirs "))
}
