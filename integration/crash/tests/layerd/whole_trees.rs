//! Whole trees of the driver overlay1, when the daemon is killed at any call of Commit or of a removal,
//! and when the power is cut at any write: what was committed is shown whole, and nothing stays behind.

use std::fs;
use std::path::{Path, PathBuf};

use layerd_crash::disk::{Filesystem, Later, Recorder, Recording};
use layerd_crash::trace::{Moment, Plan};
use layerd_integration::image::write_layer;
use layerd_integration::{Entry, Scratch, Snapshots};

use crate::Verdict;
use crate::home::{Home, names, reap, reap_all};
use crate::operation::{Operation, commit, prepare, remove, view};
use crate::power::{ALL_OF_THEM, SIZE, examine, marked};
use crate::process::{Layerd, Site};
use crate::sweep::{Outcome, Points, Sweep, conclude, ended};
use crate::unpack::{Unpacker, entries};

const DRIVER: &str = "driver = \"overlay1\"\n";
/// Layers that are made one on the other.
const LAYERS: usize = 4;

fn name(number: usize) -> String {
    format!("layer-{number}")
}

fn content(number: usize) -> Vec<u8> {
    vec![u8::try_from(number).unwrap() + 1; 30_000 * number + 7]
}

/// The archive of one layer, which deletes what the one below has of its own.
fn archive(directory: &Path, number: usize) -> Vec<u8> {
    let file = directory.join("layer.tar");
    let mut all = vec![Entry::file(format!("d/own-{number}"), content(number))];
    match number.checked_sub(1) {
        Some(below) => all.push(Entry::file(format!("d/.wh.gone-{below}"), "")),
        None => all.extend(entries()),
    }
    all.push(Entry::file(format!("d/gone-{number}"), "gone"));
    write_layer(&file, &all);
    fs::read(file).unwrap()
}

/// Unpacks a layer on the one before; not committed.
fn unpack(site: &Site, number: usize) -> Verdict {
    let mut client = site.client();
    let parent = number.checked_sub(1).map(name).unwrap_or_default();
    let prepared = prepare("active", &parent).perform(&mut client);
    prepared.map_err(|status| format!("Prepare: {status}"))?;
    let directory = site.log.parent().unwrap();
    let applied = Unpacker::connect(site).apply("active", &archive(directory, number));
    applied.map_err(|status| format!("Apply: {status}"))
}

fn committed(client: &mut Snapshots) -> usize {
    let is_there = |number: &usize| client.stat(&name(*number)).is_ok();
    (0..LAYERS).take_while(is_there).count()
}

/// Makes views of all layers, which show what was unpacked, and removes them.
fn look_at(client: &mut Snapshots, layers: usize) -> Verdict {
    for number in 0..layers {
        let viewed = view("look", &name(number)).perform(client);
        viewed.map_err(|status| format!("View of {number}: {status}"))?;
        let mounts = client.mounts("look").map_err(|status| status.to_string())?;
        shows(&PathBuf::from(&mounts[0].source), number)?;
        let removed = remove("look").perform(client);
        removed.map_err(|status| format!("Remove: {status}"))?;
    }
    Ok(())
}

fn shows(tree: &Path, number: usize) -> Verdict {
    for own in 0..=number {
        let file = tree.join(format!("d/own-{own}"));
        if fs::read(&file).ok() != Some(content(own)) {
            return Err(format!("{} is not whole", file.display()));
        }
        let gone = tree.join(format!("d/gone-{own}"));
        if gone.symlink_metadata().is_ok() != (own == number) {
            return Err(format!("{} should be deleted", gone.display()));
        }
    }
    match fs::read(tree.join("d/replaced")).ok().as_deref() {
        Some(b"second") => Ok(()),
        found => Err(format!("{}: {found:?}", tree.display())),
    }
}

/// Removes everything, which leaves nothing.
fn empty(site: &Site, client: &mut Snapshots) -> Verdict {
    let layers = (0..LAYERS).rev().map(name);
    for key in ["look", "active"]
        .map(str::to_owned)
        .into_iter()
        .chain(layers)
    {
        if client.stat(&key).is_ok() {
            let removed = remove(&key).perform(client);
            removed.map_err(|status| format!("Remove of {key}: {status}"))?;
        }
    }
    reap_all(client, || {
        let left = ["l", "w", "t", "r"].map(|folder| names(&site.root.join(folder)));
        left.iter()
            .any(|names| !names.is_empty())
            .then(|| format!("{left:?}"))
    })
}

/// Two layers, of which the upper one is not committed if the operation is to commit it.
struct Case {
    home: Home,
    operation: Operation,
}

