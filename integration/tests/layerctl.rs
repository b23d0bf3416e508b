//! `layerctl` against the running daemon.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "layerctl/drop_ins.rs"]
mod drop_ins;
#[path = "layerctl/mounting.rs"]
mod mounting;
#[path = "layerctl/pages.rs"]
mod pages;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use layerd_integration::process::output;
use layerd_integration::{Daemon, Scratch};
use layerd_proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use layerd_proto::containerd::services::snapshots::v1::{
    CommitSnapshotRequest, PrepareSnapshotRequest,
};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use tonic::transport::Channel;

/// `target/debug` or another profile.
fn programs() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

fn layerctl() -> Command {
    let program = programs().join("layerctl");
    assert!(
        program.exists(),
        "{} is missing: run `cargo build`",
        program.display()
    );
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).env_remove("LAYERD_ADDRESS");
    command
}

/// A daemon and the commands sent to it.
struct World {
    daemon: Daemon,
    scratch: Scratch,
}

impl World {
    fn new() -> Self {
        let scratch = Scratch::new();
        // What is in the trash does not depend on how full the disk of the tests is.
        let file = scratch.path().join("layerd.toml");
        std::fs::write(&file, "[trash]\nmin_free_percent = 0\n").unwrap();
        let daemon = Daemon::start_with(scratch.path(), &["--config", file.to_str().unwrap()]);
        Self { daemon, scratch }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = layerctl();
        command
            .arg("--address")
            .arg(self.daemon.socket())
            .args(arguments);
        command
    }

    /// Standard output of a command that must succeed.
    fn run(&self, arguments: &[&str]) -> String {
        output(&mut self.command(arguments))
    }

