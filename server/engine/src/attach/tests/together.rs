//! Calls at the same time, and failed calls beside those that succeeded.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::{Host, key, mount, owner, volume_at};
use crate::Attach;

const LIMIT: Duration = Duration::from_secs(20);

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LIMIT, "waiting for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Two mounts, the second of which fails when it is mounted: its target is missing in the first.
fn bad(host: &Host) -> [Attach; 2] {
    let outer = host.dir("outer");
    [
        volume_at("outer", "/x/y", &outer),
        volume_at("bad", "/x/y/z", &outer.join("missing")),
    ]
}

fn volume(name: &str) -> Attach {
    let flag = format!("type=volume,src={name},dst=/{name},on-missing=create");
    mount(name, &flag)
}

/// A call fails at its last mount; meanwhile another call attaches one of them, which the
/// failing call attaches before or after it waits.
fn fails_beside_another(attaches_first: bool) {
    let host = Host::new();
    host.commit("image");
    let made = host.attach(&[volume("before"), volume("made")]).unwrap();
    let slow = made[1].attachment.volume.unwrap();
    fs::write(host.volume("made").join("file"), "not to be filled").unwrap();
    let filling = Attach {
        fill_from: Some(key("image")),
        ..mount("slow", "type=volume,src=made,dst=/a")
    };
    let [outer, bad] = bad(&host);
    let mut failing = [filling, volume("shared"), volume("before"), outer, bad];
    if attaches_first {
        failing.swap(0, 1);
    }
    let engine = &host.engine;
    let is_there = |name: &str| {
        let view = engine.root.store.records();
        view.volumes().attachment(&key(name)).is_some()
    };
    // The failing call waits for its turn to look whether its first volume is to be filled.
    let turn = engine.volumes.locks.filling.lock(&slow);
    thread::scope(|scope| {
        let failing = scope.spawn(|| engine.attachments.attach(&owner(), &failing));
        wait_for("the intent of the first", || is_there("slow"));
        let other = scope.spawn(|| engine.attachments.attach(&owner(), &[volume("shared")]));
        wait_for("the other call", || {
            other.is_finished() || engine.attachments.locks.is_held(&key("shared"))
        });
        drop(turn);
        failing.join().unwrap().unwrap_err();
        other.join().unwrap().unwrap();
    });
    assert!(is_there("shared"), "it was acknowledged");
    assert!(is_there("before"), "as was this");
    assert!(!is_there("slow") && !is_there("bad"));
}

#[test]
fn root_a_failed_call_leaves_what_others_were_given() {
    fails_beside_another(false);
}

#[test]
fn root_a_failed_call_does_not_take_back_what_another_was_answered() {
    fails_beside_another(true);
}

/// A client gave up on a call, and has what its owner holds detached while the call goes on.
#[test]
fn root_a_detach_takes_what_a_call_that_goes_on_attaches() {
    let host = Host::new();
    host.commit("image");
    let made = host.attach(&[volume("made")]).unwrap();
    let slow = made[0].attachment.volume.unwrap();
    let filling = Attach {
        fill_from: Some(key("image")),
        ..mount("slow", "type=volume,src=made,dst=/a")
    };
    let attachments = &host.engine.attachments;
    let turn = host.engine.volumes.locks.filling.lock(&slow);
    thread::scope(|scope| {
        let attaching = scope.spawn(|| attachments.attach(&owner(), &[filling, volume("late")]));
        wait_for("the call to begin", || {
            attachments.locks.is_held(&key("late"))
        });
        let keys = attachments.keys_of(&owner());
        assert!(keys.contains(&key("late")), "{keys:?}");
        let detaching = scope.spawn(move || attachments.detach(&keys, false));
        wait_for("the detach to wait", || attachments.waiting() > 0);
        assert!(!detaching.is_finished());
        drop(turn);
        attaching.join().unwrap().unwrap();
        let mut detached = detaching.join().unwrap().unwrap();
        detached.sort_unstable();
        assert_eq!(detached, ["late", "made", "slow"].map(key));
    });
    assert!(host.keys().is_empty() && attachments.keys_of(&owner()).is_empty());
}
