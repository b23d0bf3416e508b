use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use layerd_drivers::{Driver, LayerForm, Overlay};
use layerd_layers::apply::Compression;
use layerd_layers::archive::{ExportOptions, export};
use layerd_layers::diff::DiffCompression;
use layerd_layers::{Progress, Silent};
use layerd_mounts::fake::FakeMounter;
use layerd_mounts::{Mount, Slot};
use layerd_store::{Commit, Create, Key, Kind, Labels};
use std::os::fd::AsFd;

use super::{Blob, Pack, Unpack};
use crate::{Durability, Engine, Error, ErrorKind, Options};

mod diff;
mod file_digests;
mod identity;
mod images;
mod import;

struct Rig {
    engine: Engine,
    driver: Arc<Overlay>,
    dir: tempfile::TempDir,
}

fn rig(durability: Durability) -> Rig {
    rig_on(durability, &|driver| driver)
}

/// With an engine that is given what `on` makes of the driver.
fn rig_on(durability: Durability, on: &dyn Fn(Arc<dyn Driver>) -> Arc<dyn Driver>) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    rig_in(dir, LayerForm::Directories, durability, on)
}

/// With a root in a directory, which may be one of before, and layers of a form.
fn rig_in(
    dir: tempfile::TempDir,
    layers: LayerForm,
    durability: Durability,
    on: &dyn Fn(Arc<dyn Driver>) -> Arc<dyn Driver>,
) -> Rig {
    let root = dir.path().join("root");
    let form = layerd_drivers::Options {
        layers,
        ..layerd_drivers::Options::default()
    };
    let driver = Arc::new(Overlay::open(&root, &form).unwrap());
    let options = Options {
        durability,
        ..Options::default()
    };
    let engine = Engine::open(
        &root,
        on(driver.clone()),
        Arc::new(FakeMounter::new()),
        options,
    )
    .unwrap();
    Rig {
        engine,
        driver,
        dir,
    }
}

fn key(text: &str) -> Key {
    Key::parse("key", text).unwrap()
}

impl Rig {
    fn create(&self, name: &str, kind: Kind, parent: Option<&str>) -> Vec<Mount> {
        let create = Create {
            key: key(name),
            kind,
            parent: parent.map(key),
            labels: Labels::default(),
        };
        self.engine.layers.create(create).unwrap()
    }

    fn commit(&self, active: &str, name: &str) -> Result<(), Error> {
        self.engine.layers.commit(Commit {
            name: key(name),
            key: key(active),
            labels: Labels::default(),
            parent: None,
            usage: None,
        })
    }

    /// A layer that holds one file.
    fn layer(&self, file: &str, content: &[u8]) -> Vec<u8> {
        let tree = self.dir.path().join(format!("tree-{file}"));
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join(file), content).unwrap();
        let open = OwnedFd::from(fs::File::open(&tree).unwrap());
        let mut archive = Vec::new();
        export(open.as_fd(), &mut archive, &ExportOptions::default()).unwrap();
        archive
    }

    fn path(&self, active: &str) -> PathBuf {
        self.driver.layer_path(self.slot(active))
    }

    fn slot(&self, active: &str) -> Slot {
        Slot(self.engine.layers.stat(&key(active)).unwrap().record.id.0)
    }

    fn apply(&self, active: &str, blob: &[u8]) -> Result<(), Error> {
        self.apply_from(active, blob)
    }

    fn apply_from(&self, active: &str, source: impl Read + Send) -> Result<(), Error> {
        let active = self.engine.layers.active(&key(active))?;
        self.engine.layers.apply(&active, source, &PLAIN).map(drop)
    }

    /// Usage by a walk, also where the engine has it in memory.
    fn measured(&self, name: &str) -> (u64, u64) {
        let usage = self.driver.usage(self.slot(name), &|| true).unwrap();
        (usage.bytes, usage.inodes)
    }

    fn known(&self, name: &str) -> (u64, u64) {
        let usage = self.engine.layers.usage(&key(name)).unwrap();
        (usage.bytes, usage.inodes)
    }

    /// True if Commit would use the results of unpacking.
    fn is_trusted(&self, active: &str) -> bool {
        let record = self.engine.layers.stat(&key(active)).unwrap().record;
        self.engine.layers.unpacked(&record).unwrap().is_some()
    }
}

