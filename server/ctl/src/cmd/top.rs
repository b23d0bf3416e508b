//! `layerctl top`.

mod names;
mod writers;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use layerd_proto::layerd::v1 as wire;
use serde::Serialize;

use super::Daemon;
use crate::error::Error;
use crate::fullness::{self, Fullness};
use crate::human::{self, parse_duration};
use crate::output::Output;
use crate::table::{Cell, Colour, Table};
use crate::text::escape;
use names::Names;
use writers::{Layers, Look};

/// Shows who writes how much now
///
/// Containers and volumes, the fastest first, again and again until it is interrupted. The first table comes
/// after the first interval; where the output is no terminal, an empty line stands between tables.
///
/// BY says what WRITE/S and WRITTEN count. "processes": what the processes in a container wrote to disks: to
/// its layer, to volumes and to paths of the host, whichever it was; in pages, when they become dirty, also of
/// files that are deleted before they reach the disk; nothing on a tmpfs, and nothing that the kernel or
/// layerd wrote for it, as in unpacking. A process that was started from outside (exec) and ends between two
/// looks is missed, and what others wrote in the same interval may be, so that a figure is too small and never
/// too large. "growth": by how much the usage of something with a limit grew, whichever process wrote; what is
/// written over or deleted in the same interval does not show. So what a container writes to a volume is in
/// both rows. "-": nothing counts it (a container without processes and a limit, a volume without a limit);
/// such rows are shown with --all.
///
/// USED is the kernel's figure where there is a LIMIT, of which FULL is the share, of bytes or inodes,
/// whichever is fuller; of others it is as it was measured last. Costs a call to layerd, which walks nothing,
/// and three reads in /proc for each process of the host. Needs root, and the host's /proc.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Time between two looks
    #[arg(short = 'd', long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    interval: Duration,

    /// End after so many tables; 0 goes on
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 0)]
    iterations: u64,

    /// Order of the rows, the largest first: rate, written, used, full, or name
    #[arg(
        long,
        value_enum,
        value_name = "FIELD",
        default_value = "rate",
        hide_possible_values = true
    )]
    sort: Sort,

    /// Also show what nothing counts
    #[arg(short, long)]
    all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    Rate,
    Written,
    Used,
    Full,
    Name,
}

/// Source of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Counted {
    Processes,
    Growth,
}

impl Counted {
    fn name(self) -> &'static str {
        match self {
            Self::Processes => "processes",
            Self::Growth => "growth",
        }
    }
}

/// One container or volume at one look. The field names are the documented ones of `-o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    kind: &'static str,
    /// As the runtime has it, or else as layerd does.
    name: String,
    /// Key of the snapshot; empty for a volume.
    key: String,
    counted: Option<Counted>,
    bytes_per_second: Option<u64>,
    /// Since the start of the view.
    written_bytes: Option<u64>,
    used_bytes: Option<u64>,
    fullness: Option<Fullness>,
}

#[derive(Serialize)]
struct Json<'a> {
    at: &'a str,
    #[serde(flatten)]
    row: &'a Row,
}

/// One container or volume, by kind and key or name.
type Id = (String, String);

/// Everything at one moment.
struct Seen {
    at: Instant,
    fullness: Vec<wire::Fullness>,
    look: Look,
}

impl Seen {
    fn new(fullness: Vec<wire::Fullness>) -> Self {
        let snapshots = fullness.iter().filter(|one| one.kind == SNAPSHOT);
        let written = snapshots.filter(|one| !one.written_path.is_empty());
        let layers = Layers::new(written.map(|one| (one.name.as_str(), one.written_path.as_str())));
        let look = Look::now(&layers);
        Self {
            at: Instant::now(),
            fullness,
            look,
        }
    }

    /// Keys of the snapshots of which something is counted.
    fn counted(&self) -> HashSet<&str> {
        let limited = self.fullness.iter().filter(|one| one.limit_bytes.is_some());
        let limited = limited.filter(|one| one.kind == SNAPSHOT);
        let mut keys = self.look.keys();
        keys.extend(limited.map(|one| one.name.as_str()));
        keys
    }
}

