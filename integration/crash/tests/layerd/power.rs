//! Every write is a power cut.

use std::panic::{AssertUnwindSafe, catch_unwind};

use layerd_crash::disk::{Cut, Filesystem, Later, Marker, Recorder, Recording};
use layerd_crash::trace::{Class, Plan, Times, Tracer};
use layerd_integration::Scratch;

use crate::Verdict;
use crate::home::{Ids, check_tidy, furnish, note};
use crate::model::{Content, World, choose, compare, observe};
use crate::operation::{commit, prepare, remove};
use crate::process::{Layerd, Site};
use crate::worker::{Stop, Worker};

/// Bytes of a disk; mkfs.xfs takes no less.
pub(crate) const SIZE: u64 = 320 << 20;
const WORKERS: u64 = 3;

/// The recorded load.
#[derive(Debug, Clone, Copy)]
struct Load {
    disk: Filesystem,
    /// Things that each worker does between two restarts.
    steps: usize,
    seed: u64,
    /// Further configuration.
    config: &'static str,
    waits: Waits,
}

/// Which of the daemon's waits for the disk are none: a tracer answers them with success and does
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// Each of them waits.
    All,
    /// syncfs(2) does not.
    WithoutSyncfs,
    /// No call does.
    Nothing,
}

impl Waits {
    pub(crate) fn start(self, site: &Site) -> (Layerd, Option<Tracer>) {
        let plan = Plan::fail_at(1, 0, Times::Onwards)
            .of(&[Class::Sync])
            .within(&site.root);
        let plan = match self {
            Self::All => return (Layerd::start(site).unwrap(), None),
            Self::WithoutSyncfs => plan.named("syncfs"),
            Self::Nothing => plan,
        };
        let (mut layerd, tracer) = Layerd::start_traced(site, &plan);
        layerd.await_ready().unwrap();
        (layerd, Some(tracer))
    }
}

/// A recording, and each worker's states: the n-th is what was acknowledged with its n-th mark.
struct Run {
    recording: Recording,
    histories: Vec<Vec<World>>,
    workers: Vec<Worker>,
}

impl Load {
    fn new(disk: Filesystem, steps: usize, seed: u64) -> Self {
        Self {
            disk,
            steps,
            seed,
            config: "",
            waits: Waits::All,
        }
    }

    /// Lets the workers work, with a clean stop and a kill in between.
    fn record(&self) -> Run {
        let scratch = Scratch::new();
        let mut recorder = Recorder::start(self.disk, SIZE).unwrap();
        recorder.begin();
        let site = Site::new(recorder.path().join("root"), scratch.path());
        site.configure(self.config);
        let mut workers: Vec<Worker> = (0..WORKERS)
            .map(|number| Worker::new(number, self.seed, 300))
            .collect();
        let mut histories = vec![vec![World::new()]; workers.len()];
        for phase in 0..3 {
            let (layerd, tracer) = self.waits.start(&site);
            self.work(&site, &recorder.marker(), &mut workers, &mut histories);
            drop(tracer);
            if phase == 0 {
                layerd.stop().unwrap();
            } else {
                layerd.kill();
            }
        }
        Run {
            recording: recorder.finish().unwrap(),
            histories,
            workers,
        }
    }

    fn work(
        &self,
        site: &Site,
        marker: &Marker,
        workers: &mut [Worker],
        histories: &mut [Vec<World>],
    ) {
        std::thread::scope(|scope| {
            for ((worker, history), number) in workers.iter_mut().zip(histories).zip(0u64..) {
                let marker = marker.clone();
                scope.spawn(move || {
                    let mut client = site.client();
                    for _ in 0..self.steps {
                        let mark = || marker.mark(number << 32 | history.len() as u64);
                        match worker.step(&mut client, &site.root, mark) {
                            Ok(true) => history.push(worker.world.clone()),
                            Ok(false) => {}
                            Err(Stop::Call(why) | Stop::Wrong(why)) => panic!("{why}"),
                        }
                    }
                });
            }
        });
    }
}

impl Run {
    /// Examines the disk after each cut, until one is bad in a way that is `enough`.
    fn examine(&mut self, cuts: &[Cut], enough: Enough) -> Vec<String> {
        let (histories, workers) = (&self.histories, &self.workers);
        examine(&mut self.recording, cuts, enough, &|site, marks| {
            let world = compare_all(histories, workers, site, marks)?;
            go_on(site, &world)
        })
    }
}