const PLAIN: Unpack<'_> = Unpack {
    compression: Compression::None,
    blob: Blob {
        size: None,
        sha256: None,
    },
    sync: false,
    progress: &Silent,
};

#[test]
fn a_layer_is_unpacked_measured_and_committed_without_a_walk() {
    for durability in [Durability::Full, Durability::Metadata] {
        let rig = rig(durability);
        let mounts = rig.create("a", Kind::Active, None);
        assert_eq!(
            rig.engine.layers.active_of(&mounts).unwrap().key(),
            &key("a")
        );
        rig.apply("a", &rig.layer("f", &[7; 100_000])).unwrap();
        assert_eq!(fs::read(rig.path("a").join("f")).unwrap(), [7; 100_000]);
        assert!(rig.is_trusted("a"));
        assert_eq!(rig.known("a"), rig.measured("a"));
        rig.commit("a", "layer").unwrap();
        assert_eq!(rig.known("layer"), rig.measured("layer"));
        assert_eq!(rig.engine.layers.layers_moved(), (1, 0));
    }
}

#[test]
fn what_others_may_have_written_is_measured_again() {
    let write = |rig: &Rig| fs::write(rig.path("a").join("more"), [1; 50_000]).unwrap();
    let ask_for_mounts = |rig: &Rig| drop(rig.engine.layers.mounts(&key("a")).unwrap());
    let leave = |rig: &Rig| {
        rig.engine
            .layers
            .left_to_others(&rig.engine.layers.active(&key("a")).unwrap())
    };
    let again = |rig: &Rig| rig.apply("a", &rig.layer("g", b"g")).unwrap();
    let meddlers: [&dyn Fn(&Rig); 4] = [&write, &ask_for_mounts, &leave, &again];
    for meddle in meddlers {
        let rig = rig(Durability::Full);
        rig.create("a", Kind::Active, None);
        rig.apply("a", &rig.layer("f", b"f")).unwrap();
        assert!(rig.is_trusted("a"));
        meddle(&rig);
        assert!(!rig.is_trusted("a"));
        rig.commit("a", "layer").unwrap();
        assert_eq!(rig.known("layer"), rig.measured("layer"));
    }
}

#[test]
fn a_layer_that_held_something_before_is_not_trusted() {
    let rig = rig(Durability::Full);
    rig.create("a", Kind::Active, None);
    fs::write(rig.path("a").join("before"), [1; 50_000]).unwrap();
    rig.apply("a", &rig.layer("f", b"f")).unwrap();
    assert!(!rig.is_trusted("a"));
    rig.commit("a", "layer").unwrap();
    assert_eq!(rig.known("layer"), rig.measured("layer"));
}

#[test]
fn part_of_a_layer_can_only_be_removed() {
    let rig = rig(Durability::Full);
    rig.create("a", Kind::Active, None);
    let whole = rig.layer("f", &[7; 100_000]);
    let failed = rig.apply("a", &whole[..50_000]).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Invalid, "{failed:?}");
    for refused in [rig.apply("a", &whole), rig.commit("a", "layer")] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        assert!(refused.to_string().contains("part of a layer"), "{refused}");
    }
    rig.engine.layers.usage(&key("a")).unwrap();
    rig.engine.layers.remove(&key("a")).unwrap();
    rig.create("a", Kind::Active, None);
    rig.apply("a", &whole).unwrap();
    rig.commit("a", "layer").unwrap();
}

#[test]
fn what_fails_before_anything_is_written_may_be_tried_again() {
    let rig = rig(Durability::Full);
    rig.create("a", Kind::Active, None);
    let failed = rig.apply("a", b"no archive").unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Invalid, "{failed:?}");
    rig.apply("a", &rig.layer("f", b"f")).unwrap();
    rig.commit("a", "layer").unwrap();
}