const SNAPSHOT: &str = "snapshot";

/// Totals since the start of the view.
#[derive(Debug, Default)]
struct Totals(HashMap<Id, u64>);

pub(crate) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let mut names = Names::default();
    let mut totals = Totals::default();
    let mut before = Seen::new(client.fullness().await?);
    let mut shown = 0;
    while args.iterations == 0 || shown < args.iterations {
        tokio::time::sleep(args.interval).await;
        let now = Seen::new(client.fullness().await?);
        names.learn(&now.counted(), &mut client).await;
        let mut rows = totals.rows(&before, &now, &names);
        rows.retain(|row| args.all || row.counted.is_some());
        args.sort.apply(&mut rows);
        show(&rows, shown == 0, out)?;
        out.flush()?;
        before = now;
        shown += 1;
    }
    Ok(())
}

impl Totals {
    /// Rows of what there is now. Adds what was written since the look before.
    fn rows(&mut self, before: &Seen, now: &Seen, names: &Names) -> Vec<Row> {
        let earlier: HashMap<(&str, &str), &wire::Fullness> = before
            .fullness
            .iter()
            .map(|one| ((one.kind.as_str(), one.name.as_str()), one))
            .collect();
        let passed = now.at.duration_since(before.at);
        let rows = now.fullness.iter().map(|one| {
            let is_snapshot = one.kind == SNAPSHOT;
            let written = is_snapshot.then(|| now.look.written_since(&before.look, &one.name));
            let earlier = earlier.get(&(one.kind.as_str(), one.name.as_str()));
            let (counted, written) = match (written.flatten(), grown(earlier.copied(), one)) {
                (Some(written), _) => (Some(Counted::Processes), written),
                (None, Some(grown)) => (Some(Counted::Growth), grown),
                (None, None) => (None, 0),
            };
            let total = self.0.entry((one.kind.clone(), one.name.clone()));
            let total = total.or_default();
            *total = total.saturating_add(written);
            let key = match is_snapshot {
                true => one.name.clone(),
                false => String::new(),
            };
            Row {
                kind: if is_snapshot { "container" } else { "volume" },
                name: names.of(one),
                key,
                counted,
                bytes_per_second: counted.map(|_| per_second(written, passed)),
                written_bytes: counted.map(|_| *total),
                used_bytes: one.used_bytes,
                fullness: Fullness::of(one),
            }
        });
        rows.collect()
    }
}

/// Bytes by which the usage of something with a limit grew; none of what is new, whose file system holds
/// something from the start.
fn grown(before: Option<&wire::Fullness>, now: &wire::Fullness) -> Option<u64> {
    let used = Fullness::of(now)?.used_bytes;
    match before {
        None => Some(0),
        // What was not mounted then had its content already.
        Some(before) => {
            Some(Fullness::of(before).map_or(0, |one| used.saturating_sub(one.used_bytes)))
        }
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let millis = time.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX)
}

impl Sort {
    /// Equal rows stay in the order of their names.
    fn apply(self, rows: &mut [Row]) {
        rows.sort_by(|left, right| (&left.name, &left.key).cmp(&(&right.name, &right.key)));
        match self {
            Self::Rate => {
                rows.sort_by_key(|row| Reverse((row.bytes_per_second, row.written_bytes)))
            }
            Self::Written => rows.sort_by_key(|row| Reverse(row.written_bytes)),
            Self::Used => rows.sort_by_key(|row| Reverse(row.used_bytes)),
            Self::Full => rows.sort_by_key(|row| Reverse(row.fullness.map(|one| one.percent()))),
            Self::Name => {}
        }
    }
}

