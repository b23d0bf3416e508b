//! Every step of the mounter fails in turn. The mounts are in memory, so that no root is needed; paths,
//! folders of volumes and records are real.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerd_drivers::Memory;
use layerd_mounts::fake::FakeMounter;
use layerd_mounts::mounter::MountError;
use layerd_store::{AttachState, Attachment, Commit, Create, Kind, Labels};
use nix::errno::Errno;

use super::{key, mount, owner, volume_at};
use crate::{Attach, AttachError, Engine, Error, Options, VolumeFilter};

/// More than any call takes: a test that fails at each step ends.
const STEPS_MAX: usize = 500;

/// An engine with mounts of another owner, a mount that is not layerd's, and mounts to attach.
struct World {
    engine: Engine,
    mounter: FakeMounter,
    driver: Arc<Memory>,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let mounter = FakeMounter::new();
        let driver = Arc::new(Memory::new());
        let engine = open(&root, &driver, &mounter);
        commit_image(&engine);
        let world = Self {
            engine,
            mounter,
            driver,
            dir,
        };
        let theirs = [
            volume_at("their-volume", "/v", &world.dir("theirs")),
            mount("their-image", "type=image,src=image,dst=/i"),
        ];
        world.attach(&theirs).unwrap();
        world.mounter.add_foreign_mount(&world.dir("foreign"));
        world
    }

    /// As after the end of the process: mounts stand, and memory is gone.
    fn restarted(self) -> Self {
        let Self {
            engine,
            mounter,
            driver,
            dir,
        } = self;
        drop(engine);
        let engine = open(&dir.path().join("root"), &driver, &mounter);
        Self {
            engine,
            mounter,
            driver,
            dir,
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join("host").join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A mount of each kind: at targets, and at places of layerd's own.
    fn wanted(&self) -> Vec<Attach> {
        let host = self.dir.path().join("host");
        let source = host.join("made/for/it");
        let bind = format!(
            "type=bind,src={},dst=/b,on-missing=create",
            source.display()
        );
        let at = |target: &str, one: Attach| Attach {
            target: Some(self.dir(target)),
            ..one
        };
        vec![
            volume_at("volume", "/v", &self.dir("volume")),
            at("bind", mount("bind", &bind)),
            at("tmpfs", mount("tmpfs", "type=tmpfs,dst=/t")),
            mount("image", "type=image,src=image,dst=/i"),
            mount("runtime", "type=volume,src=other,dst=/o,on-missing=create"),
        ]
    }

    fn attach(&self, mounts: &[Attach]) -> Result<usize, Error> {
        let attached = self.engine.attachments.attach(&owner(), mounts);
        attached.map(|entries| entries.len())
    }

    fn state(&self) -> State {
        let volumes = |deleted| {
            let filter = VolumeFilter {
                deleted,
                ..VolumeFilter::default()
            };
            let all = self.engine.volumes.volumes(&filter);
            all.iter().map(|one| one.volume.name.to_string()).collect()
        };
        let mounts = self.mounter.mounts();
        let mut paths = BTreeSet::new();
        for folder in ["host", "root/mnt", "root/volumes"] {
            walk(&self.dir.path().join(folder), &mut paths);
        }
        State {
            mounts: mounts.into_iter().map(|one| one.target).collect(),
            records: self.engine.attachments.attachment_records(None),
            volumes: volumes(false),
            trash: volumes(true),
            paths,
        }
    }

    /// Lets `call` fail at each of its steps, and finally succeed. Answers the number of steps.
    fn fail_at_each_step(&self, call: &dyn Fn() -> Result<usize, Error>) -> usize {
        let before = self.state();
        for nth in 1..STEPS_MAX {
            let taken = self.mounter.steps().len();
            self.mounter.fail_at(nth, Errno::EIO);
            let outcome = call();
            if self.mounter.heal() {
                outcome.unwrap();
                return nth - 1;
            }
            let step = self.mounter.steps()[taken + nth - 1];
            let error = outcome.expect_err(step);
            assert_named(&error, step);
            assert_eq!(self.state(), before, "after step {nth}, {step}");
        }
        panic!("the call takes more than {STEPS_MAX} steps");
    }
}

/// State that a failed call must not change.
#[derive(Debug, PartialEq)]
struct State {
    mounts: Vec<PathBuf>,
    records: Vec<Arc<Attachment>>,
    volumes: Vec<String>,
    trash: Vec<String>,
    paths: BTreeSet<PathBuf>,
}

fn walk(folder: &Path, paths: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            walk(&path, paths);
        }
        paths.insert(path);
    }
}

fn open(root: &Path, driver: &Arc<Memory>, mounter: &FakeMounter) -> Engine {
    let mounter = Arc::new(mounter.clone());
    Engine::open(root, driver.clone(), mounter, Options::default()).unwrap()
}

fn commit_image(engine: &Engine) {
    let create = Create {
        key: key("active"),
        kind: Kind::Active,
        parent: None,
        labels: Labels::default(),
    };
    engine.layers.create(create).unwrap();
    let commit = Commit {
        name: key("image"),
        key: key("active"),
        labels: Labels::default(),
        parent: None,
        usage: None,
    };
    engine.layers.commit(commit).unwrap();
}

