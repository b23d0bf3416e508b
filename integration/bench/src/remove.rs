//! Many snapshots removed at once: what that does to others who prepare meanwhile, and how soon the
//! space is back, beside `rm -rf` by two processes of as many files on the same file system.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use layerd_integration::process::output;

use crate::content;
use crate::flat::unpack::Unpacker;
use crate::forms::Form;
use crate::load::{Caller, Op, Work};
use crate::place::{Fs, Place};
use crate::stats::{Spread, Times, millis};
use crate::table::{Table, verdict};

/// Extent of the measurement.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// File systems, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "xfs")]
    fs: Vec<Fs>,
    /// Snapshots
    #[arg(long, default_value_t = 5_000)]
    snapshots: usize,
    /// Form of their layers
    #[arg(long, value_enum, default_value = "directories")]
    layers: Form,
    /// Empty files in each of them
    #[arg(long, default_value_t = 1_000)]
    files: usize,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds for which Prepare is timed while nothing else happens
    #[arg(long, default_value_t = 20)]
    idle_secs: u64,
}

/// Interval of concurrent Prepares: 50 a second.
const EVERY: Duration = Duration::from_millis(20);
/// Clients that remove, and threads that make files.
const REMOVERS: usize = 32;
const MAKERS: usize = 2;

/// Results of one round.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Times of Prepare, in milliseconds: median and 99th percentile, while idle and meanwhile.
    idle: [f64; 2],
    meanwhile: [f64; 2],
    /// Seconds until all Removes were answered, until all was deleted, and that `rm -rf` took.
    answered: f64,
    deleted: f64,
    rm: f64,
}

/// Measures on each of the file systems and prints as it goes.
pub(crate) fn run(extent: &Extent) {
    for fs in &extent.fs {
        let place = Place::roomy(*fs);
        let mut all = Vec::new();
        for round in 0..extent.rounds {
            let mut seen = Seen::default();
            // Who is first may find other free space than who is second.
            if round % 2 == 0 {
                by_layerd(&place, extent, &mut seen);
                seen.rm = by_rm(&place, extent);
            } else {
                seen.rm = by_rm(&place, extent);
                by_layerd(&place, extent, &mut seen);
            }
            all.push(seen);
        }
        crate::say(&table(&place, extent, &all));
    }
}

fn by_layerd(place: &Place, extent: &Extent, seen: &mut Seen) {
    let dir = place.sub("run");
    let running = extent.layers.start(&dir);
    let mut caller = Caller::connect(running.socket());
    let base = caller.base(10);
    let all = |op, clients| Work {
        op,
        base: &base,
        clients,
        calls: extent.snapshots,
        made: extent.snapshots,
    };
    caller.drive(&all(Op::Prepare, REMOVERS));
    match extent.layers {
        Form::Directories => {
            let tops = (0..extent.snapshots).map(|i| caller.upper(&format!("a-{i}")));
            fill(&tops.collect::<Vec<_>>(), extent.files);
        }
        Form::Images => {
            let mut unpacker = Unpacker::connect(running.socket());
            for i in 0..extent.snapshots {
                unpacker.unpack(&format!("a-{i}"), extent.files);
            }
        }
    }
    place.sync();

    let end = Instant::now() + Duration::from_secs(extent.idle_secs);
    seen.idle = prepare_until(&mut caller, &base, "idle", || Instant::now() >= end);
    let socket = running.socket();
    let start = Instant::now();
    thread::scope(|scope| {
        let removal = all(Op::Drop, REMOVERS);
        let remover = scope.spawn(move || {
            Caller::connect(socket).drive(&removal);
            start.elapsed()
        });
        let is_over = || remover.is_finished() && running.is_reaped();
        seen.meanwhile = prepare_until(&mut caller, &base, "meanwhile", is_over);
        seen.deleted = start.elapsed().as_secs_f64();
        let answered = remover.join().expect("all are removed");
        seen.answered = answered.as_secs_f64();
    });
    running.stop();
    place.clear(&dir);
}

/// Prepares one snapshot after the other in an even beat. Answers median and 99th percentile.
fn prepare_until(
    caller: &mut Caller,
    base: &str,
    name: &str,
    is_over: impl Fn() -> bool,
) -> [f64; 2] {
    let mut times = Times::default();
    let mut beat = Instant::now();
    while times.count() == 0 || !is_over() {
        let key = format!("{name}-{}", times.count());
        let start = Instant::now();
        caller.prepare(&key, base);
        times.push(start.elapsed());
        // A call that took longer than a beat delays those after it, but is not made up for.
        beat = (beat + EVERY).max(start);
        thread::sleep(beat.saturating_duration_since(Instant::now()));
    }
    [times.median(), times.percentile(99)].map(millis)
}

/// Seconds that two processes took to delete as many files.
fn by_rm(place: &Place, extent: &Extent) -> f64 {
    let dir = place.sub("tree");
    let tops: Vec<_> = (0..extent.snapshots)
        .map(|i| place.sub(&format!("tree/{i}")))
        .collect();
    fill(&tops, extent.files);
    place.sync();
    let start = Instant::now();
    let by_two = "ls -U | xargs -n 64 -P 2 rm -rf --";
    output(Command::new("sh").args(["-c", by_two]).current_dir(&dir));
    let took = start.elapsed();
    place.clear(&dir);
    took.as_secs_f64()
}

fn fill(tops: &[impl AsRef<Path> + Sync], files: usize) {
    thread::scope(|scope| {
        for part in tops.chunks(tops.len().div_ceil(MAKERS)) {
            scope.spawn(move || {
                for top in part {
                    content::empty_files(top.as_ref(), files);
                }
            });
        }
    });
}

fn table(place: &Place, extent: &Extent, all: &[Seen]) -> Table {
    let title = format!(
        "{} snapshots of {} files ({}) removed at once on {}, {} rounds; Prepare is called {} times \
         a second:",
        extent.snapshots,
        extent.files,
        extent.layers.name(),
        place.name(),
        all.len(),
        Duration::from_secs(1).as_millis() / EVERY.as_millis()
    );
    let mut table = Table::new(title, &["what", "then", "beside", "ratio", "goal"]);
    let mut row =
        |what: &str, most: Option<f64>, above: fn(&Seen) -> f64, below: fn(&Seen) -> f64| {
            let figures = |of: fn(&Seen) -> f64| all.iter().map(of).collect::<Vec<_>>();
            let (above, below) = (figures(above), figures(below));
            let ratio = Spread::of_ratios(&above, &below);
            let goal = |most| verdict(format_args!("at most {most}"), ratio.median() <= most);
            table.row([
                what.to_owned(),
                Spread::of(above).to_string(),
                Spread::of(below).to_string(),
                ratio.to_string(),
                most.map(goal).unwrap_or_default(),
            ]);
        };
    row(
        "prepare p50 meanwhile, beside idle, ms",
        None,
        |seen| seen.meanwhile[0],
        |seen| seen.idle[0],
    );
    row(
        "prepare p99 meanwhile, beside idle, ms",
        Some(2.0),
        |seen| seen.meanwhile[1],
        |seen| seen.idle[1],
    );
    row(
        "until all removes are answered, beside rm -rf, s",
        None,
        |seen| seen.answered,
        |seen| seen.rm,
    );
    row(
        "until all is deleted, beside rm -rf by two, s",
        Some(1.5),
        |seen| seen.deleted,
        |seen| seen.rm,
    );
    table
}
