//! `layerctl snapshot show`, `mounts` and `usage`: look at single snapshots.

use serde::Serialize;

use crate::client::Client;
use crate::cmd::Daemon;
use crate::complete;
use crate::error::{Error, reason};
use crate::fullness::{Fullness, Limits};
use crate::human;
use crate::output::Output;
use crate::snapshot::{self, Kind, Snapshot};
use crate::table::{Cell, Table};
use crate::text::escape;

/// Shows all there is to know about a snapshot
///
/// The beginning of a key or of a digest is enough where no other has it.
#[derive(Debug, clap::Args)]
#[command(visible_alias = "inspect")]
pub(crate) struct Args {
    /// Key or name
    #[arg(add = complete::snapshots())]
    key: String,
}

/// Shows how to mount an active snapshot or a view
#[derive(Debug, clap::Args)]
pub(crate) struct Mounts {
    /// Key of an active snapshot or a view
    #[arg(add = complete::snapshots())]
    key: String,
}

/// Shows what snapshots hold on disk, without their parents
#[derive(Debug, clap::Args)]
pub(crate) struct Usage {
    /// Keys or names
    #[arg(required = true, add = complete::snapshots())]
    keys: Vec<String>,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    snapshot: Snapshot,
    bytes: u64,
    inodes: u64,
    fullness: Option<Fullness>,
    children: Vec<String>,
    mounts: Vec<snapshot::Mount>,
}

#[derive(Serialize)]
struct Measured<'a> {
    name: &'a str,
    #[serde(flatten)]
    usage: snapshot::Usage,
}

/// Children listed by name before the rest is only counted.
const CHILDREN_SHOWN: usize = 20;

pub(super) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let snapshot = client.find(&args.key).await?;
    let usage = client.usage(&snapshot.name).await?;
    let children = client.children(&snapshot.name).await?;
    let mut children: Vec<String> = children.into_iter().map(|child| child.name).collect();
    children.sort();
    let mounts = match snapshot.kind {
        Kind::Active | Kind::View => client.mounts(&snapshot.name).await?,
        Kind::Committed | Kind::Unknown => Vec::new(),
    };
    // After the mounts, which mount what the limit is enforced on.
    let fullness = match snapshot.limit() {
        Some(_) => Limits::of_snapshots(&mut client).await?.get(&snapshot.name),
        None => None,
    };
    let shown = Shown {
        snapshot,
        bytes: usage.bytes,
        inodes: usage.inodes,
        fullness,
        children,
        mounts,
    };
    if out.json {
        return out.object(&shown);
    }
    let now = out.now;
    lines(&shown, now)
        .iter()
        .try_for_each(|line| out.line(&escape(line)))
}

fn lines(shown: &Shown, now: i64) -> Vec<String> {
    let snapshot = &shown.snapshot;
    let parent = match snapshot.parent.as_str() {
        "" => "none",
        name => name,
    };
    let age = human::age(snapshot.created.0, now);
    let mut lines = vec![
        format!("Name: {}", snapshot.name),
        format!("Kind: {}", snapshot.kind.name()),
        format!("Parent: {parent}"),
        format!("Created: {} ({age} ago)", snapshot.created_at),
        format!("Updated: {}", snapshot.updated_at),
        format!("Size: {} ({} bytes)", human::size(shown.bytes), shown.bytes),
        format!("Inodes: {}", shown.inodes),
    ];
    lines.extend(snapshot.limit().map(|limit| format!("Limit: {limit}")));
    let fullness = shown.fullness.iter();
    lines.extend(fullness.map(|used| format!("Used of it: {}", used.text())));
    lines.push(format!("Labels: {}", snapshot.labels.len()));
    let labels = snapshot.labels.iter();
    lines.extend(labels.map(|(key, value)| format!(" {key}={value}")));
    lines.push(format!("Children: {}", shown.children.len()));
    let children = shown.children.iter().take(CHILDREN_SHOWN);
    lines.extend(children.map(|child| format!(" {child}")));
    if shown.children.len() > CHILDREN_SHOWN {
        lines.push(format!(
            " and {} more",
            shown.children.len() - CHILDREN_SHOWN
        ));
    }
    for mount in &shown.mounts {
        lines.push(format!("Mount: {} of {}", mount.kind, mount.source));
        lines.extend(mount.options.iter().map(|option| format!(" {option}")));
    }
    lines
}

pub(super) async fn mounts(args: &Mounts, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let key = client.find(&args.key).await?.name;
    let mounts = client.mounts(&key).await;
    print_mounts(&mounts.map_err(|error| advise(error, &key))?, out)
}

/// Says which command leads to what was wanted.
pub(super) fn advise(error: Error, key: &str) -> Error {
    match error {
        Error::Call { what, status } if status.code() == tonic::Code::FailedPrecondition => {
            let why = reason(&what, &status).to_owned();
            let hint = format!(
                "A committed snapshot has no mounts of its own. Make a view of it first:
\
                 layerctl snapshot view NEW-KEY '{}'",
                escape(key)
            );
            Error::Refused { what, why, hint }
        }
        other => other,
    }
}

pub(super) fn print_mounts(mounts: &[snapshot::Mount], out: &mut Output) -> Result<(), Error> {
    if out.json {
        return mounts.iter().try_for_each(|mount| out.object(mount));
    }
    let mut table = Table::new(&["TYPE", "SOURCE", "OPTIONS"]);
    for mount in mounts {
        table.push(vec![
            Cell::left(escape(&mount.kind)),
            Cell::left(escape(&mount.source)),
            Cell::left(escape(&mount.options.join(","))),
        ]);
    }
    out.table(&table)
}

pub(super) async fn usage(args: Usage, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let mut measured = Vec::new();
    let mut failed = Vec::new();
    for key in &args.keys {
        match measure(&mut client, key).await {
            Ok(one) => measured.push(one),
            Err(error) => failed.push(error),
        }
    }
    print_usage(&measured, out)?;
    crate::error::all_or(failed)
}

async fn measure(client: &mut Client, key: &str) -> Result<(String, snapshot::Usage), Error> {
    let name = client.find(key).await?.name;
    let usage = client.usage(&name).await?;
    Ok((name, usage))
}

fn print_usage(measured: &[(String, snapshot::Usage)], out: &mut Output) -> Result<(), Error> {
    if out.json {
        return measured.iter().try_for_each(|(name, usage)| {
            out.object(&Measured {
                name,
                usage: *usage,
            })
        });
    }
    let mut table = Table::new(&["SIZE", "INODES", "NAME"]);
    for (name, usage) in measured {
        table.push(vec![
            Cell::right(human::size(usage.bytes)),
            Cell::right(usage.inodes.to_string()),
            Cell::left(escape(name)),
        ]);
    }
    out.table(&table)
}
