//! Codes, the order of checks, and what each call changes.

use std::time::{SystemTime, UNIX_EPOCH};

use layerd_integration::Snapshots;
use layerd_integration::wire::Answer;
use layerd_proto::containerd::services::snapshots::v1::{Info, Kind};
use tonic::Code;

use crate::{World, upper};

struct Refused(&'static str, Code, fn(&mut Snapshots) -> Answer<()>);

/// In the words of each case: what is wrong first decides, whatever else is wrong as well.
const REFUSED: &[Refused] = &[
    Refused("prepare: parent unknown", Code::NotFound, |c| {
        c.prepare("new", "nope", &[]).map(drop)
    }),
    Refused("prepare: parent unknown, key taken", Code::NotFound, |c| {
        c.prepare("active", "nope", &[]).map(drop)
    }),
    Refused("prepare: parent active", Code::InvalidArgument, |c| {
        c.prepare("new", "active", &[]).map(drop)
    }),
    Refused("prepare: parent is a view", Code::InvalidArgument, |c| {
        c.prepare("new", "view", &[]).map(drop)
    }),
    Refused(
        "prepare: parent active, key taken",
        Code::InvalidArgument,
        |c| c.prepare("view", "active", &[]).map(drop),
    ),
    Refused("prepare: on itself", Code::InvalidArgument, |c| {
        c.prepare("active", "active", &[]).map(drop)
    }),
    Refused("prepare: key is active", Code::AlreadyExists, |c| {
        c.prepare("active", "base", &[]).map(drop)
    }),
    Refused("prepare: key is a view", Code::AlreadyExists, |c| {
        c.prepare("view", "", &[]).map(drop)
    }),
    Refused("prepare: key is committed", Code::AlreadyExists, |c| {
        c.prepare("top", "base", &[]).map(drop)
    }),
    Refused("prepare: committed on itself", Code::AlreadyExists, |c| {
        c.prepare("base", "base", &[]).map(drop)
    }),
    Refused("view: parent unknown", Code::NotFound, |c| {
        c.view("new", "nope", &[]).map(drop)
    }),
    Refused("view: parent unknown, key taken", Code::NotFound, |c| {
        c.view("view", "nope", &[]).map(drop)
    }),
    Refused("view: parent active", Code::InvalidArgument, |c| {
        c.view("new", "active", &[]).map(drop)
    }),
    Refused(
        "view: parent is a view, key taken",
        Code::InvalidArgument,
        |c| c.view("active", "view", &[]).map(drop),
    ),
    Refused("view: key is a view", Code::AlreadyExists, |c| {
        c.view("view", "base", &[]).map(drop)
    }),
    Refused("view: key is active", Code::AlreadyExists, |c| {
        c.view("active", "base", &[]).map(drop)
    }),
    Refused("view: key is committed", Code::AlreadyExists, |c| {
        c.view("base", "", &[]).map(drop)
    }),
    Refused("mounts: missing", Code::NotFound, |c| {
        c.mounts("nope").map(drop)
    }),
    Refused("mounts: committed", Code::FailedPrecondition, |c| {
        c.mounts("base").map(drop)
    }),
    Refused("commit: key missing", Code::NotFound, |c| {
        c.commit("new", "nope", &[])
    }),
    Refused("commit: key missing, name taken", Code::NotFound, |c| {
        c.commit("base", "nope", &[])
    }),
    Refused("commit: name taken", Code::AlreadyExists, |c| {
        c.commit("base", "active", &[])
    }),
    Refused("commit: name is the key", Code::AlreadyExists, |c| {
        c.commit("active", "active", &[])
    }),
    Refused("commit: name taken, key a view", Code::AlreadyExists, |c| {
        c.commit("top", "view", &[])
    }),
    Refused("commit: key a view", Code::FailedPrecondition, |c| {
        c.commit("new", "view", &[])
    }),
    Refused("commit: key committed", Code::FailedPrecondition, |c| {
        c.commit("new", "top", &[])
    }),
    Refused(
        "commit: key a view, parent unknown",
        Code::FailedPrecondition,
        |c| c.commit_onto("new", "view", "nope", &[]),
    ),
    Refused("commit: another parent", Code::InvalidArgument, |c| {
        c.commit_onto("new", "active", "top", &[])
    }),
    Refused(
        "commit: another parent, unknown",
        Code::InvalidArgument,
        |c| c.commit_onto("new", "active", "nope", &[]),
    ),
    Refused(
        "commit: another parent, active",
        Code::InvalidArgument,
        |c| c.commit_onto("new", "active", "lone", &[]),
    ),
    Refused("commit: parent unknown", Code::NotFound, |c| {
        c.commit_onto("new", "lone", "nope", &[])
    }),
    Refused("commit: parent active", Code::FailedPrecondition, |c| {
        c.commit_onto("new", "lone", "active", &[])
    }),
    Refused("commit: parent a view", Code::FailedPrecondition, |c| {
        c.commit_onto("new", "lone", "view", &[])
    }),
    Refused("commit: parent is the key", Code::FailedPrecondition, |c| {
        c.commit_onto("new", "lone", "lone", &[])
    }),
    Refused("commit: parent is the name", Code::NotFound, |c| {
        c.commit_onto("new", "lone", "new", &[])
    }),
    Refused("remove: missing", Code::NotFound, |c| c.remove("nope")),
    Refused(
        "remove: has children of all kinds",
        Code::FailedPrecondition,
        |c| c.remove("base"),
    ),
    Refused("stat: missing", Code::NotFound, |c| {
        c.stat("nope").map(drop)
    }),
    Refused("usage: missing", Code::NotFound, |c| {
        c.usage("nope").map(drop)
    }),
    Refused("update: missing", Code::NotFound, |c| {
        c.relabel("nope", &[("a", "b")], Some(&["labels"]))
            .map(drop)
    }),
    Refused("update: missing, bad mask", Code::NotFound, |c| {
        c.relabel("nope", &[], Some(&["parent"])).map(drop)
    }),
    Refused("update: no info", Code::InvalidArgument, |c| {
        let empty = Default::default();
        c.call(async |client| client.update(tonic::Request::new(empty)).await)
            .map(drop)
    }),
    Refused("list: bad filter", Code::InvalidArgument, |c| {
        c.names(&["name="]).map(drop)
    }),
];

#[test]
fn root_refused_calls_have_their_code_and_change_nothing() {
    let mut world = World::furnished();
    for Refused(what, code, call) in REFUSED {
        let message = world.refuses(what, *code, call);
        assert!(!message.is_empty(), "{what}: no message");
        if what.starts_with("remove: has children") {
            assert!(message.contains("remove"), "{what}: {message}");
        }
    }
    world.assert_no_errors_logged();
}

type Named = (&'static str, fn(&mut Snapshots));

/// Each kind of child alone keeps its parent.
#[test]
fn root_a_child_of_any_kind_keeps_its_parent() {
    let mut world = World::new();
    world.client.committed("base", "").unwrap();
    let children: [Named; 3] = [
        ("active", |c| drop(c.prepare("child", "base", &[]).unwrap())),
        ("view", |c| drop(c.view("child", "base", &[]).unwrap())),
        ("committed", |c| c.committed("child", "base").unwrap()),
    ];
    for (kind, make) in children {
        make(&mut world.client);
        world.refuses(kind, Code::FailedPrecondition, |c| c.remove("base"));
        world.client.remove("child").unwrap();
    }
    world.client.remove("base").unwrap();
    world.daemon.assert_empty();
    world.assert_no_errors_logged();
}

fn nanos(info: &Info) -> (i128, i128) {
    let one = |time: &Option<prost_types::Timestamp>| {
        let time = time.as_ref().expect("timestamps are always set");
        i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
    };
    (one(&info.created_at), one(&info.updated_at))
}

#[allow(
    clippy::disallowed_methods,
    reason = "the daemon's timestamps are compared with the clock it reads"
)]
fn now() -> i128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i128::try_from(now.as_nanos()).unwrap()
}

