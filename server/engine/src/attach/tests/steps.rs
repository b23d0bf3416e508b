//! Every step of the mounter fails in turn. The mounts are in memory, so that no root is needed; paths,
//! folders of volumes and records are real.

use std::collections::BTreeSet;
use std::fs;
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
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let mounter = FakeMounter::new();
        let engine = Engine::open(
            &root,
            Arc::new(Memory::new()),
            Arc::new(mounter.clone()),
            Options::default(),
        );
        let engine = engine.unwrap();
        commit_image(&engine);
        let world = Self {
            engine,
            mounter,
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
