//! Attachments over time: mounts that vanish, owners that forget, and those who watch.

use std::path::{Path, PathBuf};
use std::process::Command;

use layerd_integration::process::output;
use layerd_integration::snapshots::channel;
use layerd_proto::layerd::v1::WatchVolumesRequest;
use layerd_proto::layerd::v1::attachments_client::AttachmentsClient;
use layerd_proto::layerd::v1::volumes_client::VolumesClient;
use layerd_proto::layerd::v1::{Owner, ReconcileRequest};
use serde_json::Value;
use tonic::Code;

use super::{World, text};

fn umount(place: &Path) {
    output(Command::new("umount").arg(place));
}

fn states(world: &World) -> Vec<(String, String)> {
    let all = world.json(&["attachments"]);
    all.iter()
        .map(|one| (text(one, "key"), text(one, "state")))
        .collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = pairs.iter();
    owned
        .map(|(key, state)| ((*key).to_owned(), (*state).to_owned()))
        .collect()
}

#[test]
fn root_what_was_unmounted_waits_and_is_mounted_again() {
    let mut world = World::new();
    world.commit_image();
    let seen = world.scratch.dir("seen");
    let target = format!("/data={}", seen.display());
    let attach = [
        &["attach", "--owner", "container:web", "--key", "k"][..],
        &["-v", "data:/data", "--target", &target, "-v", "data:/plain"],
        &["--mount", "type=image,src=image,dst=/tools"],
    ]
    .concat();
    let first = world.json(&attach);
    std::fs::write(seen.join("file"), "kept").unwrap();
    let mounts = world.mounts();
    let own = mounts.iter().find(|place| **place != seen).unwrap();

    world.daemon.stop();
    umount(&seen);
    umount(own);
    world.daemon.restart();
    let waiting = [
        ("k:/data", "waiting"),
        ("k:/plain", "attached"),
        ("k:/tools", "waiting"),
    ];
    let mut found = states(&world);
    found.sort();
    assert_eq!(found, owned(&waiting));
    let shown = world.run(&["who-uses", "data"]);
    assert!(shown.contains("waiting"), "{shown}");
    world.fail(5, &["volume", "rm", "data"]);
    world.fail(5, &["snapshot", "rm", "image"]);
    assert_eq!(
        world.mounts(),
        [] as [PathBuf; 0],
        "nothing is mounted unasked"
    );

    let again = world.json(&attach);
    assert!(
        again.iter().all(|one| one["state"] == "attached"),
        "{again:?}"
    );
    let ids = |all: &[Value]| all.iter().map(|one| one["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(&first));
    assert_eq!(world.mounts().len(), 2);
    assert_eq!(std::fs::read_to_string(seen.join("file")).unwrap(), "kept");
    umount(&seen);
    let detached = world.run(&["detach", "--owner", "container:web"]);
    assert_eq!(detached.lines().count(), 3);
    assert_eq!(world.mounts(), [] as [PathBuf; 0]);
    world.run(&["volume", "rm", "data"]);
}

#[test]
fn root_what_waits_takes_nobodys_place() {
    let world = World::new();
    let seen = world.scratch.dir("seen");
    let target = format!("/data={}", seen.display());
    let attach = [
        &["attach", "--owner", "container:web", "-v", "data:/data"][..],
        &["--target", &target],
    ]
    .concat();
    world.run(&attach);
    umount(&seen);
    let mut tmpfs = Command::new("mount");
    output(tmpfs.args(["-t", "tmpfs", "tmpfs"]).arg(&seen));
    for _ in 0..2 {
        let error = world.fail(5, &attach);
        assert!(error.contains("mount point already"), "{error}");
        assert_eq!(world.mounts(), std::slice::from_ref(&seen), "theirs stays");
    }
    let waiting = [("container:web:/data", "waiting")];
    assert_eq!(states(&world), owned(&waiting));
    world.fail(5, &["volume", "rm", "data"]);
    umount(&seen);
    assert_eq!(world.one(&attach)["state"], "attached");
    world.run(&["detach", "--owner", "container:web"]);
    assert_eq!(world.mounts(), [] as [PathBuf; 0]);
}

const RECONCILE: [&str; 6] = [
    "attachments",
    "--owner",
    "pod:x",
    "reconcile",
    "pod:x:/a",
    "pod:x:/gone",
];

/// Three attachments of an owner, the second one mounted, and one of another owner.
fn two_owners(world: &World) -> PathBuf {
    let seen = world.scratch.dir("seen");
    let target = format!("/b={}", seen.display());
    let volumes = ["-v", "data:/a", "-v", "data:/b", "-v", "data:/c"];
    let attach = ["attach", "--owner", "pod:x", "--target", &target];
    world.run(&[&attach[..], &volumes].concat());
    world.run(&["attach", "--owner", "pod:y", "-v", "data:/a"]);
    seen
}

fn outcomes(world: &World, arguments: &[&str]) -> Vec<(String, String)> {
    let lines = world.json(arguments);
    let pairs = lines.iter();
    let mut pairs: Vec<_> = pairs
        .map(|line| (text(line, "key"), text(line, "outcome")))
        .collect();
    pairs.sort();
    pairs
}

#[test]
fn root_an_owner_says_what_it_still_has() {
    let world = World::new();
    two_owners(&world);
    let rest = [("pod:x:/a", "keep"), ("pod:x:/gone", "unknown")];
    let plan = [
        rest[0],
        ("pod:x:/b", "detach"),
        ("pod:x:/c", "detach"),
        rest[1],
    ];
    assert_eq!(outcomes(&world, &RECONCILE), owned(&plan));
    let unchanged = (states(&world).len(), world.mounts().len());
    assert_eq!(unchanged, (4, 1), "a plan changes nothing");
    let execute = [&RECONCILE[..], &["--execute"]].concat();
    let done = [
        rest[0],
        ("pod:x:/b", "detached"),
        ("pod:x:/c", "detached"),
        rest[1],
    ];
    assert_eq!(outcomes(&world, &execute), owned(&done));
    let left = [("pod:x:/a", "attached"), ("pod:y:/a", "attached")];
    assert_eq!(states(&world), owned(&left));
    assert_eq!(world.mounts(), [] as [PathBuf; 0]);
    assert_eq!(outcomes(&world, &execute), owned(&rest));
    world.fail(6, &["attachments", "reconcile", "pod:x:/a"]);
    world.fail(2, &["attachments", "--owner", "pod:x", "reconcile"]);
}

#[test]
fn root_what_is_in_use_is_not_let_go_of_and_does_not_keep_the_rest() {
    let world = World::new();
    let seen = two_owners(&world);
    let mut sleep = Command::new("sleep");
    let mut user = sleep.arg("600").current_dir(&seen).spawn().unwrap();
    let failed = world.ctl(&[&RECONCILE[..], &["--execute"]].concat());
    user.kill().unwrap();
    user.wait().unwrap();
    assert_eq!(failed.code, 5, "{failed:?}");
    let mut lines = failed.out.lines();
    let row = lines.find(|line| line.starts_with("failed")).unwrap();
    let user = user.id().to_string();
    assert!(row.contains("pod:x:/b") && row.contains(&user), "{row}");
    let left = ["pod:x:/a", "pod:x:/b", "pod:y:/a"].map(|key| (key, "attached"));
    assert_eq!(states(&world), owned(&left));
    assert_eq!(world.mounts(), [seen]);
}

#[test]
fn root_owners_of_a_kind_are_reconciled_and_mixed_requests_refused() {
    let world = World::new();
    for owner in ["pod:x", "pod:y", "container:z"] {
        world.run(&["attach", "--owner", owner, "-v", "data:/a"]);
    }
    let call = |request: ReconcileRequest| {
        super::on_runtime(async {
            let mut client = AttachmentsClient::new(channel(world.daemon.socket().to_owned()));
            client
                .reconcile(request)
                .await
                .map(tonic::Response::into_inner)
        })
    };
    let alive = ReconcileRequest {
        kind: "pod".to_owned(),
        alive: vec!["y".to_owned()],
        ..ReconcileRequest::default()
    };
    let plan = call(ReconcileRequest {
        dry_run: true,
        ..alive.clone()
    })
    .unwrap();
    assert_eq!(
        (plan.released.as_slice(), states(&world).len()),
        (&["pod:x:/a".to_owned()][..], 3)
    );
    let done = call(alive.clone()).unwrap();
    assert_eq!((done.kept, done.released), (plan.kept, plan.released));
    assert_eq!(states(&world).len(), 2);
    let owner = Some(Owner {
        kind: "pod".to_owned(),
        id: "y".to_owned(),
    });
    let refused = [
        ReconcileRequest::default(),
        ReconcileRequest {
            owner: owner.clone(),
            ..alive
        },
        ReconcileRequest {
            keys: vec!["pod:y:/a".to_owned()],
            ..ReconcileRequest::default()
        },
        ReconcileRequest {
            owner,
            keys: vec![String::new()],
            ..ReconcileRequest::default()
        },
    ];
    for request in refused {
        let status = call(request.clone()).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{request:?}");
    }
    assert_eq!(states(&world).len(), 2);
}

#[test]
fn root_who_watches_is_told_what_happens() {
    let world = World::new();
    let watch = |progress: bool, act: &dyn Fn(), last: &str| {
        super::on_runtime(async {
            let mut client = VolumesClient::new(channel(world.daemon.socket().to_owned()));
            let request = WatchVolumesRequest { progress };
            let mut events = client.watch(request).await.unwrap().into_inner();
            act();
            let mut seen = Vec::new();
            while seen
                .last()
                .is_none_or(|(what, _): &(String, _)| what != last)
            {
                let event = events.message().await.unwrap().unwrap();
                assert!(event.at.is_some());
                seen.push((event.what, event.subject));
            }
            seen
        })
    };
    let life = || {
        world.run(&["volume", "create", "data"]);
        world.run(&["volume", "label", "data", "a=b"]);
        world.run(&["volume", "rename", "data", "other"]);
        world.run(&["attach", "--owner", "pod:x", "-v", "other:/a"]);
        world.run(&["detach", "--owner", "pod:x"]);
        world.run(&["volume", "rm", "other"]);
        world.run(&["volume", "undelete", "other"]);
    };
    let wanted = [
        ("created", "data"),
        ("updated", "data"),
        ("renamed", "other"),
        ("attached", "pod:x:/a"),
        ("detached", "pod:x:/a"),
        ("deleted", "other"),
        ("undeleted", "other"),
    ];
    assert_eq!(watch(false, &life, "undeleted"), owned(&wanted));

    let fill = "for d in $(seq 20); do mkdir $d; (cd $d; touch $(seq 300)); done";
    let mut shell = Command::new("sh");
    output(shell.args(["-euc", fill]).current_dir(world.path("other")));
    let clone = |name: &'static str| {
        let world = &world;
        move || drop(world.run(&["volume", "clone", "other", name]))
    };
    let quiet = watch(false, &clone("quiet"), "created");
    assert_eq!(quiet, owned(&[("created", "quiet")]));
    let told = watch(true, &clone("told"), "created");
    assert!(
        told.len() > 1,
        "6,000 files were copied between two tellings"
    );
    let filling = ("filling".to_owned(), "told".to_owned());
    assert!(
        told[..told.len() - 1].iter().all(|event| *event == filling),
        "{told:?}"
    );
}

#[test]
fn root_lists_tell_volumes_in_use_from_those_that_are_not() {
    let world = World::new();
    for name in ["used", "unused", "was-used"] {
        world.run(&["volume", "create", name]);
    }
    world.run(&[
        "attach",
        "--owner",
        "pod:x",
        "-v",
        "used:/a",
        "-v",
        "/anonymous",
    ]);
    world.run(&["attach", "--owner", "pod:y", "-v", "was-used:/a"]);
    world.run(&["detach", "--owner", "pod:y"]);
    let all = world.json(&["attachments", "--owner", "pod:x"]);
    let anonymous = all
        .iter()
        .find(|one| one["mount"]["target"] == "/anonymous")
        .unwrap();
    let anonymous = text(anonymous, "volume");
    assert_eq!(
        anonymous.len(),
        64,
        "an anonymous volume is named in its attachment"
    );
    assert_eq!(
        world.names(&["-f", "dangling=false"]),
        ["used".to_owned(), anonymous.clone()]
    );
    assert_eq!(
        world.names(&["-f", "dangling=true"]),
        ["unused", "was-used"]
    );
    assert_eq!(
        world.names(&["-f", "dangling=true", "-f", "name=was"]),
        ["was-used"]
    );
    let shown = world.run(&["attachments"]);
    assert!(shown.contains(&anonymous), "{shown}");
    // A volume keeps its attachments under a new name.
    world.run(&["volume", "rename", "used", "renamed"]);
    let held = world.one(&["attachments", "--volume", "renamed"]);
    assert_eq!(text(&held, "volume"), "renamed");
}
