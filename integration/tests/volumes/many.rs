//! Many at once: attachments that a restart finds, and first uses of one volume.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Stdio};

use layerd_integration::Tree;
use serde_json::Value;

use super::World;

/// Mounts in one call.
const AT_ONCE: usize = 250;

/// The kernel's mounts below a directory: ids, mount points, options.
fn table(below: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below = below.to_str().unwrap();
    let lines = table
        .lines()
        .filter(|line| line.split(' ').nth(4).unwrap().starts_with(below));
    lines.map(str::to_owned).collect()
}

/// Attaches one volume at `count` places.
fn attach_many(world: &World, count: usize) {
    let folder = world.scratch.dir("m");
    for first in (0..count).step_by(AT_ONCE) {
        let numbers = first..count.min(first + AT_ONCE);
        let mut arguments: Vec<String> = ["attach", "--owner", "pod:x", "--timeout", "120s"]
            .map(String::from)
            .to_vec();
        for number in numbers {
            let place = folder.join(number.to_string());
            fs::create_dir(&place).unwrap();
            arguments.extend(["-v".to_owned(), format!("data:/m/{number}")]);
            arguments.extend([
                "--target".to_owned(),
                format!("/m/{number}={}", place.display()),
            ]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let attached = world.json(&arguments);
        assert!(attached.iter().all(|one| one["state"] == "attached"));
    }
}

fn attachments_outlive_restarts(count: usize) {
    let mut world = World::new();
    attach_many(&world, count);
    let list = world.json(&["attachments"]);
    let mounts = table(world.scratch.path());
    // And the one mount that keeps layerd's own private is not there: no place of its own is used.
    assert_eq!((list.len(), mounts.len()), (count, count));
    for round in 0..2 {
        match round {
            0 => world.daemon.stop(),
            _ => world.daemon.kill9(),
        }
        assert_eq!(
            table(world.scratch.path()),
            mounts,
            "round {round}, while it is down"
        );
        world.daemon.restart();
        assert_eq!(world.json(&["attachments"]), list, "round {round}");
        assert_eq!(table(world.scratch.path()), mounts, "round {round}");
    }
    let file = world.scratch.path().join(format!("m/{}/file", count - 1));
    fs::write(file, "through the last").unwrap();
    assert_eq!(world.read("data"), "through the last");
    let gone = world.run(&["detach", "--owner", "pod:x", "--timeout", "120s"]);
    assert_eq!(gone.lines().count(), count);
    assert_eq!(table(world.scratch.path()), [] as [String; 0]);
}

#[test]
fn root_two_hundred_attachments_outlive_restarts() {
    attachments_outlive_restarts(200);
}

#[test]
fn root_full_two_thousand_attachments_outlive_restarts() {
    attachments_outlive_restarts(2_000);
}

/// Inodes of all files below a directory.
fn inodes(dir: &Path) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            found.extend(inodes(&path));
        }
        found.insert(stat.ino());
    }
    found
}

#[test]
fn root_a_hundred_first_uses_fill_a_volume_once() {
    const USERS: usize = 100;
    let world = World::new();
    let lower = "mkdir -p seed; cd seed; for d in $(seq 20); do mkdir $d; for f in $(seq 20); do
        echo $d $f > $d/$f; done; done";
    world.commit_with("lower", &[], lower);
    world.commit_with("upper", &["lower"], "rm -r seed/1; echo new > seed/2/new");
    let image = world.one(&["snapshot", "view", "look", "upper"]);
    assert_eq!(image["type"], "overlay");
    let users: Vec<Child> = (0..USERS)
        .map(|number| {
            let place = world.scratch.dir(&format!("seen/{number}"));
            let (owner, target) = (
                format!("pod:{number}"),
                format!("/seed={}", place.display()),
            );
            let attach = [
                "-o",
                "json",
                "attach",
                "--owner",
                &owner,
                "-v",
                "data:/seed",
                "--fill-from",
                "upper",
                "--target",
                &target,
            ];
            let mut command = world.command(&attach);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let mut filled = 0;
    for user in users {
        let output = user.wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{error}");
        let one: Value = serde_json::from_slice(&output.stdout).unwrap();
        filled += usize::from(one["filled"] == true);
    }
    assert_eq!(filled, 1, "populated once");
    assert_eq!(world.names(&[]), ["data"]);
    let data = world.path("data");
    // 20 folders with 20 files, without one of them, with one file more.
    assert_eq!(inodes(&data).len(), 19 * 21 + 1);
    let tree = Tree::read(&data);
    for number in 0..USERS {
        let seen = world.scratch.path().join(format!("seen/{number}"));
        assert_eq!(inodes(&seen), inodes(&data), "user {number}");
        assert_eq!(Tree::read(&seen), tree, "user {number}");
    }
    assert_eq!(
        fs::read_dir(world.daemon.root().join("volumes/.staging"))
            .unwrap()
            .count(),
        0
    );
}
