use std::path::Path;
use std::thread::sleep;

use layerd_mounts::fake::Fake;
use layerd_store::{Key, Kind, Labels};
use nix::errno::Errno;

use super::*;
use crate::Options;

const LIMIT: Duration = Duration::from_secs(20);

fn engine(root: &Path, fake: &Fake, spares: usize) -> Engine {
    let options = Options {
        spares,
        ..Options::default()
    };
    Engine::open(root, Arc::new(fake.clone()), options).unwrap()
}

fn prepare(engine: &Engine, name: &str) -> Slot {
    let key = Key::parse("key", name).unwrap();
    let create = Create {
        key: key.clone(),
        kind: Kind::Active,
        parent: None,
        labels: Labels::default(),
    };
    engine.create(create).unwrap();
    slot(engine.stat(&key).unwrap().record.id)
}

fn spare(fake: &Fake) -> Vec<Slot> {
    let spare = |entry| match entry {
        Found::Slot(Place::Spare, slot) => Some(slot),
        _ => None,
    };
    fake.list().unwrap().into_iter().filter_map(spare).collect()
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LIMIT, "waiting for {what}");
        sleep(Duration::from_millis(5));
    }
}

fn wait_until_ready(engine: &Engine, count: usize) {
    let ready = || engine.spares.shared.state().ready.len();
    wait_for("spare layers", || ready() == count);
}

#[test]
fn layers_made_ahead_are_used_and_no_problem() {
    let (root, fake) = (tempfile::tempdir().unwrap(), Fake::default());
    let engine = engine(root.path(), &fake, 4);
    assert_eq!(spare(&fake), [], "nobody asked yet");
    prepare(&engine, "first");
    wait_until_ready(&engine, 4);
    let ready = spare(&fake);
    let used: Vec<_> = (0..2).map(|n| prepare(&engine, &n.to_string())).collect();
    assert!(
        used.iter().all(|slot| ready.contains(slot)),
        "{used:?} of {ready:?}"
    );
    assert!(spare(&fake).iter().all(|slot| !used.contains(slot)));
    wait_until_ready(&engine, 4);
    assert!(engine.fsck(false).unwrap().is_empty());
    let taken = Key::parse("key", "first").unwrap();
    let create = Create {
        key: taken,
        kind: Kind::Active,
        parent: None,
        labels: Labels::default(),
    };
    engine.create(create).unwrap_err();
    wait_until_ready(&engine, 4);
    let half = Labels::parse([("containerd.io/snapshot/uidmapping".into(), "0:1:1".into())].into());
    let create = Create {
        key: Key::parse("key", "unmapped").unwrap(),
        kind: Kind::Active,
        parent: None,
        labels: half.unwrap(),
    };
    engine.create(create).unwrap_err();
    wait_until_ready(&engine, 4);
    assert_eq!(spare(&fake).len(), 4, "a refused call takes none");
    drop(engine);
    assert_eq!(spare(&fake), [], "taken away at the end");
}

/// The record is durable, the rename is not: the layer comes back all the same.
#[test]
fn a_power_cut_may_undo_the_rename_into_place() {
    let (root, fake) = (tempfile::tempdir().unwrap(), Fake::default());
    let engine = engine(root.path(), &fake, 4);
    prepare(&engine, "first");
    wait_until_ready(&engine, 4);
    let used = prepare(&engine, "second");
    drop(engine);
    fake.cut_power();
    assert!(spare(&fake).contains(&used), "it was undone");
    let reopened = self::engine(root.path(), &fake, 0);
    assert!(fake.layer(used).is_some(), "it is back");
    reopened.reap();
    assert_eq!(spare(&fake), [], "the others are deleted");
    assert!(reopened.fsck(false).unwrap().is_empty());
}

#[test]
fn what_fails_is_taken_away_and_prepare_makes_its_own() {
    let (root, fake) = (tempfile::tempdir().unwrap(), Fake::default());
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
    let made = engine.create(create);
    wait_for("the failure", || {
        !engine.spares.shared.state().others.is_empty()
    });
    fake.heal();
    if made.is_err() {
        prepare(&engine, "first");
    }
    let others = || engine.spares.shared.state().others.clone();
    wait_for("the next try", || others().is_empty());
    wait_until_ready(&engine, 4);
    assert_eq!(spare(&fake).len(), 4, "nothing else is left");
    assert!(engine.fsck(false).unwrap().is_empty());
}
