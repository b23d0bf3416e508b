//! `layerctl orphans`.

mod rm;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::Daemon;
use crate::client::{Client, Containerd, Holder, Reference};
use crate::error::{Error, Exit};
use crate::human::{age, parse_duration, size};
use crate::orphans::{Difference, Seen, State, differences};
use crate::output::Output;
use crate::table::{Cell, Table};
use crate::text::escape;

/// Compares the snapshots of layerd with those of containerd
///
/// Shows those that layerd has and containerd does not know, and those that containerd needs and
/// layerd lacks.
///
/// Orphans are snapshots that containerd made and has forgotten, as after a crash or the loss of
/// its metadata. Its garbage collection removes them the next time that something is removed. Foreign
/// ones were made by another client, such as `layerctl snapshot prepare`; they are collected, too.
/// Missing ones are needed by a container or an image in containerd: pulls and starts fail until it
/// is told. Once it is told that an image's layer is gone, it collects the layers below, too: a pull
/// that meets this and answers that a parent snapshot does not exist succeeds when it is repeated.
///
/// Changes nothing, and names the fix for each; `orphans rm` removes the orphans. Where several containerds use one layerd, snapshots
/// of the others look like orphans: do not remove them.
///
/// Exits with 0 if there is no difference, with 11 if there is one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// containerd's socket; by default the one in layerd's configuration
    #[arg(long, value_name = "PATH", value_parser = crate::address::parse)]
    containerd_address: Option<PathBuf>,

    /// Name of layerd in containerd's configuration; by default that of an instance, else layerd
    #[arg(long, value_name = "NAME")]
    snapshotter: Option<String>,

    /// Younger snapshots are not compared: containerd may be about to record them
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    grace: Duration,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Rm(rm::Rm),
}

#[derive(Serialize)]
struct Json<'a> {
    state: &'static str,
    key: &'a str,
    namespace: &'a str,
    client_key: &'a str,
    kind: Option<&'static str>,
    created_at: Option<&'a str>,
    bytes: Option<u64>,
    needed_by: Vec<String>,
    fix: &'a str,
    advice: &'a str,
}

pub(crate) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    if let Some(Command::Rm(rm)) = &args.command {
        return rm::run(args, rm, daemon, out).await;
    }
    let mut client = daemon.connect().await?;
    let found = compare(args, &mut client, daemon, out.now).await?;
    let found = measured(&mut client, found).await?;
    if out.json {
        for (one, bytes) in &found {
            out.object(&json(one, *bytes))?;
        }
    } else {
        show(&found, out)?;
    }
    match found.is_empty() {
        true => Ok(()),
        false => Err(Error::Told(Exit::ProblemsLeft)),
    }
}

/// Differences as of `now`, in seconds since 1970.
async fn compare(
    args: &Args,
    client: &mut Client,
    daemon: &Daemon,
    now: i64,
) -> Result<Vec<Difference>, Error> {
    let address = args.containerd_address.as_deref();
    let containerd = client.connect_containerd(address, daemon.timeout).await?;
    let snapshotter = match &args.snapshotter {
        Some(name) => name.clone(),
        None => client.snapshotter().await?,
    };
    let seen = look(client, &containerd, &snapshotter).await?;
    let grace = i64::try_from(args.grace.as_secs()).unwrap_or(i64::MAX);
    Ok(differences(&seen, now.saturating_sub(grace), &snapshotter))
}

/// Looks at both sides twice.
pub(super) async fn look(
    client: &mut Client,
    containerd: &Containerd,
    snapshotter: &str,
) -> Result<Seen, Error> {
    let mut seen = Seen {
        before: client.list(Vec::new()).await?,
        ..Seen::default()
    };
    let namespaces = containerd.namespaces().await?;
    for namespace in &namespaces {
        let known = containerd.snapshots(namespace, snapshotter).await?;
        let known = known.into_iter().map(|one| (namespace.clone(), one.name));
        seen.known.extend(known);
    }
    seen.needed = needed(containerd, &namespaces, snapshotter).await?;
    seen.after = client.list(Vec::new()).await?;
    // A namespace that came meanwhile needs nothing that was there before.
    seen.still_needed = needed(containerd, &namespaces, snapshotter).await?;
    seen.trash = client.trash().await?;
    Ok(seen)
}

