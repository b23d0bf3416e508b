//! Filling an empty volume from an image of two layers, beside `cp -a` from their merged mount.
//!
//! Both ways end with a sync of the file system, caches are dropped before each, and they take
//! turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use layerd_integration::Snapshots;
use layerd_integration::process::output;
use layerd_proto::containerd::types::Mount;
use layerd_proto::layerd::v1::AttachSpec;

use super::{Client, Extent};
use crate::place::Place;
use crate::stats::{Spread, short};
use crate::table::Table;
use crate::target::Target;

/// Length of a file on average: 836 MB in 20,000 files.
const AVERAGE: usize = 41_800;

/// Seconds and MiB of one copy.
type Cost = (f64, f64);

pub(super) fn measure(place: &Place, extent: Extent) -> Table {
    let files = if extent.short { 200 } else { 20_000 };
    let dir = place.sub("run");
    let running = Target::Layerd("full").start(&dir);
    let mut client = Client::new(&running.socket());
    let mut snapshots = Snapshots::connect(&running.socket());
    let merged = image(&mut snapshots, place, files);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..extent.rounds {
        for turn in 0..2 {
            match (round + turn) % 2 {
                0 => ours.push(cost(place, || attach(&mut client, round))),
                _ => {
                    let to = place.sub("copy");
                    theirs.push(cost(place, || copy(&merged, &to)));
                    place.clear(&to);
                }
            }
        }
    }
    output(Command::new("umount").arg(&merged));
    running.stop();
    place.clear(&dir);
    table(place, files, &ours, &theirs)
}

/// Commits two layers, of which the upper one replaces one file in ten and deletes one in a
/// hundred, and mounts them.
fn image(snapshots: &mut Snapshots, place: &Place, files: usize) -> PathBuf {
    let lower = snapshots.prepare("lower", "", &[]).expect("a new key");
    let upper = writable(&lower).join("seed");
    fill(&upper, (0..files).map(|file| (file, Some(file))));
    snapshots.commit("one", "lower", &[]).expect("it is active");
    let upper = snapshots.prepare("upper", "one", &[]).expect("a new key");
    let changed = (0..files).filter(|file| file % 10 == 0 || file % 100 == 99);
    let changed = changed.map(|file| (file, (file % 100 != 99).then_some(file + 1)));
    fill(&writable(&upper).join("seed"), changed);
    snapshots.commit("two", "upper", &[]).expect("it is active");
    let view = snapshots.view("view", "two", &[]).expect("a new key");
    let merged = place.sub("merged");
    let mut mount = Command::new("mount");
    mount.args(["-t", &view[0].r#type, "-o", &view[0].options.join(",")]);
    output(mount.arg(&view[0].source).arg(&merged));
    merged
}

/// Where a layer's own files lie.
fn writable(mounts: &[Mount]) -> PathBuf {
    let upper = |option: &String| option.strip_prefix("upperdir=").map(PathBuf::from);
    let upper = mounts[0].options.iter().find_map(upper);
    upper.unwrap_or_else(|| PathBuf::from(&mounts[0].source))
}

/// Makes files of many sizes, a hundred to a directory; without content, the note that the file
/// was deleted.
fn fill(top: &Path, files: impl Iterator<Item = (usize, Option<usize>)>) {
    let bytes: Vec<u8> = (0..251).cycle().take(AVERAGE * 4).collect();
    for (file, content) in files {
        let dir = top.join(format!("d{}", file / 100));
        fs::create_dir_all(&dir).expect("the layer can be written");
        let path = dir.join(format!("f{file}"));
        match content {
            Some(from) => {
                let (from, size) = (from % 1000, file * 7919 % (AVERAGE * 2));
                let written = fs::write(path, &bytes[from..from + size]);
                written.expect("the layer can be written");
            }
            None => {
                output(Command::new("mknod").arg(path).args(["c", "0", "0"]));
            }
        }
    }
}

fn attach(client: &mut Client, round: usize) {
    let attached = client.attach(vec![AttachSpec {
        key: format!("round-{round}"),
        mount: format!("type=volume,src=volume-{round},dst=/seed,on-missing=create"),
        fill_from: "two".to_owned(),
        ..AttachSpec::default()
    }]);
    assert!(attached[0].filled, "{attached:?}");
}

fn copy(merged: &Path, to: &Path) {
    output(
        Command::new("cp")
            .arg("-a")
            .arg(merged.join("seed/."))
            .arg(to),
    );
}

/// Cost of a copy until it is on the disk.
fn cost(place: &Place, copy: impl FnOnce()) -> Cost {
    place.sync();
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
    let (before, start) = (place.used(), Instant::now());
    copy();
    place.sync();
    let time = start.elapsed().as_secs_f64();
    let used = place.used().saturating_sub(before);
    (time, used as f64 / f64::from(1 << 20))
}

fn table(place: &Place, files: usize, ours: &[Cost], theirs: &[Cost]) -> Table {
    let title = format!(
        "Filling a volume with {files} files of two layers on {}:",
        place.name()
    );
    let mut table = Table::new(title, &["how", "seconds", "MiB of disk"]);
    let split = |costs: &[Cost]| -> [Vec<f64>; 2] {
        let (times, sizes) = costs.iter().copied().unzip();
        [times, sizes]
    };
    let (ours, theirs) = (split(ours), split(theirs));
    let row = |name: &str, [times, sizes]: &[Vec<f64>; 2]| {
        let figure = |all: &[f64]| Spread::of(all.iter().copied()).to_string();
        [name.to_owned(), figure(times), figure(sizes)]
    };
    table.row(row("first use of the volume", &ours));
    table.row(row("cp -a of the merged mount", &theirs));
    let sum = |sizes: &[f64]| sizes.iter().sum::<f64>();
    table.row([
        "cp -a takes so many times as much".to_owned(),
        Spread::of_ratios(&theirs[0], &ours[0]).to_string(),
        short(sum(&theirs[1]) / sum(&ours[1]).max(1.0)),
    ]);
    table
}
