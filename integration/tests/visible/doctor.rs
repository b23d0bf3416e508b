//! `layerctl doctor` names each trouble of a daemon, once, with what ends it.

use std::fs;
use std::process::Command;

use layerd_integration::Scratch;
use layerd_integration::process::output;
use serde_json::Value;

use super::World;

impl World {
    /// Exit code and findings. There is no containerd: its check fails, and is left out.
    fn doctor(&self, more: &[&str]) -> (i32, Vec<Value>) {
        let nowhere = self.scratch.path().join("no-containerd");
        let nowhere = ["--containerd-config", nowhere.to_str().unwrap()];
        let arguments = [&["-o", "json", "doctor"], &nowhere[..], more].concat();
        let ended = self.ctl(&arguments);
        assert_eq!(ended.error, "", "all is said on standard output");
        let mut found = ended.json();
        found.retain(|one| !one["check"].as_str().unwrap().starts_with("containerd"));
        (ended.code, found)
    }

    /// Findings, without those that every machine of the tests has.
    fn troubles(&self, more: &[&str]) -> Vec<Value> {
        let mut found = self.doctor(more).1;
        found.retain(|one| one["severity"] != "ok" && one["severity"] != "info");
        for one in &found {
            let is_told = |field: &str| !one[field].as_str().unwrap().is_empty();
            let fixes = usize::from(is_told("fix")) + usize::from(is_told("advice"));
            assert!(is_told("impact") && fixes == 1, "{one}");
        }
        found
    }

    /// The one trouble there is.
    fn trouble(&self, check: &str, severity: &str, text: &str) -> Value {
        let found = self.troubles(&[]);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(
            (&found[0]["check"], &found[0]["severity"]),
            (&check.into(), &severity.into())
        );
        let said = found[0]["found"].as_str().unwrap();
        assert!(said.contains(text), "{said}");
        found[0].clone()
    }
}

fn check<'a>(found: &'a [Value], name: &str) -> &'a Value {
    let mut found = found.iter();
    found
        .find(|one| one["check"] == name)
        .unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn root_a_daemon_that_is_well_has_no_trouble() {
    let mut world = World::new("");
    world.fill();
    assert_eq!(world.troubles(&[]), Vec::<Value>::new());
    let (code, found) = world.doctor(&[]);
    assert_eq!(code, 2, "for want of a containerd");
    for name in [
        "daemon",
        "kernel",
        "configuration",
        "host: overlay mount",
        "effective configuration",
        "database",
        "last stop",
        "export",
        "records and disk",
        "mounts",
        "space",
        "inodes",
        "trash",
        "unit",
        "clock",
    ] {
        check(&found, name);
    }
    let text = world.ctl(&["doctor"]).out;
    assert!(text.starts_with("error: containerd: "), "{text}");
    assert!(text.contains("impact: "), "{text}");
    let quiet = world.ctl(&["doctor", "--quiet"]).out;
    assert!(
        text.starts_with(&quiet) && !quiet.contains("STATE"),
        "{quiet}"
    );
}

#[test]
fn root_damage_strangers_and_leaked_mounts_are_named() {
    let mut world = World::new("");
    world.fill();
    world.sh("echo x > l/notes");
    let stranger = world.trouble("records and disk", "warning", "l/notes is not layerd's");
    let fix = format!(
        "layerctl --address {} fsck --repair",
        world.daemon.socket().display()
    );
    assert_eq!(
        stranger["fix"], *fix,
        "it reaches the daemon that was asked"
    );
    world.sh("rm l/notes; mv l/1 ../kept");
    world.trouble("records and disk", "error", "the directory of layer 1");
    world.sh("mv ../kept l/1; mkdir -p -m 700 mnt; mkdir mnt/zz; mount -t tmpfs none mnt/zz");
    let found = world.troubles(&[]);
    let leaked = check(&found, "mounts");
    assert!(
        leaked["found"].as_str().unwrap().contains("/mnt/zz"),
        "{leaked}"
    );
    // What it says is what helps.
    world.sh(leaked["fix"].as_str().unwrap());
    world.trouble("records and disk", "warning", "mnt/zz is not layerd's");
    world.sh("rmdir mnt/zz");
    assert_eq!(world.troubles(&[]), Vec::<Value>::new());
}

