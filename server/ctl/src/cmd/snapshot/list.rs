//! `layerctl snapshot ls`.

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::cmd::Daemon;
use crate::error::Error;
use crate::fullness::{self, Fullness, Limits};
use crate::human;
use crate::images::Images;
use crate::output::Output;
use crate::snapshot::{Kind, Snapshot, Usage};
use crate::table::{Cell, Colour, Table};
use crate::text::{escape, shorten};
use crate::view::View;

/// Lists snapshots, oldest first
///
/// IMAGE names the images that need a snapshot, as containerd has them; the column is left out where
/// containerd does not answer. LIMIT is what a container's layer can hold; the column is left out where
/// none has a limit. With --size, FULL is how much of it is used, of bytes or inodes, whichever is fuller.
#[derive(Debug, clap::Args)]
#[command(visible_alias = "list")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) choice: Choice,

    /// Print names only
    #[arg(short, long, conflicts_with_all = ["size", "format"])]
    quiet: bool,

    /// End names with NUL and print them unchanged, for `xargs -0`
    #[arg(short = '0', long, requires = "quiet")]
    null: bool,

    /// Also show sizes; costs a call for each snapshot
    #[arg(short, long, alias = "usage", short_alias = 'u')]
    size: bool,

    /// Order of the list: created (oldest first), name, or with --size also size (largest first)
    #[arg(
        long,
        value_enum,
        value_name = "FIELD",
        default_value = "created",
        hide_possible_values = true
    )]
    sort: Sort,

    #[command(flatten)]
    view: View,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    Created,
    Name,
    Size,
}

/// Which snapshots to show.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Choice {
    /// Only snapshots that match, in containerd's language: kind==active, name~=sha256,
    /// parent=="", labels."containerd.io/snapshot.ref"==sha256:...; a comma means and, a second
    /// --filter means or
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,

    /// Only snapshots of this kind
    #[arg(short, long, value_enum)]
    kind: Option<Kind>,
}

impl Choice {
    /// Matching snapshots, oldest first.
    pub(super) async fn fetch(
        self,
        client: &mut crate::client::Client,
    ) -> Result<Vec<Snapshot>, Error> {
        let mut found = client.list(self.filters).await?;
        if let Some(kind) = self.kind {
            found.retain(|snapshot| snapshot.kind == kind);
        }
        found.sort_by(|left, right| (left.created, &left.name).cmp(&(right.created, &right.name)));
        Ok(found)
    }
}

/// A snapshot, with its usage if that was asked for and it is still there.
type Row = (Snapshot, Option<Usage>);

/// Images and limits of the snapshots.
struct Known {
    /// None if containerd does not answer.
    images: Option<Images>,
    /// Empty if no sizes are shown.
    limits: Limits,
}

#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    snapshot: &'a Snapshot,
    #[serde(flatten)]
    usage: Option<Measured>,
    images: Option<Vec<&'a str>>,
}

#[derive(Serialize)]
struct Measured {
    bytes: Option<u64>,
    inodes: Option<u64>,
    fullness: Option<Fullness>,
}

pub(super) async fn run(args: Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    if args.sort == Sort::Size && !args.size {
        return Err(Error::Invalid {
            what: "list snapshots".to_owned(),
            why: "--sort size needs sizes".to_owned(),
            hint: "Add --size; it costs a call for each snapshot.".to_owned(),
        });
    }
    let mut client = daemon.connect().await?;
    let list = async |out: &mut Output| show(&args, &mut client, out).await;
    args.view.show(out, list).await
}

async fn show(args: &Args, client: &mut Client, out: &mut Output) -> Result<(), Error> {
    let mut found = args.choice.clone().fetch(client).await?;
    if args.sort == Sort::Name {
        found.sort_by(|left, right| left.name.cmp(&right.name));
    }
    if args.quiet {
        return names(&found, args.null, out);
    }
    let images = Images::ask(client).await;
    let (rows, limits) = match args.size {
        true => (
            sized(found, args.sort, client).await?,
            Limits::of_snapshots(client).await?,
        ),
        false => (
            found.into_iter().map(|one| (one, None)).collect(),
            Limits::default(),
        ),
    };
    let known = Known { images, limits };
    let fields = || {
        let rows = rows.iter();
        rows.map(|row| fields(row, known.images.as_ref())).collect()
    };
    if args.view.print(fields, out)? {
        return Ok(());
    }
    if out.json {
        return json(&rows, args.size, &known, out);
    }
    out.table(&table(&rows, args, &known, out.now))
}