/// Stat of every snapshot equals what List says of it, field by field.
fn assert_stat_equals_list(client: &mut Snapshots) -> Vec<Info> {
    let listed = client.list();
    for info in &listed {
        let stat = client.stat(&info.name).unwrap();
        assert_eq!(&stat, info);
        assert_ne!(info.kind(), Kind::Unknown);
        assert!((1..=3).contains(&info.kind), "{info:?}");
    }
    listed
}

#[test]
fn root_a_new_snapshot_is_as_asked_for() {
    let mut world = World::new();
    let client = &mut world.client;
    client.committed("base", "").unwrap();
    let labels = [("containerd.io/snapshot.ref", "sha256:1"), ("gone", "")];
    let begin = now();
    client.prepare("active", "base", &labels).unwrap();
    client.view("view", "base", &labels).unwrap();
    let end = now();
    for (key, kind) in [("active", Kind::Active), ("view", Kind::View)] {
        let info = client.stat(key).unwrap();
        let (created, updated) = nanos(&info);
        assert_eq!((info.name.as_str(), info.parent.as_str()), (key, "base"));
        assert_eq!(info.kind(), kind);
        assert_eq!(created, updated, "equal to the nanosecond");
        assert!((begin..=end).contains(&created), "{begin} {created} {end}");
        assert_eq!(info.labels.len(), 1, "an empty label is not kept: {info:?}");
        assert_eq!(info.labels["containerd.io/snapshot.ref"], "sha256:1");
    }
    let before = assert_stat_equals_list(client);
    assert_eq!(before.len(), 3);
    world.kill9_and_restart();
    assert_eq!(assert_stat_equals_list(&mut world.client), before);
}

