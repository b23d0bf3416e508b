//! Removing a volume is a record and a rename: a large one must go as fast as a small one.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use super::{Client, Extent};
use crate::place::Place;
use crate::stats::{Spread, millis};
use crate::table::Table;
use crate::target::Target;

/// Removals of each volume in a round.
const EACH: usize = 5;
/// Files in one directory.
const IN_ONE: usize = 1000;

pub(super) fn measure(place: &Place, extent: Extent) -> Table {
    let counts = [10, if extent.short { 1_000 } else { 200_000 }];
    let dir = place.sub("run");
    let running = Target::Layerd("full").start(&dir);
    let mut client = Client::new(&running.socket());
    for count in counts {
        fill(&client.create(&name(count)), count);
    }
    place.sync();
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..extent.rounds * EACH {
        for turn in 0..counts.len() {
            let at = (round + turn) % counts.len();
            let name = name(counts[at]);
            let start = Instant::now();
            client.delete(&name);
            times[at].push(millis(start.elapsed()));
            client.undelete(&name);
        }
    }
    running.stop();
    place.clear(&dir);
    let title = format!("Removing a volume on {}, milliseconds:", place.name());
    let mut table = Table::new(title, &["files", "remove", "ratio, pair by pair"]);
    for (at, count) in counts.iter().enumerate() {
        let ratio = match at {
            0 => String::new(),
            _ => Spread::of_ratios(&times[at], &times[0]).to_string(),
        };
        let figure = Spread::of(times[at].iter().copied()).to_string();
        table.row([count.to_string(), figure, ratio]);
    }
    table
}

fn name(count: usize) -> String {
    format!("files-{count}")
}

fn fill(top: &Path, count: usize) {
    for file in 0..count {
        let dir = top.join((file / IN_ONE).to_string());
        if file % IN_ONE == 0 {
            fs::create_dir(&dir).expect("the volume can be written");
        }
        File::create(dir.join(file.to_string())).expect("the volume can be written");
    }
}
