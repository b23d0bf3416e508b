//! Times of calls, memory and time of a start by the number of snapshots.
//!
//! Stores of all sizes run side by side on one file system, each with a server of its own that is
//! idle until it is its turn. A step is made on all of them before the next step, so that compared
//! figures were measured within a second.

mod costs;
mod store;

use std::path::PathBuf;

use clap::Args;

use crate::load::{Op, Work};
use crate::place::{Fs, Place};
use crate::stats::{Spread, millis};
use crate::table::{Table, verdict};
use crate::target::Target;
use store::Store;

/// Extent of the measurement.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// File systems, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "xfs")]
    fs: Vec<Fs>,
    /// Snapshots in a store; ratios are to the first
    #[arg(long, value_delimiter = ',', default_value = "100,10000,100000")]
    snapshots: Vec<usize>,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Calls of each kind in a round
    #[arg(long, default_value_t = 480)]
    calls: usize,
    /// A server to compare with: a program that takes a root and a socket, and serves there
    #[arg(long)]
    peer: Option<PathBuf>,
    /// The largest store that is made of the peer: one that writes one by one takes long
    #[arg(long, default_value_t = 10_000)]
    peer_most: usize,
}

/// A step of a round: calls of one kind, by so many clients.
type Step = (Op, usize);

/// Each needs what those before it made, and at the end nothing of it is left.
const STEPS: [Step; 8] = [
    (Op::Prepare, 1),
    (Op::Drop, 1),
    (Op::Prepare, 32),
    (Op::Stat, 1),
    (Op::List, 1),
    (Op::ListName, 1),
    (Op::ListParent, 1),
    (Op::Drop, 32),
];

/// At how many snapshots the goals hold.
const MANY: usize = 100_000;

/// Results of the rounds of one step on one store.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Operations a second.
    rates: Vec<f64>,
    /// Medians, in milliseconds.
    times: Vec<f64>,
}

/// Measures on each of the file systems and prints as it goes.
pub(crate) fn run(extent: &Extent) {
    for fs in &extent.fs {
        let place = Place::roomy(*fs);
        let mut stores = all_stores(&place, extent);
        crate::say(&calls(&place, extent, &mut stores));
        let layerd = Target::Layerd("full");
        let own = stores.into_iter().filter(|store| *store.target() == layerd);
        costs::measure(&place, extent.rounds, own.collect());
    }
}

fn all_stores(place: &Place, extent: &Extent) -> Vec<Store> {
    let peer = extent.peer.clone().map(Target::Peer);
    let counts = extent.snapshots.iter().copied();
    let of_peer = counts.clone().filter(|count| *count <= extent.peer_most);
    let of_peer = peer.iter().flat_map(|peer| {
        let each = of_peer.clone();
        each.map(|count| (peer.clone(), count))
    });
    counts
        .map(|count| (Target::Layerd("full"), count))
        .chain(of_peer)
        .map(|(target, count)| Store::filled(place, target, count))
        .collect()
}

/// Measures all steps on all stores.
fn calls(place: &Place, extent: &Extent, stores: &mut [Store]) -> Table {
    let mut seen = vec![vec![Seen::default(); stores.len()]; STEPS.len()];
    for round in 0..extent.rounds {
        for (step, seen) in STEPS.iter().zip(&mut seen) {
            for turn in 0..stores.len() {
                let index = (round + turn) % stores.len();
                one_step(
                    place,
                    &mut stores[index],
                    *step,
                    extent.calls,
                    &mut seen[index],
                );
            }
        }
    }
    let mut table = Table::new(
        format!(
            "Calls by the number of snapshots on {}, {} rounds of {} calls (of list {}); ratios of \
             operations a second, of the first store's to the other's:",
            place.name(),
            extent.rounds,
            extent.calls,
            calls_of(Op::List, extent.calls)
        ),
        &[
            "operation",
            "clients",
            "server",
            "snapshots",
            "ops/s",
            "p50 ms",
            "slower than the first",
            "goal",
        ],
    );
    for (step, seen) in STEPS.iter().zip(&seen) {
        for (store, own) in stores.iter().zip(seen) {
            table.row(row(*step, store, own, &seen[0]));
        }
    }
    table
}

fn one_step(place: &Place, store: &mut Store, (op, clients): Step, calls: usize, seen: &mut Seen) {
    place.sync();
    let (caller, base) = store.caller();
    let load = caller.drive(&Work {
        op,
        base,
        clients,
        calls: calls_of(op, calls),
        made: calls,
    });
    store.settle();
    seen.rates.push(load.rate());
    seen.times.push(millis(load.into_times().median()));
}

/// A list of everything is long, and the peer reads everything for a short one; Stat is over before
/// it can be timed well.
fn calls_of(op: Op, calls: usize) -> usize {
    match op {
        Op::Stat => calls * 8,
        Op::List | Op::ListName | Op::ListParent => calls.div_ceil(50),
        _ => calls,
    }
}

fn row((op, clients): Step, store: &Store, own: &Seen, first: &Seen) -> Vec<String> {
    let ratio = Spread::of_ratios(&first.rates, &own.rates);
    let times = Spread::of(own.times.iter().copied());
    let is_goal = store.count() == MANY && *store.target() == Target::Layerd("full");
    let goal = match op {
        Op::Prepare if is_goal => verdict("at most 1.2", ratio.median() <= 1.2),
        Op::List if is_goal => verdict("below 300 ms", times.median() < 300.0),
        _ => String::new(),
    };
    vec![
        op.name().to_owned(),
        clients.to_string(),
        store.target().name(),
        store.count().to_string(),
        Spread::of(own.rates.iter().copied()).to_string(),
        times.to_string(),
        ratio.to_string(),
        goal,
    ]
}
