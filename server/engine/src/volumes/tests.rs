//! Pairs of calls about one volume: one is held at each of its steps on the disk in turn, while the
//! other runs as far as it can. Whatever each answers, records, folders and links agree afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Mutex};
use std::thread::scope;

use layerd_drivers::Memory;
use layerd_mounts::fake::FakeMounter;
use layerd_store::{Key, Owner, VolumeName};

use super::{CreateVolume, VolumeRef, slot};
use crate::gate::{Gate, until};
use crate::{Attach, Engine, Error, ErrorKind, Options};

/// A volume that is there, one that is in the trash, and a name that is free.
const THERE: &str = "there";
const TRASHED: &str = "trashed";
const FREE: &str = "free";

fn name(name: &str) -> VolumeName {
    VolumeName::parse("name", name).unwrap()
}

fn named(text: &str) -> CreateVolume {
    CreateVolume {
        name: Some(name(text)),
        ..CreateVolume::default()
    }
}

struct World {
    engine: Engine,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(
            dir.path(),
            Arc::new(Memory::new()),
            Arc::new(FakeMounter::new()),
            Options::default(),
        )
        .unwrap();
        for volume in [THERE, TRASHED] {
            engine.volumes.create_volume(&named(volume)).unwrap();
        }
        engine.volumes.delete_volume(&name(TRASHED)).unwrap();
        Self { engine, dir }
    }

    fn waiting(&self) -> usize {
        let engine = &self.engine;
        engine.volumes.locks.waiting()
            + engine.root.backlog.waiting()
            + engine.attachments.waiting()
    }

    /// Records, folders and links agree.
    fn assert_whole(&self, case: &str) {
        let (view, found) = (
            self.engine.root.store.records(),
            self.engine.volumes.dirs.list(),
        );
        let (volumes, found) = (view.volumes(), found.unwrap());
        let live: BTreeSet<_> = volumes.iter().map(|volume| slot(volume.id)).collect();
        let removed: BTreeSet<_> = volumes.removed().map(|volume| slot(volume.id)).collect();
        assert_eq!(
            found.live.into_iter().collect::<BTreeSet<_>>(),
            live,
            "{case}: folders"
        );
        assert_eq!(
            found.trashed.into_iter().collect::<BTreeSet<_>>(),
            removed,
            "{case}: trash"
        );
        assert_eq!(found.staged, [], "{case}: staged");
        for attachment in volumes.attachments() {
            let id = attachment.volume.unwrap();
            assert!(live.contains(&slot(id)), "{case}: what is attached is gone");
        }
        let links = fs::read_dir(self.dir.path().join("volumes/by-name")).unwrap();
        let links: BTreeMap<_, _> = links
            .map(|link| {
                let link = link.unwrap();
                let target = fs::canonicalize(link.path()).ok();
                (link.file_name().into_string().unwrap(), target)
            })
            .collect();
        let dirs = &self.engine.volumes.dirs;
        let wanted: BTreeMap<_, _> = volumes
            .iter()
            .map(|volume| {
                let path = fs::canonicalize(dirs.data_path(slot(volume.id))).ok();
                (volume.name.to_string(), path)
            })
            .collect();
        assert_eq!(links, wanted, "{case}: links");
        assert!(!wanted.values().any(Option::is_none), "{case}: {wanted:?}");
    }
}

type Call = fn(&Engine) -> Result<(), Error>;

fn create(engine: &Engine, volume: &str) -> Result<(), Error> {
    engine.volumes.create_volume(&named(volume)).map(drop)
}

fn rename(engine: &Engine, new: &str) -> Result<(), Error> {
    engine
        .volumes
        .rename_volume(&name(THERE), name(new))
        .map(drop)
}

fn undelete(engine: &Engine, volume: &str, new: Option<&str>) -> Result<(), Error> {
    let back = engine
        .volumes
        .undelete_volume(None, Some(&name(volume)), new.map(name));
    back.map(drop)
}

