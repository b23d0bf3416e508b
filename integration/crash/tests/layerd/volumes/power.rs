//! Every write under volumes and attachments is a power cut.
//!
//! Content comes into volumes by calls alone (import, clone, snapshot, filling from an image): only
//! what layerd itself writes is promised to be there when the call was answered.

use std::fs;
use std::sync::Arc;

use layerd_crash::disk::{Cut, Filesystem, Later, Marker, Recorder, Recording};
use layerd_integration::Scratch;
use layerd_integration::scratch::mounts_below;
use nix::mount::{MntFlags, umount2};

use super::action::Action;
use super::client::Client;
use super::home::{make, pack};
use super::host::Host;
use super::state::{State, observe};
use super::worker::{Ground, Worker};
use super::{Place, choose, disk, expect, lets_go, perform};
use crate::Verdict;
use crate::home::furnish;
use crate::model::World;
use crate::operation::{commit, prepare};
use crate::power::{ALL_OF_THEM, Enough, SIZE, Waits, examine, losing_cuts, marked};
use crate::process::{Layerd, Site};

/// Clients at a time; number 0 has what was there before.
const WORKERS: u64 = 2;

/// Load that is recorded.
#[derive(Debug, Clone, Copy)]
struct Load {
    disk: Filesystem,
    /// Things that each worker does between two restarts.
    steps: usize,
    seed: u64,
    waits: Waits,
}

struct Run {
    recording: Recording,
    ground: Ground,
    workers: Vec<Worker>,
    // Last: it deletes the host's folders.
    _scratch: Scratch,
}

impl Load {
    /// Runs the workers, with a clean stop and a kill in between; once all anonymous volumes
    /// are deleted, and the trash is emptied.
    fn record(&self) -> Run {
        let scratch = Scratch::new();
        let mut recorder = Recorder::start(self.disk, SIZE).unwrap();
        let site = Site::new(recorder.path().join("root"), scratch.path());
        let (ground, furnished) = furnished(site, scratch.dir("host"));
        sync(&ground.site);
        recorder.begin();
        let mut workers: Vec<Worker> = (0..=WORKERS)
            .map(|number| Worker::new(number, self.seed))
            .collect();
        workers[0].known = furnished;
        let ends = [Some(Action::Prune), Some(Action::EmptyTrash), None];
        for end in ends {
            let (layerd, tracer) = self.waits.start(&ground.site);
            self.work(&ground, &recorder.marker(), &mut workers);
            if let Some(action) = &end {
                together(action, &ground, &recorder.marker(), &mut workers);
            }
            drop(tracer);
            match end {
                Some(Action::Prune) => layerd.stop().unwrap(),
                _ => layerd.kill(),
            }
        }
        for worker in &mut workers {
            worker.history.push(vec![worker.known.clone()]);
        }
        unmount(&ground);
        Run {
            recording: recorder.finish().unwrap(),
            ground,
            workers,
            _scratch: scratch,
        }
    }

    fn work(&self, ground: &Ground, marker: &Marker, workers: &mut [Worker]) {
        std::thread::scope(|scope| {
            for (worker, number) in workers.iter_mut().zip(0..).skip(1) {
                scope.spawn(move || {
                    let mut client = Client::connect(&ground.site.socket);
                    for _ in 0..self.steps {
                        let mark = || mark(marker, number);
                        worker
                            .step(&mut client, ground, mark)
                            .unwrap_or_else(|why| panic!("{why}\n{}", ground.site.tail()));
                    }
                });
            }
        });
    }
}

fn mark(marker: &Marker, worker: u64) {
    marker.mark(worker << 32);
}

