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
