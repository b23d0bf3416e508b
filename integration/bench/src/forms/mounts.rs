//! Cost of images that are mounted for those who look at the mount table, and for containers that start.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::{Form, mount, unmount};
use crate::flat::unpack::Unpacker;
use crate::load::Caller;
use crate::place::Place;
use crate::stats::{Times, millis};
use crate::table::Table;
use crate::target::Running;

/// Measurements for one figure, which is their median.
const REPEATS: usize = 20;

pub(super) fn run(place: &Place, counts: &[usize]) {
    let title = format!(
        "Image layers that are mounted, on {}, medians of {REPEATS}, ms:",
        place.name()
    );
    let columns = [
        "mounted",
        "unpack, each",
        "View that mounts, each",
        "mountinfo, KiB",
        "read and split",
        "findmnt (libmount)",
        "copy of the mount namespace",
        "start of a container",
        "one more mount and umount",
        "kernel memory, KiB a mount",
        "stop and start of layerd",
    ];
    let mut table = Table::new(title, &columns);
    for count in counts {
        table.row(measure(place, *count));
    }
    crate::say(&table);
}

fn measure(place: &Place, count: usize) -> Vec<String> {
    let dir = place.sub("run");
    let target = place.sub("mounted");
    let running = Form::Images.start(&dir);
    let mut caller = Caller::connect(running.socket());
    let each = |begin: Instant| millis(begin.elapsed()) / crate::stats::count(count.max(1));

    let begin = Instant::now();
    unpack(&running, &mut caller, count);
    let unpacked = each(begin);
    let memory = kernel_memory();
    let begin = Instant::now();
    for number in 0..count {
        let view = format!("view-{number}");
        caller.view(&view, &format!("c-{number}"));
        caller.remove(&view);
    }
    let viewed = each(begin);
    let memory = kernel_memory().saturating_sub(memory) / (count.max(1) as u64);

    let table = table();
    let below = dir.display().to_string();
    let is_image = |line: &&str| line.contains(" - erofs ") && line.contains(&below);
    assert_eq!(table.lines().filter(is_image).count(), count, "mounted");
    let base = caller.base(10);
    let mut number = 0;
    let figures = [
        median(|| split(&self::table())),
        median(|| run_program("findmnt", &["-n"])),
        median(|| run_program("unshare", &["--mount", "true"])),
        median(|| {
            number += 1;
            let mounts = caller.prepare_mounts(&format!("box-{number}"), &base);
            mount(&mounts, &target);
            run_program("unshare", &["--mount", "true"]);
            unmount(&target);
        }),
        median(|| {
            let flags = nix::mount::MsFlags::MS_BIND;
            nix::mount::mount(Some(&dir), &target, None::<&str>, flags, None::<&str>)
                .expect("root may");
            unmount(&target);
        }),
    ];
    let begin = Instant::now();
    running.stop();
    let running = Form::Images.start(&dir);
    Caller::connect(running.socket()).stat(&base);
    let again = millis(begin.elapsed());
    running.stop();
    place.clear(&dir);

    let mut row = vec![
        count.to_string(),
        format!("{unpacked:.2}"),
        format!("{viewed:.2}"),
        (table.len() >> 10).to_string(),
    ];
    row.extend(figures.map(|figure| format!("{figure:.2}")));
    row.extend([memory.to_string(), format!("{again:.0}")]);
    row
}

/// Layers of one file, none upon another.
fn unpack(running: &Running, caller: &mut Caller, count: usize) {
    let mut unpacker = Unpacker::connect(running.socket());
    for number in 0..count {
        let key = format!("a-{number}");
        drop(caller.prepare_mounts(&key, ""));
        unpacker.unpack(&key, 1);
        caller.commit(&key, &format!("c-{number}"));
    }
}

fn table() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").expect("proc(5)")
}

/// Looks at all fields, as a reader of the table does.
fn split(table: &str) {
    for line in table.lines() {
        let fields: Vec<String> = line.split(' ').map(ToOwned::to_owned).collect();
        assert!(std::hint::black_box(fields).len() > 9, "{line}");
    }
}

fn run_program(name: impl AsRef<Path>, words: &[&str]) {
    let mut command = Command::new(name.as_ref());
    let status = command.args(words).stdout(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "{words:?}");
}

fn median(mut work: impl FnMut()) -> f64 {
    let times = (0..REPEATS).map(|_| {
        let begin = Instant::now();
        work();
        begin.elapsed()
    });
    millis(times.collect::<Times>().median())
}

/// KiB in the kernel's slabs, that it does not give back, and for vmalloc and processors.
fn kernel_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("proc(5)");
    let lines = ["SUnreclaim:", "Percpu:"];
    let amount = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let amount = rest.split_whitespace().next()?.parse::<u64>().ok();
        lines.contains(&name).then_some(amount).flatten()
    };
    text.lines().filter_map(amount).sum::<u64>()
}