/// Two layers of an image, and volumes with content, of which two were not named.
fn furnished(site: Site, host: std::path::PathBuf) -> (Ground, State) {
    let layerd = Layerd::start(&site).unwrap();
    let mut snapshots = site.client();
    let mut world = World::new();
    for (name, below) in [("base", ""), ("middle", "base")] {
        let active = prepare("active", below);
        active.perform(&mut snapshots).unwrap();
        world = active.apply(&world).unwrap();
        crate::home::note(&mut snapshots, &site.root, &mut world, &active).unwrap();
        furnish(&site.root, &mut world, "active", 1, 16);
        let committed = commit(name, "active");
        committed.perform(&mut snapshots).unwrap();
        world = committed.apply(&world).unwrap();
    }
    let mut client = Client::connect(&site.socket);
    for (name, mark) in [
        ("data", None),
        ("empty", None),
        ("", Some("mark 1")),
        ("", Some("mark 2")),
    ] {
        make(&mut client, name, mark, 1);
    }
    let state = observe(&mut client, &site.root).unwrap();
    let archive = Arc::new(pack(&site.root.join("volumes/by-name/data/"), &state));
    let mut host = Host {
        path: host,
        inside: archive.content.clone(),
    };
    host.learn(&mut client, &site.root, "empty");
    let state = observe(&mut client, &site.root).unwrap();
    layerd.stop().unwrap();
    let ground = Ground {
        site,
        host,
        archive,
    };
    (ground, state)
}

/// Syncs the users' writes to volumes, whose durability is not layerd's concern.
fn sync(site: &Site) {
    rustix::fs::syncfs(fs::File::open(&site.root).unwrap()).unwrap();
}

/// Does one thing to the volumes of all workers.
fn together(action: &Action, ground: &Ground, marker: &Marker, workers: &mut [Worker]) {
    let mut known = State::default();
    for worker in workers.iter_mut() {
        worker.begin(action);
        let own = worker.known.clone();
        known.volumes.extend(own.volumes);
        known.trash.extend(own.trash);
        known.held.extend(own.held);
    }
    let mut client = Client::connect(&ground.site.socket);
    let answer = action.perform(&mut client, &known);
    expect(action, &answer, &known).unwrap();
    // What it set off may go on behind the answer.
    action.settle(&mut client, &ground.site.root);
    for number in (0..).take(workers.len()) {
        mark(marker, number);
    }
    let found = observe(&mut client, &ground.site.root).unwrap();
    for worker in workers {
        let own = worker.own(&found);
        worker.end(action, own).unwrap();
    }
}

fn unmount(ground: &Ground) {
    let all = || [&ground.host.path, &ground.site.root].map(|below| mounts_below(below));
    for place in all().iter().flatten().rev() {
        // EINVAL: it went with the one that it stood on.
        let _ = umount2(place, MntFlags::MNT_DETACH);
    }
    assert!(all().iter().all(Vec::is_empty));
}

/// A disk after a power cut.
struct After<'a> {
    site: &'a Site,
}

impl Place for After<'_> {
    fn root(&self) -> &std::path::Path {
        &self.site.root
    }

    fn look(&self, client: &mut Client) -> Verdict<State> {
        disk::settled(|| self.look_once(client))
    }
}

impl After<'_> {
    fn look_once(&self, client: &mut Client) -> Verdict<State> {
        let mut found = observe(client, self.root())?;
        for attachment in client.attached().map_err(|status| status.to_string())? {
            // Its mount went with the boot of the machine; that it is held did not.
            if attachment.state == "waiting"
                && let Some(held) = found.held.get_mut(&attachment.key)
            {
                held.is_attached = Some(true);
            }
        }
        disk::folders(self.root(), &found)?;
        Ok(found)
    }
}

impl Run {
    fn examine(&mut self, cuts: &[Cut], enough: Enough) -> Vec<String> {
        let (workers, ground) = (&self.workers, &self.ground);
        examine(&mut self.recording, cuts, enough, &|site, marks| {
            let site = site.clone().rebooted();
            let found = compare(&site, workers, marks)?;
            go_on(&site, workers, ground, &found)
        })
    }
}

/// Starts the daemon and compares what it has with what was acknowledged before the cut.
fn compare(site: &Site, workers: &[Worker], marks: &[u64]) -> Verdict<State> {
    let layerd = Layerd::start(site)?;
    let mut client = Client::connect(&site.socket);
    let found = After { site }.look(&mut client)?;
    for (number, worker) in workers.iter().enumerate() {
        let possible = &worker.history[marked(marks, number)];
        choose(possible, &worker.own(&found))?;
    }
    layerd.kill();
    Ok(found)
}

