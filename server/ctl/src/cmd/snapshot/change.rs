//! The commands that change what the daemon keeps. Each change is on disk when they return.

use std::collections::BTreeMap;

use super::parse_label;
use super::show::print_mounts;
use crate::client::New;
use crate::cmd::Daemon;
use crate::complete;
use crate::error::{Error, Exit, all_or, reason};
use crate::output::Output;
use crate::text::escape;

/// Makes a writable snapshot and shows how to mount it
#[derive(Debug, clap::Args)]
pub(crate) struct Prepare {
    #[command(flatten)]
    new: NewArgs,
}

/// Makes a read-only snapshot and shows how to mount it
#[derive(Debug, clap::Args)]
pub(crate) struct View {
    #[command(flatten)]
    new: NewArgs,
}

#[derive(Debug, clap::Args)]
struct NewArgs {
    /// Key of the new snapshot
    key: String,

    /// A committed snapshot to build on; without one the new snapshot is empty
    #[arg(add = complete::snapshots())]
    parent: Option<String>,

    /// A label for it; may be repeated
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
}

impl From<NewArgs> for New {
    fn from(args: NewArgs) -> Self {
        Self {
            key: args.key,
            parent: args.parent.unwrap_or_default(),
            labels: args.labels.into_iter().collect(),
        }
    }
}

/// Turns a writable snapshot into a committed one that others can build on
#[derive(Debug, clap::Args)]
pub(crate) struct Commit {
    /// Name of the committed snapshot
    name: String,

    /// Key of the active snapshot; it is free afterwards
    #[arg(add = complete::snapshots())]
    key: String,

    /// A label for it; may be repeated. Those of the active snapshot are not kept
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
}

/// Removes snapshots that nothing builds on
///
/// Prints the keys it removed. Their space comes back a little later. What containerd made,
/// containerd should remove.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Keys or names
    #[arg(required = true, add = complete::snapshots())]
    keys: Vec<String>,

    /// A snapshot that is not there is no failure
    #[arg(short, long)]
    force: bool,
}

/// Sets and removes labels of a snapshot, and shows those it has then
#[derive(Debug, clap::Args)]
pub(crate) struct Label {
    /// Key or name
    #[arg(add = complete::snapshots())]
    key: String,

    /// Labels to set
    #[arg(value_name = "KEY=VALUE", value_parser = parse_label, required_unless_present = "remove")]
    set: Vec<(String, String)>,

    /// Key of a label to remove; may be repeated
    #[arg(short, long, value_name = "KEY")]
    remove: Vec<String>,
}

/// Starts freeing the space of removed snapshots now, and returns at once
#[derive(Debug, clap::Args)]
pub(crate) struct Cleanup {}

pub(super) async fn prepare(args: Prepare, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mounts = daemon.connect().await?.prepare(args.new.into()).await?;
    print_mounts(&mounts, out)
}

pub(super) async fn view(args: View, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mounts = daemon.connect().await?.view(args.new.into()).await?;
    print_mounts(&mounts, out)
}

pub(super) async fn commit(args: Commit, daemon: &Daemon) -> Result<(), Error> {
    let labels = args.labels.into_iter().collect();
    let mut client = daemon.connect().await?;
    client.commit(&args.name, &args.key, labels).await
}

pub(super) async fn rm(args: Rm, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let mut failed = Vec::new();
    for key in &args.keys {
        match client.remove(key).await {
            Ok(()) if out.json => out.object(&BTreeMap::from([("removed", key)]))?,
            Ok(()) => out.line(&escape(key))?,
            Err(error) if args.force && error.exit() == Exit::NotFound => {}
            Err(error) => failed.push(advise_rm(error, key)),
        }
    }
    all_or(failed)
}

fn advise_rm(error: Error, key: &str) -> Error {
    match error {
        Error::Call { what, status } if status.code() == tonic::Code::FailedPrecondition => {
            let why = reason(&what, &status).to_owned();
            let hint = format!(
                "Remove first what builds on it: layerctl snapshot show '{}'",
                escape(key)
            );
            Error::Refused { what, why, hint }
        }
        other => other,
    }
}

pub(super) async fn label(args: Label, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let removed = args.remove.into_iter().map(|key| (key, String::new()));
    let labels = args.set.into_iter().chain(removed).collect();
    let snapshot = daemon.connect().await?.label(&args.key, labels).await?;
    if out.json {
        return out.object(&snapshot);
    }
    let mut labels = snapshot.labels.iter();
    labels.try_for_each(|(key, value)| out.line(&escape(&format!("{key}={value}"))))
}

pub(super) async fn cleanup(_args: &Cleanup, daemon: &Daemon) -> Result<(), Error> {
    daemon.connect().await?.cleanup().await
}
