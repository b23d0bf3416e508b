//! Calls that look a key up, work, and then record: what they record is of the layer that they
//! worked on, whatever has the key by then.

use std::fs;
use std::sync::Arc;
use std::thread::scope;

use layerd_drivers::Hooked;
use layerd_store::Kind;

use super::{Rig, key, rig, rig_on, stuck};
use crate::gate::{Gate, until};
use crate::{Durability, ErrorKind};

/// A rig whose driver holds the first call of a step.
fn gated(step: &'static str) -> (Rig, impl Fn() -> Arc<Gate>) {
    let slot = std::sync::Mutex::new(None);
    let rig = rig_on(Durability::Full, &|driver| {
        let hooked = Arc::new(Hooked::new(driver));
        *slot.lock().unwrap() = Some(hooked.clone());
        hooked
    });
    let hooked: Arc<Hooked> = slot.into_inner().unwrap().unwrap();
    let arm = move || {
        let gate = Gate::new();
        hooked.set(Some(gate.at(step)));
        gate
    };
    (rig, arm)
}

#[test]
fn a_commit_is_of_the_layer_it_brought_to_the_disk() {
    let (rig, arm) = gated("write_back");
    rig.create("a", Kind::Active, None);
    fs::write(rig.path("a").join("old"), [1; 50_000]).unwrap();
    let whole = rig.layer("f", &[7; 100_000]);
    let (source, seen, go) = stuck(whole);
    let gate = arm();
    scope(|scope| {
        let committing = scope.spawn(|| rig.commit("a", "layer"));
        gate.wait();
        rig.engine.layers.remove(&key("a")).unwrap();
        rig.create("a", Kind::Active, None);
        let filling = scope.spawn(|| rig.apply_from("a", source));
        seen.recv().unwrap();
        gate.open();
        let refused = committing.join().unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Missing, "{refused:?}");
        assert_eq!(
            rig.engine.layers.stat(&key("layer")).unwrap_err().kind(),
            ErrorKind::Missing
        );
        go.send(()).unwrap();
        filling.join().unwrap().unwrap();
    });
    rig.commit("a", "layer").unwrap();
    assert_eq!(rig.known("layer"), rig.measured("layer"));
    assert!(!rig.path("layer").join("old").exists());
}

#[test]
fn commits_of_one_layer_at_once_keep_its_file_digests() {
    for (second, wanted) in [("layer", None), ("other", Some(ErrorKind::Missing))] {
        let (rig, arm) = gated("stamp");
        rig.create("a", Kind::Active, None);
        rig.apply("a", &rig.layer("f", b"content")).unwrap();
        let gate = arm();
        scope(|scope| {
            let one = scope.spawn(|| rig.commit("a", "layer"));
            gate.wait();
            let other = scope.spawn(|| rig.commit("a", second));
            until(&gate, || {
                rig.engine.layers.unpacks.locks.waiting() == 1 || other.is_finished()
            });
            gate.open();
            one.join().unwrap().unwrap();
            let other = other.join().unwrap();
            assert_eq!(other.err().map(|error| error.kind()), wanted);
        });
        assert_eq!(rig.digest_files(), [rig.slot("layer").to_string()]);
        let (counts, findings) = rig.check(false);
        assert_eq!((counts.layers, findings.len()), (1, 0));
    }
}

#[test]
fn mounts_that_are_asked_for_during_apply_count() {
    let rig = rig(Durability::Full);
    rig.create("a", Kind::Active, None);
    let (source, seen, go) = stuck(rig.layer("f", b"content"));
    scope(|scope| {
        let filling = scope.spawn(|| rig.apply_from("a", source));
        seen.recv().unwrap();
        rig.engine.layers.mounts(&key("a")).unwrap();
        fs::write(rig.path("a").join("f"), [1; 200_000]).unwrap();
        go.send(()).unwrap();
        filling.join().unwrap().unwrap();
    });
    assert!(!rig.is_trusted("a"));
    rig.commit("a", "layer").unwrap();
    assert_eq!(rig.known("layer"), rig.measured("layer"));
    assert!(
        rig.digest_files().is_empty(),
        "digests of what was unpacked"
    );
    assert!(rig.check(true).1.is_empty(), "a good layer is not barred");
}

#[test]
fn a_layer_is_unpacked_into_the_snapshot_whose_mounts_were_named() {
    let rig = rig(Durability::Full);
    let mounts = rig.create("a", Kind::Active, None);
    let named = rig.engine.layers.active_of(&mounts).unwrap();
    rig.engine.layers.remove(&key("a")).unwrap();
    rig.create("a", Kind::Active, None);
    let blob = rig.layer("f", b"content");
    let refused = rig.engine.layers.apply(&named, &blob[..], &super::PLAIN);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Missing);
    assert!(fs::read_dir(rig.path("a")).unwrap().next().is_none());
}

#[test]
fn a_snapshot_stands_on_the_parent_its_mounts_were_planned_for() {
    for kind in [Kind::Active, Kind::View] {
        let (rig, arm) = gated("plan");
        rig.create("tmp", Kind::Active, None);
        rig.commit("tmp", "base").unwrap();
        let create = |name: &str| {
            rig.engine.layers.create(layerd_store::Create {
                key: key(name),
                kind,
                parent: Some(key("base")),
                labels: layerd_store::Labels::default(),
            })
        };
        let gate = arm();
        scope(|scope| {
            let creating = scope.spawn(|| create("above"));
            gate.wait();
            rig.engine.layers.remove(&key("base")).unwrap();
            rig.create("tmp", Kind::Active, None);
            rig.commit("tmp", "base").unwrap();
            gate.open();
            let refused = creating.join().unwrap().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Missing, "{refused:?}");
        });
        create("above").unwrap();
    }
}

#[test]
fn part_of_a_layer_stays_part_of_one_through_the_trash() {
    let rig = rig(Durability::Full);
    rig.create("a", Kind::Active, None);
    let whole = rig.layer("f", &[7; 100_000]);
    rig.apply("a", &whole[..50_000]).unwrap_err();
    let id = rig.engine.layers.stat(&key("a")).unwrap().record.id;
    rig.engine.layers.remove(&key("a")).unwrap();
    rig.engine.layers.restore(id).unwrap();
    for refused in [rig.commit("a", "layer"), rig.apply("a", &whole)] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused);
    }
}

#[test]
fn a_layer_that_is_removed_during_apply_and_restored_is_not_whole() {
    let rig = rig(Durability::Full);
    rig.create("a", Kind::Active, None);
    rig.apply("a", &rig.layer("g", b"content")).unwrap();
    let whole = rig.layer("f", &[7; 100_000]);
    let (source, seen, go) = stuck(whole[..50_000].to_vec());
    let id = rig.engine.layers.stat(&key("a")).unwrap().record.id;
    scope(|scope| {
        let filling = scope.spawn(|| rig.apply_from("a", source));
        seen.recv().unwrap();
        rig.engine.layers.remove(&key("a")).unwrap();
        rig.engine.layers.restore(id).unwrap();
        let refused = rig.commit("a", "layer").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        go.send(()).unwrap();
        filling.join().unwrap().unwrap_err();
    });
    let refused = rig.commit("a", "layer").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
}