#[test]
fn root_commit_renames_and_starts_anew() {
    let mut world = World::new();
    let client = &mut world.client;
    client.committed("base", "").unwrap();
    let mounts = client.prepare("key", "base", &[("old", "1")]).unwrap();
    let active = client.stat("key").unwrap();
    let begin = now();
    client
        .commit("name", "key", &[("new", "2"), ("empty", "")])
        .unwrap();
    let end = now();
    assert_eq!(client.stat("key").unwrap_err().code(), Code::NotFound);
    let info = client.stat("name").unwrap();
    let (created, updated) = nanos(&info);
    assert_eq!(info.kind(), Kind::Committed);
    assert_eq!(info.parent, "base");
    assert_eq!(created, updated);
    assert!((begin..=end).contains(&created) && created > nanos(&active).0);
    let labels: Vec<_> = info.labels.iter().collect();
    assert_eq!(labels, [(&"new".to_owned(), &"2".to_owned())]);
    let view = client.view("look", "name", &[]).unwrap();
    let lower = crate::option(&view[0], "lowerdir").unwrap();
    let first = lower.split(':').next().unwrap();
    assert_eq!(
        first,
        upper(&mounts).to_str().unwrap(),
        "the same directory"
    );
    assert_stat_equals_list(client);
}

#[test]
fn root_a_removed_key_is_free_at_once() {
    let mut world = World::new();
    let client = &mut world.client;
    client.committed("base", "").unwrap();
    let mut seen = Vec::new();
    for _ in 0..20 {
        let active = client.prepare("key", "base", &[]).unwrap();
        std::fs::write(upper(&active).join("file"), "x").unwrap();
        seen.push(upper(&active).to_owned());
        client.remove("key").unwrap();
        let bare = client.view("key", "", &[]).unwrap();
        seen.push(bare[0].source.clone().into());
        client.remove("key").unwrap();
        let active = client.prepare("other", "", &[]).unwrap();
        let listing = std::fs::read_dir(upper(&active)).unwrap();
        assert_eq!(listing.count(), 0, "a new layer is empty");
        seen.push(upper(&active).to_owned());
        client.commit("key", "other", &[]).unwrap();
        client.remove("key").unwrap();
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "a directory was used twice");
    client.remove("base").unwrap();
    world.daemon.assert_empty();
    world.assert_no_errors_logged();
}

#[test]
fn root_cleanup_needs_nothing_and_reclaims() {
    let mut world = World::furnished();
    world.client.cleanup().unwrap();
    for key in ["active", "view", "lone", "top", "base"] {
        world.client.remove(key).unwrap();
    }
    world.client.cleanup().unwrap();
    world.daemon.assert_empty();
}

/// containerd's collector sends none of these; other callers send them all. They are no part of
/// the key space.
#[test]
fn root_headers_are_optional_and_change_nothing() {
    let mut world = World::new();
    world.client.prepare("k", "", &[]).unwrap();
    let message = layerd_integration::wire::prepare("k", "", &[]);
    let mut request = tonic::Request::new(message);
    for (name, value) in [
        ("containerd-namespace", "k8s.io"),
        ("containerd-namespace-ttrpc", "k8s.io"),
        ("containerd-lease", "lease"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let status = world
        .client
        .call(async |client| client.prepare(request).await);
    assert_eq!(status.unwrap_err().code(), Code::AlreadyExists);
}
