//! Commit: the parent it may name, and the repetition after a crash of containerd.

use tonic::Code;

use crate::World;

/// Snapshots prepared without a parent get one at Commit when layers are unpacked in parallel.
#[test]
fn root_commit_may_name_the_parent() {
    let mut world = World::new();
    let client = &mut world.client;
    client.committed("base", "").unwrap();
    for (prepared_on, named, wanted) in [
        ("", "", ""),
        ("", "base", "base"),
        ("base", "base", "base"),
        ("base", "", "base"),
    ] {
        let name = format!("on {prepared_on:?} naming {named:?}");
        client.prepare("key", prepared_on, &[]).unwrap();
        client.commit_onto(&name, "key", named, &[]).unwrap();
        assert_eq!(client.stat(&name).unwrap().parent, wanted, "{name}");
        let view = client.view("look", &name, &[]).unwrap();
        let layers = crate::option(&view[0], "lowerdir").map_or(1, |l| l.split(':').count());
        assert_eq!(
            layers,
            if wanted.is_empty() { 1 } else { 2 },
            "{name}: {view:?}"
        );
        client.remove("look").unwrap();
    }
    let children = world.client.names(&["parent==base"]).unwrap();
    assert_eq!(children.len(), 3);
    world.refuses("a parent named at commit", Code::FailedPrecondition, |c| {
        c.remove("base")
    });
    for child in children {
        world.client.remove(&child).unwrap();
    }
    world.client.remove("base").unwrap();
}

#[test]
fn root_a_repeated_commit_answers_success() {
    let mut world = World::new();
    world.client.committed("base", "").unwrap();
    world.client.prepare("key", "base", &[]).unwrap();
    world.client.commit("name", "key", &[("l", "1")]).unwrap();
    let state = world.state();
    let repeat = |world: &mut World, when: &str| {
        let again = world.client.commit("name", "key", &[("l", "2")]);
        assert!(again.is_ok(), "{when}: {again:?}");
        assert_eq!(world.state(), state, "{when}: nothing changes");
    };
    repeat(&mut world, "at once");
    repeat(&mut world, "once more");
    world.stop_and_restart();
    repeat(&mut world, "after a restart");
    world.kill9_and_restart();
    repeat(&mut world, "after a crash");
    world
        .client
        .relabel("name", &[("l", "3")], Some(&["labels"]))
        .unwrap();
    assert!(
        world.client.commit("name", "key", &[]).is_ok(),
        "after an update"
    );
    assert_eq!(world.client.stat("name").unwrap().labels["l"], "3");
    world.refuses("another key", Code::NotFound, |c| {
        c.commit("name", "other", &[])
    });
    world.refuses("another name", Code::NotFound, |c| {
        c.commit("other", "key", &[])
    });
    world.client.prepare("key", "base", &[]).unwrap();
    world.refuses("the key is used again", Code::AlreadyExists, |c| {
        c.commit("name", "key", &[])
    });
    world.client.remove("key").unwrap();
    world.client.remove("name").unwrap();
    world.refuses("the name is gone", Code::NotFound, |c| {
        c.commit("name", "key", &[])
    });
    world.assert_no_errors_logged();
}