async fn needed(
    containerd: &Containerd,
    namespaces: &[String],
    snapshotter: &str,
) -> Result<Vec<Reference>, Error> {
    let mut all = Vec::new();
    for namespace in namespaces {
        all.extend(containerd.references(namespace, snapshotter).await?);
    }
    Ok(all)
}

/// Disk usage of each. Those that are gone by now are left out.
async fn measured(
    client: &mut Client,
    found: Vec<Difference>,
) -> Result<Vec<(Difference, Option<u64>)>, Error> {
    let mut measured = Vec::with_capacity(found.len());
    for one in found {
        if one.state == State::Missing {
            measured.push((one, None));
        } else if let Some(usage) = client.usage_if_there(&one.key).await? {
            measured.push((one, Some(usage.bytes)));
        }
    }
    Ok(measured)
}

fn json(one: &Difference, bytes: Option<u64>) -> Json<'_> {
    let snapshot = one.snapshot.as_ref();
    Json {
        state: one.state.name(),
        key: &one.key,
        namespace: &one.namespace,
        client_key: &one.client_key,
        kind: snapshot.map(|snapshot| snapshot.kind.name()),
        created_at: snapshot.map(|snapshot| snapshot.created_at.as_str()),
        bytes,
        needed_by: one.needed_by.iter().map(holder).collect(),
        fix: &one.fix,
        advice: &one.advice,
    }
}

fn holder(holder: &Holder) -> String {
    match holder {
        Holder::Container(id) => format!("container {id}"),
        Holder::Image(digest) => format!("image {digest}"),
        Holder::Lease(id) => format!("lease {id}"),
    }
}

fn show(found: &[(Difference, Option<u64>)], out: &mut Output) -> Result<(), Error> {
    if found.is_empty() {
        return out.line("layerd and containerd agree.");
    }
    let mut table = Table::new(&["STATE", "KIND", "NAMESPACE", "SIZE", "AGE", "KEY"]);
    for (one, bytes) in found {
        let snapshot = one.snapshot.as_ref();
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let namespace = Some(escape(&one.namespace)).filter(|text| !text.is_empty());
        table.push(vec![
            Cell::left(one.state.name()),
            snapshot.map_or_else(|| Cell::left("-"), |snapshot| snapshot.kind.cell()),
            Cell::left(or_none(namespace)),
            Cell::right(or_none(bytes.map(size))),
            Cell::right(or_none(snapshot.map(|one| age(one.created.0, out.now)))),
            Cell::left(escape(&one.key)),
        ]);
    }
    out.table(&table)?;
    out.line("\nWhat to do, in this order:")?;
    for (one, _) in found {
        let because = match one.needed_by.first() {
            Some(first) => format!("  # {} needs it", escape(&holder(first))),
            None => String::new(),
        };
        let fix = match one.fix.is_empty() {
            false => escape(&one.fix),
            true => format!("# {}: {}", escape(&one.key), escape(&one.advice)),
        };
        out.line(&format!("  {fix}{because}"))?;
    }
    out.line(&format!("\n{}", summary(found)))
}

fn summary(found: &[(Difference, Option<u64>)]) -> String {
    let missing: BTreeSet<_> = found
        .iter()
        .filter(|(one, _)| one.state == State::Missing)
        .map(|(one, _)| (&one.namespace, &one.key))
        .collect();
    let held: u64 = found.iter().filter_map(|(_, bytes)| *bytes).sum();
    let unknown = found.len() - missing.len();
    format!(
        "Not known to containerd: {unknown}, holding {}; missing in layerd: {}.",
        size(held),
        missing.len()
    )
}
