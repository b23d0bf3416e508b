//! Images as mounts, whole and in part, and how read-only mounts are.

use std::path::{Path, PathBuf};
use std::process::Command;

use layerd_integration::process::output;

use serde_json::Value;

use super::{World, text};

fn sh(script: &str, dir: &Path) -> String {
    output(Command::new("sh").args(["-euc", script]).current_dir(dir))
}

impl World {
    /// Commits `name` on top of `parent` with what `script` makes in it.
    pub(super) fn commit_with(&self, name: &str, parent: &[&str], script: &str) {
        let mounts = self.json(&[&["snapshot", "prepare", "work"], parent].concat());
        let merged = self.scratch.dir("merged");
        let options: Vec<_> = mounts[0]["options"]
            .as_array()
            .unwrap()
            .iter()
            .map(|option| option.as_str().unwrap())
            .collect();
        let mut mount = Command::new("mount");
        mount.args(["-t", &text(&mounts[0], "type"), "-o", &options.join(",")]);
        output(mount.arg(text(&mounts[0], "source")).arg(&merged));
        sh(script, &merged);
        output(Command::new("umount").arg(&merged));
        self.run(&["snapshot", "commit", name, "work"]);
    }

    fn attached_image(&self, key: &str, more: &str, flags: &[&str]) -> Value {
        let attached = self.attach_image(key, more, flags);
        assert_eq!(attached.code, 0, "{attached:?}");
        serde_json::from_str(&attached.out).unwrap()
    }

    fn attach_image(&self, key: &str, more: &str, flags: &[&str]) -> super::Ended {
        let mount = format!("type=image,src=upper,dst=/x,{more}");
        let attach = [
            "attach", "--owner", "pod:x", "--key", key, "--mount", &mount,
        ];
        self.ctl(&[&["-o", "json"], &attach[..], flags].concat())
    }
}

/// Two layers; the upper one deletes and adds.
fn world_with_image() -> World {
    let world = World::new();
    let lower = "mkdir -p opt/tools/bin opt/hidden; echo lower > opt/tools/file
        echo gone > opt/tools/gone; ln -s /etc opt/away; ln -s ../hidden opt/tools/inside";
    world.commit_with("lower", &[], lower);
    let upper = "echo upper > opt/tools/new; rm opt/tools/gone";
    world.commit_with("upper", &["lower"], upper);
    world
}

#[test]
fn root_a_part_of_an_image_is_mounted_and_nothing_else() {
    let mut world = world_with_image();
    let seen = world.scratch.dir("seen");
    let target = format!("/x={}", seen.display());
    for subpath in ["opt/tools", "opt/../opt/./tools"] {
        let more = format!("image-subpath={subpath}");
        let one = world.attached_image("dir", &more, &["--target", &target]);
        assert_eq!(text(&one, "effective_access"), "ro-recursive");
        let names = sh("ls -A", &seen);
        let wanted = "bin\nfile\ninside\nnew\n";
        assert_eq!(names, wanted, "both layers, without what was deleted");
        assert!(std::fs::write(seen.join("mine"), "").is_err(), "writable");
        let only = std::slice::from_ref(&seen);
        assert_eq!(world.mounts(), only, "the whole stands nowhere");
        world.crash();
        assert_eq!(world.mounts(), only);
        world.fail(5, &["snapshot", "rm", "upper"]);
        world.run(&["detach", "--owner", "pod:x"]);
        assert_eq!(world.mounts(), [] as [PathBuf; 0]);
    }
}

#[test]
fn root_a_runtime_gets_a_part_of_an_image_at_a_place_of_layerds_own() {
    let world = world_with_image();
    for (subpath, file) in [("opt/tools", "new"), ("opt/tools/new", "")] {
        let one = world.attached_image("own", &format!("image-subpath={subpath}"), &[]);
        let source = PathBuf::from(text(&one["oci_mounts"][0], "source"));
        let content = match file {
            "" => std::fs::read_to_string(&source),
            file => std::fs::read_to_string(source.join(file)),
        };
        assert_eq!(content.unwrap(), "upper\n");
        assert_eq!(world.mounts(), [source]);
        let detached = world.run(&["detach", "--owner", "pod:x"]);
        assert_eq!(detached.lines().count(), 1);
    }
    let own = world.daemon.root().join("mnt");
    assert_eq!(std::fs::read_dir(own).unwrap().count(), 0);
}