impl Case {
    fn new(operation: Operation) -> Self {
        let home = Home::empty_on(Filesystem::Ext4);
        home.site.configure(DRIVER);
        let layerd = Layerd::start(&home.site).unwrap();
        let mut client = home.site.client();
        for number in 0..2 {
            unpack(&home.site, number).unwrap();
            if number == 0 || !matches!(operation, Operation::Commit { .. }) {
                let committed = commit(&name(number), "active").perform(&mut client);
                committed.unwrap();
            }
        }
        layerd.stop().unwrap();
        home.keep();
        Self { home, operation }
    }

    fn strike(&self, number: u64, moment: Moment) -> Verdict<Outcome> {
        self.home.reset();
        let site = &self.home.site;
        let mut layerd = Layerd::start(site)?;
        let mut client = site.client();
        let plan = Plan::kill_at(number, moment).within(&site.root);
        let mut tracer = layerd.trace(&plan);
        let answer = self.operation.perform(&mut client);
        if answer.is_ok() && matches!(self.operation, Operation::Remove { .. }) {
            // The reaper is what is to be killed.
            reap(&mut client, &site.root.join("r"));
        }
        let fired = ended(&mut tracer, &mut layerd)?;
        conclude(fired.as_ref(), &answer, |acknowledged| {
            self.examine(acknowledged)
        })
    }

    fn examine(&self, acknowledged: bool) -> Verdict {
        let site = &self.home.site;
        let layerd = Layerd::start(site)?;
        let mut client = site.client();
        let there = committed(&mut client);
        let wanted = match self.operation {
            Operation::Commit { .. } => 2,
            _ => 1,
        };
        if acknowledged && there != wanted {
            return Err(format!("{there} layers are there"));
        }
        look_at(&mut client, there)?;
        if client.stat("active").is_ok() {
            let again = commit(&name(1), "active").perform(&mut client);
            again.map_err(|status| format!("Commit afterwards: {status}"))?;
            look_at(&mut client, 2)?;
        }
        empty(site, &mut client)?;
        layerd.stop()
    }
}

fn sweep(step: u64, finishes: u32) {
    let mut sweep = Sweep::default();
    for (first, operation) in (1..).zip([commit(&name(1), "active"), remove(&name(1))]) {
        let label = operation.name();
        let case = Case::new(operation);
        let points = Points {
            first,
            step,
            finishes,
        };
        sweep.run(label, points, |number, moment| case.strike(number, moment));
    }
    sweep.finish();
}

#[test]
fn root_short_whole_trees_survive_kills() {
    sweep(8, 1);
}

#[test]
fn root_full_whole_trees_survive_kills() {
    sweep(1, 2);
}

/// Commits the layers, with a mark after each.
fn record(disk: Filesystem) -> Recording {
    let scratch = Scratch::new();
    let mut recorder = Recorder::start(disk, SIZE).unwrap();
    recorder.begin();
    let site = Site::new(recorder.path().join("root"), scratch.path());
    site.configure(DRIVER);
    let marker = recorder.marker();
    let layerd = Layerd::start(&site).unwrap();
    for number in 0..LAYERS {
        unpack(&site, number).unwrap();
        let committed = commit(&name(number), "active").perform(&mut site.client());
        committed.unwrap();
        marker.mark(number as u64);
    }
    layerd.kill();
    recorder.finish().unwrap()
}

fn look(site: &Site, marks: &[u64]) -> Verdict {
    site.configure(DRIVER);
    let layerd = Layerd::start(site)?;
    let mut client = site.client();
    let (there, acknowledged) = (committed(&mut client), marked(marks, 0));
    if there < acknowledged {
        return Err(format!("{there} of {acknowledged} layers are there"));
    }
    look_at(&mut client, there)?;
    empty(site, &mut client)?;
    layerd.stop()
}

fn survive(disk: Filesystem, seed: u64, count: usize) {
    let mut recording = record(disk);
    let cuts = recording.cuts(seed, count, &Later::ALL);
    let bad = examine(&mut recording, &cuts, ALL_OF_THEM, &look);
    println!("{disk:?}: {count} whole trees, bad: {}", bad.len());
    assert!(bad.is_empty(), "{}", bad.join("\n\n"));
}

#[test]
fn root_short_whole_trees_survive_power_cuts() {
    for (disk, seed) in Filesystem::ALL.into_iter().zip(51..) {
        survive(disk, seed, 5);
    }
}

#[test]
fn root_full_whole_trees_survive_power_cuts() {
    for (disk, seed) in Filesystem::ALL.into_iter().zip(61..) {
        survive(disk, seed, 60);
    }
}
