//! `layerctl snapshot tree`.

use serde::Serialize;

use super::list::{Choice, size};
use crate::cmd::Daemon;
use crate::error::Error;
use crate::human;
use crate::output::Output;
use crate::snapshot::{Snapshot, Usage};
use crate::table::{Cell, Colour, Table};
use crate::text::escape;
use crate::tree_layout::{self, Line, Member};

/// Shows snapshots below the layers they build on
///
/// "●" starts a column, "↓" stands for a snapshot on top of the one above it in the same column,
/// "├─ ●" for another one on top of that. The largest branch goes on straight down, so a chain
/// of 500 layers stays in one column. Stretches without a branch are folded ("⋮").
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    choice: Choice,

    /// Show every layer, fold nothing
    #[arg(short, long)]
    all: bool,

    /// Leave sizes out; they cost a call for each snapshot
    #[arg(long)]
    no_size: bool,
}

impl Member for (Snapshot, Option<Usage>) {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn parent(&self) -> &str {
        &self.0.parent
    }

    fn age_order(&self) -> (i64, i32) {
        self.0.created
    }
}

#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    snapshot: &'a Snapshot,
    bytes: Option<u64>,
    inodes: Option<u64>,
    depth: usize,
    children: usize,
}

pub(super) async fn run(args: Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let found = args.choice.fetch(&mut client).await?;
    let members = if args.no_size {
        found.into_iter().map(|snapshot| (snapshot, None)).collect()
    } else {
        client.measure(found).await?
    };
    let lines = tree_layout::layout(&members);
    if out.json {
        return json(&members, &lines, out);
    }
    let lines = if args.all {
        lines
    } else {
        tree_layout::fold(lines)
    };
    let mut table = Table::new(&["KIND", "SIZE", "CHILDREN", "AGE", "SNAPSHOT"]);
    for line in &lines {
        table.push(row(line, &members, out.now));
    }
    out.table(&table)
}

fn json(
    members: &[(Snapshot, Option<Usage>)],
    lines: &[Line],
    out: &mut Output,
) -> Result<(), Error> {
    for line in lines {
        let Line::One {
            index,
            position,
            children,
        } = line
        else {
            continue; // nothing was folded
        };
        let (snapshot, usage) = &members[*index];
        out.object(&Json {
            snapshot,
            bytes: usage.map(|usage| usage.bytes),
            inodes: usage.map(|usage| usage.inodes),
            depth: position.depth,
            children: *children,
        })?;
    }
    Ok(())
}

fn row(line: &Line, members: &[(Snapshot, Option<Usage>)], now: i64) -> Vec<Cell> {
    match line {
        Line::One {
            index,
            position,
            children,
        } => {
            let (snapshot, usage) = &members[*index];
            vec![
                snapshot.kind.cell(),
                size(*usage),
                Cell::right(children.to_string()),
                Cell::right(human::age(snapshot.created.0, now)),
                Cell::left(format!(
                    "{}{}",
                    tree_layout::prefix(*position),
                    escape(&snapshot.name)
                )),
            ]
        }
        Line::Folded { indices, column } => {
            let sizes = indices.iter().map(|&index| members[index].1);
            let total = sizes.sum::<Option<Usage>>();
            let note = format!(
                "{}{} layers (--all)",
                tree_layout::folded_prefix(*column),
                indices.len()
            );
            vec![
                Cell::left(""),
                size(total),
                Cell::left(""),
                Cell::left(""),
                Cell::left(note).coloured(Colour::Dim),
            ]
        }
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            bytes: sum.bytes.saturating_add(one.bytes),
            inodes: sum.inodes.saturating_add(one.inodes),
        })
    }
}