#[test]
fn root_no_path_leads_out_of_an_image() {
    let world = World::new();
    let content =
        "mkdir -p in/dir; echo file > in/file; ln -s / in/root; ln -s ../../../../etc in/up
        ln -s dir in/near; ln -s /proc/self/root in/proc";
    world.commit_with("upper", &[], content);
    let table = [
        ("../etc", 6, "upwards"),
        ("/etc", 6, "below the root"),
        ("in/root", 6, "symlink"),
        ("in/root/etc/passwd", 6, "symlink"),
        ("in/up/passwd", 6, "symlink"),
        ("in/near", 6, "symlink"),
        ("in/proc", 6, "symlink"),
        ("in/missing", 3, "in/missing"),
        ("in/file/below", 6, "in/file"),
    ];
    for (subpath, code, why) in table {
        let refused = world.attach_image("bad", &format!("image-subpath={subpath}"), &[]);
        assert_eq!(refused.code, code, "{subpath}: {refused:?}");
        assert!(refused.error.contains(why), "{subpath}: {refused:?}");
        let left = (world.json(&["attachments"]).len(), world.mounts());
        assert_eq!(left, (0, vec![]), "{subpath}");
        let mount = format!("type=image,src=upper,dst=/x,image-subpath={subpath}");
        let checked = world.ctl(&["mount", "check", "--mount", &mount]);
        assert_ne!(checked.code, 0, "{subpath}: {checked:?}");
        let told = checked.out + &checked.error;
        assert!(told.contains(why), "{subpath}: {told}");
    }
    let whole = ["mount", "check", "--mount", "type=image,src=upper,dst=/x"];
    assert!(world.run(&whole).contains("use"));
    world.run(&["snapshot", "rm", "upper"]);
}

#[test]
fn root_filling_follows_the_symlinks_of_the_image_within_it() {
    let world = World::new();
    let host = world.scratch.dir("host");
    std::fs::write(host.join("secret"), "").unwrap();
    let lower = format!(
        "mkdir -p run/app var; echo lower > run/app/file; ln -s /run var/run
        ln -s {} var/host; ln -s ../../../../../run/app var/up; echo > plain",
        host.display()
    );
    world.commit_with("lower", &[], &lower);
    world.commit_with("upper", &["lower"], "echo upper > run/app/new");
    let fill = ["attach", "--owner", "pod:x", "--fill-from", "upper"];
    let attach = |name: &str, target: &str| {
        let mount = format!("{name}:{target}");
        world.one(&[&fill[..], &["--key", name, "-v", &mount]].concat())
    };
    for (name, target) in [("one", "/var/run/app"), ("two", "/var/up")] {
        assert_eq!(attach(name, target)["filled"], true, "{target}");
        assert_eq!(sh("cat file new", &world.path(name)), "lower\nupper\n");
    }
    for (name, target, why) in [
        ("outside", "/var/host", "\"upper\" has no "),
        ("missing", "/var/run/none", "\"upper\" has no /run/none"),
        (
            "file",
            "/plain",
            "/plain of \"upper\" is a file, not a directory",
        ),
    ] {
        let one = attach(name, target);
        assert_eq!(
            (&one["filled"], &one["state"]),
            (&false.into(), &"attached".into())
        );
        let note = one["notes"][0].as_str().unwrap();
        assert!(note.contains(why) && note.contains(name), "{note}");
        assert_eq!(sh("ls -A", &world.path(name)), "");
    }
    let mount = ["-v", "person:/none", "--key", "person"];
    let told = world.ctl(&[&fill[..], &mount].concat()).error;
    assert!(
        told.contains("note: person:/none: volume person stays empty"),
        "{told}"
    );
}

#[test]
fn root_the_kernels_answer_is_the_access_that_is_shown() {
    let world = World::new();
    let host = world.scratch.dir("host");
    let inner = world.scratch.dir("host/inner");
    output(
        Command::new("mount")
            .args(["-t", "tmpfs", "tmpfs"])
            .arg(&inner),
    );
    let table = [
        ("rw", "", true, true),
        ("ro", ",readonly,bind-recursive=writable", false, true),
        (
            "ro-recursive",
            ",readonly,bind-recursive=readonly,bind-propagation=rprivate",
            false,
            false,
        ),
        ("ro-recursive", ",readonly", false, false),
    ];
    for (access, more, top, below) in table {
        let seen = world.scratch.dir("seen");
        let mount = format!("type=bind,src={},dst=/x{more}", host.display());
        let target = format!("/x={}", seen.display());
        let attach = [
            "attach", "--owner", "pod:x", "--mount", &mount, "--target", &target,
        ];
        let one = world.one(&attach);
        assert_eq!(text(&one, "effective_access"), access, "{more}");
        assert_eq!(std::fs::write(seen.join("a"), "").is_ok(), top, "{more}");
        assert_eq!(
            std::fs::write(seen.join("inner/a"), "").is_ok(),
            below,
            "{more}"
        );
        let row = world.run(&["attachments"]);
        assert!(row.contains(&format!("  {access}  ")), "{row}");
        world.run(&["detach", "--owner", "pod:x"]);
    }
}