fn assert_named(error: &Error, step: &str) {
    let Error::Attach(AttachError::Mount(cause)) = error else {
        panic!("{step}: {error}");
    };
    assert_eq!(cause.errno(), Some(Errno::EIO as i32), "{step}: {error}");
    let MountError::Io { attempt, .. } = cause else {
        panic!("{step}: {error}");
    };
    assert_eq!(*attempt, step);
    assert!(error.to_string().starts_with(step), "{error}");
}

#[test]
fn attach_that_fails_at_any_step_leaves_nothing_and_touches_nothing_of_others() {
    let world = World::new();
    let wanted = world.wanted();
    let steps = world.fail_at_each_step(&|| world.attach(&wanted));
    assert!(steps > 30, "{steps} steps");
    let standing = world.state();
    assert_eq!(standing.records.len(), 2 + wanted.len());
    world.attach(&wanted).unwrap();
    assert_eq!(world.state(), standing, "a repeated call changes nothing");
}

#[test]
fn mounting_again_that_fails_at_any_step_goes_on_to_wait() {
    let world = World::new();
    let wanted = world.wanted();
    world.attach(&wanted).unwrap();
    let lost = world.engine.attachments.attachment(&key("volume")).unwrap();
    world.mounter.lose(lost.mount.as_ref().unwrap().unique_id);
    world.fail_at_each_step(&|| world.attach(&wanted));
    let entries = world.engine.attachments.attachments(None, None).unwrap();
    let is_attached = |entry: &crate::AttachmentEntry| entry.state == AttachState::Attached;
    assert!(entries.iter().all(is_attached));
}

#[test]
fn detach_that_fails_at_any_step_keeps_the_attachment() {
    let world = World::new();
    let without = world.state();
    world.attach(&world.wanted()[..1]).unwrap();
    let keys = [key("volume")];
    world.fail_at_each_step(&|| Ok(world.engine.attachments.detach(&keys, false)?.len()));
    let left = world.state();
    assert_eq!(
        (left.mounts, left.records),
        (without.mounts, without.records)
    );
}

/// Lets a call crash at its `nth` step; `None` if it has fewer.
fn crashed_at(nth: usize, mounts: impl Fn(&World) -> Vec<Attach>) -> Option<(World, State)> {
    let world = World::new();
    let mounts = mounts(&world);
    let before = world.state();
    world.mounter.crash_at(nth);
    let crashed = catch_unwind(AssertUnwindSafe(|| world.attach(&mounts))).is_err();
    let is_over = world.mounter.heal();
    assert_ne!(crashed, is_over, "step {nth}");
    crashed.then(|| (world.restarted(), before))
}

/// The source of a bind, made for it: what a crash leaves is removed by detach, or is the attachment's
/// after a repeated call.
#[test]
fn no_crash_leaves_a_path_of_the_host_that_no_record_names() {
    let bind = |world: &World| vec![world.wanted().remove(1)];
    let whole = World::new();
    whole.attach(&bind(&whole)).unwrap();
    let made = |world: &World| {
        let mut paths = BTreeSet::new();
        walk(&world.dir.path().join("host"), &mut paths);
        let host = world.dir.path();
        let names = paths
            .iter()
            .map(|path| path.strip_prefix(host).unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    // Once its mount is recorded, an attachment may have been acknowledged, and keeps its source.
    let is_attached = |world: &World| {
        let there = world.engine.attachments.attachment(&key("bind"));
        there.is_some_and(|there| there.state != AttachState::Preparing)
    };
    // Each step at which the path is made, and some of the others.
    let taken = World::new().mounter.steps().len();
    let steps = whole.mounter.steps().split_off(taken);
    let making = |step: &usize| {
        let before = &steps[step.saturating_sub(3)..*step];
        before.iter().any(|name| ["create", "move"].contains(name))
    };
    let (making, others): (Vec<_>, Vec<_>) = (1..=steps.len()).partition(making);
    assert!(making.len() >= 4, "{steps:?}");
    for step in making.into_iter().chain(others.into_iter().step_by(9)) {
        let (world, before) = crashed_at(step, bind).unwrap();
        let kept = is_attached(&world);
        let detached = world.engine.attachments.detach(&[key("bind")], false);
        detached.unwrap();
        let left = world.state().paths == before.paths;
        assert_eq!(left, !kept, "step {step}, detached: {:?}", made(&world));
        let (world, before) = crashed_at(step, bind).unwrap();
        world.mounter.fail_at(1, Errno::EIO);
        world.attach(&bind(&world)).unwrap_err();
        world.mounter.heal();
        let left = world.state().paths == before.paths;
        assert_eq!(left, !kept, "step {step}, failed: {:?}", made(&world));
        world.attach(&bind(&world)).unwrap();
        assert_eq!(made(&world), made(&whole), "step {step}, attached");
    }
}