fn clone(engine: &Engine) -> Result<(), Error> {
    let request = CreateVolume {
        clone_of: Some(VolumeRef::Name(name(THERE))),
        ..named(FREE)
    };
    engine.volumes.create_volume(&request).map(drop)
}

fn import(engine: &Engine) -> Result<(), Error> {
    // An archive of nothing.
    engine
        .volumes
        .import_volume(&named(FREE), &[0; 1024][..])
        .map(drop)
}

fn attach(engine: &Engine) -> Result<(), Error> {
    let owner = Owner {
        kind: "test".to_owned(),
        id: "1".to_owned(),
    };
    let request = Attach {
        key: Key::parse("key", "k").unwrap(),
        mount: format!("type=volume,source={THERE},target=/x"),
        target: None,
        fill_from: None,
        selinux_label: None,
        relabel_by_dialect: false,
        exclusive: false,
    };
    engine.attachments.attach(&owner, &[request]).map(drop)
}

fn purge(engine: &Engine) -> Result<(), Error> {
    engine.empty_trash();
    engine.reap();
    Ok(())
}

fn prune(engine: &Engine) -> Result<(), Error> {
    let plan = engine.volumes.plan_prune(true, Vec::new(), |_| true)?;
    engine.volumes.execute_prune(&plan.id).map(drop)
}

fn take_back(engine: &Engine) -> Result<(), Error> {
    let view = engine.root.store.records();
    match view.volumes().find(&name(THERE)) {
        Some(volume) => engine.volumes.drop_unused_volume(volume.id, false),
        None => Ok(()),
    }
}

const CALLS: [(&str, Call); 18] = [
    ("create", |engine| create(engine, FREE)),
    ("create what is there", |engine| create(engine, THERE)),
    ("create what is in the trash", |engine| {
        create(engine, TRASHED)
    }),
    ("delete", |engine| {
        engine.volumes.delete_volume(&name(THERE)).map(drop)
    }),
    ("undelete", |engine| undelete(engine, TRASHED, None)),
    ("undelete as", |engine| {
        undelete(engine, TRASHED, Some(FREE))
    }),
    ("undelete what is there", |engine| {
        undelete(engine, THERE, None)
    }),
    ("rename", |engine| rename(engine, FREE)),
    ("rename as in the trash", |engine| rename(engine, TRASHED)),
    ("clone", clone),
    ("snapshot", |engine| {
        engine
            .volumes
            .snapshot_volume(
                &VolumeRef::Name(name(THERE)),
                name(FREE),
                layerd_store::Labels::default(),
            )
            .map(drop)
    }),
    ("import", import),
    ("export", |engine| {
        engine
            .volumes
            .export_volume(&name(THERE), std::io::sink())
            .map(drop)
    }),
    ("usage", |engine| {
        engine.volumes.volume_usage(&name(THERE), true).map(drop)
    }),
    ("attach", attach),
    ("purge", purge),
    ("prune", prune),
    ("take back", take_back),
];

/// The steps on the disk that a call takes when it is alone.
fn steps(call: Call) -> BTreeSet<&'static str> {
    let world = World::new();
    let steps = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = steps.clone();
    let hook = move |step, _| {
        seen.lock().unwrap().insert(step);
    };
    world.engine.volumes.dirs.hook.set(Some(Arc::new(hook)));
    drop(call(&world.engine));
    world.engine.volumes.dirs.hook.set(None);
    Arc::into_inner(steps).unwrap().into_inner().unwrap()
}

fn assert_sensible(outcome: Result<(), Error>, case: &str) {
    let Err(error) = outcome else { return };
    let kinds = [
        ErrorKind::Missing,
        ErrorKind::Exists,
        ErrorKind::Refused,
        ErrorKind::Invalid,
    ];
    assert!(kinds.contains(&error.kind()), "{case}: {error:?}");
}

