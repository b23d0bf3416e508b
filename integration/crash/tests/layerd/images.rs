//! Layers that are images, when the power is cut at any write: what was committed is whole, and is
//! mounted.

use std::fs;
use std::path::Path;

use layerd_crash::disk::{Filesystem, Later, Recorder};
use layerd_integration::image::write_layer;
use layerd_integration::{Entry, Scratch, Snapshots};
use nix::mount::{MntFlags, umount2};

use crate::Verdict;
use crate::home::names;
use crate::operation::{commit, prepare, remove, view};
use crate::power::{ALL_OF_THEM, SIZE, examine, marked};
use crate::process::{Layerd, Site};
use crate::unpack::{Unpacker, entries};

/// Layers that are made one on the other.
const LAYERS: usize = 8;

/// Content of the file that tells a layer from the others.
fn content(number: usize) -> Vec<u8> {
    vec![u8::try_from(number).unwrap() + 1; 50_000 * (number % 3) + 7]
}

fn name(number: usize) -> String {
    format!("layer-{number}")
}

/// The archive of one layer.
fn archive(scratch: &Scratch, number: usize) -> Vec<u8> {
    let file = scratch.path().join("layer.tar");
    let own = Entry::file(format!("own-{number}"), content(number));
    write_layer(&file, &[entries(), vec![own]].concat());
    fs::read(file).unwrap()
}

/// Labels with which the layers of a snapshot become directories.
const MAPPED: [(&str, &str); 2] = [
    ("containerd.io/snapshot/uidmapping", "0:100000:65536"),
    ("containerd.io/snapshot/gidmapping", "0:100000:65536"),
];

/// Commits the layers, with a kill in the middle and a mark after each; at the end they become
/// directories.
fn record(disk: Filesystem) -> layerd_crash::disk::Recording {
    let scratch = Scratch::new();
    let mut recorder = Recorder::start(disk, SIZE).unwrap();
    recorder.begin();
    let site = Site::new(recorder.path().join("root"), scratch.path());
    site.configure_images();
    let marker = recorder.marker();
    for part in [0..LAYERS / 2, LAYERS / 2..LAYERS] {
        let layerd = Layerd::start(&site).unwrap();
        let (mut client, mut unpacker) = (site.client(), Unpacker::connect(&site));
        let is_end = part.end == LAYERS;
        for number in part {
            let parent = number.checked_sub(1).map(name).unwrap_or_default();
            prepare("active", &parent).perform(&mut client).unwrap();
            let applied = unpacker.apply("active", &archive(&scratch, number));
            applied.unwrap();
            let committed = commit(&name(number), "active").perform(&mut client);
            committed.unwrap();
            marker.mark(number as u64);
        }
        if is_end {
            client
                .prepare("mapped", &name(LAYERS - 1), &MAPPED)
                .unwrap();
        }
        layerd.kill();
        let_go(&site.root);
    }
    recorder.finish().unwrap()
}

/// Unmounts images, which outlive a daemon, as the end of a machine does.
fn let_go(root: &Path) {
    for mount in names(&root.join("x")) {
        let flags = MntFlags::MNT_DETACH;
        umount2(&root.join("x").join(mount), flags).unwrap();
    }
}

/// Everything that was committed before the cut is there, and what is there is what was unpacked.
fn look(site: &Site, marks: &[u64]) -> Verdict {
    site.configure_images();
    let layerd = Layerd::start(site)?;
    let looked = look_at_layers(site, marked(marks, 0));
    layerd.kill();
    let_go(&site.root);
    looked?;
    // And again, without what the first start made good.
    let layerd = Layerd::start(site)?;
    let mut client = site.client();
    let emptied = empty(site, &mut client);
    layerd.stop()?;
    emptied
}

fn look_at_layers(site: &Site, acknowledged: usize) -> Verdict {
    let mut client = site.client();
    let there = (0..LAYERS)
        .take_while(|number| client.stat(&name(*number)).is_ok())
        .count();
    if there < acknowledged {
        return Err(format!("{there} of {acknowledged} layers are there"));
    }
    let (whole, unknown) = Unpacker::connect(site).compare()?;
    // Directories that were images have no digests.
    let may_be_directories = acknowledged == LAYERS;
    if whole + unknown != there as u64 || unknown > 0 && !may_be_directories {
        return Err(format!(
            "of {there} layers {whole} are whole, {unknown} not known"
        ));
    }
    for number in 0..there {
        let (look, layer) = (format!("look-{number}"), name(number));
        let viewed = view(&look, &layer).perform(&mut client);
        viewed.map_err(|status| format!("View: {status}"))?;
        shows(&mut client, &look, number)?;
    }
    Ok(())
}

/// The topmost layer of a view is mounted and shows its file.
fn shows(client: &mut Snapshots, look: &str, number: usize) -> Verdict {
    let mounts = client.mounts(look).map_err(|status| status.to_string())?;
    let lower = |option: &String| option.strip_prefix("lowerdir=").map(str::to_owned);
    let lowers = mounts[0].options.iter().find_map(lower);
    let all = lowers.unwrap_or_else(|| mounts[0].source.clone());
    if all.split(':').count() != number + 1 {
        return Err(format!("{look} is made of {all}"));
    }
    let top = all.split(':').next().unwrap_or_default();
    let file = Path::new(top).join(format!("own-{number}"));
    match fs::read(&file) {
        Ok(found) if found == content(number) => Ok(()),
        found => Err(format!(
            "{}: {:?}",
            file.display(),
            found.map(|found| found.len())
        )),
    }
}

/// Removes everything, which leaves nothing.
fn empty(site: &Site, client: &mut Snapshots) -> Verdict {
    let mut keys: Vec<String> = (0..LAYERS).map(|number| format!("look-{number}")).collect();
    keys.extend(["active", "mapped"].map(str::to_owned));
    keys.extend((0..LAYERS).rev().map(name));
    for key in keys {
        if client.stat(&key).is_ok() {
            let removed = remove(&key).perform(client);
            removed.map_err(|status| format!("Remove of {key}: {status}"))?;
        }
    }
    crate::home::check_tidy(client, site, &crate::model::World::new())
}

fn survive(disk: Filesystem, seed: u64, count: usize) {
    let mut recording = record(disk);
    let cuts = recording.cuts(seed, count, &Later::ALL);
    let bad = examine(&mut recording, &cuts, ALL_OF_THEM, &look);
    println!("{disk:?}: {count} images, bad: {}", bad.len());
    assert!(bad.is_empty(), "{}", bad.join("\n\n"));
}

#[test]
fn root_short_images_survive_power_cuts_on_ext4() {
    survive(Filesystem::Ext4, 21, 10);
}

#[test]
fn root_short_images_survive_power_cuts_on_xfs() {
    survive(Filesystem::Xfs, 22, 10);
}

#[test]
fn root_short_images_survive_power_cuts_on_ext4_without_journal() {
    survive(Filesystem::Ext4WithoutJournal, 27, 8);
}

#[test]
fn root_short_images_survive_power_cuts_on_btrfs() {
    survive(Filesystem::Btrfs, 28, 8);
}

#[test]
fn root_full_images_survive_power_cuts() {
    for (disk, seed) in Filesystem::ALL.into_iter().zip(23..) {
        survive(disk, seed, 100);
    }
}