#[test]
fn only_active_snapshots_are_unpacked_into() {
    let rig = rig(Durability::Full);
    let layer = rig.layer("f", b"f");
    let missing = rig.apply("a", &layer).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Missing);
    rig.create("a", Kind::Active, None);
    rig.commit("a", "base").unwrap();
    let view = rig.create("v", Kind::View, Some("base"));
    for name in ["base", "v"] {
        let refused = rig.apply(name, &layer).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "{name}");
    }
    let foreign = rig.engine.layers.active_of(&view).unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::Unsupported);
}

#[test]
fn mounts_must_be_those_of_a_snapshot_word_for_word() {
    let rig = rig(Durability::Full);
    rig.create("a", Kind::Active, None);
    rig.commit("a", "base").unwrap();
    let mounts = rig.create("b", Kind::Active, Some("base"));
    assert_eq!(
        rig.engine.layers.active_of(&mounts).unwrap().key(),
        &key("b")
    );
    let changed = |change: &dyn Fn(&mut Mount)| {
        let mut mounts = mounts.clone();
        change(&mut mounts[0]);
        mounts
    };
    let root = rig.dir.path().join("root");
    let lower = format!("lowerdir={}", root.join("l").display());
    let others: [Vec<Mount>; 7] = [
        Vec::new(),
        [mounts.clone(), mounts.clone()].concat(),
        changed(&|mount| mount.options.push("volatile".to_owned())),
        changed(&|mount| {
            mount
                .options
                .retain(|option| !option.starts_with("workdir="))
        }),
        changed(&|mount| {
            mount
                .options
                .retain(|option| !option.starts_with("lowerdir="))
        }),
        changed(&|mount| mount.options.insert(0, lower.clone())),
        changed(&|mount| mount.source = "other".to_owned()),
    ];
    for other in others {
        let foreign = rig.engine.layers.active_of(&other).unwrap_err();
        assert_eq!(foreign.kind(), ErrorKind::Unsupported, "{other:?}");
    }
}

/// Yields the start of a layer, then waits until it is told to go on.
struct Stuck {
    start: io::Cursor<Vec<u8>>,
    seen: Option<Sender<()>>,
    go: Receiver<()>,
}

impl Read for Stuck {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.start.read(buffer)?;
        if count == 0
            && let Some(seen) = self.seen.take()
        {
            seen.send(()).unwrap();
            self.go.recv().unwrap();
            // There is more to come, so that the reader checks for cancellation once more.
            self.start = io::Cursor::new(vec![0; 1 << 20]);
            return self.start.read(buffer);
        }
        Ok(count)
    }
}

fn stuck(start: Vec<u8>) -> (Stuck, Receiver<()>, Sender<()>) {
    let (seen_in, seen) = channel();
    let (go_in, go) = channel();
    let stuck = Stuck {
        start: io::Cursor::new(start),
        seen: Some(seen_in),
        go,
    };
    (stuck, seen, go_in)
}

#[test]
fn no_other_call_unpacks_or_commits_meanwhile_and_removal_ends_it() {
    let rig = rig(Durability::Full);
    rig.create("a", Kind::Active, None);
    let whole = rig.layer("f", &[7; 100_000]);
    let (source, seen, go) = stuck(whole[..50_000].to_vec());
    std::thread::scope(|scope| {
        let working = scope.spawn(|| rig.apply_from("a", source));
        seen.recv().unwrap();
        for refused in [rig.apply("a", &whole), rig.commit("a", "layer")] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Refused);
            assert!(
                refused.to_string().contains("is being unpacked"),
                "{refused}"
            );
        }
        rig.engine.layers.remove(&key("a")).unwrap();
        go.send(()).unwrap();
        let ended = working.join().unwrap().unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::Missing, "{ended:?}");
    });
    rig.create("a", Kind::Active, None);
    rig.apply("a", &whole).unwrap();
}

struct Cancelled(AtomicBool);

