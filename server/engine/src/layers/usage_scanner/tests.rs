use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use layerd_drivers::{Base, Driver, Found, Info, Memory, Stack, Survey, WorkDirs};
use layerd_mounts::fake::FakeMounter;
use layerd_mounts::{Error as MountError, Mount, Slot, Usage};
use layerd_store::{Commit, Create, Key, Kind, Labels};

use crate::{Durability, Engine, ErrorKind, Options};

/// A fake whose walks, while it is slow, report when they have seen everything, and end only when
/// they are let go.
#[derive(Debug)]
struct Slow {
    fake: Memory,
    gate: Mutex<Option<Gate>>,
}

#[derive(Debug)]
struct Gate {
    seen: Sender<Slot>,
    go: Receiver<()>,
}

impl Survey for Slow {
    fn folders(&self) -> &'static [&'static str] {
        self.fake.folders()
    }
    fn list(&self) -> Result<Vec<Found>, MountError> {
        self.fake.list()
    }
    fn needs_work(&self, base: &Base) -> bool {
        self.fake.needs_work(base)
    }
    fn is_unused(&self, slot: Slot) -> Result<bool, MountError> {
        self.fake.is_unused(slot)
    }
    fn is_empty(&self, slot: Slot) -> Result<bool, MountError> {
        self.fake.is_empty(slot)
    }
    fn open_layer(&self, slot: Slot) -> Result<std::os::fd::OwnedFd, MountError> {
        self.fake.open_layer(slot)
    }
}

impl Driver for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }
    fn info(&self) -> Info {
        self.fake.info()
    }
    fn create(&self, slot: Slot, base: &Base) -> Result<(), MountError> {
        self.fake.create(slot, base)
    }
    fn write_back(&self, slot: Slot) -> Result<Usage, MountError> {
        self.fake.write_back(slot)
    }
    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, MountError> {
        self.fake.plan(stack)
    }
    fn top_of(&self, mount: &Mount) -> Option<Slot> {
        self.fake.top_of(mount)
    }
    fn has(&self, slot: Slot) -> Result<bool, MountError> {
        self.fake.has(slot)
    }
    fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, MountError> {
        let figure = self.fake.usage(slot, keep_going);
        let gate = self.gate.lock().unwrap().take();
        if let Some(gate) = gate {
            gate.seen.send(slot).unwrap();
            while gate.go.recv_timeout(Duration::from_millis(5)).is_err() {
                if !keep_going() {
                    return Err(MountError::Stopped);
                }
            }
        }
        figure
    }
    fn discard(&self, slot: Slot) -> Result<(), MountError> {
        self.fake.discard(slot)
    }
    fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), MountError> {
        self.fake.delete(slot, keep_going)
    }
    fn sync(&self) -> Result<(), MountError> {
        self.fake.sync()
    }
    fn move_to_lost_found(&self, found: &Found) -> Result<PathBuf, MountError> {
        self.fake.move_to_lost_found(found)
    }
    fn work_dirs(&self) -> Option<&dyn WorkDirs> {
        self.fake.work_dirs()
    }
}

/// An engine with one active layer, whose next walk waits to be let go.
struct Rig {
    engine: Engine,
    driver: Arc<Slow>,
    slot: Slot,
    seen: Receiver<Slot>,
    go: Sender<()>,
}

fn rig(root: &Path, durability: Durability) -> Rig {
    let (seen_sender, seen) = channel();
    let (go, go_receiver) = channel();
    let driver = Arc::new(Slow {
        fake: Memory::new(),
        gate: Mutex::new(None),
    });
    let options = Options {
        usage_patience: Duration::from_millis(50),
        durability,
        ..Options::default()
    };
    let engine = Engine::open(root, driver.clone(), Arc::new(FakeMounter::new()), options).unwrap();
    let create = Create {
        key: key("k"),
        kind: Kind::Active,
        parent: None,
        labels: Labels::default(),
    };
    engine.layers.create(create).unwrap();
    let slot = Slot(engine.layers.stat(&key("k")).unwrap().record.id.0);
    driver.fake.fill(slot, 1000);
    engine.layers.usage(&key("k")).unwrap();
    *driver.gate.lock().unwrap() = Some(Gate {
        seen: seen_sender,
        go: go_receiver,
    });
    Rig {
        engine,
        driver,
        slot,
        seen,
        go,
    }
}

fn key(name: &str) -> Key {
    Key::parse("key", name).unwrap()
}

fn commit(engine: &Engine) {
    let commit = Commit {
        name: key("n"),
        key: key("k"),
        labels: Labels::default(),
        parent: None,
        usage: None,
    };
    engine.layers.commit(commit).unwrap();
}

fn bytes(engine: &Engine, name: &str) -> u64 {
    engine.layers.usage(&key(name)).unwrap().bytes
}

/// A walk that began before Commit has not seen what was written last; it ends after Commit.
#[test]
fn a_walk_that_a_commit_overtakes_is_not_kept() {
    for durability in [Durability::Full, Durability::Metadata] {
        let dir = tempfile::tempdir().unwrap();
        let rig = rig(dir.path(), durability);
        assert_eq!(
            bytes(&rig.engine, "k"),
            4096 + 1000,
            "the last figure will do"
        );
        assert_eq!(rig.seen.recv().unwrap(), rig.slot);
        rig.driver.fake.fill(rig.slot, 500);
        commit(&rig.engine);
        assert_eq!(bytes(&rig.engine, "n"), 4096 + 1500, "{durability:?}");
        rig.go.send(()).unwrap();
        let end = Instant::now() + Duration::from_millis(200);
        while Instant::now() < end {
            assert_eq!(
                bytes(&rig.engine, "n"),
                4096 + 1500,
                "{durability:?}, later"
            );
            thread::sleep(Duration::from_millis(5));
        }
        drop(rig.engine);
        let reopened = Engine::open(
            dir.path(),
            rig.driver,
            Arc::new(FakeMounter::new()),
            Options::default(),
        )
        .unwrap();
        assert_eq!(
            bytes(&reopened, "n"),
            4096 + 1500,
            "{durability:?}, reopened"
        );
    }
}

#[test]
fn a_slow_walk_answers_the_last_figure_and_then_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path(), Durability::Full);
    rig.driver.fake.fill(rig.slot, 500);
    assert_eq!(
        bytes(&rig.engine, "k"),
        4096 + 1000,
        "after patience ran out"
    );
    rig.seen.recv().unwrap();
    rig.go.send(()).unwrap();
    assert_eq!(bytes(&rig.engine, "k"), 4096 + 1500);
}

#[test]
fn stop_ends_a_walk_and_who_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path(), Durability::Metadata);
    commit(&rig.engine);
    rig.seen.recv().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.engine.layers.usage(&key("n")));
        thread::sleep(Duration::from_millis(20));
        rig.engine.stop();
        // The second thread of the meter may have answered before the stop.
        if let Err(error) = waiting.join().unwrap() {
            assert_eq!(error.kind(), ErrorKind::Stopping);
        }
    });
    drop(rig.engine);
    let reopened = Engine::open(
        dir.path(),
        rig.driver,
        Arc::new(FakeMounter::new()),
        Options::default(),
    )
    .unwrap();
    assert_eq!(bytes(&reopened, "n"), 4096 + 1000, "measured after all");
}

#[test]
fn a_layer_that_goes_while_it_is_measured_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path(), Durability::Full);
    rig.engine.layers.remove(&key("k")).unwrap();
    let error = rig.engine.layers.usage(&key("k")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
}
