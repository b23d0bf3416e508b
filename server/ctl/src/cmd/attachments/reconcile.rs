//! `layerctl attachments --owner KIND:ID reconcile`: shows what would be let go, or lets go.

use serde::Serialize;

use crate::attachment::Owner;
use crate::cmd::Daemon;
use crate::error::Error;
use crate::output::Output;
use crate::table::{Cell, Table};
use crate::text::escape;

/// Detaches attachments that an owner no longer has
///
/// Name the owner with --owner, and the keys of all attachments that it still has: its others are
/// detached. Without --execute nothing is changed, and the plan is shown. For supervisors after a
/// crash of theirs: layerd never unmounts unasked. `layerctl detach --owner KIND:ID` detaches
/// everything.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keys that the owner still has
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,

    /// Detach, rather than show what would be detached
    #[arg(long)]
    execute: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    key: &'a str,
    outcome: &'static str,
    /// Why it could not be detached.
    why: &'a str,
}

pub(super) async fn run(
    owner: Option<Owner>,
    args: Args,
    daemon: &Daemon,
    out: &mut Output,
) -> Result<(), Error> {
    let Some(owner) = owner else {
        return Err(Error::Invalid {
            what: "reconcile".to_owned(),
            why: "it is not said whose attachments".to_owned(),
            hint: "Name the owner: --owner KIND:ID.".to_owned(),
        });
    };
    let mut client = daemon.connect().await?;
    let reply = client.reconcile(owner, args.keys, !args.execute).await?;
    let released = if args.execute { "detached" } else { "detach" };
    let plain = |keys: &'_ [String], outcome: &'static str| -> Vec<(String, &'static str)> {
        keys.iter().map(|key| (key.clone(), outcome)).collect()
    };
    let plain = [
        plain(&reply.kept, "keep"),
        plain(&reply.released, released),
        plain(&reply.unknown, "unknown"),
    ]
    .concat();
    let plain = plain.iter().map(|(key, outcome)| Line {
        key,
        outcome,
        why: "",
    });
    let failed = reply.failed.iter().map(|(key, why)| Line {
        key,
        outcome: "failed",
        why,
    });
    print(&plain.chain(failed).collect::<Vec<_>>(), out)?;
    match reply.failed.len() {
        0 => Ok(()),
        count => Err(Error::Refused {
            what: "let go of everything".to_owned(),
            why: format!("{count} attachments are left; the list says why"),
            hint: "What was detached stays detached.".to_owned(),
        }),
    }
}

fn print(lines: &[Line<'_>], out: &mut Output) -> Result<(), Error> {
    if out.json {
        return lines.iter().try_for_each(|line| out.object(line));
    }
    let mut table = Table::new(&["OUTCOME", "KEY", "BECAUSE"]);
    for line in lines {
        table.push(vec![
            Cell::left(line.outcome),
            Cell::left(escape(line.key)),
            Cell::left(escape(line.why)),
        ]);
    }
    out.table(&table)
}