fn show(rows: &[Row], is_first: bool, out: &mut Output) -> Result<(), Error> {
    out.now = human::now();
    if out.json {
        let at = prost_types::Timestamp {
            seconds: out.now,
            nanos: 0,
        };
        let at = at.to_string();
        let mut rows = rows.iter();
        return rows.try_for_each(|row| out.object(&Json { at: &at, row }));
    }
    if out.terminal {
        out.clear()?;
        // One line is the heading, and one the cursor's.
        let fit = out
            .lines
            .map_or(usize::MAX, |lines| usize::from(lines).saturating_sub(2));
        return out.table(&table(&rows[..rows.len().min(fit)]));
    }
    if !is_first {
        out.line("")?;
    }
    out.table(&table(rows))
}

fn table(rows: &[Row]) -> Table {
    let heading = [
        "WRITE/S", "WRITTEN", "USED", "LIMIT", "FULL", "BY", "KIND", "NAME",
    ];
    let mut table = Table::new(&heading);
    let size = |bytes: Option<u64>| Cell::right(bytes.map_or_else(|| "-".to_owned(), human::size));
    for row in rows {
        let counted = row.counted.map_or("-", Counted::name);
        table.push(vec![
            size(row.bytes_per_second),
            size(row.written_bytes),
            size(row.used_bytes),
            size(row.fullness.map(|one| one.limit_bytes)),
            fullness::cell(row.fullness),
            Cell::left(counted).coloured(Colour::Dim),
            Cell::left(row.kind),
            Cell::left(escape(&row.name)),
        ]);
    }
    table
}

/// A duration above 0.
fn interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("a time above 0 is wanted".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(name: &str, used: u64) -> wire::Fullness {
        wire::Fullness {
            kind: "volume".to_owned(),
            name: name.to_owned(),
            used_bytes: Some(used),
            used_inodes: Some(1),
            limit_bytes: Some(1000),
            ..wire::Fullness::default()
        }
    }

    fn seen(at: Instant, fullness: Vec<wire::Fullness>) -> Seen {
        Seen {
            at,
            fullness,
            look: Look::default(),
        }
    }

    #[test]
    fn growth_is_counted_and_added_up() {
        let start = Instant::now();
        let (mut totals, names) = (Totals::default(), Names::default());
        let mut free = limited("free", 7);
        free.limit_bytes = None;
        let two = Duration::from_secs(2);
        let first = seen(start, vec![limited("data", 100), free.clone()]);
        let second = seen(
            start + two,
            vec![limited("data", 700), free.clone(), limited("new", 9)],
        );
        let third = seen(start + two * 2, vec![limited("data", 500), free]);
        let mut rows = |before, now| {
            let mut rows = totals.rows(before, now, &names);
            Sort::Rate.apply(&mut rows);
            let of = |row: &Row| (row.name.clone(), row.bytes_per_second, row.written_bytes);
            rows.iter().map(of).collect::<Vec<_>>()
        };
        let row = |name: &str, rate, total| (name.to_owned(), rate, total);
        assert_eq!(
            rows(&first, &second),
            [
                row("data", Some(300), Some(600)),
                row("new", Some(0), Some(0)),
                row("free", None, None)
            ]
        );
        // What was deleted is not taken back.
        assert_eq!(
            rows(&second, &third),
            [row("data", Some(0), Some(600)), row("free", None, None)]
        );
    }

    #[test]
    fn a_table_has_a_dash_for_what_is_not_known() {
        let row = Row {
            kind: "container",
            name: "web\x1b".to_owned(),
            key: "k8s.io/1/web".to_owned(),
            counted: Some(Counted::Processes),
            bytes_per_second: Some(2048),
            written_bytes: Some(4096),
            used_bytes: None,
            fullness: None,
        };
        let mut out = Vec::new();
        table(&[row]).write(&mut out, false, None).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "WRITE/S  WRITTEN  USED  LIMIT  FULL  BY         KIND       NAME\n\
             2.00KiB  4.00KiB     -      -     -  processes  container  web\\u{1b}\n"
        );
    }

    #[test]
    fn an_interval_is_above_0() {
        assert_eq!(interval("100ms"), Ok(Duration::from_millis(100)));
        assert!(interval("0").unwrap_err().contains("above 0"));
    }
}
