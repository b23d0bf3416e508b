//! Layers as images, from the command line: containers on them, damage, copies of the data directory,
//! removal.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use layerd_integration::image::{busybox, corpus};
use layerd_integration::process::{output, wait_until};
use layerd_integration::{Daemon, Scratch, Tree};
use serde_json::Value;

use super::content::{World, flip};
use super::text;

/// Removed layers stay until they are deleted by hand.
const TRASH: &str = "[trash]\nkeep_secs = 3600\nmin_free_percent = 0\n[reaper]\nevery_secs = 1";

impl World {
    fn with_images() -> Self {
        Self::with("images", TRASH)
    }

    fn names(&self, folder: &str) -> Vec<String> {
        names(self.daemon.root(), folder)
    }

    fn image(&self, number: u64) -> std::path::PathBuf {
        self.daemon.root().join("i").join(number.to_string())
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.run(&[&["-o", "json"], arguments].concat());
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    }

    /// Content of an active snapshot when mounted, after `script` ran in it.
    fn mounted(&self, key: &str, script: &str) -> Tree {
        let dir = self.scratch.dir("mounted");
        self.run(&["snapshot", "mount", "--rw", key, text(&dir)]);
        output(Command::new("sh").args(["-euc", script]).current_dir(&dir));
        let tree = Tree::read(&dir);
        self.run(&["snapshot", "umount", text(&dir)]);
        tree
    }

    /// As the end of the machine does.
    fn reboot(&mut self) {
        self.daemon.kill9();
        for mounted in self.names("x") {
            let target = self.daemon.root().join("x").join(mounted);
            output(Command::new("umount").arg(target));
        }
        self.daemon.restart();
    }
}

fn names(root: &Path, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root.join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Bytes of disk that a file takes.
fn blocks(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn root_a_container_lives_on_images_through_restarts() {
    let mut world = World::with_images();
    assert_eq!(world.names("i"), ["1", "2"], "and 3 was not unpacked");
    assert_eq!(world.names("x"), ["1"], "mounted when it was built on");
    world.run(&["snapshot", "prepare", "box", "top"]);
    let written = world.mounted("box", "echo new > new; rm -r bin; grep -q new new");
    for restart in [Daemon::kill9, Daemon::stop] {
        restart(&mut world.daemon);
        world.daemon.restart();
        assert_eq!(world.names("x"), ["1", "2"], "mounts outlive layerd");
        world.mounted("box", "").assert_equals(&written);
    }
    world.reboot();
    assert_eq!(world.names("x"), [] as [&str; 0]);
    world.mounted("box", "").assert_equals(&written);
    assert_eq!(world.names("x"), ["1", "2"]);
    let shown = world.json(&["snapshot", "ls", "--usage"]);
    let bytes = |name: &str| {
        let row = shown.iter().find(|row| row["name"] == name);
        row.unwrap()["bytes"].as_u64().unwrap()
    };
    let sizes = [1, 2].map(|number| blocks(&world.image(number)));
    assert_eq!([bytes("base"), bytes("top")], sizes);
    let du = world.json(&["du"]);
    let used = du.iter().find(|row| row["name"] == "box").unwrap();
    let all = sizes[0] + sizes[1] + bytes("box");
    assert_eq!(used["own_bytes"].as_u64(), Some(all), "{used}");
    assert_eq!(world.ctl(&["fsck", "--content"]).0, 0);

    world.run(&["snapshot", "rm", "box", "top", "base"]);
    assert_eq!(world.json(&["trash", "ls"]).len(), 3);
    world.run(&["trash", "restore", "base"]);
    world.run(&["snapshot", "prepare", "again", "base"]);
    world.mounted("again", "test -x bin/busybox");
    world.run(&["snapshot", "rm", "again", "base", "by-hand"]);
    world.run(&["trash", "empty", "--yes"]);
    wait_until("all to be deleted", Duration::from_secs(10), || {
        let left = ["i", "x", "l", "t", "w"].map(|folder| world.names(folder).len());
        left.iter().all(|count| *count == 0)
    });
    assert_eq!(world.run(&["fsck"]), "No problems.\n");
    world.daemon.assert_no_errors_logged();
    world.daemon.stop();
}

#[test]
fn root_an_altered_image_is_found_online_offline_and_barred_on_request() {
    let mut world = World::with_images();
    let (code, out) = world.ctl(&["fsck", "--content"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("Layers compared: 2 ("), "{out}");
    flip(&world.image(1));
    let said = "snapshot \"base\" (layer 1) does not hold what was unpacked: of its image, ";
    let (code, out) = world.ctl(&["fsck", "--content"]);
    assert_eq!(code, 11, "{out}");
    assert!(out.contains(said), "{out}");
    world.daemon.stop();
    let before = Tree::read(&world.daemon.root().join("i"));
    let (code, out) = world.offline(&["--content"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains(said), "{out}");
    Tree::read(&world.daemon.root().join("i")).assert_equals(&before);
    world.daemon.restart();
    assert_eq!(world.ctl(&["fsck", "--content", "--repair"]).0, 11);
    for again in [false, true] {
        if again {
            world.reboot();
        }
        assert_eq!(world.ctl(&["snapshot", "show", "base"]).0, 9);
        assert_eq!(world.ctl(&["snapshot", "prepare", "x", "top"]).0, 9);
    }
    world.run(&["snapshot", "rm", "top", "base"]);
    world.unpack("base", &[], &busybox());
    world.unpack("top", &["base"], &corpus()[1]);
    let (code, out) = world.ctl(&["fsck", "--content"]);
    assert_eq!(code, 0, "{out}");
    world.daemon.stop();
}

/// Also one that followed mounts into the images.
#[test]
fn root_a_backup_and_a_copy_of_the_folders_make_a_new_root() {
    let mut world = World::with_images();
    world.run(&["snapshot", "prepare", "box", "top"]);
    let written = world.mounted("box", "echo new > new");
    let backup = world.scratch.path().join("backup");
    world.run(&["backup", text(&backup)]);
    let config = world.scratch.path().join("layerd.toml");
    world.daemon.stop();
    let scratch = Scratch::new();
    let root = scratch.dir("d/root");
    let copy = "cp -a \"$0\"/[!m]* \"$0\"/m . && test -e x/1/f/bin/busybox";
    let mut shell = Command::new("sh");
    shell.args(["-euc", copy]).arg(world.daemon.root());
    output(shell.current_dir(&root));
    let arguments = ["--config", text(&config)];
    let daemon = Daemon::start_with(&scratch.dir("d"), &arguments);
    let mut copied = World { daemon, scratch };
    copied.run(&["restore", text(&backup)]);
    assert_eq!(copied.names("i"), ["1", "2"]);
    assert_eq!(copied.names("x"), [] as [&str; 0], "copies are no mounts");
    copied.mounted("box", "").assert_equals(&written);
    let (code, out) = copied.ctl(&["fsck", "--content"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("Layers compared: 2 ("), "{out}");
    copied.daemon.stop();
}