#[test]
fn root_a_container_that_was_never_unmounted_is_named() {
    let mut world = World::new("");
    world.fill();
    let target = world.scratch.dir("rootfs");
    let target = target.to_str().unwrap();
    assert_eq!(
        world
            .ctl(&["snapshot", "mount", "--rw", "work", target])
            .code,
        0
    );
    assert_eq!(world.troubles(&[]), Vec::<Value>::new());
    world.client.remove("work").unwrap();
    let gone = world.trouble("mounts", "warning", target);
    world.sh(gone["fix"].as_str().unwrap());
    assert_eq!(world.troubles(&[]), Vec::<Value>::new());
}

#[test]
fn root_the_guard_is_named_until_it_is_released() {
    let mut world = World::guarded();
    world.fill();
    for key in ["work", "top", "base"] {
        world.client.remove(key).unwrap();
    }
    world.trouble(
        "trash",
        "error",
        "the mass-removal guard is on: 3 snapshots",
    );
    assert_eq!(world.ctl(&["trash", "empty", "--yes"]).code, 0);
    assert_eq!(world.troubles(&[]), Vec::<Value>::new());
}

#[test]
fn root_a_changed_and_a_wrong_configuration_are_named() {
    let world = World::new("stop_timeout_secs = 29");
    let good = fs::read_to_string(&world.config).unwrap();
    fs::write(&world.config, good.replace("= 29", "= 28")).unwrap();
    let text = "stop_timeout_secs is \"28\" in the file and \"29\" in the daemon";
    world.trouble("effective configuration", "warning", text);
    fs::write(&world.config, format!("bogus = 1\n{good}")).unwrap();
    world.trouble("configuration", "error", "unknown field `bogus`");
    fs::write(&world.config, good).unwrap();
    assert_eq!(world.troubles(&[]), Vec::<Value>::new());
}

#[test]
fn root_a_daemon_that_is_down_is_named_and_the_rest_looked_at() {
    let mut world = World::new("");
    world.fill();
    world.daemon.kill9();
    let config = world.config.to_str().unwrap().to_owned();
    // The file names no data directory: the daemon's command line does.
    let root = format!("root = {:?}\n", world.daemon.root());
    let text = fs::read_to_string(&world.config).unwrap();
    fs::write(&world.config, root + &text).unwrap();
    let (code, found) = world.doctor(&["--config", &config]);
    assert_eq!(code, 2);
    let down = check(&found, "daemon");
    assert_eq!(down["severity"], "error", "{down}");
    assert!(
        down["found"]
            .as_str()
            .unwrap()
            .starts_with("cannot reach layerd"),
        "{down}"
    );
    for name in ["configuration", "host: overlay mount", "space", "inodes"] {
        assert_eq!(check(&found, name)["severity"], "ok");
    }
    world.daemon.restart();
    let (_, found) = world.doctor(&[]);
    let stop = check(&found, "last stop");
    assert_eq!(stop["severity"], "info", "{stop}");
}

#[test]
fn root_lost_records_are_named() {
    let mut world = World::new("");
    world.fill();
    // An orderly end leaves an export, which the fix goes back to.
    world.daemon.stop();
    world.sh("ls meta/export.*");
    world.sh("rm -r meta/db");
    world.daemon.restart();
    let lost = world.trouble("database", "error", "is damaged");
    assert!(
        lost["fix"].as_str().unwrap().ends_with(" restore"),
        "{lost}"
    );
}

/// tmpfs, so that it is full soon.
#[test]
fn root_a_full_disk_is_named() {
    let scratch = Scratch::new();
    let small = scratch.dir("small");
    let mut mount = Command::new("mount");
    output(
        mount
            .args(["-t", "tmpfs", "-o", "size=64m", "none"])
            .arg(&small),
    );
    let mut world = World::in_dir(scratch, &small, "", "");
    world.fill();
    assert_eq!(world.troubles(&[]), Vec::<Value>::new());
    // All but 2 MiB.
    world.sh("free=$(df --output=avail -k . | tail -n 1); head -c $(((free - 2048) * 1024)) /dev/zero > ../filler");
    let full = world.trouble("space", "error", "nothing new is taken below 4.00MiB");
    let advice = full["advice"].as_str().unwrap();
    assert!(advice.contains("layerd holds little of it"), "{full}");
    let refused = world.ctl(&["snapshot", "prepare", "next"]);
    assert_eq!(refused.code, 10, "doctor is right: {refused:?}");
    world.sh("rm ../filler");
    assert_eq!(world.ctl(&["snapshot", "prepare", "next"]).code, 0);
    assert_eq!(world.troubles(&[]), Vec::<Value>::new());
}