/// Requires that everything can be attached again, that new volumes can be made of old ones, that all
/// can be let go, and that a further restart changes nothing.
fn go_on(site: &Site, workers: &[Worker], ground: &Ground, found: &State) -> Verdict {
    let place = After { site };
    let layerd = Layerd::start(site)?;
    let mut client = Client::connect(&site.socket);
    let mut known = place.look(&mut client)?;
    found.check(&known)?;
    let items = workers.iter().flat_map(|worker| &worker.items);
    for (_, item) in items.filter(|(key, _)| found.held.contains_key(*key)) {
        let again = Action::Attach(vec![item.clone()]);
        known = perform(&again, &place, &mut client, &known)?;
    }
    let after = [
        Action::Create {
            name: "after".into(),
        },
        Action::Clone {
            name: "copy".into(),
            of: "data".into(),
        },
        Action::Attach(vec![ground.host.filling("again", "more", "")]),
    ];
    for action in after {
        known = perform(&action, &place, &mut client, &known)?;
    }
    let known = lets_go(&place, &mut client, &known)?;
    drop(client);
    layerd.stop()?;
    let layerd = Layerd::start(site)?;
    let mut client = Client::connect(&site.socket);
    known.check(&place.look(&mut client)?)?;
    layerd.kill();
    Ok(())
}

/// Records with each seed and looks at `count` images of each, none of which may be bad.
fn survive(disk: Filesystem, steps: usize, seeds: std::ops::Range<u64>, count: usize) {
    let mut bad = Vec::new();
    let (mut operations, mut images) = (0, 0);
    for seed in seeds {
        let load = Load {
            disk,
            steps,
            seed,
            waits: Waits::All,
        };
        let mut run = load.record();
        let acknowledged = run.workers.iter().map(|worker| worker.history.len() - 1);
        operations += acknowledged.sum::<usize>();
        images += count;
        let cuts = run.recording.cuts(seed, count, &Later::ALL);
        bad.extend(run.examine(&cuts, ALL_OF_THEM));
        println!(
            "{disk:?}, volumes: {operations} operations, {images} images, bad: {}",
            bad.len()
        );
    }
    assert!(bad.is_empty(), "{}", bad.join("\n\n"));
}

#[test]
fn root_short_power_cuts_on_ext4() {
    survive(Filesystem::Ext4, 12, 20..21, 5);
}

#[test]
fn root_short_power_cuts_on_ext4_without_journal() {
    survive(Filesystem::Ext4WithoutJournal, 12, 21..22, 5);
}

#[test]
fn root_short_power_cuts_on_xfs() {
    survive(Filesystem::Xfs, 12, 22..23, 5);
}

#[test]
fn root_short_power_cuts_on_btrfs() {
    survive(Filesystem::Btrfs, 12, 23..24, 5);
}

#[test]
fn root_full_power_cuts_on_ext4() {
    survive(Filesystem::Ext4, 40, 30..33, 40);
}

#[test]
fn root_full_power_cuts_on_ext4_without_journal() {
    survive(Filesystem::Ext4WithoutJournal, 40, 33..36, 40);
}

#[test]
fn root_full_power_cuts_on_xfs() {
    survive(Filesystem::Xfs, 40, 36..39, 40);
}

#[test]
fn root_full_power_cuts_on_btrfs() {
    survive(Filesystem::Btrfs, 40, 39..42, 40);
}

fn assert_found(disk: Filesystem, waits: Waits, is_loss: Enough) {
    let load = Load {
        disk,
        steps: 12,
        seed: 24,
        waits,
    };
    let mut run = load.record();
    let cuts = losing_cuts(&run.recording, 24);
    let bad = run.examine(&cuts, is_loss);
    assert!(bad.iter().any(|why| is_loss(why)), "{load:?}: {bad:?}");
}

/// Without syncs, volumes are lost: were it not found, the tests above would prove nothing.
#[test]
fn root_lost_volumes_are_found() {
    for disk in Filesystem::ALL {
        assert_found(disk, Waits::Nothing, |why| why.contains("is lost"));
    }
}

/// Where the file system has no journal for all files, syncfs(2) is what content rests on.
#[test]
fn root_volumes_that_lack_syncfs_are_found() {
    for disk in [Filesystem::Ext4WithoutJournal, Filesystem::Btrfs] {
        assert_found(disk, Waits::WithoutSyncfs, |_| true);
    }
}
