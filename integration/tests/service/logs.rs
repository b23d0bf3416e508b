//! Logs.

use std::process::Command;
use std::time::Duration;

use layerd_integration::process::Server;
use layerd_integration::{Daemon, Scratch, Snapshots};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{program, run};

/// One call of each kind that changes something.
fn mutate(client: &mut Snapshots) {
    client.prepare("key one", "", &[]).unwrap();
    client.relabel("key one", &[("a", "b")], None).unwrap();
    client.commit("name one", "key one", &[]).unwrap();
    client.view("view one", "name one", &[]).unwrap();
    client.remove("view one").unwrap();
}

const CHANGES: [(&str, &str); 5] = [
    ("created", "key one"),
    ("updated", "key one"),
    ("committed", "name one"),
    ("created", "view one"),
    ("removed", "view one"),
];

#[test]
fn root_a_change_is_one_line_at_debug() {
    let scratch = Scratch::new();
    let daemon = Daemon::start_with(scratch.path(), &["--log-level", "debug"]);
    mutate(&mut daemon.snapshots());
    let log = daemon.log();
    for (change, key) in CHANGES {
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains(&format!(" {change} ")) && line.contains(key))
            .collect();
        assert_eq!(lines.len(), 1, "{change} {key}: {lines:?} in:\n{log}");
        assert!(
            lines[0].contains("DEBUG") && lines[0].contains("id="),
            "{}",
            lines[0]
        );
    }
    for library in ["h2::", "hyper", "sled::", "tower"] {
        assert!(!log.contains(library), "libraries keep quiet:\n{log}");
    }
}

#[test]
fn root_at_info_changes_and_refusals_are_silent() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(scratch.path());
    let mut client = daemon.snapshots();
    mutate(&mut client);
    let before = daemon.log();
    client.remove("nope").unwrap_err();
    client.prepare("name one", "", &[]).unwrap_err();
    client.names(&["("]).unwrap_err();
    mutate_again(&mut client);
    assert_eq!(daemon.log(), before);
    daemon.assert_no_errors_logged();
}

fn mutate_again(client: &mut Snapshots) {
    client.remove("name one").unwrap();
    mutate(client);
}

