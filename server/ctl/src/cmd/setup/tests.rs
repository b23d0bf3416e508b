use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
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
        terminal: false,
        columns: None,
        lines: None,
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
    assert!(told.contains("as containerd had none"), "{told}");
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

/// All files below `dir` with their text.
fn files(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push((path.clone(), fs::read_to_string(&path).unwrap())),
        }
    }
    found.sort();
    found
}

/// As Debian has it.
const DEBIAN: &str = "version = 2\n\n[plugins]\n  [plugins.x]\n    y = 1\n";

#[test]
fn the_main_file_is_changed_once_and_changed_back() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("config.toml");
    fs::write(&main, DEBIAN).unwrap();
    fs::set_permissions(&main, fs::Permissions::from_mode(0o640)).unwrap();
    let before = files(dir.path());
    let told = run(dir.path(), &["--write"]).unwrap();
    let line = format!("imports = [\"{}/conf.d/*.toml\"]", dir.path().display());
    assert!(told.contains(&format!("+{line}\n")), "{told}");
    assert_eq!(
        fs::read_to_string(&main).unwrap(),
        DEBIAN.replacen("2\n", &format!("2\n{line}\n"), 1)
    );
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("config.toml"), mode("config.toml.before-layerd")),
        (0o640, 0o640)
    );
    let once = files(dir.path());
    assert!(
        !run(dir.path(), &["--write"]).unwrap().contains("Restart"),
        "nothing to do"
    );
    assert_eq!(files(dir.path()), once);
    run(dir.path(), &["--remove"]).unwrap();
    assert_eq!(files(dir.path()), before);
    assert!(!dir.path().join("conf.d").exists());
}

#[test]
fn a_main_file_that_was_made_goes_again() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("containerd");
    run(&dir, &["--write"]).unwrap();
    let main = fs::read_to_string(dir.join("config.toml")).unwrap();
    assert!(main.contains("imports"), "{main}");
    run(&dir, &["--remove"]).unwrap();
    assert!(!dir.exists(), "nothing is left behind");
}

#[test]
fn undoing_keeps_what_was_changed_meanwhile_and_what_others_need() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("config.toml");
    fs::write(&main, DEBIAN).unwrap();
    run(dir.path(), &["--write"]).unwrap();
    let edited = fs::read_to_string(&main).unwrap().replace("y = 1", "y = 2");
    fs::write(&main, &edited).unwrap();
    let other = dir.path().join("conf.d/other.toml");
    fs::write(&other, "").unwrap();
    let told = run(dir.path(), &["--remove"]).unwrap();
    assert!(told.contains("still imports"), "{told}");
    assert_eq!(fs::read_to_string(&main).unwrap(), edited);
    fs::remove_file(other).unwrap();
    run(dir.path(), &["--remove"]).unwrap();
    assert_eq!(
        files(dir.path()),
        [(main, DEBIAN.replace("y = 1", "y = 2"))]
    );
}

#[test]
fn a_main_file_of_a_person_is_never_touched_by_removing() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("config.toml");
    let text = format!("imports = [\"{}/conf.d/*.toml\"]\n", dir.path().display());
    fs::write(&main, &text).unwrap();
    run(dir.path(), &["--write"]).unwrap();
    run(dir.path(), &["--remove"]).unwrap();
    assert_eq!(files(dir.path()), [(main, text)]);
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

#[test]
fn a_file_that_has_the_name_of_the_backup_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("config.toml"), DEBIAN).unwrap();
    fs::write(at("config.toml.before-layerd"), "mine").unwrap();
    run(dir.path(), &["--write"]).unwrap();
    let text = |name: &str| fs::read_to_string(at(name)).unwrap();
    assert_eq!(text("config.toml.before-layerd"), DEBIAN);
    assert_eq!(text("config.toml.before-layerd.1"), "mine");
    run(dir.path(), &["--remove"]).unwrap();
    assert_eq!(text("config.toml"), DEBIAN);
    assert_eq!(text("config.toml.before-layerd.1"), "mine");
}

#[test]
fn entries_for_other_snapshotters_are_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let entry = "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n\
                 platform = \"linux/amd64\"\nsnapshotter = \"nydus\"\ndiffer = \"walking\"\n";
    fs::write(dir.path().join("config.toml"), format!("{DEBIAN}{entry}")).unwrap();
    run(dir.path(), &["--write"]).unwrap();
    let drop_in = fs::read_to_string(file(dir.path())).unwrap();
    assert!(drop_in.contains("\"nydus\""), "{drop_in}");
    let again = run(dir.path(), &["--write"]).unwrap();
    assert!(again.contains("is up to date"), "{again}");
}

#[test]
fn a_configuration_with_layerd_elsewhere_is_told_from_ours() {
    let dump = "[proxy_plugins]\n[proxy_plugins.layerd]\naddress = '/run/a'\n";
    assert!(setup::has_layerd(dump, "/run/a"));
    for (dump, socket) in [
        (dump, "/run/b"),
        ("# [proxy_plugins.layerd]", "/run/a"),
        ("=", "/run/a"),
    ] {
        assert!(!setup::has_layerd(dump, socket), "{dump}");
    }
}
