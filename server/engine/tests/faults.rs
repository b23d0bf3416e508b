//! The disk fails at step 1, then at step 2, then 3, and so on, once or for good. After each, a
//! fresh engine and one pass of the reaper leave no orphan and no half-made snapshot, and every
//! key can be used.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

mod common;

use std::collections::BTreeMap;

use common::{commit, create, entries, key, labels, open};
use layerd_drivers::Memory;
use layerd_drivers::{Found, SlotKind, Survey as _};
use layerd_engine::{Engine, Error, ErrorKind};
use layerd_mounts::Slot;
use layerd_store::{Kind, LabelChange};
use nix::errno::Errno;

/// Expected snapshots after the calls: keys with their kind, and keys that must not exist.
type Fates = BTreeMap<&'static str, Option<Kind>>;

fn note(fates: &mut Fates, name: &'static str, after: Option<Kind>, done: Result<(), Error>) {
    match done {
        Ok(()) => drop(fates.insert(name, after)),
        Err(error) => {
            let kind = error.kind();
            let wanted = [ErrorKind::Full, ErrorKind::Internal, ErrorKind::Missing];
            assert!(wanted.contains(&kind), "{name}: {kind:?}: {error}");
        }
    }
}

/// Every operation once; each goes on whatever became of the others.
fn work(engine: &Engine) -> Fates {
    let mut fates = Fates::from([
        ("base", Some(Kind::Committed)),
        ("old", Some(Kind::Active)),
        ("stacked", None),
        ("bare", None),
        ("view", None),
        ("own view", None),
        ("committed", None),
    ]);
    let made = create(engine, Kind::Active, "stacked", Some("base"));
    note(&mut fates, "stacked", Some(Kind::Active), made);
    let made = create(engine, Kind::Active, "bare", None);
    note(&mut fates, "bare", Some(Kind::Active), made);
    let made = create(engine, Kind::View, "view", Some("base"));
    note(&mut fates, "view", Some(Kind::View), made);
    let made = create(engine, Kind::View, "own view", None);
    note(&mut fates, "own view", Some(Kind::View), made);
    if commit(engine, "committed", "stacked").is_ok() {
        fates.insert("stacked", None);
        fates.insert("committed", Some(Kind::Committed));
    }
    let change = LabelChange::Replace(labels(&[("changed", "yes")]));
    engine.layers.update(&key("base"), vec![change]).unwrap();
    let removed = engine.layers.remove(&key("old"));
    note(&mut fates, "old", None, removed);
    engine.reap();
    fates
}

/// Records and directories agree, one to one.
fn assert_whole(engine: &Engine, fake: &Memory) {
    let found = fake.list().unwrap();
    let at = |place: SlotKind| {
        let slots = found.iter().filter_map(move |entry| match entry {
            Found::Slot(there, slot) if *there == place => Some(*slot),
            _ => None,
        });
        let mut slots: Vec<_> = slots.collect();
        slots.sort_unstable();
        slots
    };
    let records = entries(engine);
    let wanted = |has: fn(&layerd_store::Record) -> bool| {
        let with = records.iter().filter(|entry| has(&entry.record));
        let mut slots: Vec<_> = with.map(|entry| Slot(entry.record.id.0)).collect();
        slots.sort_unstable();
        slots
    };
    let has_layer =
        |record: &layerd_store::Record| record.kind != Kind::View || record.parent.is_none();
    let has_work =
        |record: &layerd_store::Record| record.kind == Kind::Active && record.parent.is_some();
    assert_eq!(at(SlotKind::Layer), wanted(has_layer), "layers");
    assert_eq!(at(SlotKind::Work), wanted(has_work), "work directories");
    assert_eq!(at(SlotKind::Trash), [], "trash");
    assert!(engine.is_reaped());
    assert_eq!(engine.layers.quarantined(), 0);
    assert!(engine.fsck(false).unwrap().is_empty());
}

fn assert_as_answered(engine: &Engine, fates: &Fates) {
    let there: BTreeMap<String, Kind> = entries(engine)
        .into_iter()
        .map(|entry| (entry.record.key.as_str().to_owned(), entry.record.kind))
        .collect();
    for (name, fate) in fates {
        assert_eq!(there.get(*name), fate.as_ref(), "{name}");
    }
    assert_eq!(there.len(), fates.values().flatten().count(), "{there:?}");
    for (name, _) in fates.iter().filter(|(_, fate)| fate.is_none()) {
        create(engine, Kind::Active, name, Some("base")).unwrap();
        engine.layers.remove(&key(name)).unwrap();
    }
}

/// Answers whether the failure came before the end of the work.
fn run(step: u64, fail: impl Fn(&Memory, u64), power_is_cut: bool) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let fake = Memory::new();
    let engine = open(dir.path(), &fake);
    create(&engine, Kind::Active, "first", None).unwrap();
    commit(&engine, "base", "first").unwrap();
    create(&engine, Kind::Active, "old", Some("base")).unwrap();
    fail(&fake, step);
    let fates = work(&engine);
    drop(engine);
    let was_reached = !fake.heal();
    if power_is_cut {
        fake.cut_power();
    }
    let engine = open(dir.path(), &fake);
    let reaped = engine.reap();
    assert_eq!(reaped.failed, 0, "step {step}");
    assert_whole(&engine, &fake);
    assert_as_answered(&engine, &fates);
    engine.reap();
    assert_whole(&engine, &fake);
    was_reached
}

fn at_every_step(fail: impl Fn(&Memory, u64), power_is_cut: bool) {
    let steps = (1..)
        .take_while(|step| run(*step, &fail, power_is_cut))
        .count();
    assert!(steps >= 12, "the work has only {steps} steps");
}

#[test]
fn one_failure_at_any_step_leaves_nothing_behind() {
    at_every_step(|fake, step| fake.fail_at(step, Errno::EIO), false);
}

#[test]
fn a_full_disk_from_any_step_leaves_nothing_behind() {
    at_every_step(|fake, step| fake.fail_from(step, Errno::ENOSPC), false);
}

#[test]
fn a_power_cut_after_a_failure_leaves_nothing_behind() {
    at_every_step(|fake, step| fake.fail_from(step, Errno::EIO), true);
}