#[test]
fn root_json_lines_parse() {
    let scratch = Scratch::new();
    let arguments = ["--log-format", "json", "--log-level", "debug"];
    let mut daemon = Daemon::start_with(scratch.path(), &arguments);
    let mut client = daemon.snapshots();
    mutate(&mut client);
    client.prepare("quote \" and\nnew line", "", &[]).unwrap();
    drop(client);
    daemon.stop();
    let lines: Vec<Value> = daemon
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let find = |message: &str, key: &str| {
        lines
            .iter()
            .filter(|line| {
                let fields = &line["fields"];
                let named = ["key", "name"].iter().any(|field| fields[field] == key);
                fields["message"] == message && named
            })
            .count()
    };
    for (change, key) in CHANGES {
        assert_eq!(find(change, key), 1, "{change} {key}: {lines:#?}");
    }
    assert_eq!(find("created", "quote \" and\nnew line"), 1);
    for line in &lines {
        assert!(
            line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
        assert!(
            line["target"].is_string() && line["fields"].is_object(),
            "{line}"
        );
    }
    assert!(
        lines
            .iter()
            .any(|line| line["fields"]["message"] == "stopped")
    );
}

/// Not even the most talkative log has a line that does not begin with its time.
#[test]
fn root_text_of_clients_forges_no_line_of_the_trace_log() {
    const FORGED: &str = "a\n\r\n2026-01-01T00:00:00Z ERROR layerd: forged";
    let scratch = Scratch::new();
    let daemon = Daemon::start_with(scratch.path(), &["--log-level", "trace"]);
    let mut client = daemon.snapshots();
    client.prepare(FORGED, "", &[]).unwrap();
    let label = ("a", FORGED);
    client.relabel(FORGED, &[label], None).unwrap();
    client
        .commit(&format!("{FORGED} 2"), FORGED, &[label])
        .unwrap();
    client.view("view", &format!("{FORGED} 2"), &[]).unwrap();
    client.names(&[FORGED]).unwrap_err();
    client.remove(FORGED).unwrap_err();
    let dir = scratch.dir("a\n2026-01-01 ERROR forged");
    let mut layerctl = Command::new(layerd_integration::scratch::profile().join("layerctl"));
    layerctl.arg("--address").arg(daemon.socket());
    layerctl.args(["attach", "--owner", &format!("container:{FORGED}")]);
    let _ = layerctl
        .args(["--volume", &format!("{}:/x", dir.display())])
        .output()
        .unwrap();
    let log = daemon.log();
    assert!(log.contains("forged"), "{log}");
    let has_time = |line: &str| line.starts_with("20") && line.contains("Z ");
    for line in log.lines() {
        assert!(has_time(line), "{line}");
        assert!(!line.contains("ERROR") || line.contains("\\n"), "{line}");
        assert!(!line.starts_with("2026-01-01"), "{line}");
    }
}

/// Text from clients cannot forge lines of the log.
#[test]
fn root_a_key_cannot_forge_a_line() {
    let scratch = Scratch::new();
    let daemon = Daemon::start_with(scratch.path(), &["--log-level", "debug"]);
    let mut client = daemon.snapshots();
    client
        .prepare(
            "a\n2026-01-01T00:00:00Z ERROR layerd: forged\u{1b}[31m",
            "",
            &[],
        )
        .unwrap();
    let log = daemon.log();
    let forged: Vec<_> = log.lines().filter(|line| line.contains("forged")).collect();
    assert!(
        matches!(forged.as_slice(), [line] if line.contains("DEBUG")),
        "{log}"
    );
    assert!(!log.contains('\u{1b}'), "{log:?}");
}

/// layerd with standard error as systemd's journal would have it: `JOURNAL_STREAM` names it.
fn in_journal(scratch: &Scratch, more: &[&str]) -> Command {
    let script = "export JOURNAL_STREAM=$(stat -Lc %d:%i /dev/stderr); exec \"$0\" \"$@\"";
    let mut shell = Command::new("sh");
    shell.args(["-euc", script]).arg(program());
    let below = |name: &str| scratch.path().join(name);
    shell.arg("--socket").arg(below("s")).args(more);
    if !more.contains(&"--root") {
        shell.arg("--root").arg(below("root"));
    }
    shell
}

#[test]
fn root_the_journal_gets_priorities_and_no_second_time() {
    let scratch = Scratch::new();
    for (more, start) in [
        (&[][..], "<6>layerd::daemon: ready "),
        (&["--log-format", "json"], "<6>{"),
    ] {
        let log = scratch.path().join(format!("log{}", more.len()));
        let mut server = Server::start(&in_journal(&scratch, more), &log);
        server.wait_for(&scratch.path().join("s"));
        assert!(
            server
                .end(Signal::SIGTERM, Duration::from_secs(30))
                .success()
        );
        let log = server.log();
        assert!(log.lines().any(|line| line.starts_with(start)), "{log}");
        assert!(log.lines().all(|line| line.starts_with("<6>")), "{log}");
    }
    let file = scratch.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (more, start) in [
        (["--config", "missing"], "<3>layerd: read the configuration"),
        (
            ["--root", file.to_str().unwrap()],
            "<3>layerd: prepare the data directory",
        ),
    ] {
        let mut command = in_journal(&scratch, &more);
        let ended = command.output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(said.lines().any(|line| line.starts_with(start)), "{said}");
    }
}

/// A key of a snapshot is quoted; a path in an error is not.
#[test]
fn root_a_path_cannot_forge_a_line() {
    let scratch = Scratch::new();
    let root = scratch.path().join("a\n<3>forged");
    let refused = run(&["--root", root.to_str().unwrap()]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("a\\n<3>forged"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}
