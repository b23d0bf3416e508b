use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerd_drivers::Overlay;
use layerd_layers::apply::{Blob, Compression};
use layerd_layers::archive::{ExportOptions, export};
use layerd_layers::diff::DiffCompression;
use layerd_layers::{Progress, Silent};
use layerd_mounts::fake::FakeMounter;
use layerd_store::{Commit, Create, Key, Kind, Labels, LayerId, Owner};

use crate::{Attach, Engine, Error, ErrorKind, Options, Pack, Unpack};

pub(crate) struct Bench {
    pub(crate) engine: Engine,
    driver: Arc<Overlay>,
    dir: tempfile::TempDir,
}

pub(crate) fn key(text: &str) -> Key {
    Key::parse("key", text).unwrap()
}

fn open(dir: &tempfile::TempDir, driver: &Arc<Overlay>) -> Engine {
    let root = dir.path().join("root");
    Engine::open(
        &root,
        driver.clone(),
        Arc::new(FakeMounter::new()),
        Options::default(),
    )
    .unwrap()
}

impl Bench {
    /// A committed layer "base" that holds /data/f.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let driver = Arc::new(Overlay::open(&root, &layerd_drivers::Options::default()).unwrap());
        let engine = open(&dir, &driver);
        let bench = Self {
            engine,
            driver,
            dir,
        };
        bench.create("tmp", Kind::Active, None).unwrap();
        let tmp = bench.engine.layers.active(&key("tmp")).unwrap();
        bench
            .engine
            .layers
            .apply(&tmp, &bench.archive()[..], &unpack())
            .unwrap();
        bench.commit("tmp", "base").unwrap();
        bench
    }

    fn archive(&self) -> Vec<u8> {
        let tree = self.dir.path().join("tree");
        fs::create_dir_all(tree.join("data")).unwrap();
        fs::write(tree.join("data/f"), b"content").unwrap();
        let mut archive = Vec::new();
        let tree = fs::File::open(&tree).unwrap();
        export(tree.as_fd(), &mut archive, &ExportOptions::default()).unwrap();
        archive
    }

    fn create(&self, name: &str, kind: Kind, parent: Option<&str>) -> Result<(), Error> {
        let create = Create {
            key: key(name),
            kind,
            parent: parent.map(key),
            labels: Labels::default(),
        };
        self.engine.layers.create(create).map(drop)
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

    pub(crate) fn id(&self, name: &str) -> LayerId {
        self.engine
            .root
            .store
            .records()
            .find(&key(name))
            .unwrap()
            .id
    }

    fn target(&self, name: &str) -> PathBuf {
        let target = self.dir.path().join(name);
        fs::create_dir_all(&target).unwrap();
        target
    }

    pub(crate) fn attach(
        &self,
        name: &str,
        mount: &str,
        fill_from: Option<&str>,
    ) -> Result<(), Error> {
        let owner = Owner {
            kind: "test".to_owned(),
            id: "1".to_owned(),
        };
        let request = Attach {
            key: key(name),
            mount: mount.to_owned(),
            target: fill_from.is_none().then(|| self.target(name)),
            fill_from: fill_from.map(key),
            selinux_label: None,
            relabel_by_dialect: false,
            exclusive: false,
        };
        self.engine.attachments.attach(&owner, &[request]).map(drop)
    }

    fn reopened(self) -> Self {
        self.after(|_, _| {})
    }

    /// A later process, after a change to the root meanwhile.
    fn after(self, change: impl FnOnce(&Path, &Overlay)) -> Self {
        let Self {
            engine,
            driver,
            dir,
        } = self;
        drop(engine);
        change(&dir.path().join("root"), &driver);
        let engine = open(&dir, &driver);
        Self {
            engine,
            driver,
            dir,
        }
    }

    /// Every call that hands out content of "base", of a snapshot on it, or mounts of either.
    fn assert_refused(&self, when: &str) {
        let engine = &self.engine;
        let diff = |name: &str| {
            let changes = engine.layers.changes(&key(name))?;
            let pack = Pack {
                compression: DiffCompression::None,
                source_date_epoch: None,
                progress: &Silent,
            };
            engine
                .layers
                .diff(&changes, &pack, &mut Vec::new())
                .map(drop)
        };
        let image = "type=image,source=base,target=/image";
        let part = "type=image,source=base,target=/image,image-subpath=data";
        let outcomes = [
            ("stat", engine.layers.stat(&key("base")).map(drop)),
            ("usage", engine.layers.usage(&key("base")).map(drop)),
            ("view", self.create("v", Kind::View, Some("base"))),
            ("prepare", self.create("a", Kind::Active, Some("base"))),
            ("diff", diff("base")),
            ("attach", self.attach("image", image, None)),
            ("attach a part", self.attach("part", part, None)),
            (
                "fill",
                self.attach(
                    "fill",
                    "type=volume,source=filled,target=/data,on-missing=create",
                    Some("base"),
                ),
            ),
        ];
        for (call, outcome) in outcomes {
            assert_refusal(outcome, &format!("{call}, {when}"));
        }
        if engine.root.store.records().find(&key("above")).is_none() {
            return;
        }
        let above = engine.layers.active(&key("above")).unwrap();
        let applied = engine.layers.apply(&above, &self.archive()[..], &unpack());
        let outcomes = [
            ("mounts", engine.layers.mounts(&key("above")).map(drop)),
            ("diff above", diff("above")),
            ("apply", applied.map(drop)),
        ];
        for (call, outcome) in outcomes {
            assert_refusal(outcome, &format!("{call}, {when}"));
        }
    }

    fn assert_served(&self) {
        self.engine.layers.stat(&key("base")).unwrap();
        let image = "type=image,source=base,target=/image";
        self.attach("served", image, None).unwrap();
        let fill = "type=volume,source=good,target=/data,on-missing=create";
        self.attach("good", fill, Some("base")).unwrap();
        self.engine
            .attachments
            .detach(&[key("served"), key("good")], false)
            .unwrap();
    }
}

