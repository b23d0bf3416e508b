//! `layerd --driver memory`, for authors of clients: no root, no disk, the whole API of snapshots.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use layerd_integration::Snapshots;
use layerd_integration::process::{Server, output};
use layerd_integration::scratch::profile;
use layerd_proto::containerd::services::snapshots::v1::{
    CommitSnapshotRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

const UNPRIVILEGED: u32 = 65_534;

/// Started by an ordinary user, also where the test is root's.
fn start(dir: &Path) -> Server {
    let program = dir.join("layerd");
    fs::copy(profile().join("layerd"), &program).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let own = dir.join("own");
    fs::create_dir(&own).unwrap();
    let mut command = Command::new(&program);
    if geteuid().is_root() {
        std::os::unix::fs::chown(&own, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
    let socket = own.join("s");
    command
        .args(["--driver", "memory", "--socket"])
        .arg(&socket)
        .env("TMPDIR", &own)
        .current_dir(&own);
    let mut server = Server::start(&command, &dir.join("log"));
    server.wait_for(&socket);
    server
}

fn prepare(client: &mut Snapshots, key: &str, parent: &str) -> Vec<String> {
    let request = PrepareSnapshotRequest {
        snapshotter: "layerd".into(),
        key: key.into(),
        parent: parent.into(),
        ..PrepareSnapshotRequest::default()
    };
    let answer = client.call(async |client| client.prepare(request).await);
    let mounts = answer.unwrap().into_inner().mounts;
    mounts.into_iter().map(|mount| mount.r#type).collect()
}

#[test]
fn a_client_without_root_has_the_whole_api() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(dir.path());
    let socket = dir.path().join("own/s");
    let mut client = Snapshots::connect(&socket);
    assert_eq!(prepare(&mut client, "a", ""), ["bind"]);
    let commit = CommitSnapshotRequest {
        snapshotter: "layerd".into(),
        key: "a".into(),
        name: "base".into(),
        ..CommitSnapshotRequest::default()
    };
    client
        .call(async |client| client.commit(commit).await)
        .unwrap();
    assert_eq!(prepare(&mut client, "b", "base"), ["overlay"]);
    let mounts = MountsRequest {
        snapshotter: "layerd".into(),
        key: "b".into(),
    };
    let mounts = client.call(async |client| client.mounts(mounts).await);
    let mounts = mounts.unwrap().into_inner().mounts;
    let made_up = mounts[0].options.iter().any(|o| o.contains("/memory/l/"));
    assert!(made_up, "{mounts:?}");
    assert_eq!(client.list().len(), 2);
    let remove = RemoveSnapshotRequest {
        snapshotter: "layerd".into(),
        key: "b".into(),
    };
    client
        .call(async |client| client.remove(remove).await)
        .unwrap();
    assert_eq!(client.list().len(), 1);
    let mut info = Command::new(profile().join("layerctl"));
    let info = info.arg("--address").arg(&socket).arg("info");
    let said = output(info);
    assert!(said.contains("Storage Driver: memory\n"), "{said}");
    let ended = server.end(Signal::SIGTERM, Duration::from_secs(30));
    assert!(ended.success(), "{ended}: {}", server.log());
    let left: Vec<_> = fs::read_dir(dir.path().join("own"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn settings_that_do_not_fit_are_refused() {
    for (arguments, says) in [
        (
            ["--driver", "memory", "--root", "/nowhere"],
            "setting `root` is \"/nowhere\": must not be set, since the driver memory keeps nothing",
        ),
        (
            ["--driver", "vfs", "--root", "/nowhere"],
            "setting `driver` is \"vfs\": there is no such driver; there are overlay, overlay1, aufs, btrfs, devicemapper, native, zfs and memory",
        ),
    ] {
        let refused = Command::new(profile().join("layerd"))
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(says), "{said}");
    }
}