/// True for a finding after which no further image need be examined.
pub(crate) type Enough = fn(&str) -> bool;

/// Examines every image, whatever is found.
pub(crate) const ALL_OF_THEM: Enough = |_| false;

/// Cuts among which a loss must be found where there are losses; the search ends with the first one. Late cuts
/// that leave nothing unflushed come first: after the others, which are looked at as well, the database is
/// damaged more often than something is lost.
pub(crate) fn losing_cuts(recording: &Recording, seed: u64) -> Vec<Cut> {
    const COUNT: usize = 32;
    let mut cuts = recording.cuts(seed, COUNT, &[Later::Nothing]);
    cuts.reverse();
    cuts.extend(recording.cuts(seed, COUNT, &Later::ALL));
    cuts
}

/// Looks at the disks after cuts, each with what was marked before it; answers what is wrong with which.
pub(crate) fn examine(
    recording: &mut Recording,
    cuts: &[Cut],
    enough: Enough,
    look: &dyn Fn(&Site, &[u64]) -> Verdict,
) -> Vec<String> {
    let scratch = Scratch::new();
    let mut bad = Vec::new();
    for cut in cuts {
        let mut look_at = || {
            let image = recording.image(cut).unwrap();
            let mounted = image.mount().map_err(|error| format!("mount: {error}"))?;
            let site = Site::new(mounted.path().join("root"), scratch.path());
            // Each image's log for itself.
            let _ = std::fs::remove_file(&site.log);
            look(&site, &recording.marks(cut))
                .map_err(|why| format!("{why}; log:\n{}", site.tail()))?;
            mounted
                .unmount()
                .map_err(|error| format!("unmount: {error}"))
        };
        // Reading a damaged layer panics.
        let looked = catch_unwind(AssertUnwindSafe(&mut look_at));
        let verdict = looked.unwrap_or_else(|_| Err("what is there cannot be read".into()));
        if let Err(why) = verdict {
            let is_enough = enough(&why);
            bad.push(format!("{cut:?}: {why}"));
            if is_enough {
                break;
            }
        }
    }
    bad
}

/// Starts the daemon and compares what it has with what was acknowledged before the cut.
fn compare_all(
    histories: &[Vec<World>],
    workers: &[Worker],
    site: &Site,
    marks: &[u64],
) -> Verdict<World> {
    let mut ids = Ids::default();
    ids.note(&site.root);
    let layerd = Layerd::start(site)?;
    let mut client = site.client();
    let found = observe(&mut client, &site.root)?;
    let mut world = World::new();
    for (number, (worker, history)) in workers.iter().zip(histories).enumerate() {
        let done = marked(marks, number);
        let possible = &history[done..history.len().min(done + 2)];
        let own = worker.own(&found);
        world.extend(choose(&own, possible, &site.root, Content::Committed)?.1);
    }
    if let Some(name) = found.keys().find(|name| !world.contains_key(*name)) {
        return Err(format!("{name} was never asked for"));
    }
    check_tidy(&mut client, site, &world)?;
    layerd.kill();
    Ok(world)
}

/// Number of marks of one worker.
pub(crate) fn marked(marks: &[u64], worker: usize) -> usize {
    let own = marks
        .iter()
        .filter(|mark| (**mark >> 32) as usize == worker);
    own.count()
}

/// Requires that the daemon works on, and that a further restart changes nothing.
fn go_on(site: &Site, world: &World) -> Verdict {
    let mut ids = Ids::default();
    ids.note(&site.root);
    let layerd = Layerd::start(site)?;
    let mut client = site.client();
    let mut world = compare(
        &observe(&mut client, &site.root)?,
        world,
        &site.root,
        Content::Committed,
    )?;
    let operations = [
        prepare("new", ""),
        commit("kept", "new"),
        prepare("new", "kept"),
        remove("new"),
    ];
    for operation in operations {
        let done = operation.perform(&mut client);
        done.map_err(|status| format!("{operation:?}: {status}"))?;
        world = operation.apply(&world).unwrap();
        note(&mut client, &site.root, &mut world, &operation)?;
        if world.get("new").is_some_and(|snap| snap.layer.is_none()) {
            ids.check_new(world["new"].own.as_ref().unwrap())?;
            furnish(&site.root, &mut world, "new", 1, 1);
        }
    }
    check_tidy(&mut client, site, &world)?;
    layerd.stop()?;
    let layerd = Layerd::start(site)?;
    let found = observe(&mut site.client(), &site.root)?;
    compare(&found, &world, &site.root, Content::Committed)?;
    layerd.stop()
}

