//! `layerctl volume purge`: out of the trash for good.

use serde::Serialize;

use crate::cmd::Daemon;
use crate::complete;
use crate::confirm::Confirmation;
use crate::error::{Error, all_or};
use crate::human;
use crate::operand::Operand;
use crate::output::Output;
use crate::text::escape;
use crate::volume::Volume;

/// Deletes removed volumes for good, before their time in the trash is up
///
/// Shows which, asks, and prints the names of those that are gone. A volume that is not in the
/// trash is not deleted: `volume rm` moves it there.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids as `volume ls --deleted` shows them, or names they had; what is the id of one and the name
    /// of another is refused
    #[arg(required = true, value_name = "ID|NAME", add = complete::removed_volumes())]
    which: Vec<String>,

    /// Do not ask; needed where standard input is no terminal
    #[arg(short, long, alias = "yes", short_alias = 'y')]
    force: bool,
}

const QUESTION: Confirmation = Confirmation {
    what: "purge volumes",
    unasked: "Say --force if these volumes may be deleted for good; `layerctl volume ls --deleted` \
              shows them.",
    declined: "Nothing was changed; `layerctl volume undelete` takes removed volumes back.",
};

#[derive(Serialize)]
struct Purged<'a> {
    purged: &'a str,
    id: &'a str,
    left: u64,
}

pub(super) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let deleted = client.deleted_volumes().await?;
    let (chosen, mut failed) = choose(&deleted, &args.which);
    if !chosen.is_empty() && !args.force {
        QUESTION.confirm(&question(&chosen, deleted.len()))?;
    }
    let mut left = deleted.len() as u64;
    let mut gone = 0;
    for volume in chosen {
        match client.purge_volume(&volume.id).await {
            Err(error) => failed.push(error),
            Ok(now) => {
                (left, gone) = (now, gone + 1);
                print(volume, left, out)?;
            }
        }
    }
    if !out.json && gone > 0 {
        out.line(&format!(
            "{gone} deleted for good, {left} left in the trash"
        ))?;
    }
    all_or(failed)
}

fn print(volume: &Volume, left: u64, out: &mut Output) -> Result<(), Error> {
    let purged = volume.name.as_str();
    match out.json {
        true => out.object(&Purged {
            purged,
            id: &volume.id,
            left,
        }),
        false => out.line(&escape(purged)),
    }
}

fn question(chosen: &[&Volume], in_trash: usize) -> String {
    let one = |volume: &&Volume| {
        let size = volume
            .bytes
            .map(|bytes| format!(", {}", human::size(bytes)));
        let size = size.unwrap_or_default();
        format!("{} (id {}{size})", escape(&volume.name), volume.id)
    };
    let names: Vec<_> = chosen.iter().map(one).collect();
    format!(
        "Delete {} of {in_trash} removed volumes for good: {}?",
        chosen.len(),
        names.join(", ")
    )
}

/// The volumes that `which` names, each once, and what names none.
fn choose<'v>(deleted: &'v [Volume], which: &[String]) -> (Vec<&'v Volume>, Vec<Error>) {
    let (mut chosen, mut failed) = (Vec::<&Volume>::new(), Vec::new());
    for name in which {
        match choose_one(deleted, name) {
            Ok(volume) if chosen.iter().any(|other| other.id == volume.id) => {}
            Ok(volume) => chosen.push(volume),
            Err(error) => failed.push(error),
        }
    }
    (chosen, failed)
}

fn choose_one<'v>(deleted: &'v [Volume], name: &str) -> Result<&'v Volume, Error> {
    let operand = Operand {
        text: name,
        attempt: "purge",
        noun: "volume",
        hint: "`layerctl volume ls --deleted` shows what is there; `volume rm` moves a volume to \
               the trash.",
    };
    operand.choose(deleted, |one| (&one.id, &one.name))
}
