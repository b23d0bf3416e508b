//! A container of a whole Debian with this machine's Python, which must be Debian's as well: its start,
//! `ls -lR /` and an import, with nothing in the kernel's caches and again; and names that a stack of
//! 40 layers does not have.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use layerd_integration::peers;
use layerd_integration::process::output;

use super::{FORMS, Form, drop_caches, mount, turns, unmount};
use crate::flat::unpack::Unpacker;
use crate::load::Caller;
use crate::place::Place;
use crate::stats::{Spread, millis};
use crate::table::Table;
use crate::target::Running;

const HEIGHT: usize = 40;
/// Files of each layer of the stack.
const FILES: usize = 250;
const MISSING: usize = 10_000;

const IMPORT: &str = "import asyncio, decimal, email.mime.text, http.server, json, unittest, \
                      xml.dom.minidom";

/// Rows of the table. Cold: the kernel's caches are dropped before.
const ROWS: [&str; 10] = [
    "start, cold",
    "ls -lR /, cold",
    "ls -lR /, again",
    "python3 import, cold",
    "python3 import, again",
    "start, again",
    "first start after a boot, cold",
    "start of layerd after a boot",
    "10,000 missing names, 40 layers, cold",
    "10,000 missing names, 40 layers, again",
];

/// Of each of [`ROWS`] the milliseconds, by round.
type Seen = [Vec<f64>; ROWS.len()];

pub(super) fn run(place: &Place, rounds: usize) {
    let archives = archives(&place.sub("archives"));
    let mut seen = [Seen::default(), Seen::default()];
    for round in 0..rounds {
        for (index, form) in turns(round) {
            measure(place, form, &archives, &mut seen[index]);
        }
    }
    place.clear(&place.sub("archives"));
    let title = format!(
        "A container of Debian with Python, and a stack of {HEIGHT} layers, on {}, ms, {rounds} \
         rounds; in parentheses the smallest and the largest of the rounds:",
        place.name()
    );
    let columns = ["what", FORMS[0].name(), FORMS[1].name(), "times faster"];
    let mut table = Table::new(title, &columns);
    let [directories, images] = &seen;
    for (row, (directories, images)) in ROWS.iter().zip(directories.iter().zip(images)) {
        table.row([
            (*row).to_owned(),
            Spread::of(directories.iter().copied()).to_string(),
            Spread::of(images.iter().copied()).to_string(),
            Spread::of_ratios(directories, images).to_string(),
        ]);
    }
    crate::say(&table);
}

/// The archives of the image, the base first.
fn archives(dir: &Path) -> [PathBuf; 2] {
    let [base, python] = ["base.tar", "python.tar"].map(|name| dir.join(name));
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&base).arg("-C");
    output(tar.arg(peers::Debian::Bookworm.tree()).arg("."));
    // In Debian /lib is a symlink to usr/lib, and the names of libraries are symlinks.
    let pack = "cd / && { echo usr/bin/python3; find usr/lib/python3.* -xdev -name __pycache__ -prune \
                -o -type f -print; ldd usr/bin/python3 | grep -o '/lib/[^ ]*' | sed 's,^/,usr/,'; } \
                | tar -chf \"$0\" -T -";
    output(Command::new("sh").args(["-ec", pack]).arg(&python));
    [base, python]
}

fn measure(place: &Place, form: Form, archives: &[PathBuf], seen: &mut Seen) {
    let dir = place.sub("run");
    let target = place.sub("mounted");
    let running = form.start(&dir);
    let mut caller = Caller::connect(running.socket());
    let image = unpack(&running, &mut caller, archives);
    let stack = unpack_stack(&running, &mut caller);

    drop_caches();
    seen[0].push(start(&mut caller, "box-0", &image, &target));
    drop_caches();
    for times in &mut seen[1..3] {
        times.push(within(&target, &["ls", "-lR", "/"]));
    }
    drop_caches();
    for times in &mut seen[3..5] {
        times.push(within(&target, &["python3", "-c", IMPORT]));
    }
    unmount(&target);
    seen[5].push(start(&mut caller, "box-1", &image, &target));
    unmount(&target);

    drop(caller.prepare_mounts("names-before", &stack));
    let mounts = caller.prepare_mounts("names", &stack);
    drop_caches();
    mount(&mounts, &target);
    for times in &mut seen[8..10] {
        times.push(missing(&target));
    }
    unmount(&target);

    // What a boot leaves: no mount, and nothing in memory.
    running.stop();
    place.unmount_below(&dir);
    drop_caches();
    let begin = Instant::now();
    let running = form.start(&dir);
    seen[7].push(millis(begin.elapsed()));
    let mut caller = Caller::connect(running.socket());
    seen[6].push(start(&mut caller, "box-2", &image, &target));
    unmount(&target);
    running.stop();
    place.clear(&dir);
}

/// Unpacks the layers of an image and answers the name of the topmost.
fn unpack(running: &Running, caller: &mut Caller, archives: &[PathBuf]) -> String {
    let mut unpacker = Unpacker::connect(running.socket());
    let mut top = String::new();
    for (number, archive) in archives.iter().enumerate() {
        let (key, name) = (format!("image-active-{number}"), format!("image-{number}"));
        drop(caller.prepare_mounts(&key, &top));
        unpacker.unpack_archive(&key, archive);
        caller.commit(&key, &name);
        top = name;
    }
    top
}

fn unpack_stack(running: &Running, caller: &mut Caller) -> String {
    let mut unpacker = Unpacker::connect(running.socket());
    let mut top = String::new();
    for number in 0..HEIGHT {
        let (key, name) = (format!("stack-active-{number}"), format!("stack-{number}"));
        drop(caller.prepare_mounts(&key, &top));
        unpacker.unpack(&key, FILES);
        caller.commit(&key, &name);
        top = name;
    }
    top
}

/// Milliseconds from Prepare to the end of the first program.
fn start(caller: &mut Caller, key: &str, image: &str, target: &Path) -> f64 {
    let begin = Instant::now();
    let mounts = caller.prepare_mounts(key, image);
    mount(&mounts, target);
    let _: f64 = within(target, &["true"]);
    millis(begin.elapsed())
}

/// Milliseconds that a program takes in a container's root.
fn within(target: &Path, words: &[&str]) -> f64 {
    let mut command = Command::new("chroot");
    command.arg(target).args(words).stdout(Stdio::null());
    let begin = Instant::now();
    let status = command.status();
    assert!(status.is_ok_and(|status| status.success()), "{words:?}");
    millis(begin.elapsed())
}

/// Milliseconds to find that names are not there, in a directory that all layers have.
fn missing(target: &Path) -> f64 {
    let dir = target.join("d0");
    assert!(dir.join("f0").exists(), "the layers have it");
    let begin = Instant::now();
    for number in 0..MISSING {
        assert!(!dir.join(format!("missing-{number}")).exists());
    }
    millis(begin.elapsed())
}