/// Holds one call at a step while the other runs.
fn race(one: Call, step: &'static str, other: Call, case: &str) {
    let world = World::new();
    let gate = Gate::new();
    world.engine.volumes.dirs.hook.set(Some(gate.at(step)));
    scope(|scope| {
        let one = scope.spawn(|| one(&world.engine));
        gate.wait();
        let other = scope.spawn(|| other(&world.engine));
        until(&gate, || other.is_finished() || world.waiting() > 0);
        gate.open();
        assert_sensible(one.join().unwrap(), case);
        assert_sensible(other.join().unwrap(), case);
    });
    world.assert_whole(case);
}

/// Every pair whose first call is one of these.
fn race_all(first: &[&str]) {
    let ones = CALLS.iter().filter(|(name, _)| first.contains(name));
    for (one_name, one) in ones {
        for step in steps(*one) {
            for (other_name, other) in CALLS {
                let case = format!("{one_name}, held at {step}, and {other_name}");
                race(*one, step, other, &case);
            }
        }
    }
}

#[test]
fn create_beside_every_other_call() {
    race_all(&["create"]);
}

#[test]
fn delete_and_prune_beside_every_other_call() {
    race_all(&["delete", "prune", "take back"]);
}

#[test]
fn undelete_beside_every_other_call() {
    race_all(&["undelete", "undelete as"]);
}

#[test]
fn rename_and_purge_beside_every_other_call() {
    race_all(&["rename", "purge"]);
}

#[test]
fn clone_beside_every_other_call() {
    race_all(&["clone"]);
}

#[test]
fn import_export_usage_and_attach_beside_every_other_call() {
    race_all(&["import", "export", "usage", "attach"]);
}

/// Between a caller's look at a volume and its copy, the name may go to another.
#[test]
fn a_copy_by_id_is_of_that_volume_also_after_a_rename() {
    let world = World::new();
    let engine = &world.engine;
    let source = engine.volumes.volume(&name(THERE)).unwrap();
    fs::write(source.path.join("file"), "its own").unwrap();
    engine
        .volumes
        .rename_volume(&name(THERE), name("renamed"))
        .unwrap();
    engine.volumes.create_volume(&named(THERE)).unwrap();
    let source = VolumeRef::Id(source.volume.id);
    let request = CreateVolume {
        clone_of: Some(source.clone()),
        ..named(FREE)
    };
    let (clone, _) = engine.volumes.create_volume(&request).unwrap();
    let labels = layerd_store::Labels::default();
    let snapshot = engine
        .volumes
        .snapshot_volume(&source, name("shot"), labels);
    for copy in [clone, snapshot.unwrap()] {
        assert_eq!(fs::read(copy.path.join("file")).unwrap(), b"its own");
        assert_eq!(copy.volume.filled_from, "volume renamed");
    }
    assert!(
        !engine.volumes.create_volume(&request).unwrap().1,
        "the same again"
    );

    engine.volumes.delete_volume(&name("renamed")).unwrap();
    let request = CreateVolume {
        name: Some(name("late")),
        ..request
    };
    let gone = engine.volumes.create_volume(&request).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Refused, "{gone}");
}

#[test]
fn who_uses_a_volume_is_told_by_container_rather_than_by_mount_id() {
    let world = World::new();
    let mount = |key: &str| Attach {
        key: Key::parse("key", key).unwrap(),
        mount: format!("type=volume,source={THERE},target=/x"),
        target: None,
        fill_from: None,
        selinux_label: None,
        relabel_by_dialect: false,
        exclusive: false,
    };
    for (id, key) in [("docker/mount/1f", "first"), ("docker/web", "second")] {
        let owner = Owner::parse("plugin", id).unwrap();
        world
            .engine
            .attachments
            .attach(&owner, &[mount(key)])
            .unwrap();
    }
    let refused = world
        .engine
        .volumes
        .delete_volume(&name(THERE))
        .unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("in use by plugin docker/web"), "{text}");
}