impl Progress for Cancelled {
    fn advanced(&self, _: u64, _: u64) {}
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[test]
fn it_ends_when_cancelled_and_when_the_engine_stops() {
    let stop = |rig: &Rig, _: &Cancelled| rig.engine.stop();
    let cancel = |_: &Rig, progress: &Cancelled| progress.0.store(true, Ordering::Release);
    for end in [stop as fn(&Rig, &Cancelled), cancel] {
        let rig = rig(Durability::Full);
        rig.create("a", Kind::Active, None);
        let progress = Cancelled(AtomicBool::new(false));
        let unpack = Unpack {
            progress: &progress,
            ..PLAIN
        };
        let (source, seen, go) = stuck(rig.layer("f", &[7; 100_000])[..50_000].to_vec());
        std::thread::scope(|scope| {
            let working = scope.spawn(|| {
                rig.engine.layers.apply(
                    &rig.engine.layers.active(&key("a")).unwrap(),
                    source,
                    &unpack,
                )
            });
            seen.recv().unwrap();
            end(&rig, &progress);
            go.send(()).unwrap();
            let ended = working.join().unwrap().unwrap_err();
            assert_eq!(ended.kind(), ErrorKind::Stopping, "{ended:?}");
        });
    }
}

/// Its mounts have the mapping, and its layer the container's ids.
#[test]
fn root_a_layer_of_an_id_mapped_snapshot_has_the_containers_ids() {
    let rig = rig(Durability::Metadata);
    rig.create("base", Kind::Active, None);
    rig.commit("base", "parent").unwrap();
    let left = rig.create("view", Kind::View, Some("parent"));
    let mapping = |host: &str| format!("0:{host}:65536");
    let labels = [
        ("uidmapping", mapping("100000")),
        ("gidmapping", mapping("200000")),
    ];
    let labels = labels.map(|(name, map)| (format!("containerd.io/snapshot/{name}"), map));
    let create = Create {
        key: key("mapped"),
        kind: Kind::Active,
        parent: Some(key("parent")),
        labels: Labels::parse(labels.into()).unwrap(),
    };
    let right = rig.engine.layers.create(create).unwrap();
    let file = rig.path("mapped").join("file");
    fs::write(&file, "").unwrap();
    std::os::unix::fs::chown(&file, Some(100_005), Some(200_006)).unwrap();
    let changes = rig.engine.layers.changes_between(&left, &right).unwrap();
    let pack = Pack {
        compression: DiffCompression::None,
        source_date_epoch: None,
        progress: &Silent,
    };
    let mut layer = Vec::new();
    rig.engine.layers.diff(&changes, &pack, &mut layer).unwrap();
    let mut reader = layerd_layers::tar::Reader::new(&layer[..]);
    let entry = reader.next_entry().unwrap().unwrap();
    assert_eq!((entry.path, entry.uid, entry.gid), (b"file".to_vec(), 5, 6));
    assert!(reader.next_entry().unwrap().is_none());
}

/// A process that ends leaves the files and the mark of a layer that it did not finish.
#[test]
fn part_of_a_layer_stays_that_after_a_restart() {
    let rig = rig(Durability::Full);
    rig.create("a", Kind::Active, None);
    rig.apply("a", &rig.layer("whole", b"x")).unwrap();
    rig.create("b", Kind::Active, None);
    let mark = rig
        .dir
        .path()
        .join(format!("root/m/{}.part", rig.slot("b")));
    let blob = rig.layer("part", &[7; 100_000]);
    let cut = &blob[..blob.len() - 20_000];
    rig.apply("b", cut).unwrap_err();
    assert!(mark.exists());

    let Rig {
        engine,
        driver,
        dir,
    } = rig;
    drop(engine);
    let root = dir.path().join("root");
    let engine = Engine::open(
        &root,
        driver.clone(),
        Arc::new(FakeMounter::new()),
        Options::default(),
    )
    .unwrap();
    let rig = Rig {
        engine,
        driver,
        dir,
    };
    rig.commit("a", "whole").unwrap();
    for refused in [
        rig.commit("b", "part"),
        rig.apply("b", &rig.layer("again", b"x")),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("part of a layer"), "{error}");
    }
    rig.engine.layers.remove(&key("b")).unwrap();
    rig.engine.empty_trash();
    rig.engine.reap();
    assert!(!mark.exists());
}
