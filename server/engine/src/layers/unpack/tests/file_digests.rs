use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use layerd_drivers::Overlay;
use layerd_layers::Silent;
use layerd_mounts::fake::FakeMounter;
use layerd_store::{Commit, Create, Kind, Labels};

use super::{Rig, key, rig};
use crate::{ContentCounts, Durability, Engine, ErrorKind, Finding, Options, survey_content};

impl Rig {
    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Names in the folder of manifests.
    pub(super) fn digest_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root().join("m")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        // Marks of layers that hold part of something are no digests.
        let names = names.filter(|name| !name.ends_with(".part"));
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    pub(super) fn check(&self, repair: bool) -> (ContentCounts, Vec<Finding>) {
        let mut findings = Vec::new();
        let checked = self
            .engine
            .check_content(repair, &Silent, &mut |finding| findings.push(finding));
        (checked.unwrap(), findings)
    }

    /// As another process does.
    fn reopened(self) -> Self {
        let options = self.engine.root.options.clone();
        self.reopened_with(options)
    }

    fn reopened_with(self, options: Options) -> Self {
        let Self {
            engine,
            driver,
            dir,
        } = self;
        drop(engine);
        let engine = Engine::open(
            &dir.path().join("root"),
            driver.clone(),
            Arc::new(FakeMounter::new()),
            options,
        )
        .unwrap();
        Self {
            engine,
            driver,
            dir,
        }
    }

    /// A committed layer that was unpacked.
    fn unpacked(&self, name: &str) {
        self.create("tmp", Kind::Active, None);
        self.apply("tmp", &self.layer(name, b"content")).unwrap();
        self.commit("tmp", name).unwrap();
    }
}

fn counts(layers: u64, without_digests: u64) -> ContentCounts {
    ContentCounts {
        layers,
        without_digests,
        files: layers,
        bytes: 7 * layers,
    }
}

#[test]
fn a_layer_that_is_not_what_was_unpacked_is_named_and_barred_on_request() {
    let rig = rig(Durability::Full);
    rig.unpacked("good");
    rig.unpacked("bad");
    rig.create("tmp", Kind::Active, None);
    rig.commit("tmp", "by hand").unwrap();
    let (found, findings) = rig.check(true);
    assert_eq!((found, findings.len()), (counts(2, 1), 0));
    fs::write(rig.path("bad").join("bad"), b"CONTENT").unwrap();

    let (found, findings) = rig.check(false);
    assert_eq!(found, counts(2, 1));
    let said =
        "snapshot \"bad\" (layer 2) does not hold what was unpacked: bad has another content";
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].problem.to_string(), said);
    assert!(!findings[0].repaired);
    rig.engine.layers.stat(&key("bad")).unwrap();

    let (_, findings) = rig.check(true);
    assert!(!findings[0].repaired);
    let rig = rig.reopened();
    let barred = rig.engine.layers.stat(&key("bad")).unwrap_err();
    assert_eq!(barred.kind(), ErrorKind::Damaged, "{barred}");
    assert!(barred.to_string().contains("files: 1"), "{barred}");
    rig.engine.layers.stat(&key("good")).unwrap();
    assert_eq!(rig.check(false).0, counts(2, 1));

    let root = rig.root();
    let Rig { engine, dir, .. } = rig;
    drop(engine);
    let mut offline = Vec::new();
    let layers = Overlay::survey(&root);
    let surveyed = survey_content(&root, &layers, &Silent, &mut |problem| {
        offline.push(problem)
    });
    assert_eq!((surveyed.unwrap(), offline.len()), (counts(2, 1), 1));
    assert_eq!(offline[0].to_string(), said);
    drop(dir);
}

#[test]
fn what_others_may_have_written_has_no_manifest() {
    let write = |rig: Rig| {
        fs::write(rig.path("a").join("more"), b"more").unwrap();
        rig
    };
    let ask_for_mounts = |rig: Rig| {
        rig.engine.layers.mounts(&key("a")).unwrap();
        rig
    };
    let again = |rig: Rig| {
        rig.apply("a", &rig.layer("g", b"g")).unwrap();
        rig
    };
    let meddlers: [&dyn Fn(Rig) -> Rig; 4] = [&write, &ask_for_mounts, &again, &Rig::reopened];
    for durability in [Durability::Full, Durability::Metadata] {
        for meddle in meddlers {
            let rig = rig(durability);
            rig.create("a", Kind::Active, None);
            rig.apply("a", &rig.layer("f", b"f")).unwrap();
            assert_eq!(rig.digest_files(), ["1"]);
            let rig = meddle(rig);
            rig.commit("a", "layer").unwrap();
            assert!(rig.digest_files().is_empty());
            assert_eq!(rig.check(false).0, counts(0, 1));
        }
    }
}

