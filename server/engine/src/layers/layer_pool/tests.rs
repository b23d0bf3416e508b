use std::path::Path;
use std::thread::sleep;

use layerd_drivers::Memory;
use layerd_drivers::{Found, SlotKind, Survey as _};
use layerd_mounts::Slot;
use layerd_mounts::fake::FakeMounter;
use layerd_store::{Key, Kind, Labels};
use nix::errno::Errno;

use super::*;
use crate::{Engine, Options};

const LIMIT: Duration = Duration::from_secs(20);

fn engine(root: &Path, fake: &Memory, layer_pool: usize) -> Engine {
    let options = Options {
        layer_pool,
        ..Options::default()
    };
    Engine::open(
        root,
        Arc::new(fake.clone()),
        Arc::new(FakeMounter::new()),
        options,
    )
    .unwrap()
}

fn prepare(engine: &Engine, name: &str) -> Slot {
    let key = Key::parse("key", name).unwrap();
    let create = Create {
        key: key.clone(),
        kind: Kind::Active,
        parent: None,
        labels: Labels::default(),
    };
    engine.layers.create(create).unwrap();
    slot(engine.layers.stat(&key).unwrap().record.id)
}

fn layers(fake: &Memory) -> Vec<Slot> {
    let layer = |entry| match entry {
        Found::Slot(SlotKind::Layer, slot) => Some(slot),
        _ => None,
    };
    fake.list().unwrap().into_iter().filter_map(layer).collect()
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LIMIT, "waiting for {what}");
        sleep(Duration::from_millis(5));
    }
}

fn wait_until_ready(engine: &Engine, count: usize) {
    let ready = || engine.layers.pool.shared.state().ready.len();
    wait_for("spare layers", || ready() == count);
}

#[test]
fn layers_made_ahead_are_used_and_no_problem() {
    let (root, fake) = (tempfile::tempdir().unwrap(), Memory::default());
    let engine = engine(root.path(), &fake, 4);
    assert_eq!(layers(&fake), [], "none requested yet");
    let mut used = vec![prepare(&engine, "first")];
    wait_until_ready(&engine, 4);
    let ready = layers(&fake);
    assert_eq!(ready.len(), 5);
    used.extend((0..2).map(|n| prepare(&engine, &n.to_string())));
    assert!(
        used.iter().all(|slot| ready.contains(slot)),
        "{used:?} of {ready:?}"
    );
    wait_until_ready(&engine, 4);
    assert!(engine.fsck(false).unwrap().is_empty());
    let taken = Key::parse("key", "first").unwrap();
    let create = Create {
        key: taken,
        kind: Kind::Active,
        parent: None,
        labels: Labels::default(),
    };
    engine.layers.create(create).unwrap_err();
    wait_until_ready(&engine, 4);
    let half = Labels::parse([("containerd.io/snapshot/uidmapping".into(), "0:1:1".into())].into());
    let create = Create {
        key: Key::parse("key", "unmapped").unwrap(),
        kind: Kind::Active,
        parent: None,
        labels: half.unwrap(),
    };
    engine.layers.create(create).unwrap_err();
    wait_until_ready(&engine, 4);
    assert_eq!(layers(&fake).len(), 7, "a refused call takes none");
    drop(engine);
    used.sort_unstable();
    assert_eq!(layers(&fake), used, "the others are taken away at the end");
}

/// A recorded layer is durable; an unused one is deleted by the next start.
#[test]
fn a_power_cut_takes_no_layer_that_was_used() {
    let (root, fake) = (tempfile::tempdir().unwrap(), Memory::default());
    let engine = engine(root.path(), &fake, 4);
    prepare(&engine, "first");
    wait_until_ready(&engine, 4);
    let steps = fake.steps();
    let used = prepare(&engine, "second");
    let without_work = steps + 1;
    assert_eq!(fake.steps(), without_work, "no parent, no work directory");
    let shared = engine.layers.pool.shared.clone();
    drop(engine);
    // As a kill leaves them: the end took them away.
    shared.make(3).unwrap();
    drop(shared);
    fake.cut_power();
    assert_eq!(layers(&fake).len(), 5);
    let reopened = self::engine(root.path(), &fake, 0);
    reopened.reap();
    assert!(fake.layer(used).is_some());
    assert_eq!(layers(&fake).len(), 2, "the others are deleted");
    assert!(reopened.fsck(false).unwrap().is_empty());
}

#[test]
fn what_fails_is_taken_away_and_prepare_makes_its_own() {
    let (root, fake) = (tempfile::tempdir().unwrap(), Memory::default());
    let engine = engine(root.path(), &fake, 4);
    // The first step makes the layer of the call, the fourth fails the third spare one.
    fake.fail_from(4, Errno::ENOSPC);
    let key = Key::parse("key", "first").unwrap();
    let create = Create {
        key: key.clone(),
        kind: Kind::Active,
        parent: None,
        labels: Labels::default(),
    };
    let made = engine.layers.create(create);
    wait_for("the failure", || {
        !engine.layers.pool.shared.state().others.is_empty()
    });
    fake.heal();
    if made.is_err() {
        prepare(&engine, "first");
    }
    let others = || engine.layers.pool.shared.state().others.clone();
    wait_for("the next try", || others().is_empty());
    wait_until_ready(&engine, 4);
    // The call may have failed after it made its layer.
    engine.reap();
    assert_eq!(layers(&fake).len(), 5, "nothing else is left");
    assert!(engine.fsck(false).unwrap().is_empty());
}
