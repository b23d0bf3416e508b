//! Manual pages, completions and the width of tables.

use std::process::Command;

use layerd_integration::Scratch;
use layerd_integration::process::output;

use super::{World, layerctl};

/// As `man -l` renders it, without warnings.
#[test]
fn root_man_pages_have_examples_and_references() {
    let scratch = Scratch::new();
    let dir = scratch.dir("man");
    output(layerctl().arg("man").arg(&dir));
    let sections = |page: &str| -> Vec<String> {
        let text = std::fs::read_to_string(dir.join(page)).unwrap();
        let titles = text.lines().filter_map(|line| line.strip_prefix(".SH "));
        titles
            .map(|title| title.trim_matches('"').to_owned())
            .collect()
    };
    let root = sections("layerctl.1");
    for title in [
        "OPTIONS",
        "EXIT STATUS",
        "JSON OUTPUT",
        "EXAMPLES",
        "SEE ALSO",
    ] {
        assert!(root.contains(&title.to_owned()), "{title}: {root:?}");
    }
    for entry in std::fs::read_dir(&dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let found = sections(&name);
        let last = [
            found[found.len() - 2].as_str(),
            found[found.len() - 1].as_str(),
        ];
        assert_eq!(last, ["EXAMPLES", "SEE ALSO"], "{name}");
    }
    let mut man = Command::new("man");
    man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80");
    let shown = man
        .args(["--warnings", "--local-file"])
        .arg(dir.join("layerctl.1"));
    let shown = shown.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&shown.stderr), "");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("--address"), "{text}");
    assert!(text.contains("layerd(8)"), "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn root_man_pages_and_completions_cover_every_command() {
    let scratch = Scratch::new();
    let dir = scratch.dir("man");
    output(layerctl().arg("man").arg(&dir));
    for page in [
        "layerctl",
        "layerctl-info",
        "layerctl-snapshot-tree",
        "layerctl-setup-containerd",
    ] {
        let text = std::fs::read_to_string(dir.join(format!("{page}.1"))).unwrap();
        assert!(text.contains(".TH"), "{page}: {text}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = output(layerctl().args(["completions", shell]));
        assert!(script.contains("layerctl"), "{shell}");
    }
}

/// As a shell asks for them: words after `--`, the index of the one that is typed.
#[test]
fn root_completions_ask_the_daemon() {
    let world = World::new();
    world.fill();
    world.run(&["volume", "create", "data"]);
    world.run(&["volume", "create", "dump"]);
    world.run(&["attach", "--owner", "container:web", "-v", "data:/d"]);
    let complete = |shell: &str, words: &[&str]| -> Vec<String> {
        let socket = world.daemon.socket().to_str().unwrap();
        let mut command = layerctl();
        command.env("COMPLETE", shell).env("_CLAP_IFS", "\n");
        command.env("LAYERD_ADDRESS", socket);
        command.env("_CLAP_COMPLETE_INDEX", words.len().to_string());
        command.args(["--", "layerctl"]).args(words);
        let said = output(&mut command);
        said.lines()
            .map(|line| line.split('\t').next().unwrap().trim().to_owned())
            .collect()
    };
    assert_eq!(
        complete("bash", &["volume", "inspect", "d"]),
        ["data", "dump"]
    );
    assert_eq!(complete("bash", &["who-uses", "du"]), ["dump"]);
    assert_eq!(complete("bash", &["snapshot", "show", "t"]), ["top"]);
    assert_eq!(complete("bash", &["detach", "--owner", "c"]).len(), 1);
    assert_eq!(complete("fish", &["volume", "rm", "da"]), ["data"]);
    assert!(complete("zsh", &["volume", "rm", "da"])[0].starts_with("data"));
    assert_eq!(complete("bash", &["snapshot", "la"]), ["label"]);
    let gone = ["--address", "/nonexistent.sock", "volume", "rm", "d"];
    assert!(!complete("bash", &gone).contains(&"data".to_owned()));
}

#[test]
fn root_names_are_cut_to_the_width_of_a_terminal() {
    let world = World::new();
    let key = format!("k8s.io/1/{}", "k".repeat(80));
    world.run(&["snapshot", "prepare", &key]);
    let list = |more: &[&str]| {
        let arguments = [&["snapshot", "ls"], more].concat();
        output(world.command(&arguments).env("COLUMNS", "80"))
    };
    let cut = list(&[]);
    assert!(cut.lines().all(|line| line.chars().count() <= 80), "{cut}");
    assert!(cut.contains("k…"), "{cut}");
    assert!(list(&["--no-trunc"]).contains(&key));
    assert!(world.run(&["snapshot", "ls"]).contains(&key), "no terminal");
}
