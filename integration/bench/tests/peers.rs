//! The measurements beside containerd's own snapshotter, behind a socket and in process, in a form
//! so short that their figures mean nothing. Needs what `make peers` installs.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this file is tests as a whole"
)]

mod common;

use std::process::Command;

use common::{number, rows};

#[test]
fn root_docker_runs_with_volumes_of_both_drivers() {
    let rows = rows(&["docker", "--rounds", "1"]);
    let names: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(names, ["volume", "new", "known"]);
    for row in &rows[1..] {
        assert!(number(&row[1]) > 0.0 && number(&row[2]) > 0.0, "{row:?}");
    }
}

#[test]
fn root_ops_are_measured_beside_the_peer_in_both_forms() {
    let build = concat!(env!("CARGO_MANIFEST_DIR"), "/peer/build.sh");
    let built = Command::new(build).output().expect("it can be run");
    let error = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{error}");
    let peer = String::from_utf8(built.stdout).expect("a path of ours");
    let scratch = layerd_integration::Scratch::new();
    let picture = scratch.path().join("picture.svg");
    let svg = picture.to_str().expect("scratch paths are text");
    let rows = rows(&[
        "ops",
        "--fs",
        "target",
        "--rounds",
        "1",
        "--clients",
        "1",
        "--calls",
        "8",
        "--peer",
        peer.trim(),
        "--inside",
        peer.trim(),
        "--svg",
        svg,
    ]);
    // A head, and ten operations of three.
    assert_eq!(rows.len(), 1 + 10 * 3, "{rows:#?}");
    for row in &rows[1..] {
        assert!(number(&row[3]) > 1.0, "{row:?}");
    }
    let in_process = |row: &&Vec<String>| row[2] == "overlayfs, in process";
    let goals = rows.iter().filter(in_process).map(|row| row[9].as_str());
    let goals: Vec<&str> = goals
        .filter(|goal| goal.starts_with("at least 1: "))
        .collect();
    assert_eq!(goals.len(), 4, "prepare, commit, remove and a whole life");
    let svg = std::fs::read_to_string(&picture).expect("it was drawn");
    assert_eq!(svg.matches("fill=\"none\"").count(), 10 * 3, "{svg}");
}

#[test]
fn root_containers_are_compared_on_both_forms_of_layers() {
    let rows = rows(&[
        "forms",
        "--fs",
        "target",
        "--rounds",
        "1",
        "--parts",
        "containers",
    ]);
    assert_eq!(rows.len(), 1 + 10, "{rows:#?}");
    for row in &rows[1..] {
        assert!(number(&row[1]) > 0.0 && number(&row[2]) > 0.0, "{row:?}");
    }
}

#[test]
fn root_unpacking_is_measured_beside_containerd() {
    let rows = rows(&[
        "unpack", "--fs", "target", "--images", "tiny", "--rounds", "1",
    ]);
    assert_eq!(rows.len(), 1 + 8, "{rows:#?}");
    for row in &rows[1..] {
        assert!(number(&row[1]) > 0.0, "{row:?}");
    }
}
