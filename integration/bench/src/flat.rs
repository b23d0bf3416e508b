//! Times of Commit and Usage by the number of a layer's files. The layers are unpacked by layerd
//! itself, which therefore knows their usage at Commit.

pub(crate) mod unpack;

use std::time::Duration;

use clap::Args;

use crate::load::Caller;
use crate::place::{Fs, Place};
use crate::stats::{Spread, Times, millis};
use crate::table::{Table, verdict};
use crate::target::{Running, Target};
use unpack::Unpacker;

/// Extent of the measurement.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// File systems, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "xfs")]
    fs: Vec<Fs>,
    /// Files of a layer; ratios are to the first
    #[arg(long, value_delimiter = ',', default_value = "10,10000,1000000")]
    files: Vec<usize>,
    /// Layers of each size in a round, at most: as many as have 50,000 files together, or one
    #[arg(long, default_value_t = 20)]
    layers: usize,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Files that are unpacked for one figure: few small layers would show the disk's mood alone.
const FILES: usize = 50_000;
/// Calls of Usage for one figure.
const USAGES: usize = 20;
/// Allowed ratio of the largest layer's time to the smallest's.
const GOAL: f64 = 1.5;

/// Timed calls of a layer.
const CALLS: [(&str, bool); 5] = [
    ("usage, before commit", false),
    ("commit", true),
    ("commit, written back before", true),
    ("usage", true),
    ("remove", false),
];

/// For one size, of each of [`CALLS`] the medians of the rounds, in milliseconds.
type Seen = [Vec<f64>; CALLS.len()];

/// Measures on each of the file systems and prints as it goes.
pub(crate) fn run(extent: &Extent) {
    for fs in &extent.fs {
        let place = Place::roomy(*fs);
        let mut seen = vec![Seen::default(); extent.files.len()];
        for round in 0..extent.rounds {
            let dir = place.sub("run");
            let running = Target::Layerd("full").start(&dir);
            for turn in 0..seen.len() {
                let index = (round + turn) % seen.len();
                let files = extent.files[index];
                let layers = (FILES / files).clamp(1, extent.layers);
                one_size(&place, &running, files, layers, &mut seen[index]);
            }
            running.stop();
            place.clear(&dir);
        }
        crate::say(&table(&place, extent, &seen));
    }
}

fn one_size(place: &Place, running: &Running, files: usize, layers: usize, seen: &mut Seen) {
    let mut caller = Caller::connect(running.socket());
    let mut unpacker = Unpacker::connect(running.socket());
    let mut all: [Times; CALLS.len()] = Default::default();
    for layer in 0..layers {
        for written_back in [false, true] {
            let (key, name) = (format!("a-{files}-{layer}"), format!("c-{files}-{layer}"));
            caller.prepare(&key, "");
            unpacker.unpack(&key, files);
            all[0].push(caller.usage(&key).0);
            if written_back {
                place.sync();
            }
            all[if written_back { 2 } else { 1 }].push(caller.commit(&key, &name));
            all[3].push(usage(&mut caller, &name, files));
            all[4].push(caller.remove(&name));
            running.wait_reaped();
            place.sync();
        }
    }
    for (seen, times) in seen.iter_mut().zip(all) {
        seen.push(millis(times.median()));
    }
}

/// The usual time of some calls in a row.
fn usage(caller: &mut Caller, name: &str, files: usize) -> Duration {
    let one = |_| {
        let (took, inodes) = caller.usage(name);
        assert!(inodes > files, "{name} lacks files: {inodes}");
        took
    };
    (0..USAGES).map(one).collect::<Times>().median()
}

fn table(place: &Place, extent: &Extent, seen: &[Seen]) -> Table {
    let title = format!(
        "A layer that layerd unpacked, by the number of its files, on {}, ms, {} rounds:",
        place.name(),
        extent.rounds
    );
    let columns = ["call", "files", "time", "times the first", "goal"];
    let mut table = Table::new(title, &columns);
    for (call, (name, has_goal)) in CALLS.iter().enumerate() {
        for (files, own) in extent.files.iter().zip(seen) {
            let ratio = Spread::of_ratios(&own[call], &seen[0][call]);
            let goal = match *has_goal && *files > extent.files[0] {
                true => verdict(format_args!("at most {GOAL}"), ratio.median() <= GOAL),
                false => String::new(),
            };
            table.row([
                (*name).to_owned(),
                files.to_string(),
                Spread::of(own[call].iter().copied()).to_string(),
                ratio.to_string(),
                goal,
            ]);
        }
    }
    table
}
