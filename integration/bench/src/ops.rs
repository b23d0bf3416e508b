//! Operations a second and their latency, of layerd and of peers, in turn.

mod contender;
mod goal;
mod inside;
mod plot;

use std::path::Path;

use crate::load::{Op, Work};
use crate::place::{Fs, Place};
use crate::stats::{Spread, Times, count, millis, short};
use crate::table::Table;
use goal::Goal;

pub(crate) use contender::Contender;

/// In the order of a snapshot's life: each needs what those before it made.
const OPS: [Op; 10] = [
    Op::Prepare,
    Op::Mounts,
    Op::Stat,
    Op::List,
    Op::ListName,
    Op::ListParent,
    Op::Usage,
    Op::Commit,
    Op::Remove,
    Op::Life,
];
/// Layers of the parent.
const HEIGHT: usize = 10;
/// Calls of each kind for one client, at least.
const EACH: usize = 40;
/// A call that is answered from memory is over before it can be timed well: more of them are made.
const READS: usize = 8;

/// Extent of the measurement.
#[derive(Debug, Clone)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    pub(crate) clients: Vec<usize>,
    /// Changes of each kind in a round.
    pub(crate) calls: usize,
}

/// Results of one contender's rounds for one operation.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Operations a second.
    rates: Vec<f64>,
    /// Microseconds of processor time for an operation.
    costs: Vec<f64>,
    times: Times,
}

/// Measures on each of the file systems and prints as it goes; draws into `plot`. Ratios are to the
/// first contender.
pub(crate) fn run(systems: &[Fs], contenders: &[Contender], extent: &Extent, plot: Option<&Path>) {
    let mut points = Vec::new();
    for fs in systems {
        let place = Place::new(*fs);
        let mut table = head(&place, extent);
        for clients in &extent.clients {
            let seen = all_rounds(&place, contenders, extent, *clients);
            add_rows(&mut table, *fs, contenders, *clients, &seen);
            points.extend(points_of(&place, contenders, *clients, &seen));
        }
        crate::say(&table);
    }
    if let Some(file) = plot {
        let drawn = std::fs::write(file, plot::draw(&points));
        drawn.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

fn head(place: &Place, extent: &Extent) -> Table {
    let title = format!(
        "Operations a second on {}, {} rounds of {} changes and {} times as many reads; ratios are \
         layerd's to the other's, in operations a second and in operations for a second of the \
         server's processor time:",
        place.name(),
        extent.rounds,
        extent.calls,
        READS
    );
    let columns = [
        "operation",
        "clients",
        "server",
        "ops/s",
        "p50 ms",
        "p99 ms",
        "processor µs",
        "ratio",
        "ratio by processor",
        "goal",
    ];
    Table::new(title, &columns)
}

/// For each contender, in the order of [`OPS`].
fn all_rounds(
    place: &Place,
    contenders: &[Contender],
    extent: &Extent,
    clients: usize,
) -> Vec<[Seen; OPS.len()]> {
    let mut seen: Vec<[Seen; OPS.len()]> = vec![Default::default(); contenders.len()];
    let calls = extent.calls.max(clients * EACH);
    for round in 0..extent.rounds {
        for turn in 0..contenders.len() {
            let index = (round + turn) % contenders.len();
            one_round(place, &contenders[index], clients, calls, &mut seen[index]);
        }
    }
    seen
}

fn one_round(
    place: &Place,
    contender: &Contender,
    clients: usize,
    calls: usize,
    seen: &mut [Seen; OPS.len()],
) {
    let dir = place.sub("run");
    let mut started = contender.start(&dir);
    let base = started.base(HEIGHT);
    for (op, seen) in OPS.into_iter().zip(seen) {
        // What others and the steps before left to be written or deleted is not this step's.
        started.settle();
        place.sync();
        let work = Work {
            op,
            base: &base,
            clients,
            calls: calls_of(op, calls, clients),
            made: calls,
        };
        let (load, processor) = started.drive(&work);
        seen.rates.push(load.rate());
        seen.costs
            .push(millis(processor) * 1e3 / count(load.count()));
        seen.times.extend(load.into_times());
    }
    started.stop();
    place.clear(&dir);
}

/// A list answers with all snapshots at once, and bbolt reads all of them for a filtered one:
/// fewer calls show as much.
fn calls_of(op: Op, calls: usize, clients: usize) -> usize {
    match op {
        Op::List | Op::ListName | Op::ListParent => (calls / 4).min(120).max(clients),
        op if op.is_read() => calls * READS,
        _ => calls,
    }
}

fn add_rows(
    table: &mut Table,
    fs: Fs,
    contenders: &[Contender],
    clients: usize,
    seen: &[[Seen; OPS.len()]],
) {
    for (index, op) in OPS.into_iter().enumerate() {
        let first = &seen[0][index];
        for (contender, figures) in contenders.iter().zip(seen) {
            let own = &figures[index];
            let mut row = vec![
                op.name().to_owned(),
                clients.to_string(),
                contender.name(),
                Spread::of(own.rates.clone()).to_string(),
                short(millis(own.times.median())),
                short(millis(own.times.percentile(99))),
                Spread::of(own.costs.clone()).to_string(),
            ];
            row.extend(if std::ptr::eq(own, first) {
                Default::default()
            } else {
                beside(first, own, Goal::of(op, clients, contender, fs))
            });
            table.row(row);
        }
    }
}

/// The last three cells of a row: how layerd did beside this one.
fn beside(layerd: &Seen, other: &Seen, goal: Option<Goal>) -> [String; 3] {
    let by_time = Spread::of_ratios(&layerd.rates, &other.rates);
    let by_processor = Spread::of_ratios(&other.costs, &layerd.costs);
    let verdict = goal.map(|goal| goal.verdict(by_time, by_processor));
    [
        by_time.to_string(),
        by_processor.to_string(),
        verdict.unwrap_or_default(),
    ]
}

fn points_of(
    place: &Place,
    contenders: &[Contender],
    clients: usize,
    seen: &[[Seen; OPS.len()]],
) -> Vec<plot::Point> {
    let of_one = |(contender, figures): (&Contender, &[Seen; OPS.len()])| {
        let point = |(op, seen): (&Op, &Seen)| plot::Point {
            place: place.name().to_owned(),
            operation: op.name(),
            server: contender.name(),
            clients,
            rate: Spread::of(seen.rates.clone()),
        };
        OPS.iter().zip(figures).map(point).collect::<Vec<_>>()
    };
    contenders.iter().zip(seen).flat_map(of_one).collect()
}