fn unpack() -> Unpack<'static> {
    Unpack {
        compression: Compression::None,
        blob: Blob {
            size: None,
            sha256: None,
        },
        sync: false,
        progress: &Silent as &dyn Progress,
    }
}

fn assert_refusal(outcome: Result<(), Error>, call: &str) {
    let refused = outcome.expect_err(call);
    assert_eq!(refused.kind(), ErrorKind::Damaged, "{call}: {refused:?}");
}

#[test]
fn damage_stays_with_a_layer_through_every_call_restart_and_restore() {
    let bench = Bench::new();
    bench.assert_served();
    bench.create("above", Kind::Active, Some("base")).unwrap();
    let id = bench.id("base");
    bench.engine.layers.bar(id, "a test said so".to_owned());
    bench.assert_refused("when it was found");
    let bench = bench.reopened();
    bench.assert_refused("after a restart");

    bench.engine.layers.remove(&key("above")).unwrap();
    bench.engine.layers.remove(&key("base")).unwrap();
    bench.engine.layers.restore(id).unwrap();
    bench.assert_refused("removed and restored");
    bench.engine.fsck(true).unwrap();
    bench.assert_refused("after fsck");

    bench.engine.layers.remove(&key("base")).unwrap();
    let bench = bench.reopened();
    assert_eq!(bench.engine.layers.quarantined(), 0);
    bench.engine.layers.restore(id).unwrap();
    bench.assert_refused("removed, restarted and restored");
    assert_eq!(bench.engine.layers.quarantined(), 1);
    assert!(
        bench
            .engine
            .volumes
            .volumes(&crate::VolumeFilter::default())
            .iter()
            .all(|one| {
                one.volume.name.as_str() != "filled" || one.volume.filled_from.is_empty()
            })
    );
}

#[test]
fn damage_that_is_found_after_the_removal_is_kept_as_well() {
    let bench = Bench::new();
    let id = bench.id("base");
    bench.engine.layers.remove(&key("base")).unwrap();
    bench.engine.layers.bar(id, "a test said so".to_owned());
    let bench = bench.reopened();
    bench.engine.layers.restore(id).unwrap();
    bench.assert_refused("found in the trash");
}

#[test]
fn damage_is_known_after_an_older_backup_was_put_back() {
    let bench = Bench::new();
    let backup = bench.dir.path().join("backup");
    fs::write(&backup, bench.engine.backup().unwrap()).unwrap();
    let id = bench.id("base");
    bench.engine.layers.bar(id, "a test said so".to_owned());
    let bench = bench.after(|root, driver| {
        crate::recover::restore_records(root, driver, Some(&backup)).unwrap();
    });
    bench.assert_refused("known by its mark");
    bench.engine.layers.remove(&key("base")).unwrap();
    bench.engine.empty_trash();
    bench.engine.reap();
    let mark = bench
        .dir
        .path()
        .join(format!("root/m/{}.quarantined", crate::slot(id)));
    assert!(!mark.exists(), "deleted with its layer");
}

#[test]
fn damage_that_cannot_be_recorded_yet_outlives_fsck() {
    let bench = Bench::new();
    let (id, why) = (bench.id("base"), "a test said so".to_owned());
    bench.engine.layers.quarantine.set(id, why.clone());
    bench.engine.layers.quarantine.unsaved().insert(id, why);
    bench.engine.fsck(true).unwrap();
    assert_refusal(bench.engine.layers.stat(&key("base")).map(drop), "stat");
    bench.engine.layers.save_damage();
    let bench = bench.reopened();
    bench.assert_refused("recorded later");
}

#[test]
fn an_image_that_is_mounted_already_is_not_handed_out_again() {
    let bench = Bench::new();
    let image = "type=image,source=base,target=/image";
    bench.attach("image", image, None).unwrap();
    bench.attach("image", image, None).unwrap();
    bench
        .engine
        .layers
        .bar(bench.id("base"), "a test said so".to_owned());
    assert_refusal(bench.attach("image", image, None), "attach again");
    bench
        .engine
        .attachments
        .detach(&[key("image")], false)
        .unwrap();
}
