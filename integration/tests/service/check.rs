//! `layerd check`, and settings that are refused.

use std::path::Path;
use std::process::Command;

use layerd_integration::Scratch;
use layerd_integration::process::output;

use crate::{config, program, run};

/// Exit code and standard output of a check.
fn check(arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(&[&["check"], arguments].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!errors.contains("panicked"), "{errors}");
    (output.status.code(), said)
}

fn check_root(root: &Path) -> (Option<i32>, String) {
    check(&["--root", root.to_str().unwrap()])
}

#[test]
fn root_check_of_a_good_host_passes() {
    let scratch = Scratch::new();
    let (code, said) = check_root(&scratch.path().join("root"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.lines().all(|line| line.starts_with("ok   ")), "{said}");
    for found in [
        "configuration: valid",
        "overlay mount: works",
        "file system: ",
    ] {
        assert!(said.contains(found), "{found} in {said}");
    }
    let root = scratch.path().join("root");
    let (_, json) = check(&["--json", "--root", root.to_str().unwrap()]);
    let lines = json.lines().map(serde_json::from_str::<serde_json::Value>);
    let mut lines = lines.map(Result::unwrap);
    let ids = lines.find(|line| line["check"] == "unique mount ids");
    let ids = ids.expect("features of the kernel are told");
    let found = ids["found"].as_str().unwrap();
    assert_eq!(ids["since"], "6.8");
    assert!(
        found == "works" || found.contains("Linux 6.8 has it"),
        "{found}"
    );
    let left: Vec<_> = std::fs::read_dir(scratch.path().join("root"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "a check leaves nothing behind: {left:?}");
}

#[test]
fn root_check_of_a_bad_configuration_names_the_setting() {
    let scratch = Scratch::new();
    let long = format!("[socket]\npath = \"/{}\"", "s".repeat(107));
    for (text, wanted) in [
        ("rot = \"/x\"", "unknown field `rot`"),
        ("root = ", "config.toml"),
        ("[socket]\nmode = \"0888\"", "socket.mode"),
        ("[socket]\nmode = 660", "mode"),
        ("[socket]\ngroup = \"no such group\"", "socket.group"),
        (&long, "108 bytes"),
        ("[reaper]\nevery_secs = 0", "reaper.every_secs"),
        ("stop_timeout_secs = 4000", "stop_timeout_secs"),
        ("[usage]\npatience_ms = -1", "patience_ms"),
        ("[log]\nlevel = \"loud==\"", "log.level"),
        ("[log]\nformat = \"xml\"", "xml"),
        ("[overlayfs]\nmount_options = [\"lowerdir=/\"]", "lowerdir"),
        ("[overlayfs]\nmount_options = [\"a,b\"]", "a,b"),
    ] {
        let root = scratch.path().join("root");
        let [name, file] = config(scratch.path(), text);
        let (code, said) = check(&[&name, &file, "--root", root.to_str().unwrap()]);
        assert_eq!(code, Some(1), "{text}: {said}");
        assert!(
            said.contains("FAIL") && said.contains(wanted),
            "{text}: {said}"
        );
    }
    let (code, said) = check(&["--config", "/nonexistent/layerd.toml"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("/nonexistent/layerd.toml"), "{said}");
}

/// A configuration that `check` refuses is refused by a start too, without making anything.
#[test]
fn root_a_bad_configuration_does_not_start() {
    let scratch = Scratch::new();
    let [name, file] = config(scratch.path(), "[reaper]\nevery_secs = 0");
    let root = scratch.path().join("root");
    let output = run(&[&name, &file, "--root", root.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("reaper.every_secs") && said.contains("86400"),
        "{said}"
    );
    assert!(!root.exists());
}

fn mounted(scratch: &Scratch, kind: &str, options: &str) -> std::path::PathBuf {
    let target = scratch.dir("mounted");
    let mut mount = Command::new("mount");
    mount.args(["-t", kind, "-o", options, kind]).arg(&target);
    output(&mut mount);
    target
}

#[test]
fn root_check_refuses_a_root_on_overlayfs() {
    let scratch = Scratch::new();
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| scratch.dir(name));
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let root = mounted(&scratch, "overlay", &options).join("root");
    let (code, said) = check_root(&root);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("FAIL not on overlayfs"), "{said}");
    assert!(
        said.contains("volume or a disk"),
        "it says what to do: {said}"
    );
    let refused = crate::refused(&root, &scratch.path().join("s"), &[]);
    assert!(refused.contains("overlay"), "{refused}");
}

/// Whether this kernel has it is told, with what is needed; and nothing is made where it has not.
#[test]
fn root_check_tells_whether_the_kernel_has_aufs() {
    let scratch = Scratch::new();
    let root = scratch.path().join("root");
    let (code, said) = check(&["--driver", "aufs", "--root", root.to_str().unwrap()]);
    let known = std::fs::read_to_string("/proc/filesystems").unwrap();
    if known.split_whitespace().any(|word| word == "aufs") {
        assert!(said.contains("ok   aufs"), "{said}");
        return;
    }
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("FAIL aufs"), "{said}");
    assert!(said.contains("CONFIG_AUFS_FS"), "{said}");
    let other = scratch.path().join("other");
    let socket = scratch.path().join("s");
    let refused = crate::refused(&other, &socket, &["--driver", "aufs"]);
    assert!(refused.contains("has no AUFS"), "{refused}");
    assert!(!other.join("aufs").exists() && !other.join("meta/driver").exists());
}

/// Layers on tmpfs work; that they go with the next boot is said.
#[test]
fn root_check_takes_a_root_on_tmpfs_with_a_warning() {
    let scratch = Scratch::new();
    let root = mounted(&scratch, "tmpfs", "size=64m").join("root");
    let (code, said) = check_root(&root);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("tmpfs") && said.contains("outlive a reboot"),
        "{said}"
    );
}

#[test]
fn root_check_refuses_a_path_that_options_cannot_carry() {
    let scratch = Scratch::new();
    for name in ["a:b", "a,b", "a\\b"] {
        let (code, said) = check_root(&scratch.path().join(name));
        assert_eq!(code, Some(1), "{name}: {said}");
        assert!(
            said.contains("mount options cannot carry it"),
            "{name}: {said}"
        );
    }
}

/// As layerd.service is shipped, it has no capability to map ids.
#[test]
fn root_check_names_the_sandbox_that_forbids_id_mappings() {
    let scratch = Scratch::new();
    let mut kept = Command::new("setpriv");
    kept.args(["--bounding-set", "-setuid,-setgid"]);
    let checked = kept.arg(program()).args(["check", "--root"]);
    let checked = checked.arg(scratch.path().join("root")).output().unwrap();
    let said = String::from_utf8(checked.stdout).unwrap();
    let line = said.lines().find(|line| line.contains("id mappings:"));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    for part in [
        "RestrictNamespaces=mnt user",
        "CapabilityBoundingSet=CAP_SETUID CAP_SETGID",
    ] {
        assert!(line.contains(part), "{line}");
    }
}
