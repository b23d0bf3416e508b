//! Records that are older than what is on disk, and records that are gone where only volumes are.

use std::path::PathBuf;
use std::time::Duration;

use layerd_integration::process::wait_until;
use tonic::Code;

use super::{World, layer_dir};

/// Snapshots and volumes younger than the restored backup: a committed layer, one that is being
/// written, and a volume. Each with a file that identifies it.
struct Younger {
    committed: String,
    open: String,
    volume: String,
}

impl World {
    /// Keeps spare layers, and starts anew.
    fn with_spares(mut self, spares: u32) -> Self {
        self.daemon.stop();
        let line = format!("s/spare_layers = 0/spare_layers = {spares}/");
        self.sh(&format!("sed -i '{line}' ../config.toml"));
        self.restart();
        self
    }

    pub(super) fn make_volume(&self, name: &str) -> String {
        let made = &self.json(&["volume", "create", name])[0];
        let path = PathBuf::from(made["path"].as_str().unwrap());
        std::fs::write(path.join("told"), name).unwrap();
        let folder = path.parent().unwrap().file_name().unwrap();
        format!("volumes/{}", folder.to_str().unwrap())
    }

    fn make_younger(&mut self) -> Younger {
        let mut relative = |key: &str| {
            let mounts = self.client.prepare(key, "top", &[]).unwrap();
            let dir = layer_dir(&mounts);
            std::fs::write(dir.join("told"), key).unwrap();
            let name = dir.file_name().unwrap().to_str().unwrap();
            format!("l/{name}")
        };
        let (committed, open) = (relative("younger"), relative("open"));
        self.client.commit("committed", "younger", &[]).unwrap();
        let volume = self.make_volume("younger");
        Younger {
            committed,
            open,
            volume,
        }
    }

    fn assert_has(&self, younger: &Younger) {
        let Younger {
            committed,
            open,
            volume,
        } = younger;
        self.sh(&format!(
            "grep -q younger {committed}/told && grep -q open {open}/told && grep -q younger {volume}/data/told"
        ));
    }

    /// Snapshots are made and removed, with and without directories made ahead.
    fn work(&mut self) {
        for round in 0..40 {
            let key = format!("work {round}");
            let made = self.client.prepare(&key, "top", &[]);
            let dir = layer_dir(&made.unwrap());
            assert_eq!(dir.read_dir().unwrap().count(), 0, "{}", dir.display());
            self.client.remove(&key).unwrap();
        }
        self.make_volume("another");
        self.run(&["trash", "empty", "--yes"]);
        wait_until("all to be deleted", Duration::from_secs(20), || {
            self.json(&["trash", "ls"]).is_empty()
        });
    }
}

/// The backup is a copy of the folder of records: of a root that is stopped, or of one in use, as a
/// snapshot of the disk is, where ids are reserved that nothing has yet.
fn go_back(is_stopped: bool, spares: u32) {
    let mut world = World::new("");
    world.furnish();
    let mut world = world.with_spares(spares);
    if is_stopped {
        world.daemon.stop();
    }
    world.sh("cp -a meta ../older");
    if is_stopped {
        world.restart();
    }
    let younger = world.make_younger();
    world.kill();
    world.sh("rm -r meta && cp -a ../older meta");
    world.restart();
    world.assert_has(&younger);
    world.work();
    world.assert_has(&younger);
    world.daemon.stop();
    world.restart();
    world.assert_has(&younger);

    let found = world.ctl(&["fsck"]);
    assert_eq!(found.code, 11, "{found:?}");
    let volume = world.daemon.root().join(&younger.volume);
    let named = format!("no record names the volume in {}", volume.display());
    assert!(found.out.contains(&named), "{found:?}");
    let repaired = world.ctl(&["fsck", "--repair"]);
    assert_eq!(repaired.code, 0, "{repaired:?}");
    assert_eq!(world.run(&["fsck"]), "No problems.\n");
    let told = world.sh("cat lost/*/told lost/*/data/told");
    assert_eq!(told, "youngeropenyounger");
}

#[test]
fn root_younger_layers_outlive_an_older_backup() {
    go_back(true, 0);
    go_back(true, 8);
}

#[test]
fn root_younger_layers_outlive_an_older_backup_of_a_root_in_use() {
    go_back(false, 0);
    go_back(false, 8);
}

/// Nothing on the disk tells of ids that were given out after the backup. Who gets them again finds
/// nothing of those that had them, as all that bears an id is deleted before its record.
#[test]
fn root_ids_of_what_is_gone_are_given_out_again_empty() {
    let mut world = World::new("");
    world.furnish();
    world.daemon.stop();
    world.sh("cp -a meta ../older");
    world.restart();
    let younger = world.make_younger();
    for key in ["open", "committed"] {
        world.client.remove(key).unwrap();
    }
    world.run(&["volume", "rm", "younger"]);
    world.run(&["trash", "empty", "--yes"]);
    wait_until("all to be deleted", Duration::from_secs(60), || {
        world.json(&["trash", "ls"]).is_empty()
    });
    world.kill();
    world.sh("rm -r meta && cp -a ../older meta");
    world.restart();
    let found = world.ctl(&["fsck"]);
    assert_eq!(found.code, 0, "{found:?}");
    let dir = layer_dir(&world.client.prepare("new", "top", &[]).unwrap());
    let again = world.daemon.root().join(&younger.committed);
    assert_eq!(dir, again, "the first id after the backup");
    assert_eq!(dir.read_dir().unwrap().count(), 0);
    let made = &world.json(&["volume", "create", "new"])[0];
    let path = PathBuf::from(made["path"].as_str().unwrap());
    assert_eq!(path.read_dir().unwrap().count(), 0);
    let found = world.ctl(&["fsck"]);
    assert_eq!(found.code, 0, "{found:?}");
}