async fn sized(found: Vec<Snapshot>, sort: Sort, client: &mut Client) -> Result<Vec<Row>, Error> {
    let mut rows = client.measure(found).await?;
    if sort == Sort::Size {
        rows.sort_by_key(|(_, usage)| std::cmp::Reverse(usage.map(|usage| usage.bytes)));
    }
    Ok(rows)
}

/// Fields of `--format`.
fn fields((snapshot, usage): &Row, images: Option<&Images>) -> Value {
    let size = usage.map_or_else(|| "N/A".to_owned(), |usage| human::size(usage.bytes));
    let images = images.map(|images| images.of(&snapshot.name));
    json!({
        "Name": snapshot.name,
        "Parent": snapshot.parent,
        "Kind": snapshot.kind.name(),
        "Labels": snapshot.labels,
        "Size": size,
        "Limit": snapshot.limit().unwrap_or_default(),
        "Images": images.unwrap_or_default(),
        "CreatedAt": snapshot.created_at,
        "UpdatedAt": snapshot.updated_at,
    })
}

fn names(found: &[Snapshot], null: bool, out: &mut Output) -> Result<(), Error> {
    for snapshot in found {
        if null {
            out.raw(snapshot.name.as_bytes())?;
            out.raw(b"\0")?;
        } else {
            out.line(&escape(&snapshot.name))?;
        }
    }
    Ok(())
}

fn json(rows: &[Row], with_size: bool, known: &Known, out: &mut Output) -> Result<(), Error> {
    rows.iter().try_for_each(|(snapshot, usage)| {
        out.object(&Json {
            snapshot,
            usage: with_size.then(|| Measured {
                bytes: usage.map(|usage| usage.bytes),
                inodes: usage.map(|usage| usage.inodes),
                fullness: known.limits.get(&snapshot.name),
            }),
            images: known
                .images
                .as_ref()
                .map(|images| images.of(&snapshot.name)),
        })
    })
}

fn table(rows: &[Row], args: &Args, known: &Known, now: i64) -> Table {
    let images = known.images.as_ref();
    let full = args.view.no_trunc;
    let mut heading = vec!["KIND", "AGE"];
    heading.extend(
        args.size
            .then_some(["SIZE", "INODES"])
            .into_iter()
            .flatten(),
    );
    let has_limits = rows.iter().any(|(snapshot, _)| snapshot.limit().is_some());
    heading.extend(has_limits.then_some("LIMIT"));
    heading.extend((has_limits && args.size).then_some("FULL"));
    heading.extend(images.map(|_| "IMAGE"));
    heading.extend(["PARENT", "NAME"]);
    let mut table = Table::new(&heading);
    for (snapshot, usage) in rows {
        let mut row = vec![
            snapshot.kind.cell(),
            Cell::right(human::age(snapshot.created.0, now)),
        ];
        if args.size {
            let inodes = usage.map_or_else(|| "-".to_owned(), |usage| usage.inodes.to_string());
            row.extend([size(*usage), Cell::right(inodes)]);
        }
        if has_limits {
            let limit = snapshot.limit().unwrap_or_else(|| "-".to_owned());
            row.push(Cell::right(escape(&limit)));
        }
        if has_limits && args.size {
            row.push(fullness::cell(known.limits.get(&snapshot.name)));
        }
        row.extend(images.map(|images| images.cell(&snapshot.name, full)));
        row.extend([parent(snapshot, full), Cell::left(escape(&snapshot.name))]);
        table.push(row);
    }
    table
}

/// A size, or a dash for a snapshot that is gone by now.
pub(super) fn size(usage: Option<Usage>) -> Cell {
    Cell::right(usage.map_or_else(|| "-".to_owned(), |usage| human::size(usage.bytes)))
}

fn parent(snapshot: &Snapshot, full: bool) -> Cell {
    match snapshot.parent.as_str() {
        "" => Cell::left("-").coloured(Colour::Dim),
        name if full => Cell::left(escape(name)),
        name => Cell::left(escape(&shorten(name))),
    }
}
