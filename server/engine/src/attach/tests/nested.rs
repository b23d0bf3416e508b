//! Targets inside targets.

use std::fs;
use std::path::PathBuf;

use super::{Host, key, mount, owner, volume_at};
use crate::Living;

const NONE: [PathBuf; 0] = [];

/// Two volumes, the second one at a folder of the first, in the order of a careless caller.
fn nested(host: &Host) -> [super::Attach; 2] {
    let outer = host.dir("outer");
    host.attach(&[mount(
        "make",
        "type=volume,src=outer,dst=/x,on-missing=create",
    )])
    .unwrap();
    fs::create_dir(host.volume("outer").join("inner")).unwrap();
    [
        volume_at("inner", "/a", &outer.join("inner")),
        volume_at("outer", "/b/c", &outer),
    ]
}

#[test]
fn root_a_target_may_lie_in_the_volume_of_another() {
    let host = Host::new();
    let both = nested(&host);
    let answer = host.attach(&both).unwrap();
    let order = answer.iter().map(|one| one.spec.target.as_str());
    assert_eq!(
        order.collect::<Vec<_>>(),
        ["/a", "/b/c"],
        "as the container mounts them"
    );
    let targets: Vec<_> = both
        .iter()
        .rev()
        .map(|one| one.target.clone().unwrap())
        .collect();
    assert_eq!(host.mounts(), targets);
    fs::write(targets[1].join("file"), "through both").unwrap();
    assert!(host.volume("inner").join("file").exists());
    assert_eq!(host.attach(&both).unwrap().len(), 2, "repeated");
    assert_eq!(host.mounts(), targets);
}

#[test]
fn root_what_stands_inside_is_detached_first() {
    let host = Host::new();
    let both = nested(&host);
    let keys = ["outer", "inner"].map(key);
    for turn in 0..2 {
        host.attach(&both).unwrap();
        let mut keys = keys.to_vec();
        keys.rotate_left(turn);
        assert_eq!(host.engine.attachments.detach(&keys, false).unwrap(), keys);
        assert_eq!(host.mounts(), NONE);
    }
    host.attach(&both).unwrap();
    let living = Living::Owners {
        kind: "container".to_owned(),
        ids: Vec::new(),
    };
    let outcome = host.engine.attachments.reconcile(&living, false);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!(outcome.released.len(), 3);
    assert_eq!(host.mounts(), NONE);
}

#[test]
fn root_a_failed_call_takes_nested_mounts_back() {
    let host = Host::new();
    let [inner, outer] = nested(&host);
    let file = host.disk.path().join("file");
    fs::write(&file, "").unwrap();
    let bad = volume_at("bad", "/z", &file);
    host.attach(&[bad, inner, outer]).unwrap_err();
    assert_eq!(host.mounts(), NONE);
    assert_eq!(host.keys(), ["make"]);
}

#[test]
fn root_two_mounts_at_one_place_are_detached_top_first() {
    let host = Host::new();
    let target = host.dir("target");
    let unclean = target.join(".").join("..").join("target");
    host.attach(&[volume_at("one", "/one", &unclean)]).unwrap();
    let again = host.attach(&[volume_at("one", "/one", &target)]).unwrap();
    assert_eq!(
        again[0].attachment.mount.as_ref().unwrap().target,
        target.to_str().unwrap(),
        "one place, however it is written"
    );
    host.engine
        .attachments
        .attach(&owner(), &[volume_at("two", "/two", &target)])
        .unwrap_err();
    assert_eq!(host.mounts(), [target]);
}