/// Snapshots that a backup has as removed were restored after it, and the trash keeps nothing.
fn take_back(restore: impl FnOnce(&mut World)) {
    let mut world = World::new("");
    world.furnish();
    let volume = world.make_volume("data");
    world.client.remove("lone").unwrap();
    world.run(&["volume", "rm", "data"]);
    let backup = world.scratch.path().join("backup");
    world.run(&["backup", backup.to_str().unwrap()]);
    world.daemon.stop();
    world.sh("cp -a meta ../older");
    world.restart();
    world.run(&["trash", "restore", "--all"]);
    world.run(&["volume", "undelete", "data"]);
    world.sh(&format!(
        "echo later > l/4/later; echo later > {volume}/data/later"
    ));
    world.commit("younger", "top");
    world.daemon.stop();
    world.sh("sed -i 's/^keep_secs = .*/keep_secs = 0\\nkeep_volumes_secs = 0/' ../config.toml");

    restore(&mut world);
    for _ in 0..3 {
        world.client.cleanup().unwrap();
    }
    let found = world.sh("grep -q lone l/4/lone && cat l/4/later");
    assert_eq!(found, "later\n");
    let kept = world.sh("cat $(find volumes -name later)");
    assert_eq!(kept, "later\n");
    let said = world.run(&["info"]);
    assert!(said.contains("taken back from the trash since"), "{said}");
    world.run(&["trash", "restore", "--all"]);
    world.run(&["volume", "undelete", "data"]);
    assert_eq!(
        world.sh(&format!("cat l/4/later {volume}/data/later")),
        "later\nlater\n"
    );
}

#[test]
fn root_what_was_taken_back_outlives_an_older_backup() {
    take_back(|world| {
        world.sh("rm -r meta && cp -a ../older meta");
        world.restart();
    });
}

#[test]
fn root_what_was_taken_back_outlives_a_restore() {
    take_back(|world| {
        world.sh("rm -r meta/db");
        world.restart();
        let backup = world.scratch.path().join("backup");
        world.run(&["restore", backup.to_str().unwrap()]);
        wait_until("the client to dial again", Duration::from_secs(5), || {
            world.client.stat("top").is_ok()
        });
    });
}

/// A directory that appears where the next layer goes fails one call, and stays.
#[test]
fn root_a_directory_that_is_in_the_way_stays() {
    for (spares, folder) in [(0, "l"), (0, "w"), (8, "l"), (8, "w")] {
        let mut world = World::new("");
        world.furnish();
        let mut world = world.with_spares(spares);
        world.sh(&format!(
            "for id in $(seq 6 9) a b c d e f g h i; do mkdir {folder}/$id; done"
        ));
        for round in 0..20 {
            // Those that are made ahead may be in time, or not.
            let _ = world.client.prepare(&format!("key {round}"), "top", &[]);
        }
        world.client.cleanup().unwrap();
        let made = world.client.list().len();
        assert!(made > 5, "the calls go on behind it");
        world.sh(&format!(
            "for id in $(seq 6 9) a b c d e f g h i; do test -d {folder}/$id; done"
        ));
    }
}

fn is_unavailable(world: &mut World) -> bool {
    let refused = world.client.stat("top").unwrap_err();
    refused.code() == Code::Unavailable
}

#[test]
fn root_lost_records_of_volumes_alone_are_not_taken_for_a_new_root() {
    for is_deleted in [false, true] {
        let mut world = World::new("");
        let first = world.make_volume("first");
        if is_deleted {
            world.run(&["volume", "rm", "first"]);
        }
        let backup = world.scratch.path().join("backup");
        world.run(&["backup", backup.to_str().unwrap()]);
        let second = world.make_volume("second");
        world.daemon.stop();
        world.sh("rm -r meta");
        let offline = super::faults::offline(&world, &[]);
        assert!(
            offline.error.contains("2 volumes, but no database"),
            "{offline:?}"
        );
        world.restart();
        assert!(is_unavailable(&mut world));
        world.run(&["restore", backup.to_str().unwrap()]);
        wait_until("the records to be back", Duration::from_secs(5), || {
            world.ctl(&["volume", "ls"]).code == 0
        });
        let third = world.make_volume("third");
        assert!(third != first && third != second, "{third}");
        assert_eq!(world.sh(&format!("cat {second}/data/told")), "second");
        let found = world.ctl(&["fsck"]);
        assert!(
            found.out.contains(&format!("/{second}: ")) || found.out.contains(&second),
            "{found:?}"
        );
        assert_eq!(world.ctl(&["fsck", "--repair"]).code, 0);
        assert_eq!(world.sh("cat lost/*/data/told"), "second");
        if is_deleted {
            world.run(&["volume", "undelete", "first"]);
        }
        assert_eq!(world.sh(&format!("cat {first}/data/told")), "first");
        assert_eq!(world.run(&["fsck"]), "No problems.\n");
    }
}
