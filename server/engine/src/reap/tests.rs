use std::sync::Arc;
use std::time::Duration;

use layerd_drivers::Memory;
use layerd_drivers::{Found, SlotKind, Survey as _};
use layerd_mounts::Slot;
use layerd_mounts::fake::FakeMounter;
use layerd_store::{Create, Key, Kind, Labels};
use nix::errno::Errno;

use super::Reaped;
use crate::backlog::BACK_OFF;
use crate::{Engine, Options, TrashOptions};

fn engine(root: &std::path::Path, fake: &Memory, trash: TrashOptions) -> Engine {
    let options = Options {
        trash,
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

fn at_once() -> TrashOptions {
    TrashOptions {
        keep: Duration::ZERO,
        ..TrashOptions::default()
    }
}

fn key(name: &str) -> Key {
    Key::parse("key", name).unwrap()
}

fn created(engine: &Engine, name: &str) {
    let create = Create {
        key: key(name),
        kind: Kind::Active,
        parent: None,
        labels: Labels::default(),
    };
    engine.layers.create(create).unwrap();
}

fn removed(engine: &Engine, name: &str) -> Slot {
    created(engine, name);
    let id = engine.layers.stat(&key(name)).unwrap().record.id;
    engine.layers.remove(&key(name)).unwrap();
    Slot(id.0)
}

#[test]
fn a_layer_that_cannot_be_deleted_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Memory::new();
    let engine = engine(dir.path(), &fake, at_once());
    let stuck = removed(&engine, "stuck");
    removed(&engine, "other");
    fake.set_mounted(stuck, true);
    let reaped = engine.reap();
    assert_eq!((reaped.deleted, reaped.failed), (1, 1));
    assert_eq!(fake.list().unwrap(), [Found::Slot(SlotKind::Trash, stuck)]);
    assert!(!engine.is_reaped());
    let again = engine.reap();
    assert_eq!((again.deleted, again.failed), (0, 0), "it waits its turn");
    fake.set_mounted(stuck, false);
    std::thread::sleep(BACK_OFF);
    assert_eq!(engine.reap().deleted, 1);
    assert_eq!(fake.list().unwrap(), []);
    assert!(engine.is_reaped());
}

#[test]
fn a_restart_tries_at_once_what_had_failed() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Memory::new();
    let first = engine(dir.path(), &fake, at_once());
    removed(&first, "k");
    fake.fail_from(1, Errno::EIO);
    assert_eq!(first.reap().failed, 1);
    fake.heal();
    drop(first);
    let second = engine(dir.path(), &fake, at_once());
    let reaped = second.reap();
    eprintln!("{reaped:?}");
    assert!(second.is_reaped());
}

#[test]
fn a_removed_layer_is_kept_for_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Memory::new();
    let trash = TrashOptions {
        keep: Duration::from_millis(300),
        min_free_percent: 0,
        ..TrashOptions::default()
    };
    let engine = engine(dir.path(), &fake, trash);
    let slot = removed(&engine, "k");
    let reaped = engine.reap();
    assert_eq!((reaped.deleted, reaped.failed), (0, 0));
    let left = reaped.next_in.expect("it says when");
    assert!(left <= Duration::from_millis(300));
    assert_eq!(fake.list().unwrap(), [Found::Slot(SlotKind::Layer, slot)]);
    std::thread::sleep(left);
    assert_eq!(engine.reap().deleted, 1);
    assert!(engine.is_reaped());
}

#[test]
fn after_stop_nothing_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Memory::new();
    let engine = engine(dir.path(), &fake, at_once());
    let slot = removed(&engine, "k");
    engine.stop();
    assert_eq!(engine.reap(), Reaped::default());
    assert_eq!(fake.list().unwrap(), [Found::Slot(SlotKind::Layer, slot)]);
}

