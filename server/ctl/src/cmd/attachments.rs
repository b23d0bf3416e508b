//! `layerctl attachments` and `who-uses`.

mod reconcile;

use std::io::{self, Write};

use clap::Subcommand;
use serde_json::{Value, json};

use super::Daemon;
use crate::attachment::{Attachment, Owner};
use crate::complete;
use crate::error::Error;
use crate::output::Output;
use crate::table::{Cell, Colour, Table};
use crate::text::{escape, shorten};
use crate::view::View;

/// Lists attachments, oldest first
///
/// `waiting` stands for a mount that is gone, after a reboot or an unmount by another program:
/// attach it again, under the same key. ACCESS is read from the kernel for mounts of layerd, and the
/// requested access for others.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only what this owner has
    #[arg(long, global = true, value_name = "KIND:ID", value_parser = Owner::parse, add = complete::owners())]
    owner: Option<Owner>,

    /// Only attachments of this volume
    #[arg(long, value_name = "NAME", add = complete::volumes())]
    volume: Option<String>,

    #[command(flatten)]
    view: View,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Reconcile(reconcile::Args),
}

/// Shows who uses a volume
#[derive(Debug, clap::Args)]
pub(crate) struct WhoUses {
    /// The volume
    #[arg(value_name = "VOLUME", add = complete::volumes())]
    name: String,
}

pub(crate) async fn run(args: Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    if let Some(Command::Reconcile(keys)) = args.command {
        return reconcile::run(args.owner, keys, daemon, out).await;
    }
    let mut client = daemon.connect().await?;
    let (owner, volume) = (args.owner, args.volume.unwrap_or_default());
    let list = async |out: &mut Output| {
        let found = client.attachments(owner.clone(), volume.clone()).await?;
        match args.view.print(|| found.iter().map(row).collect(), out)? {
            true => Ok(()),
            false => print(&found, out),
        }
    };
    args.view.show(out, list).await
}

/// Fields of `--format`.
fn row(one: &Attachment) -> Value {
    json!({
        "Id": one.id,
        "Key": one.key,
        "Owner": one.owner,
        "State": one.state,
        "Type": one.mount.kind,
        "Source": one.mount.source,
        "Target": one.mount.target,
        "Access": one.mount.access,
        "Volume": one.volume,
        "MountedAt": one.mounted_at,
        "CreatedAt": one.created_at,
    })
}

pub(crate) async fn who_uses(
    args: &WhoUses,
    daemon: &Daemon,
    out: &mut Output,
) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    print(&client.holders(&args.name).await?, out)
}

pub(super) fn print(attachments: &[Attachment], out: &mut Output) -> Result<(), Error> {
    if out.json {
        return attachments.iter().try_for_each(|one| out.object(one));
    }
    for one in attachments {
        for note in &one.notes {
            note_to_person(&format!("{}: {note}", one.key));
        }
    }
    let mut table = Table::new(&[
        "STATE", "OWNER", "TYPE", "ACCESS", "SOURCE", "TARGET", "KEY",
    ]);
    for one in attachments {
        // An anonymous volume has a name all the same.
        let source = match (one.mount.source.as_str(), one.volume.as_str()) {
            ("", "") => Cell::left("-").coloured(Colour::Dim),
            ("", volume) => Cell::left(escape(volume)),
            (source, _) => Cell::left(escape(&shorten(source))),
        };
        let access = match one.effective_access.as_str() {
            "" => &one.mount.access,
            _ => &one.effective_access,
        };
        table.push(vec![
            state(&one.state),
            Cell::left(escape(&one.owner)),
            Cell::left(escape(&one.mount.kind)),
            Cell::left(escape(access)),
            source,
            Cell::left(escape(&one.mount.target)),
            Cell::left(escape(&one.key)),
        ]);
    }
    out.table(&table)
}

/// Standard output is for results. A note is lost if standard error is gone.
fn note_to_person(note: &str) {
    let _gone = writeln!(io::stderr(), "layerctl: note: {}", escape(note));
}

fn state(state: &str) -> Cell {
    let colour = match state {
        "attached" => Colour::Green,
        "preparing" => Colour::Cyan,
        _ => Colour::Plain,
    };
    Cell::left(escape(state)).coloured(colour)
}
