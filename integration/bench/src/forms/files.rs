//! One layer of many empty files: how long it takes to unpack it, how much memory of layerd, and how soon
//! its space is back when it is removed.

use std::time::{Duration, Instant};

use layerd_integration::process::wait_until;

use super::{FORMS, Form, turns};
use crate::cost::memory;
use crate::flat::unpack::Unpacker;
use crate::load::Caller;
use crate::place::Place;
use crate::stats::{Spread, count, millis};
use crate::table::Table;

/// Bytes that layerd and the file system may take for themselves while a layer comes and goes.
const OWN: u64 = 4 << 20;

/// Figures of one form, by round: milliseconds and MiB.
#[derive(Debug, Clone, Default)]
struct Seen {
    unpacked: Vec<f64>,
    memory: Vec<f64>,
    disk: Vec<f64>,
    answered: Vec<f64>,
    free: Vec<f64>,
}

pub(super) fn run(place: &Place, files: usize, rounds: usize) {
    let mut seen = [Seen::default(), Seen::default()];
    for round in 0..rounds {
        for (index, form) in turns(round) {
            measure(place, form, files, &mut seen[index]);
        }
    }
    let title = format!(
        "A layer of {files} empty files on {}, {rounds} rounds; in parentheses the smallest and the \
         largest of the rounds:",
        place.name()
    );
    let columns = [
        "form",
        "Apply and Commit, ms",
        "memory of layerd, MiB more than idle",
        "disk, MiB",
        "Remove, ms",
        "until nine tenths of the space are back, ms",
    ];
    let mut table = Table::new(title, &columns);
    for (form, seen) in FORMS.iter().zip(&seen) {
        let of = |figures: &[f64]| Spread::of(figures.iter().copied()).to_string();
        table.row([
            form.name().into(),
            of(&seen.unpacked),
            of(&seen.memory),
            of(&seen.disk),
            of(&seen.answered),
            of(&seen.free),
        ]);
    }
    crate::say(&table);
}

fn measure(place: &Place, form: Form, files: usize, seen: &mut Seen) {
    let dir = place.sub("run");
    let running = form.start(&dir);
    let mut caller = Caller::connect(running.socket());
    let mut unpacker = Unpacker::connect(running.socket());
    caller.prepare("a", "");
    place.sync();
    let used = place.used();
    // The peak counts from here.
    std::fs::write(format!("/proc/{}/clear_refs", running.pid()), "5").expect("root may");
    let idle = memory(running.pid(), "VmHWM");
    let start = Instant::now();
    unpacker.unpack("a", files);
    caller.commit("a", "c");
    seen.unpacked.push(millis(start.elapsed()));
    let mebibytes = |kibibytes: u64| count(usize::try_from(kibibytes >> 10).unwrap_or(usize::MAX));
    let most = memory(running.pid(), "VmHWM").saturating_sub(idle);
    seen.memory.push(mebibytes(most));
    place.sync();
    let taken = place.used().saturating_sub(used);
    seen.disk.push(mebibytes(taken >> 10));
    let start = Instant::now();
    seen.answered.push(millis(caller.remove("c")));
    let is_back = || place.used() <= used + taken / 10 + OWN;
    wait_until("the space to be back", Duration::from_secs(600), is_back);
    seen.free.push(millis(start.elapsed()));
    running.wait_reaped();
    running.stop();
    place.clear(&dir);
}
