//! `layerctl layer`, without containerd.

use std::process::{Command, Output, Stdio};

use layerd_integration::image::{busybox, corpus, write_layer};
use layerd_integration::process::output;
use layerd_integration::scratch::profile;
use layerd_integration::{Daemon, Scratch};

use super::{daemon, daemon_with, moved, text};

pub(super) fn layerctl(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = Command::new(profile().join("layerctl"));
    command
        .stdin(Stdio::null())
        .arg("--address")
        .arg(daemon.socket())
        .args(arguments);
    command
}

fn failure(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = layerctl(daemon, arguments).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// A layer goes in from a file and from standard input, and what comes out holds the same again.
#[test]
fn root_layers_go_in_and_out() {
    for layers in ["directories", "images"] {
        go_in_and_out(layers);
    }
}

fn go_in_and_out(layers: &str) {
    let scratch = Scratch::new();
    let mut daemon = daemon_with(&scratch, layers, "");
    let file = scratch.path().join("layer.tar");
    write_layer(&file, &busybox());
    output(&mut layerctl(&daemon, &["snapshot", "prepare", "a"]));
    let said = output(&mut layerctl(
        &daemon,
        &["layer", "apply", "a", text(&file)],
    ));
    assert!(
        said.starts_with("a: ") && said.contains("sha256:"),
        "{said}"
    );
    output(&mut layerctl(&daemon, &["snapshot", "commit", "base", "a"]));

    output(&mut layerctl(
        &daemon,
        &["snapshot", "prepare", "b", "base"],
    ));
    write_layer(&file, &corpus()[1]);
    let mut from_input = layerctl(&daemon, &["layer", "apply", "b"]);
    from_input.stdin(std::fs::File::open(&file).unwrap());
    output(&mut from_input);

    let first = scratch.path().join("first.tar");
    let made = output(&mut layerctl(
        &daemon,
        &["layer", "diff", "b", text(&first), "--compression", "none"],
    ));
    assert!(made.contains("uncompressed"), "{made}");
    output(&mut layerctl(
        &daemon,
        &["snapshot", "prepare", "c", "base"],
    ));
    output(&mut layerctl(
        &daemon,
        &["layer", "apply", "c", text(&first)],
    ));
    let second = layerctl(&daemon, &["layer", "diff", "c", "--compression", "none"])
        .output()
        .unwrap();
    assert_eq!(second.stdout, std::fs::read(&first).unwrap());
    assert_eq!(moved(&daemon), (3, 2));
    daemon.stop();
}

#[test]
fn root_mistakes_have_their_exit_codes() {
    let scratch = Scratch::new();
    let mut daemon = daemon(&scratch, "");
    let file = scratch.path().join("layer.tar");
    write_layer(&file, &busybox());
    let apply = |key: &str| failure(&daemon, &["layer", "apply", key, text(&file)]);
    assert_eq!(apply("none").0, Some(3));
    output(&mut layerctl(&daemon, &["snapshot", "prepare", "a"]));
    let digest = format!("sha256:{}", "0".repeat(64));
    let wrong = ["layer", "apply", "a", text(&file), "--digest", &digest];
    let (code, said) = failure(&daemon, &wrong);
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains(&digest), "{said}");
    output(&mut layerctl(&daemon, &["snapshot", "rm", "a"]));
    output(&mut layerctl(&daemon, &["snapshot", "prepare", "a"]));
    output(&mut layerctl(&daemon, &["snapshot", "commit", "base", "a"]));
    assert_eq!(apply("base").0, Some(5));
    output(&mut layerctl(&daemon, &["snapshot", "view", "v", "base"]));
    assert_eq!(failure(&daemon, &["layer", "diff", "v"]).0, Some(5));
    let there = failure(&daemon, &["layer", "diff", "base", text(&file)]);
    assert_eq!(there.0, Some(5), "{}", there.1);
    daemon.stop();
}
