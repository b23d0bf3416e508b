use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;

use crate::cli::Cli;
use crate::cmd::{Daemon, setup};
use crate::error::{Error, Exit};
use crate::output::Output;

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs `layerctl setup containerd` for containerd 1.7 with its files below `dir`.
fn run(dir: &Path, more: &[&str]) -> Result<String, Error> {
    let config = dir.join("config.toml").display().to_string();
    let drop_ins = dir.join("conf.d").display().to_string();
    let words = [
        "layerctl",
        "setup",
        "containerd",
        "--config",
        &config,
        "--dir",
        &drop_ins,
    ];
    let version = ["--version", "1.7"];
    let cli = Cli::parse_from(words.iter().chain(&version).chain(more));
    let crate::cli::Command::Setup(args) = cli.command else {
        panic!("setup was asked for");
    };
    let daemon = Daemon {
        address: PathBuf::from("/run/layerd/layerd.sock"),
        timeout: Duration::ZERO,
    };
    let seen = Seen::default();
    let mut out = Output {
        json: false,
        colour: false,
        now: 0,
        out: Box::new(seen.clone()),
    };
    setup::run(args, &daemon, &mut out)?;
    let bytes = seen.0.lock().unwrap().clone();
    Ok(String::from_utf8(bytes).unwrap())
}

fn file(dir: &Path) -> PathBuf {
    dir.join("conf.d/layerd.toml")
}

#[test]
fn what_is_printed_is_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let printed = run(dir.path(), &[]).unwrap();
    assert!(!file(dir.path()).exists());
    let told = run(dir.path(), &["--write"]).unwrap();
    assert_eq!(fs::read_to_string(file(dir.path())).unwrap(), printed);
    assert!(told.contains("Restart containerd"), "{told}");
    assert!(told.contains("There is no"), "{told}");
}

#[test]
fn writing_again_updates_what_we_wrote() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &["--write"]).unwrap();
    assert!(
        run(dir.path(), &["--write"])
            .unwrap()
            .contains("is up to date")
    );
    run(
        dir.path(),
        &["--write", "--socket", "unix:///run/other.sock"],
    )
    .unwrap();
    let text = fs::read_to_string(file(dir.path())).unwrap();
    assert!(text.contains("address = \"/run/other.sock\""), "{text}");
    run(dir.path(), &["--remove"]).unwrap();
    assert!(!file(dir.path()).exists());
    assert!(
        run(dir.path(), &["--remove"])
            .unwrap()
            .contains("There is no")
    );
}

#[test]
fn what_a_person_edited_stays() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &["--write"]).unwrap();
    let edited = fs::read_to_string(file(dir.path()))
        .unwrap()
        .replace("layerd.sock", "mine.sock");
    fs::write(file(dir.path()), &edited).unwrap();
    for attempt in ["--write", "--remove"] {
        let refused = run(dir.path(), &[attempt]).unwrap_err();
        assert_eq!(refused.exit(), Exit::Refused);
        assert_eq!(fs::read_to_string(file(dir.path())).unwrap(), edited);
    }
    let hint = run(dir.path(), &["--write"]).unwrap_err().hint().unwrap();
    assert!(
        hint.contains("-address = \"/run/layerd/mine.sock\""),
        "{hint}"
    );
    assert!(
        hint.contains("+address = \"/run/layerd/layerd.sock\""),
        "{hint}"
    );
}

#[test]
fn the_format_of_the_main_file_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("config.toml");
    fs::write(&main, "disabled_plugins = [\"cri\"]\n").unwrap();
    assert!(!run(dir.path(), &[]).unwrap().contains("version ="));
    let imports = format!(
        "version = 2\nimports = [\"{}/conf.d/*.toml\"]",
        dir.path().display()
    );
    fs::write(&main, imports).unwrap();
    let told = run(dir.path(), &["--write"]).unwrap();
    assert!(!told.contains("imports"), "{told}");
    fs::write(&main, "version = ").unwrap();
    assert_eq!(run(dir.path(), &[]).unwrap_err().exit(), Exit::Invalid);
}

#[test]
fn paths_that_containerd_could_not_use_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (option, path) in [
        ("--root", "relative"),
        ("--socket", "a.sock"),
        ("--root", "/a\nb"),
    ] {
        assert_eq!(
            run(dir.path(), &[option, path]).unwrap_err().exit(),
            Exit::Invalid,
            "{path}"
        );
    }
    assert_eq!(
        run(dir.path(), &["--remap-ids"]).unwrap_err().exit(),
        Exit::Invalid
    );
}
