//! Memory and time of a start with many snapshots.

use std::time::Duration;

use super::store::HEIGHT;
use super::{MANY, Store};
use crate::cost;
use crate::load::{Op, Work};
use crate::place::Place;
use crate::stats::{Spread, millis, short};
use crate::table::{Table, verdict};
use crate::target::Target;

/// Changes before a kill, so that it hits a server that was at work.
const CHANGES: usize = 100;

/// Measures stores of layerd, ends them, and prints.
pub(super) fn measure(place: &Place, rounds: usize, mut stores: Vec<Store>) {
    let mut memory = Table::new(
        format!("Memory of layerd on {}, MiB:", place.name()),
        &["snapshots", "when", "resident", "of it its own", "goal"],
    );
    memory.row(of_empty(place));
    for store in &stores {
        memory.row(of_one(store, "after the calls above"));
    }
    let mut starts = Table::new(
        format!(
            "From the execution of layerd on {} to the answer to the first Stat, ms, {rounds} rounds:",
            place.name()
        ),
        &["snapshots", "after a stop", "goal", "after kill -9", "goal"],
    );
    stores = stores
        .into_iter()
        .map(|store| start_often(store, rounds, &mut starts))
        .collect();
    for store in &stores {
        memory.row(of_one(store, "after a start"));
    }
    crate::say(&memory);
    crate::say(&starts);
}

/// A server that was just started on next to nothing, after its first answer.
fn of_empty(place: &Place) -> Vec<String> {
    let store = Store::filled(place, Target::Layerd("full"), HEIGHT);
    let (store, _) = store.restarted(false);
    std::thread::sleep(Duration::from_secs(1));
    of_one(&store, "after a start")
}

fn of_one(store: &Store, when: &str) -> Vec<String> {
    let of = |line| mebibytes(cost::memory(store.pid(), line));
    let resident = of("VmRSS");
    let goal = match store.count() {
        HEIGHT => verdict("below 15", resident < 15.0),
        MANY => verdict("below 120", resident < 120.0),
        _ => String::new(),
    };
    vec![
        store.count().to_string(),
        when.to_owned(),
        short(resident),
        short(of("RssAnon")),
        goal,
    ]
}

fn mebibytes(kibibytes: u64) -> f64 {
    f64::from(u32::try_from(kibibytes).unwrap_or(u32::MAX)) / 1024.0
}

fn start_often(mut store: Store, rounds: usize, table: &mut Table) -> Store {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (times, is_killed) in times.iter_mut().zip([false, true]) {
            change(&mut store, Op::Prepare);
            change(&mut store, Op::Drop);
            let (started, took) = store.restarted(is_killed);
            store = started;
            times.push(millis(took));
        }
    }
    let mut row = vec![store.count().to_string()];
    for (times, (goal, most)) in times
        .into_iter()
        .zip([("below 1 s", 1000.0), ("below 3 s", 3000.0)])
    {
        let times = Spread::of(times);
        row.push(times.to_string());
        row.push(match store.count() {
            MANY => verdict(goal, times.median() < most),
            _ => String::new(),
        });
    }
    table.row(row);
    store
}

fn change(store: &mut Store, op: Op) {
    let (caller, base) = store.caller();
    caller.drive(&Work {
        op,
        base,
        clients: 8,
        calls: CHANGES,
        made: CHANGES,
    });
}