#[test]
fn all_that_the_guard_counts_is_there_when_it_acts() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Memory::new();
    let trash = TrashOptions {
        keep: Duration::ZERO,
        min_free_percent: 100, // space is wanted all the time
        guard_min: 20,
        ..TrashOptions::default()
    };
    let first = engine(dir.path(), &fake, trash.clone());
    let names: Vec<_> = (0..31).map(|number| format!("k{number}")).collect();
    for name in &names {
        created(&first, name);
    }
    let (before, after) = names.split_at(10);
    for name in before {
        first.layers.remove(&key(name)).unwrap();
        assert_eq!(first.reap().deleted, 0);
    }
    drop(first);
    let second = engine(dir.path(), &fake, trash);
    for name in after {
        assert!(second.guard().is_none() || second.layers.trash().len() >= 20);
        second.layers.remove(&key(name)).unwrap();
        assert_eq!(second.reap().deleted, 0);
    }
    assert!(second.guard().is_some(), "the guard did not act");
    assert_eq!(second.layers.trash().len(), 31);
    for (_, outcome) in second.layers.restore_all() {
        outcome.unwrap();
    }
    assert!(second.guard().is_none());
}

#[test]
fn fewer_than_the_guard_wants_are_deleted_in_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Memory::new();
    let trash = TrashOptions {
        guard_min: 20,
        ..at_once()
    };
    let engine = engine(dir.path(), &fake, trash);
    for name in ["a", "b", "c"] {
        removed(&engine, name);
        assert_eq!(engine.reap().deleted, 1);
    }
}

/// Says what the clock showed when the machine went off, and that it was another boot.
fn rebooted(root: &std::path::Path, change: impl FnOnce(u64) -> u64) {
    let path = root.join("meta/clock");
    let text = std::fs::read_to_string(&path).unwrap();
    let total: u64 = text.split(' ').next().unwrap().parse().unwrap();
    let text = format!("{} 1 another-boot\n", change(total));
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_removed_layer_is_kept_for_its_time_through_reboots_and_lost_clocks() {
    const HOUR: u64 = 3600 * 1_000_000_000;
    let dir = tempfile::tempdir().unwrap();
    let fake = Memory::new();
    let trash = TrashOptions {
        keep: Duration::from_nanos(10 * HOUR),
        min_free_percent: 0,
        ..TrashOptions::default()
    };
    let left = |change: &dyn Fn(u64) -> u64| {
        rebooted(dir.path(), change);
        let engine = engine(dir.path(), &fake, trash.clone());
        let reaped = engine.reap();
        (
            reaped.deleted,
            reaped.next_in.map(|left| left.as_secs_f64() / 3600.0),
        )
    };
    drop(engine(dir.path(), &fake, trash.clone()));
    rebooted(dir.path(), |_| 100 * HOUR);
    removed(&engine(dir.path(), &fake, trash.clone()), "k");
    let within = |hours: Option<f64>, wanted: f64| {
        let hours = hours.unwrap();
        assert!(
            (wanted - 0.2..=wanted).contains(&hours),
            "{hours} of {wanted}"
        );
    };
    within(left(&|total| total).1, 10.0);
    within(left(&|total| total + 4 * HOUR).1, 6.0);
    within(left(&|_| 0).1, 10.0);
    std::fs::remove_file(dir.path().join("meta/clock")).unwrap();
    drop(engine(dir.path(), &fake, trash.clone()));
    within(left(&|total| total).1, 10.0);
    assert_eq!(left(&|total| total + 11 * HOUR), (1, None));
}

/// Removals that `trash empty` let go are deleted at once, also after a restart; later ones wait.
#[test]
fn an_emptied_trash_is_deleted_after_a_restart() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Memory::new());
    let keep = TrashOptions {
        keep: Duration::from_secs(3600),
        min_free_percent: 0,
        ..TrashOptions::default()
    };
    let first = engine(dir.path(), &fake, keep.clone());
    for name in ["a", "b"] {
        created(&first, name);
    }
    first.layers.remove(&key("a")).unwrap();
    first.empty_trash();
    first.layers.remove(&key("b")).unwrap();
    drop(first);
    let second = engine(dir.path(), &fake, keep);
    assert_eq!(second.reap().deleted, 1);
    let left: Vec<_> = second
        .layers
        .trash()
        .into_iter()
        .map(|one| one.record.key.clone())
        .collect();
    assert_eq!(left, [key("b")]);
}