#[test]
fn a_layer_that_could_not_be_unpacked_has_no_manifest() {
    let rig = rig(Durability::Full);
    rig.create("a", Kind::Active, None);
    let whole = rig.layer("f", &[7; 100_000]);
    rig.apply("a", &whole[..50_000]).unwrap_err();
    assert!(rig.digest_files().is_empty());
    rig.create("b", Kind::Active, None);
    rig.apply("b", b"no archive").unwrap_err();
    rig.apply("b", &whole).unwrap();
    assert_eq!(rig.digest_files(), ["2"]);
    rig.create("c", Kind::Active, None);
    fs::write(rig.path("c").join("before"), b"x").unwrap();
    rig.apply("c", &whole).unwrap();
    assert_eq!(rig.digest_files(), ["2"]);
}

#[test]
fn a_manifest_goes_with_its_layer() {
    let rig = rig(Durability::Full);
    rig.unpacked("a");
    rig.engine.layers.remove(&key("a")).unwrap();
    assert_eq!(rig.check(false).0, counts(0, 0));
    let rig = rig.reopened();
    rig.engine.layers.restore(layerd_store::LayerId(1)).unwrap();
    assert_eq!(rig.check(false).0, counts(1, 0));
    rig.engine.layers.remove(&key("a")).unwrap();
    rig.engine.empty_trash();
    rig.engine.reap();
    assert!(rig.engine.is_reaped());
    assert!(rig.digest_files().is_empty());
}

#[test]
fn what_a_crash_left_is_deleted_at_start_and_nothing_else() {
    let rig = rig(Durability::Full);
    rig.unpacked("a");
    rig.create("active", Kind::Active, None);
    rig.apply("active", &rig.layer("f", b"f")).unwrap();
    rig.unpacked("gone");
    rig.engine.layers.remove(&key("gone")).unwrap();
    rig.engine.empty_trash();
    rig.engine.reap();
    let folder = rig.root().join("m");
    for name in ["3", "zzzz", "notes.txt"] {
        fs::write(folder.join(name), b"x").unwrap();
    }
    let rig = rig.reopened();
    assert_eq!(rig.digest_files(), ["1", "notes.txt", "zzzz"]);
    let found = rig.engine.fsck(true).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0]
            .problem
            .to_string()
            .ends_with("m/notes.txt is not layerd's")
    );
    assert!(found[0].repaired);
    assert!(rig.root().join("lost/m-notes.txt").exists());
    assert_eq!(rig.check(false).0, counts(1, 0));
}

#[test]
fn a_manifest_that_was_there_before_the_layer_is_not_kept() {
    let rig = rig(Durability::Full);
    for id in ["1", "2"] {
        fs::write(rig.root().join("m").join(id), b"x").unwrap();
    }
    rig.unpacked("a");
    rig.create("tmp", Kind::Active, None);
    rig.commit("tmp", "by hand").unwrap();
    assert_eq!(rig.digest_files(), ["1"]);
    assert_eq!(rig.check(false).0, counts(1, 1));
}

#[test]
fn a_damaged_manifest_says_nothing_of_its_layer() {
    let rig = rig(Durability::Full);
    rig.unpacked("a");
    let file = rig.root().join("m/1");
    fs::write(&file, &fs::read(&file).unwrap()[1..]).unwrap();
    let (found, findings) = rig.check(false);
    assert_eq!((found, findings.len()), (counts(0, 1), 1));
    let said = findings[0].problem.to_string();
    assert!(
        said.contains("m/1 of snapshot \"a\" is of no use"),
        "{said}"
    );
    assert!(rig.check(true).1[0].repaired);
    assert!(rig.root().join("lost/m-1").exists());
    let (found, findings) = rig.check(false);
    assert_eq!((found, findings.len()), (counts(0, 1), 0));
    rig.engine.layers.stat(&key("a")).unwrap();
}

#[test]
fn a_layer_that_gets_its_parent_late_keeps_its_manifest() {
    let rig = rig(Durability::Full);
    let options = Options {
        rebase: true,
        ..rig.engine.root.options.clone()
    };
    rig.unpacked("base");
    let rig = rig.reopened_with(options);
    let labels = Labels::parse([("containerd.io/snapshot.ref".into(), "x".into())].into());
    let create = Create {
        key: key("a"),
        kind: Kind::Active,
        parent: None,
        labels: labels.unwrap(),
    };
    rig.engine.layers.create(create).unwrap();
    rig.apply("a", &rig.layer("f", b"content")).unwrap();
    let commit = Commit {
        name: key("top"),
        key: key("a"),
        labels: Labels::default(),
        parent: Some(key("base")),
        usage: None,
    };
    rig.engine.layers.commit(commit).unwrap();
    assert_eq!(rig.check(false).0, counts(2, 0));
}

#[test]
fn without_the_setting_there_are_none_but_those_there_are_still_used() {
    let rig = rig(Durability::Full);
    rig.unpacked("a");
    let mut options = rig.engine.root.options.clone();
    options.unpack.file_digests = false;
    let rig = rig.reopened_with(options);
    rig.unpacked("b");
    assert_eq!(rig.digest_files(), ["1"]);
    assert_eq!(rig.check(false).0, counts(1, 1));
}

#[test]
fn an_engine_that_stops_ends_the_check() {
    let rig = rig(Durability::Full);
    rig.unpacked("a");
    rig.engine.stop();
    let ended = rig.engine.check_content(false, &Silent, &mut |_| {});
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Stopping);
}
