//! Number of layerd's waits for the disk: its system calls, and the disk's flushes.
//!
//! The calls are counted by strace, which stops only those calls; the flushes are
//! counted in a second run without it, because a slower flush gathers a larger batch.

use std::time::Duration;

use crate::content;
use crate::load::{Caller, Op, Work};
use crate::place::{Disk, Fs, Place};
use crate::stats::short;
use crate::table::Table;
use crate::target::{Running, Target};

/// Calls of each kind that one client makes.
const EACH: usize = 16;
const COUNTED: [&str; 4] = ["fsync", "fdatasync", "sync_file_range", "syncfs"];

/// A step of the run: an operation, and what the layers hold before it.
#[derive(Debug, Clone, Copy)]
struct Step {
    name: &'static str,
    op: Op,
    fill: bool,
    is_counted: bool,
}

const fn step(name: &'static str, op: Op, fill: bool, is_counted: bool) -> Step {
    Step {
        name,
        op,
        fill,
        is_counted,
    }
}

const STEPS: [Step; 9] = [
    step("prepare", Op::Prepare, false, true),
    step("update", Op::Update, false, true),
    step("commit, no files", Op::Commit, false, true),
    step("remove (committed)", Op::Remove, false, true),
    step("view", Op::View, false, true),
    step("remove (view)", Op::RemoveView, false, true),
    step("prepare again", Op::Prepare, false, false),
    step("commit, 100 dirty files", Op::Commit, true, true),
    step("remove again", Op::Remove, false, false),
];

/// Counts of one step.
#[derive(Debug, Clone)]
struct Seen {
    /// Calls of each kind of [`COUNTED`].
    calls: [usize; 4],
    disk: Option<Disk>,
}

/// Counts on each of the file systems, with each number of clients, and prints as it goes.
pub(crate) fn run(systems: &[Fs], clients: &[usize]) {
    for fs in systems {
        let place = Place::new(*fs);
        let mut table = Table::new(
            format!(
                "Flushes for one operation on {}, durability full:",
                place.name()
            ),
            &[
                "operation",
                "clients",
                "fsync",
                "fdatasync",
                "sync_file_range",
                "syncfs",
                "writes of the disk",
                "flushes of the disk",
            ],
        );
        for clients in clients {
            count(&place, *clients, &mut table);
        }
        crate::say(&table);
    }
}

fn count(place: &Place, clients: usize, table: &mut Table) {
    let traced = all_steps(place, clients, true);
    let plain = all_steps(place, clients, false);
    for ((step, traced), plain) in STEPS.iter().zip(&traced).zip(&plain) {
        if step.is_counted {
            table.row(row(*step, clients, traced, plain));
        }
    }
}

fn row(step: Step, clients: usize, traced: &Seen, plain: &Seen) -> Vec<String> {
    let each = |count: usize| {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let operations = u32::try_from(clients * EACH).unwrap_or(u32::MAX);
        short(f64::from(count) / f64::from(operations))
    };
    let mut cells = vec![step.name.to_owned(), clients.to_string()];
    cells.extend(traced.calls.map(each));
    match plain.disk {
        Some(disk) => cells.extend([each(disk.writes), each(disk.flushes)]),
        None => cells.extend(["-".to_owned(), "-".to_owned()]),
    }
    cells
}

fn all_steps(place: &Place, clients: usize, traced: bool) -> Vec<Seen> {
    let dir = place.sub("run");
    let target = Target::Layerd("full");
    let running = if traced {
        target.start_traced(&dir)
    } else {
        target.start(&dir)
    };
    let mut caller = Caller::connect(running.socket());
    let base = caller.base(10);
    let seen = STEPS.map(|step| one_step(place, &running, &mut caller, &base, step, clients));
    running.stop();
    place.clear(&dir);
    seen.into()
}

fn one_step(
    place: &Place,
    running: &Running,
    caller: &mut Caller,
    base: &str,
    step: Step,
    clients: usize,
) -> Seen {
    let count = clients * EACH;
    for i in 0..if step.fill { count } else { 0 } {
        content::small_files(&caller.upper(&format!("a-{i}")), 100);
    }
    settle(place, running, step);
    let (trace, before) = (running.trace().len(), place.disk());
    caller.drive(&Work {
        op: step.op,
        base,
        clients,
        calls: count,
        made: count,
    });
    let after = place.disk();
    settle(place, running, step);
    Seen {
        calls: by_kind(&running.trace()[trace..]),
        disk: before.zip(after).map(|(before, after)| after - before),
    }
}

/// Lets what the last step left to do in the background come to its end. Dirty files are what the
/// step that filled layers is about.
fn settle(place: &Place, running: &Running, step: Step) {
    running.wait_reaped();
    if !step.fill {
        place.sync();
    }
    std::thread::sleep(Duration::from_millis(200));
}

/// Lines such as `1234 fdatasync(17) = 0`.
fn by_kind(trace: &[String]) -> [usize; 4] {
    let call = |line: &str| {
        line.split_whitespace()
            .nth(1)?
            .split('(')
            .next()
            .map(str::to_owned)
    };
    COUNTED.map(|kind| {
        let of_kind = |line: &&String| call(line).as_deref() == Some(kind);
        trace.iter().filter(of_kind).count()
    })
}

#[cfg(test)]
mod tests {
    use super::by_kind;

    #[test]
    fn calls_are_counted_by_name() {
        let lines = [
            "812   fdatasync(17)                     = 0",
            "813 sync_file_range(20, 0, 0, SYNC_FILE_RANGE_WRITE <unfinished ...>",
            "813 fsync(9) = -1 EIO (Input/output error)",
            "812 fdatasync(17) = 0",
        ];
        let lines = lines.map(str::to_owned);
        assert_eq!(by_kind(&lines), [1, 2, 1, 0]);
    }
}