/// Records with each seed and looks at `count` images of each, none of which may be bad.
fn survive(disk: Filesystem, steps: usize, seeds: std::ops::Range<u64>, count: usize) {
    let mut bad = Vec::new();
    let (mut operations, mut images) = (0, 0);
    for seed in seeds {
        let mut run = Load::new(disk, steps, seed).record();
        let acknowledged = run.histories.iter().map(|history| history.len() - 1);
        operations += acknowledged.sum::<usize>();
        images += count;
        let cuts = run.recording.cuts(seed, count, &Later::ALL);
        bad.extend(run.examine(&cuts, ALL_OF_THEM));
        println!(
            "{:?}: {operations} operations, {images} images, bad: {}",
            disk,
            bad.len()
        );
    }
    assert!(bad.is_empty(), "{}", bad.join("\n\n"));
}

#[test]
fn root_short_power_cuts_on_ext4() {
    survive(Filesystem::Ext4, 12, 1..2, 10);
}

#[test]
fn root_short_power_cuts_on_xfs() {
    survive(Filesystem::Xfs, 12, 2..3, 10);
}

#[test]
fn root_short_power_cuts_on_ext4_without_journal() {
    survive(Filesystem::Ext4WithoutJournal, 12, 12..13, 10);
}

#[test]
fn root_short_power_cuts_on_btrfs() {
    survive(Filesystem::Btrfs, 12, 13..14, 10);
}

#[test]
fn root_full_power_cuts_on_ext4_without_journal() {
    survive(Filesystem::Ext4WithoutJournal, 60, 14..17, 100);
}

#[test]
fn root_full_power_cuts_on_btrfs() {
    survive(Filesystem::Btrfs, 60, 17..20, 100);
}

#[test]
fn root_full_power_cuts_on_ext4() {
    survive(Filesystem::Ext4, 60, 3..6, 100);
}

#[test]
fn root_full_power_cuts_on_xfs() {
    survive(Filesystem::Xfs, 60, 6..9, 100);
}

/// Without syncs of layers, records are kept and content is lost: were it not found, the tests
/// above would prove nothing about content.
#[test]
fn root_lost_content_is_found() {
    for disk in [Filesystem::Ext4, Filesystem::Xfs] {
        let load = Load {
            config: "durability = \"metadata\"\n",
            ..Load::new(disk, 12, 10)
        };
        loses_content(&load);
    }
}

/// Where the file system has no journal for all files, syncfs(2) is what content rests on.
#[test]
fn root_content_that_lacks_syncfs_is_found() {
    for disk in [Filesystem::Ext4WithoutJournal, Filesystem::Btrfs] {
        let load = Load {
            waits: Waits::WithoutSyncfs,
            ..Load::new(disk, 12, 10)
        };
        loses_content(&load);
    }
}

fn loses_content(load: &Load) {
    let is_content: Enough = |why| why.contains(" is (") || why.contains("directory");
    let mut run = load.record();
    let cuts = losing_cuts(&run.recording, 10);
    let bad = run.examine(&cuts, is_content);
    assert!(bad.iter().any(|why| is_content(why)), "{load:?}: {bad:?}");
}

/// With a disk that is told nothing of syncs, records are lost, and removals of them.
#[test]
fn root_lost_records_are_found() {
    for disk in Filesystem::ALL {
        let load = Load {
            waits: Waits::Nothing,
            ..Load::new(disk, 12, 11)
        };
        let is_record: Enough = |why| why.contains("is lost") || why.contains("should not exist");
        let mut run = load.record();
        let cuts = losing_cuts(&run.recording, 11);
        let bad = run.examine(&cuts, is_record);
        assert!(bad.iter().any(|why| is_record(why)), "{disk:?}: {bad:?}");
    }
}
