//! `layerctl import ...`: what other programs keep on this node.

mod containerd;
mod docker;
mod target;

use clap::Subcommand;

use super::Daemon;
use crate::client::Containerd;
use crate::error::Error;
use crate::output::Output;

/// Type of the plugins that keep snapshots.
const PLUGIN: &str = "io.containerd.snapshotter.v1";
/// Seconds after which containerd's collector takes what an interrupted import left.
const LEASE: i64 = 24 * 60 * 60;
/// Advice where containerd does not know layerd.
const UNKNOWN: &str =
    "`layerctl setup containerd --write` makes layerd known; then restart containerd.";

/// Takes over what other programs keep on this node
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Containerd(containerd::Args),
    DockerRoot(docker::Args),
}

pub(crate) async fn run(args: Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    match args.command {
        Command::Containerd(args) => containerd::run(&args, daemon, out).await,
        Command::DockerRoot(args) => docker::run(&args, daemon, out).await,
    }
}

/// Refuses if containerd has no snapshotter `name`.
async fn check_snapshotter(containerd: &Containerd, name: &str, hint: &str) -> Result<(), Error> {
    let plugins = containerd.plugins(name).await?;
    if plugins.iter().any(|plugin| plugin.r#type == PLUGIN) {
        return Ok(());
    }
    Err(Error::Refused {
        what: "import images".to_owned(),
        why: format!("containerd has no snapshotter {name}"),
        hint: hint.to_owned(),
    })
}
