//! Folders of the data directory that `chattr +i` closed, and a disk of volumes that is read-only.

use serde_json::Value;

use super::{World, end, program};

impl World {
    /// The finding of doctor that has a fix of this name.
    fn fixed_by(&self, fix_name: &str) -> Option<Value> {
        let found = self.json_of(&["doctor", "--quiet"]);
        found.into_iter().find(|one| one["fix_name"] == fix_name)
    }

    /// Runs the fix as a shell does, and looks again.
    fn assert_ends(&self, fix_name: &str) {
        let found = self.fixed_by(fix_name).expect(fix_name);
        self.sh(found["fix"].as_str().unwrap());
        assert_eq!(self.fixed_by(fix_name), None);
    }
}

#[test]
fn root_a_closed_folder_is_named_and_opened() {
    let world = World::new("");
    world.sh("chattr +i l");
    let alarm = world.json(&["info"])[0]["alarms"][0].to_string();
    let found = world.fixed_by("open-closed-folders");
    if found.is_none() {
        // No scratch directory can be removed with it.
        world.sh("chattr -i l");
    }
    world.assert_ends("open-closed-folders");
    let folder = world.daemon.root().join("l").display().to_string();
    assert!(
        alarm.contains(&folder) && alarm.contains("chattr -i"),
        "{alarm}"
    );
    assert!(world.json(&["info"])[0]["alarms"][0].is_null());
}

/// Layers go on, whatever the disk of volumes takes.
#[test]
fn root_a_read_only_disk_of_volumes_stops_volumes_alone() {
    let mut world = World::new("");
    world.run(&["volume", "create", "data"]);
    world.daemon.stop();
    world.sh("mount --bind volumes volumes; mount -o remount,bind,ro volumes");
    world.restart();
    let alarm = world.json(&["info"])[0]["alarms"][0].to_string();
    assert!(alarm.contains("/volumes is read-only"), "{alarm}");
    let check = end(program("layerd")
        .args(["check", "--root"])
        .arg(world.daemon.root()));
    let said = &check.out;
    assert!(said.contains("warn volumes: the file system of "), "{said}");
    assert_eq!(check.code, 0, "layers can be kept: {said}");

    world.commit("base", "");
    world.client.prepare("work", "base", &[]).unwrap();
    world.client.remove("work").unwrap();
    assert!(world.run(&["volume", "ls"]).contains("data"));
    let refused = world.ctl(&["volume", "create", "other"]);
    assert_eq!(refused.code, 5, "refused: {refused:?}");
    assert!(
        refused.error.contains("Read-only file system"),
        "{refused:?}"
    );
    world.commit("top", "base");

    world.assert_ends("remount-volumes-writable");
    assert!(world.json(&["info"])[0]["alarms"][0].is_null());
    world.run(&["volume", "create", "other"]);
    world.daemon.stop();
    world.sh("umount volumes");
}

/// The folders that layerd has on it are made once it is writable.
#[test]
fn root_a_read_only_disk_of_volumes_may_be_empty() {
    let mut world = World::new("");
    world.daemon.stop();
    world.sh("mount -t tmpfs -o ro,mode=0755 none volumes");
    world.restart();
    world.commit("base", "");
    let alarm = world.json(&["info"])[0]["alarms"][0].to_string();
    assert!(alarm.contains("/volumes is read-only"), "{alarm}");
    assert_eq!(world.run(&["volume", "ls", "--quiet"]), "");
    let refused = world.ctl(&["volume", "create", "data"]);
    let is_named = refused.error.contains("Read-only file system");
    assert!(refused.code == 5 && is_named, "{refused:?}");
    world.daemon.stop();
    world.restart();

    world.assert_ends("remount-volumes-writable");
    world.run(&["volume", "create", "data"]);
    world.sh("test $(stat -c %a volumes) = 700; test -d volumes/by-name/data");
    world.run(&["volume", "rm", "data"]);
    world.run(&["trash", "empty", "--force"]);
    world.daemon.stop();
    world.restart();
    assert!(world.json(&["info"])[0]["alarms"][0].is_null());
    world.daemon.stop();
    world.sh("umount volumes");
}

/// Records whose volumes are on another disk.
#[test]
fn root_a_read_only_disk_in_the_place_of_that_of_volumes_is_told() {
    let mut world = World::new("");
    world.run(&["volume", "create", "data"]);
    world.run(&["volume", "create", "old"]);
    world.sh("echo kept > volumes/by-name/old/file");
    world.run(&["volume", "rm", "old"]);
    world.daemon.stop();
    world.sh("mount -t tmpfs -o ro,mode=0755 none volumes");
    world.restart();
    world.commit("base", "");
    let missing = "the folder is gone of data";
    let found = world.json_of(&["doctor", "--quiet"]);
    assert!(found.iter().any(|one| one["found"] == missing), "{found:?}");
    assert!(world.fixed_by("remount-volumes-writable").is_some());
    let refused = world.ctl(&["volume", "undelete", "old"]);
    let is_named = refused.error.contains("Read-only file system");
    assert!(refused.code == 5 && is_named, "{refused:?}");
    world.daemon.stop();
    world.sh("umount volumes");
    world.restart();
    world.run(&["volume", "undelete", "old"]);
    world.sh("test -d volumes/by-name/data; grep kept volumes/by-name/old/file");
}
