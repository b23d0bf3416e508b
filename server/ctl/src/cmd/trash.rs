//! `layerctl trash ...`: removed snapshots and volumes, until they are deleted.

use clap::Subcommand;
use layerd_proto::layerd::v1::{Removed, Restored};
use serde::Serialize;
use serde_json::{Value, json};

use super::Daemon;
use crate::confirm::Confirmation;
use crate::error::{Error, all_or};
use crate::human;
use crate::operand::Operand;
use crate::output::Output;
use crate::table::{Cell, Colour, Table};
use crate::text::escape;
use crate::view::View;
use crate::volume::Volume;

/// Shows removed snapshots and volumes, restores or deletes them
///
/// A removed snapshot stays in the trash for a time that the daemon's configuration sets
/// (trash.keep_secs), and until then can be taken back whole. If a large share of all snapshots is
/// removed at once, as happens when containerd loses its own records, the mass-removal guard holds the trash:
/// nothing is deleted until `trash restore` or `trash empty` decides. `layerctl info` shows that.
/// Removed volumes are kept for trash.keep_volumes_secs; `volume undelete` takes them back.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(Ls),
    Restore(Restore),
    Empty(Empty),
}

/// Lists removed snapshots that can be taken back, the first removed first, and then volumes
#[derive(Debug, clap::Args)]
#[command(visible_alias = "list")]
struct Ls {
    #[command(flatten)]
    view: View,
}

/// Takes removed snapshots back under the keys they had
///
/// Prints the keys that are back. A snapshot needs its parent, so a parent that was removed too is
/// to be named as well; the order does not matter. Those whose key is in use by now stay in the
/// trash. The guard stays on: release it with `trash empty --release-only` when all that is wanted
/// is back.
#[derive(Debug, clap::Args)]
struct Restore {
    /// Ids as `trash ls` shows them, or keys; what is the id of one and the key of another is refused
    #[arg(value_name = "ID|KEY", required_unless_present = "all")]
    which: Vec<String>,

    /// Take back everything
    #[arg(long, conflicts_with = "which")]
    all: bool,
}

/// Deletes everything in the trash now, volumes too, for good, and releases the mass-removal guard
///
/// Asks before it does. Returns at once; the space comes back a little later.
#[derive(Debug, clap::Args)]
struct Empty {
    /// Only release the mass-removal guard: removed snapshots go when their time is up, as usual. With the
    /// default time, that is at once for what has been in the trash for two seconds
    #[arg(long)]
    release_only: bool,

    /// Do not ask; needed where standard input is no terminal
    #[arg(short, long, alias = "yes", short_alias = 'y')]
    force: bool,
}

const QUESTION: Confirmation = Confirmation {
    what: "empty the trash",
    unasked: "Say --force if everything in the trash may be deleted; `layerctl trash ls` shows it.",
    declined: "Nothing was changed; `layerctl trash restore` takes removed snapshots back.",
};

#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    key: &'a str,
    parent: &'a str,
    kind: &'a str,
    removed_at: String,
    bytes: Option<u64>,
}

#[derive(Serialize)]
struct Back<'a> {
    id: &'a str,
    key: &'a str,
}

#[derive(Serialize)]
struct Emptied {
    layers: u64,
    volumes: u64,
}

pub(crate) async fn run(args: Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    match args.command {
        Command::Ls(args) => ls(&args, daemon, out).await,
        Command::Restore(args) => restore(&args, daemon, out).await,
        Command::Empty(args) => empty(&args, daemon, out).await,
    }
}

async fn ls(args: &Ls, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let list = async |out: &mut Output| {
        let mut trash = client.trash().await?;
        trash.extend(client.deleted_volumes().await?.into_iter().map(as_removed));
        if args
            .view
            .print(|| trash.iter().map(fields).collect(), out)?
        {
            return Ok(());
        }
        if out.json {
            return trash
                .iter()
                .try_for_each(|removed| out.object(&entry(removed)));
        }
        out.table(&table(&trash, out.now))
    };
    args.view.show(out, list).await
}

fn table(trash: &[Removed], now: i64) -> Table {
    let mut table = Table::new(&["ID", "KIND", "REMOVED", "SIZE", "PARENT", "KEY"]);
    for removed in trash {
        let size = removed.bytes.map_or_else(|| "-".to_owned(), human::size);
        let age = human::age(removed.removed_at.unwrap_or_default().seconds, now);
        table.push(vec![
            Cell::right(escape(&removed.id)),
            Cell::left(escape(&removed.kind)),
            Cell::right(age),
            Cell::right(size),
            parent(removed),
            Cell::left(escape(&removed.key)),
        ]);
    }
    table
}

/// Fields of `--format`.
fn fields(removed: &Removed) -> Value {
    json!({
        "ID": removed.id,
        "Key": removed.key,
        "Parent": removed.parent,
        "Kind": removed.kind,
        "Size": removed.bytes.map_or_else(|| "N/A".to_owned(), human::size),
        "RemovedAt": removed.removed_at.unwrap_or_default().to_string(),
    })
}