    /// One value a line.
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.run(&[&["-o", "json"], arguments].concat());
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn names(&self, arguments: &[&str]) -> Vec<String> {
        let values = self.json(arguments);
        values
            .iter()
            .map(|value| value["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Exit code and standard error of a command that must fail.
    fn fail(&self, arguments: &[&str]) -> (i32, String) {
        failure(&self.command(arguments).output().unwrap())
    }

    /// Makes `base`, the committed `top` on it, the active `work` and the view `look` on that.
    fn fill(&self) {
        self.run(&["snapshot", "prepare", "key-1"]);
        self.run(&["snapshot", "commit", "base", "key-1", "-l", "a.b/c=d=e"]);
        self.run(&["snapshot", "prepare", "key-2", "base"]);
        self.run(&["snapshot", "commit", "top", "key-2"]);
        self.run(&["snapshot", "prepare", "work", "top"]);
        self.run(&["snapshot", "view", "look", "top"]);
    }
}

fn failure(output: &Output) -> (i32, String) {
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    (output.status.code().unwrap(), text)
}

#[test]
fn root_snapshots_are_listed_and_shown() {
    let world = World::new();
    assert_eq!(world.run(&["-o", "json", "snapshot", "ls"]), "");
    world.fill();
    assert_eq!(
        world.names(&["snapshot", "ls"]),
        ["base", "top", "work", "look"]
    );
    assert_eq!(
        world.run(&["snapshot", "ls", "-q"]),
        "base\ntop\nwork\nlook\n"
    );
    assert_eq!(world.names(&["snapshot", "ls", "--kind", "view"]), ["look"]);
    let filters = ["-f", "parent==base", "-f", "labels.\"a.b/c\"~=e$"];
    assert_eq!(
        world.names(&[&["snapshot", "ls"], &filters[..]].concat()),
        ["base", "top"]
    );

    let top = &world.json(&["snapshot", "show", "top"])[0];
    assert_eq!(top["kind"], "committed");
    assert_eq!(top["parent"], "base");
    assert_eq!(top["children"], serde_json::json!(["look", "work"]));
    assert_eq!(top["mounts"], serde_json::json!([]));
    assert_eq!(top["inodes"], 1);
    let look = &world.json(&["snapshot", "show", "look"])[0];
    assert_eq!(
        look["mounts"],
        Value::from(world.json(&["snapshot", "mounts", "look"]))
    );

    let tree = world.json(&["snapshot", "tree"]);
    let depths: Vec<_> = tree
        .iter()
        .map(|node| (&node["name"], &node["depth"]))
        .collect();
    assert_eq!(
        format!("{depths:?}"),
        format!(
            "{:?}",
            [("base", 0), ("top", 1), ("work", 2), ("look", 2)]
                .map(|(name, depth)| (Value::from(name), Value::from(depth)))
        )
    );
    world.daemon.assert_no_errors_logged();
}

#[test]
fn root_snapshots_are_sorted_formatted_and_found_by_the_beginning_of_a_key() {
    let world = World::new();
    world.fill();
    let sorted = world.run(&["snapshot", "ls", "-q", "--sort", "name"]);
    assert_eq!(sorted, "base\nlook\ntop\nwork\n");
    assert_eq!(
        world
            .names(&["snapshot", "ls", "--size", "--sort", "size"])
            .len(),
        4
    );
    assert_eq!(world.fail(&["snapshot", "ls", "--sort", "size"]).0, 6);
    let format = "{{.Name}} {{.Kind}} {{.Label \"a.b/c\"}}";
    let lines = world.run(&["snapshot", "ls", "--kind", "committed", "--format", format]);
    assert_eq!(lines, "base committed d=e\ntop committed \n");
    assert_eq!(world.run(&["attachments", "--format", "{{.Key}}"]), "");
    assert_eq!(world.names(&["snapshot", "show", "lo"]), ["look"]);
    assert_eq!(
        world.names(&["snapshot", "usage", "to", "b"]),
        ["top", "base"]
    );
    world.run(&["snapshot", "prepare", "worn"]);
    let (code, error) = world.fail(&["snapshot", "show", "wor"]);
    assert_eq!(code, 6, "{error}");
    assert!(error.contains("2 keys begin so: work, worn"), "{error}");
    let (code, _) = world.fail(&["snapshot", "rm", "lo"]);
    assert_eq!(code, 3, "a prefix removes nothing");
    world.run(&["snapshot", "rm", "worn"]);
    let removed = world.run(&["trash", "ls", "--format", "{{.Kind}} {{.Key}}"]);
    assert_eq!(removed, "active worn\n");
    world.daemon.assert_no_errors_logged();
}

#[test]
fn root_info_counts() {
    let world = World::new();
    world.fill();
    let info = &world.json(&["info"])[0];
    assert_eq!(
        (&info["active"], &info["views"], &info["committed"]),
        (&1.into(), &1.into(), &2.into())
    );
    assert_eq!(info["root"], world.daemon.root().to_str().unwrap());
    assert_eq!(info["driver"], "overlayfs");
    let format = "{{.Driver}} {{.Snapshots}} {{.Trash}}";
    assert_eq!(world.run(&["info", "--format", format]), "overlayfs 4 0\n");
    assert!(world.run(&["info", "-f", "json"]).contains("\"RootDir\":"));
    let text = world.run(&["info"]);
    assert!(text.contains("Storage Driver: overlayfs\n"), "{text}");
    assert!(text.contains("Snapshots: 4\n"), "{text}");
    for term in [
        "Backing Filesystem: ",
        "Supports d_type: true\n",
        "Native Overlay Diff: true\n",
    ] {
        assert!(text.contains(&format!("\n {term}")), "{text}");
    }
    assert!(!text.contains("entry types"), "{text}");
    assert!(text.contains("\n unique mount ids: "), "{text}");
}

#[test]
fn root_labels_are_set_and_removed() {
    let world = World::new();
    world.fill();
    assert_eq!(
        world.run(&["snapshot", "label", "base", "x=1", "y=2"]),
        "a.b/c=d=e\nx=1\ny=2\n"
    );
    assert_eq!(
        world.run(&["snapshot", "label", "base", "-r", "x", "-r", "a.b/c"]),
        "y=2\n"
    );
    assert_eq!(world.fail(&["snapshot", "label", "base"]).0, 2);
    assert_eq!(world.fail(&["snapshot", "label", "base", "x="]).0, 2);
}

#[test]
fn root_failures_have_their_exit_codes_and_say_what_to_do() {
    let world = World::new();
    world.fill();
    let table: [(&[&str], i32, &str); 10] = [
        (&["snapshot"], 2, "Usage"),
        (&["snapshot", "show", "gone"], 3, "snapshot \"gone\""),
        (
            &["snapshot", "prepare", "x", "gone"],
            3,
            "layerctl snapshot ls",
        ),
        (&["snapshot", "prepare", "work"], 4, "already exists"),
        (&["snapshot", "commit", "top", "work"], 4, "already exists"),
        (
            &["snapshot", "rm", "base"],
            5,
            "layerctl snapshot show 'base'",
        ),
        (
            &["snapshot", "mounts", "top"],
            5,
            "layerctl snapshot view NEW-KEY 'top'",
        ),
        (&["snapshot", "commit", "x", "look"], 5, "look"),
        (&["snapshot", "prepare", "x", "work"], 6, "not committed"),
        (&["snapshot", "ls", "-f", "name==/x"], 6, "at byte 6"),
    ];
    for (arguments, code, text) in table {
        let (seen, error) = world.fail(arguments);
        assert_eq!(seen, code, "{arguments:?}: {error}");
        assert!(error.contains(text), "{arguments:?}: {error}");
    }
}

#[test]
fn root_rm_tries_every_operand() {
    let world = World::new();
    world.fill();
    let output = world
        .command(&["snapshot", "rm", "work", "gone", "base", "look"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "work\nlook\n");
    let (code, error) = failure(&output);
    assert_eq!(code, 3, "the first failure decides: {error}");
    assert_eq!(error.matches("error:").count(), 2, "{error}");
    assert_eq!(world.run(&["snapshot", "rm", "-f", "gone"]), "");
    world.run(&["snapshot", "rm", "top", "base"]);
    world.run(&["snapshot", "cleanup"]);
    world.daemon.assert_empty();
}

#[test]
fn root_hostile_keys_and_labels_do_not_reach_the_terminal() {
    let world = World::new();
    let key = "k\u{1b}[2J\u{9b}\u{202e}\n\"\\";
    let label = format!("l\u{7}={key}");
    world.run(&["snapshot", "prepare", key, "-l", &label]);
    let commands: [&[&str]; 7] = [
        &["snapshot", "ls", "-u"],
        &["snapshot", "ls", "-q"],
        &["snapshot", "tree"],
        &["snapshot", "show", key],
        &["snapshot", "usage", key],
        &["snapshot", "label", key, "x=y"],
        &["-o", "json", "snapshot", "show", key],
    ];
    let bad = |text: &str| {
        text.chars()
            .any(|char| char != '\n' && char.is_control() || char == '\u{202e}')
    };
    for command in commands {
        let text = world.run(command);
        assert!(!bad(&text), "{command:?}: {text:?}");
    }
    assert_eq!(
        world.run(&["snapshot", "ls", "-q", "-0"]),
        format!("{key}\0")
    );
    assert_eq!(world.names(&["snapshot", "show", key]), [key]);
    let (_, error) = world.fail(&["snapshot", "prepare", key]);
    assert!(!bad(&error), "{error:?}");
}

/// Straight through the service: a thousand commands would take their time.
async fn chain_of_500(client: &mut SnapshotsClient<Channel>) {
    for layer in 0..500_u32 {
        let below = layer.checked_sub(1).map(|below| format!("layer-{below}"));
        let prepare = PrepareSnapshotRequest {
            key: "key".to_owned(),
            parent: below.unwrap_or_default(),
            ..Default::default()
        };
        client.prepare(prepare).await.unwrap();
        let commit = CommitSnapshotRequest {
            name: format!("layer-{layer}"),
            key: "key".to_owned(),
            ..Default::default()
        };
        client.commit(commit).await.unwrap();
    }
}

#[test]
fn root_a_chain_of_500_stays_in_one_column() {
    let world = World::new();
    world.daemon.snapshots().call(chain_of_500);
    let all = world.run(&["snapshot", "tree", "--all"]);
    assert_eq!(all.lines().count(), 501);
    assert!(
        all.lines().skip(2).all(|line| line.contains("  ↓ layer-")),
        "{all}"
    );
    let folded = world.run(&["snapshot", "tree"]);
    let names: Vec<&str> = folded
        .lines()
        .filter_map(|line| line.split(['●', '↓', '⋮']).nth(1))
        .collect();
    assert_eq!(
        names,
        [
            " layer-0",
            " 497 layers (--all)",
            " layer-498",
            " layer-499"
        ]
    );
    assert_eq!(world.json(&["snapshot", "tree"])[499]["depth"], 499);
}

#[test]
fn root_a_reader_that_goes_away_is_no_failure() {
    let world = World::new();
    for number in 0..20 {
        world.run(&[
            "snapshot",
            "prepare",
            &format!("{number}-{}", "k".repeat(4000)),
        ]);
    }
    let mut child = world
        .command(&["snapshot", "ls"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn root_a_daemon_that_is_stuck_or_gone_is_told_apart() {
    let mut world = World::new();
    kill(world.daemon.pid(), Signal::SIGSTOP).unwrap();
    let start = Instant::now();
    let (code, error) = world.fail(&["--timeout", "300ms", "snapshot", "ls"]);
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(code, 8, "{error}");
    assert!(error.contains("no answer within 300ms"), "{error}");
    kill(world.daemon.pid(), Signal::SIGCONT).unwrap();
    world.daemon.stop();
    let (code, error) = world.fail(&["info"]);
    assert_eq!(code, 7, "{error}");
    assert!(
        error.contains("systemctl status layerd") && error.contains("cannot reach"),
        "{error}"
    );
}

#[test]
fn root_the_address_comes_from_the_environment_too() {
    let world = World::new();
    let address = format!("unix://{}", world.daemon.socket().display());
    output(layerctl().env("LAYERD_ADDRESS", address).arg("info"));
}

#[test]
fn root_versions_are_those_of_both_sides() {
    let mut world = World::new();
    let format = "{{.Client.Version}} {{.Server.Version}}";
    let versions = format!("{0} {0}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(world.run(&["version", "-f", format]), versions);
    let version = &world.json(&["version"])[0];
    assert_eq!(version["client"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["server"]["version"], env!("CARGO_PKG_VERSION"));
    world.daemon.stop();
    let output = world.command(&["version"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("Client:\n Version: "), "{text}");
    assert!(!text.contains("Server"), "{text}");
    assert_eq!(failure(&output).0, 7);
}

#[test]
fn root_errors_are_json_where_the_output_is() {
    let world = World::new();
    let errors = |arguments: &[&str]| -> Vec<Value> {
        let (_, text) = world.fail(&[&["-o", "json"], arguments].concat());
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let gone = errors(&["snapshot", "rm", "a", "b"]);
    assert_eq!(gone.len(), 2);
    assert_eq!(gone[0]["code"], "not_found");
    assert_eq!(gone[0]["exit_code"], 3);
    assert!(
        gone[1]["error"]
            .as_str()
            .unwrap()
            .contains("snapshot \"b\"")
    );
    let usage = &errors(&["snapshot", "nothing"])[0];
    assert_eq!(
        (&usage["code"], &usage["exit_code"]),
        (&"usage".into(), &2.into())
    );
    assert!(usage["error"].as_str().unwrap().contains("nothing"));
    assert_eq!(errors(&["detach", "gone"])[0]["code"], "not_found");
}
