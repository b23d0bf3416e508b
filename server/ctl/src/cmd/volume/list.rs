//! `layerctl volume ls`.

use clap::ValueEnum;
use serde_json::{Value, json};

use super::filter::{self, Filter};
use crate::cmd::Daemon;
use crate::error::Error;
use crate::fullness::{self, Limits};
use crate::human;
use crate::output::Output;
use crate::table::{Cell, Table};
use crate::text::escape;
use crate::view::View;
use crate::volume::Volume;

/// Lists volumes, oldest first
#[derive(Debug, clap::Args)]
#[command(visible_alias = "list")]
pub(crate) struct Ls {
    /// Print names only; with --deleted ids, as several can have had one name
    #[arg(short, long, conflicts_with_all = ["format", "size"])]
    quiet: bool,

    /// Only volumes that match: name=PART, label=KEY[=VALUE], label!=KEY[=VALUE], driver=NAME,
    /// dangling=true|false (nothing uses it), until=TIME (created before that; a time, or a duration
    /// such as 24h for as long ago). May be repeated: one of the names, and all others, must match
    #[arg(short, long = "filter", value_name = "FILTER", value_parser = Filter::parse)]
    filters: Vec<Filter>,

    /// Also show sizes, as last measured, and how much of a limit is used (FULL)
    #[arg(short, long, conflicts_with = "format")]
    size: bool,

    /// Order of the list: name, created (oldest first), size or uses (largest first)
    #[arg(
        long,
        value_enum,
        value_name = "FIELD",
        default_value = "created",
        hide_possible_values = true
    )]
    sort: Sort,

    /// List removed volumes that `volume undelete` can take back
    #[arg(long)]
    deleted: bool,

    #[command(flatten)]
    view: View,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    Name,
    Created,
    Size,
    Uses,
}

pub(super) async fn ls(args: Ls, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let request = filter::request(&args.filters, args.deleted)?;
    let list = async |out: &mut Output| {
        let mut found = client.volumes(request.clone()).await?;
        found.retain(|volume| filter::lets_through(&args.filters, volume, out.now));
        args.sort.apply(&mut found);
        let limits = match args.size && !args.deleted && !out.json {
            true => Limits::of_volumes(&mut client).await?,
            false => Limits::default(),
        };
        print(&found, &args, &limits, out)
    };
    args.view.show(out, list).await
}

impl Sort {
    /// Volumes that are equal in this stay in the order of their creation.
    fn apply(self, volumes: &mut [Volume]) {
        use std::cmp::Reverse;
        match self {
            Self::Created => {}
            Self::Name => volumes.sort_by(|left, right| left.name.cmp(&right.name)),
            Self::Size => volumes.sort_by_key(|volume| Reverse(volume.bytes)),
            Self::Uses => volumes.sort_by_key(|volume| Reverse(volume.attachments)),
        }
    }
}

fn print(found: &[Volume], args: &Ls, limits: &Limits, out: &mut Output) -> Result<(), Error> {
    if args.quiet {
        return found.iter().try_for_each(|volume| match args.deleted {
            true => out.line(&escape(&volume.id)),
            false => out.line(&escape(&volume.name)),
        });
    }
    if args.view.print(|| found.iter().map(row).collect(), out)? {
        return Ok(());
    }
    if out.json {
        return found.iter().try_for_each(|volume| out.object(volume));
    }
    out.table(&table(found, args, limits, out.now))
}

/// Fields of `--format`, with Docker's names.
fn row(volume: &Volume) -> Value {
    json!({
        "Name": volume.name,
        "Driver": volume.driver,
        "Scope": "local",
        "Mountpoint": volume.path,
        "Labels": volume.labels,
        "Options": volume.options,
        "Links": volume.attachments,
        "Size": size(volume),
        "Id": volume.id,
        "CreatedAt": volume.created_at,
        "UpdatedAt": volume.updated_at,
        "DeletedAt": volume.deleted_at,
        "Anonymous": volume.anonymous,
    })
}

fn size(volume: &Volume) -> String {
    volume.bytes.map_or_else(|| "N/A".to_owned(), human::size)
}

fn table(found: &[Volume], args: &Ls, limits: &Limits, now: i64) -> Table {
    let (first, time) = match args.deleted {
        true => ("ID", "DELETED"),
        false => ("USES", "AGE"),
    };
    let mut heading = vec![first, time, "DRIVER", "NAME"];
    if args.size {
        heading.insert(3, "SIZE");
    }
    let has_limits = limits.any(found.iter().map(|volume| volume.name.as_str()));
    if has_limits {
        heading.insert(4, "FULL");
    }
    let mut table = Table::new(&heading);
    for volume in found {
        let (first, since) = match args.deleted {
            true => (volume.id.clone(), volume.deleted),
            false => (volume.attachments.to_string(), volume.created),
        };
        let mut row = vec![
            Cell::right(escape(&first)),
            Cell::right(human::age(since, now)),
            Cell::left(escape(&volume.driver)),
            Cell::left(escape(&volume.name)),
        ];
        if args.size {
            row.insert(3, Cell::right(size(volume)));
        }
        if has_limits {
            row.insert(4, fullness::cell(limits.get(&volume.name)));
        }
        table.push(row);
    }
    table
}
