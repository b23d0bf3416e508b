//! Operations a second and their latency, of layerd and of peers behind the same socket, in turn.

use crate::load::{Caller, Op};
use crate::place::{Fs, Place};
use crate::stats::{Spread, Times, millis, short};
use crate::table::Table;
use crate::target::Target;

/// In the order of a snapshot's life: each needs what the one before it made.
const OPS: [Op; 6] = [
    Op::Prepare,
    Op::Mounts,
    Op::Stat,
    Op::List,
    Op::Commit,
    Op::Remove,
];
/// Layers of the parent.
const HEIGHT: usize = 10;

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    pub(crate) clients: Vec<usize>,
    /// Calls of each kind in a round.
    pub(crate) calls: usize,
}

/// What the rounds of one target showed of one operation.
#[derive(Debug, Clone, Default)]
struct Seen {
    rates: Vec<f64>,
    times: Times,
}

/// Measures on each of the file systems and prints as it goes. Ratios are to the first target.
pub(crate) fn run(systems: &[Fs], targets: &[Target], extent: &Extent) {
    for fs in systems {
        let place = Place::new(*fs);
        let mut table = Table::new(
            format!(
                "Operations a second on {}, {} rounds of {} calls; the ratio is layerd's to the other's:",
                place.name(),
                extent.rounds,
                extent.calls
            ),
            &[
                "operation",
                "clients",
                "server",
                "ops/s",
                "p50 ms",
                "p99 ms",
                "ratio",
            ],
        );
        for clients in &extent.clients {
            let seen = all_rounds(&place, targets, extent, *clients);
            add_rows(&mut table, targets, *clients, &seen);
        }
        crate::say(&table);
    }
}

/// For each target, in the order of [`OPS`].
fn all_rounds(
    place: &Place,
    targets: &[Target],
    extent: &Extent,
    clients: usize,
) -> Vec<[Seen; OPS.len()]> {
    let mut seen: Vec<[Seen; OPS.len()]> = vec![Default::default(); targets.len()];
    for round in 0..extent.rounds {
        for turn in 0..targets.len() {
            let index = (round + turn) % targets.len();
            one_round(
                place,
                &targets[index],
                clients,
                extent.calls,
                &mut seen[index],
            );
        }
    }
    seen
}

fn one_round(
    place: &Place,
    target: &Target,
    clients: usize,
    calls: usize,
    seen: &mut [Seen; OPS.len()],
) {
    let dir = place.sub("run");
    let running = target.start(&dir);
    let mut caller = Caller::connect(running.socket());
    let base = caller.base(HEIGHT);
    for (op, seen) in OPS.iter().zip(seen) {
        // What others and the steps before left dirty is not this step's to write.
        place.sync();
        let load = caller.drive(*op, &base, clients, calls_of(*op, calls));
        seen.rates.push(load.rate());
        seen.times.extend(load.into_times());
    }
    drop(caller);
    running.stop();
    place.clear(&dir);
}

/// A list answers with all snapshots at once: fewer calls show as much.
fn calls_of(op: Op, calls: usize) -> usize {
    match op {
        Op::List => calls.div_ceil(4),
        _ => calls,
    }
}

fn add_rows(table: &mut Table, targets: &[Target], clients: usize, seen: &[[Seen; OPS.len()]]) {
    for (index, op) in OPS.iter().enumerate() {
        for (target, figures) in targets.iter().zip(seen) {
            let own = &figures[index];
            let first = &seen[0][index];
            let ratio = Spread::of_ratios(&first.rates, &own.rates);
            let is_first = std::ptr::eq(own, first);
            table.row([
                op.name().to_owned(),
                clients.to_string(),
                target.name(),
                Spread::of(own.rates.clone()).to_string(),
                short(millis(own.times.median())),
                short(millis(own.times.percentile(99))),
                if is_first {
                    String::new()
                } else {
                    ratio.to_string()
                },
            ]);
        }
    }
}