/// The entry of a removed volume, with its time in whole seconds.
fn as_removed(volume: Volume) -> Removed {
    Removed {
        id: volume.id,
        key: volume.name,
        parent: String::new(),
        kind: "volume".to_owned(),
        removed_at: Some(prost_types::Timestamp {
            seconds: volume.deleted,
            nanos: 0,
        }),
        bytes: volume.bytes,
    }
}

fn parent(removed: &Removed) -> Cell {
    match removed.parent.as_str() {
        "" => Cell::left("-").coloured(Colour::Dim),
        name => Cell::left(escape(name)),
    }
}

fn entry(removed: &Removed) -> Entry<'_> {
    Entry {
        id: &removed.id,
        key: &removed.key,
        parent: &removed.parent,
        kind: &removed.kind,
        removed_at: removed.removed_at.unwrap_or_default().to_string(),
        bytes: removed.bytes,
    }
}

async fn restore(args: &Restore, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let (ids, mut failed) = choose(&client.trash().await?, &args.which);
    if !args.all && ids.is_empty() {
        return all_or(failed);
    }
    for restored in client.restore_trash(ids).await? {
        match restored.error.as_str() {
            "" if out.json => out.object(&Back {
                id: &restored.id,
                key: &restored.key,
            })?,
            "" => out.line(&escape(&restored.key))?,
            _ => failed.push(refused(restored)),
        }
    }
    all_or(failed)
}

fn refused(restored: Restored) -> Error {
    Error::Refused {
        what: format!("restore \"{}\" (id {})", restored.key, restored.id),
        why: restored.error,
        hint: "It is still in the trash. Name a removed parent as well, or use --all; if its key \
               is taken, remove the snapshot that has it."
            .to_owned(),
    }
}

/// The ids that `which` names, parents before children (they are older), and what names none.
fn choose(trash: &[Removed], which: &[String]) -> (Vec<String>, Vec<Error>) {
    let (mut ids, mut failed) = (Vec::new(), Vec::new());
    for name in which {
        match choose_one(trash, name) {
            Ok(removed) => ids.push(removed.id.clone()),
            Err(error) => failed.push(error),
        }
    }
    // Those of fewer digits are lower.
    ids.sort_unstable_by(|left, right| (left.len(), left).cmp(&(right.len(), right)));
    ids.dedup();
    (ids, failed)
}

fn choose_one<'t>(trash: &'t [Removed], name: &str) -> Result<&'t Removed, Error> {
    let operand = Operand {
        text: name,
        attempt: "restore",
        noun: "snapshot",
        hint: "`layerctl trash ls` shows what is there; `layerctl volume undelete` takes volumes \
               back.",
    };
    operand.choose(trash, |removed| (&removed.id, &removed.key))
}

async fn empty(args: &Empty, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    if !args.force {
        let (snapshots, volumes) = (client.trash().await?, client.deleted_volumes().await?);
        QUESTION.confirm(&question(&snapshots, &volumes, args.release_only))?;
    }
    let reply = client.empty_trash(args.release_only).await?;
    let (layers, volumes) = (reply.layers, reply.volumes);
    if out.json {
        return out.object(&Emptied { layers, volumes });
    }
    let fate = match args.release_only {
        true => "go when their time is up",
        false => "are being deleted",
    };
    out.line(&format!(
        "{layers} removed snapshots and {volumes} removed volumes {fate}"
    ))
}

fn question(snapshots: &[Removed], volumes: &[Volume], release_only: bool) -> String {
    let size = |bytes: &mut dyn Iterator<Item = u64>| human::size(bytes.sum());
    let all = format!(
        "{} removed snapshots ({}) and {} removed volumes ({} measured)",
        snapshots.len(),
        size(&mut snapshots.iter().filter_map(|removed| removed.bytes)),
        volumes.len(),
        size(&mut volumes.iter().filter_map(|volume| volume.bytes)),
    );
    match release_only {
        true => format!("Let {all} go when their time is up?"),
        false => format!("Delete {all} for good?"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Removed, choose, choose_one, question};
    use crate::error::Exit;

    fn removed(id: &str, key: &str) -> Removed {
        Removed {
            id: id.to_owned(),
            key: key.to_owned(),
            bytes: Some(1024),
            ..Removed::default()
        }
    }

    #[test]
    fn ids_and_keys_name_what_is_there() {
        let trash = [
            removed("z", "a"),
            removed("10", "b"),
            removed("11", "z"),
            removed("12", "b"),
        ];
        let id = |name| choose_one(&trash, name).map(|one| one.id.as_str());
        assert_eq!(id("a").unwrap(), "z");
        assert_eq!(id("10").unwrap(), "10");
        assert_eq!(id("c").unwrap_err().exit(), Exit::NotFound);
        let which = ["12", "c", "10", "a"].map(str::to_owned);
        let (ids, failed) = choose(&trash, &which);
        let wanted = ["z", "10", "12"].map(str::to_owned);
        assert_eq!((ids, failed.len()), (wanted.to_vec(), 1), "parents first");
    }

    #[test]
    fn the_question_says_how_much() {
        let trash = [removed("1", "a"), removed("2", "b")];
        assert_eq!(
            question(&trash, &[], false),
            "Delete 2 removed snapshots (2.00KiB) and 0 removed volumes (0B measured) for good?"
        );
        assert!(question(&trash, &[], true).contains("when their time is up"));
    }
}
