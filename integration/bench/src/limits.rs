//! Prepare, Mounts and removal of containers' layers that are held to a size, beside others.

use std::time::Instant;

use clap::Args;
use layerd_integration::Snapshots;

use crate::place::{Fs, Place};
use crate::stats::{Spread, Times, millis};
use crate::table::Table;
use crate::target::{Running, Target};

/// Extent of the measurement.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// File systems, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ext4,xfs")]
    fs: Vec<Fs>,
    /// Limits, as labels have them; ratios are to layers without one
    #[arg(long, value_delimiter = ',', default_value = "64m,1g,10g")]
    sizes: Vec<String>,
    /// Layers of each kind in a round
    #[arg(long, default_value_t = 40)]
    layers: usize,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

const LABEL: &str = "containerd.io/snapshot/layerd.size";
/// Value of the label for no limit.
const NONE: &str = "none";
/// Timed steps of a layer's life; the last is until all of a round are deleted, for each.
const STEPS: [&str; 4] = ["prepare", "mounts", "remove", "deleted"];

/// For one limit, of each of [`STEPS`] the medians of the rounds, in milliseconds.
type Seen = [Vec<f64>; STEPS.len()];

/// Measures on each of the file systems and prints as it goes.
pub(crate) fn run(extent: &Extent) {
    let sizes: Vec<&str> = std::iter::once(NONE)
        .chain(extent.sizes.iter().map(String::as_str))
        .collect();
    for fs in &extent.fs {
        let place = Place::new(*fs);
        let mut seen = vec![Seen::default(); sizes.len()];
        for round in 0..extent.rounds {
            let dir = place.sub("run");
            let running = Target::Layerd("full").start(&dir);
            let mut client = Snapshots::connect(&running.socket());
            client.committed("base", "").expect("a base");
            for turn in 0..sizes.len() {
                let index = (round + turn) % sizes.len();
                one_size(
                    &running,
                    &mut client,
                    sizes[index],
                    extent.layers,
                    &mut seen[index],
                );
                place.sync();
            }
            drop(client);
            running.stop();
            place.clear(&dir);
        }
        crate::say(&table(&place, extent, &sizes, &seen));
    }
}

fn one_size(running: &Running, client: &mut Snapshots, size: &str, layers: usize, seen: &mut Seen) {
    let mut times: [Times; 3] = Default::default();
    let keys: Vec<String> = (0..layers).map(|layer| format!("{size}-{layer}")).collect();
    for key in &keys {
        let begun = Instant::now();
        let prepared = client.prepare(key, "base", &[(LABEL, size)]);
        times[0].push(begun.elapsed());
        let begun = Instant::now();
        let mounts = client.mounts(key);
        times[1].push(begun.elapsed());
        assert_eq!(mounts.expect("mounts"), prepared.expect("prepared"));
    }
    let all = Instant::now();
    for key in &keys {
        let begun = Instant::now();
        client.remove(key).expect("removed");
        times[2].push(begun.elapsed());
    }
    running.wait_reaped();
    let deleted = millis(all.elapsed()) / crate::stats::count(layers);
    for (seen, times) in seen.iter_mut().zip(times) {
        seen.push(millis(times.median()));
    }
    seen[3].push(deleted);
}

fn table(place: &Place, extent: &Extent, sizes: &[&str], seen: &[Seen]) -> Table {
    let title = format!(
        "Layers of containers by their limit on {}, ms each, {} rounds of {} layers, one client:",
        place.name(),
        extent.rounds,
        extent.layers
    );
    let mut table = Table::new(title, &["step", "limit", "time", "times without"]);
    for (step, name) in STEPS.iter().enumerate() {
        for (size, own) in sizes.iter().zip(seen) {
            table.row([
                (*name).to_owned(),
                (*size).to_owned(),
                Spread::of(own[step].iter().copied()).to_string(),
                Spread::of_ratios(&own[step], &seen[0][step]).to_string(),
            ]);
        }
    }
    table
}
