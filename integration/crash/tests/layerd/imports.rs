//! Layers that were imported by second names of another program's files, when the power is cut at any
//! write: what was committed is whole, although the other program never synced its files and deletes
//! them right after Commit.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;

use layerd_crash::disk::{Filesystem, Later, Recorder, Recording};
use layerd_integration::{Scratch, Snapshots};
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::Verdict;
use crate::home::check_tidy;
use crate::model::World;
use crate::operation::{commit, prepare, remove, view};
use crate::power::{ALL_OF_THEM, SIZE, examine, marked};
use crate::process::{Layerd, Site};
use crate::unpack::Unpacker;

/// Layers that are imported one on the other.
const LAYERS: usize = 5;
/// Small files of each.
const SMALL: usize = 12;

fn name(number: usize) -> String {
    format!("layer-{number}")
}

fn content(number: usize) -> Vec<u8> {
    vec![u8::try_from(number).unwrap() + 1; 70_000 * number + 7]
}

fn small(number: usize, file: usize) -> String {
    format!("small {file} of {number}")
}

/// Makes the directory that another snapshotter would have for a layer.
fn make(source: &Path, number: usize) {
    fs::create_dir_all(source.join("dir/below")).unwrap();
    fs::write(source.join("dir/own"), content(number)).unwrap();
    for file in 0..SMALL {
        let path = source.join(format!("dir/below/{file}"));
        fs::write(path, small(number, file)).unwrap();
    }
    symlink("dir/own", source.join("link")).unwrap();
    let whiteout = source.join("gone");
    mknod(&whiteout, SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
}

/// Deletes what has a second name by now.
fn unlink(source: &Path) {
    for file in 0..SMALL {
        fs::remove_file(source.join(format!("dir/below/{file}"))).unwrap();
    }
    for file in ["dir/own", "link", "gone"] {
        fs::remove_file(source.join(file)).unwrap();
    }
}

/// Imports and commits the layers, with a mark after each.
fn record(disk: Filesystem) -> Recording {
    let scratch = Scratch::new();
    let mut recorder = Recorder::start(disk, SIZE).unwrap();
    recorder.begin();
    let site = Site::new(recorder.path().join("root"), scratch.path());
    let marker = recorder.marker();
    let layerd = Layerd::start(&site).unwrap();
    let (mut client, mut unpacker) = (site.client(), Unpacker::connect(&site));
    for number in 0..LAYERS {
        let parent = number.checked_sub(1).map(name).unwrap_or_default();
        prepare("active", &parent).perform(&mut client).unwrap();
        let source = recorder.path().join(format!("theirs-{number}"));
        make(&source, number);
        unpacker.import("active", &source).unwrap();
        commit(&name(number), "active")
            .perform(&mut client)
            .unwrap();
        marker.mark(number as u64);
        unlink(&source);
    }
    layerd.kill();
    recorder.finish().unwrap()
}

/// Everything that was committed before the cut is there and whole, and its removal leaves nothing.
fn look(site: &Site, marks: &[u64]) -> Verdict {
    let layerd = Layerd::start(site)?;
    let mut client = site.client();
    let is_there = |number: &usize| client.stat(&name(*number)).is_ok();
    let (there, acknowledged) = ((0..LAYERS).take_while(is_there).count(), marked(marks, 0));
    if there < acknowledged {
        return Err(format!("{there} of {acknowledged} layers are there"));
    }
    for number in 0..there {
        let viewed = view("look", &name(number)).perform(&mut client);
        viewed.map_err(|status| format!("View of {number}: {status}"))?;
        shows(&mut client, number)?;
        let removed = remove("look").perform(&mut client);
        removed.map_err(|status| format!("Remove: {status}"))?;
    }
    let layers = (0..LAYERS).rev().map(name);
    for key in std::iter::once("active".to_owned()).chain(layers) {
        if client.stat(&key).is_ok() {
            let removed = remove(&key).perform(&mut client);
            removed.map_err(|status| format!("Remove of {key}: {status}"))?;
        }
    }
    check_tidy(&mut client, site, &World::new())?;
    layerd.stop()
}

/// The topmost layer of the view `look` has all that its source had.
fn shows(client: &mut Snapshots, number: usize) -> Verdict {
    let mounts = client.mounts("look").map_err(|status| status.to_string())?;
    let lowers = mounts[0]
        .options
        .iter()
        .find_map(|one| one.strip_prefix("lowerdir="));
    let all = lowers.unwrap_or(&mounts[0].source);
    let top = Path::new(all.split(':').next().unwrap_or_default());
    let smalls = (0..SMALL).map(|file| {
        let path = format!("dir/below/{file}");
        (path, small(number, file).into_bytes())
    });
    let large = ["dir/own", "link"].map(|path| (path.to_owned(), content(number)));
    for (path, wanted) in smalls.chain(large) {
        if fs::read(top.join(&path)).ok().as_ref() != Some(&wanted) {
            return Err(format!("{path} of layer {number} is not whole"));
        }
    }
    let whiteout = top.join("gone").symlink_metadata();
    match whiteout.is_ok_and(|found| found.file_type().is_char_device()) {
        true => Ok(()),
        false => Err(format!("layer {number} lacks its whiteout")),
    }
}

fn survive(seed: u64, count: usize) {
    for (disk, seed) in Filesystem::ALL.into_iter().zip(seed..) {
        let mut recording = record(disk);
        let cuts = recording.cuts(seed, count, &Later::ALL);
        let bad = examine(&mut recording, &cuts, ALL_OF_THEM, &look);
        println!("{disk:?}: {count} imports, bad: {}", bad.len());
        assert!(bad.is_empty(), "{}", bad.join("\n\n"));
    }
}

#[test]
fn root_short_imports_survive_power_cuts() {
    survive(71, 5);
}

#[test]
fn root_full_imports_survive_power_cuts() {
    survive(81, 60);
}
