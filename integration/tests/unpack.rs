//! Layers in and out of snapshots without a mount: for containerd and Docker, by calls of the diff
//! service itself, and from the command line.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "unpack/calls.rs"]
mod calls;
#[path = "unpack/command.rs"]
mod command;
#[path = "unpack/containerd.rs"]
mod containerd;
#[path = "unpack/content.rs"]
mod content;
#[path = "unpack/diffs.rs"]
mod diffs;
#[path = "unpack/docker.rs"]
mod docker;
#[path = "unpack/encrypted.rs"]
mod encrypted;
#[path = "unpack/hangup.rs"]
mod hangup;
#[path = "unpack/images.rs"]
mod images;

use std::path::Path;

use layerd_integration::snapshots::channel;
use layerd_integration::{Daemon, Scratch};
use layerd_proto::layerd::v1::InfoRequest;
use layerd_proto::layerd::v1::admin_client::AdminClient;
use tokio::runtime::Builder;

/// Writes layerd's configuration for a containerd that lives in `c` of `scratch`, and answers the
/// arguments that name it. `more` stands at its end.
fn configured(scratch: &Scratch, more: &str) -> Vec<String> {
    configured_with(scratch, "directories", more)
}

/// As [`configured`], with layers of this form.
fn configured_with(scratch: &Scratch, layers: &str, more: &str) -> Vec<String> {
    let file = scratch.path().join("layerd.toml");
    let c = scratch.dir("c");
    let text = format!(
        "[log]\nlevel = \"debug\"\n[overlayfs]\nspare_layers = 0\nlayers = \"{layers}\"\n[containerd]\naddress = \"{0}/containerd.sock\"\nroot = \"{0}/root\"\n{more}\n",
        c.display()
    );
    std::fs::write(&file, text).unwrap();
    ["--config".to_owned(), file.display().to_string()].into()
}

/// Starts layerd so configured.
fn daemon(scratch: &Scratch, more: &str) -> Daemon {
    daemon_with(scratch, "directories", more)
}

/// As [`daemon`], with layers of this form.
fn daemon_with(scratch: &Scratch, layers: &str, more: &str) -> Daemon {
    let arguments = configured_with(scratch, layers, more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Daemon::start_with(&scratch.dir("d"), &arguments)
}

/// Layers that the daemon has unpacked, and made, since it started.
fn moved(daemon: &Daemon) -> (u64, u64) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = AdminClient::new(channel(daemon.socket().to_owned()));
        let info = client.info(InfoRequest {}).await.unwrap().into_inner();
        (info.layers_unpacked, info.layers_packed)
    })
}

/// Number of Commits that used the results of unpacking, and of those that walked the layer.
fn trusted(daemon: &Daemon) -> (usize, usize) {
    let log = daemon.log();
    let lines = |word: &str| log.lines().filter(|line| line.contains(word)).count();
    (lines("trusted=true"), lines("trusted=false"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
