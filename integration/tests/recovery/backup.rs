//! Backups, and a new root made of one and a copy of the layers.

use std::process::Command;

use layerd_integration::process::output;
use layerd_integration::{Daemon, Scratch, Tree};

use super::{World, end, program};

#[test]
fn root_a_backup_and_a_copy_of_the_layers_make_a_new_root() {
    let mut world = World::new("");
    world.furnish();
    world.client.prepare("removed", "base", &[]).unwrap();
    world.client.remove("removed").unwrap();
    let file = world.scratch.path().join("backup");
    let file = file.to_str().unwrap();
    let told = &world.json(&["backup", file])[0];
    let size = std::fs::metadata(file).unwrap().len();
    assert_eq!(
        (&told["file"], &told["bytes"]),
        (&file.into(), &size.into())
    );
    let before = world.state();
    world.daemon.stop();

    let scratch = Scratch::new();
    let root = scratch.dir("root");
    let copy = format!("cp -a {0}/l {0}/w {0}/t .", world.daemon.root().display());
    output(Command::new("sh").args(["-c", &copy]).current_dir(&root));
    let daemon = Daemon::start_with(scratch.path(), &["--config", &config(&world)]);
    let client = daemon.snapshots();
    let mut copied = World {
        client,
        daemon,
        scratch,
    };
    let text = copied.run(&["restore", file]);
    assert!(text.contains("are back: 5"), "{text}");
    assert!(text.contains("aside: nothing"), "{text}");
    let after = copied.state();
    assert_eq!((after.list, after.layers), (before.list, before.layers));
    assert_eq!(after.content, before.content);
    assert_eq!(copied.run(&["trash", "restore", "removed"]), "removed\n");
    assert_eq!(copied.run(&["fsck"]), "No problems.\n");
}

fn config(world: &World) -> String {
    let file = world.scratch.path().join("config.toml");
    file.to_str().unwrap().to_owned()
}

#[test]
fn root_backups_replace_nothing_unless_told() {
    let mut world = World::new("");
    world.furnish();
    let dir = world.scratch.dir("backups");
    let file = dir.join("b");
    let text = file.to_str().unwrap();
    world.run(&["backup", text]);
    let first = Tree::read(&dir);
    let refused = world.ctl(&["backup", text]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.error.contains("--force"), "{refused:?}");
    Tree::read(&dir).assert_equals(&first);
    world.commit("more", "top");
    world.run(&["backup", "--force", text]);
    assert_ne!(Tree::read(&dir), first);
    assert_eq!(
        std::fs::read_dir(&dir).unwrap().count(),
        1,
        "nothing beside it"
    );

    let mut command = program("layerctl");
    command.arg("--address").arg(world.daemon.socket());
    let piped = command.args(["backup", "-"]).output().unwrap();
    assert!(piped.status.success() && piped.stdout.starts_with(b"layerd export 1\n"));

    let missing = world.ctl(&["backup", "/no such folder/b"]);
    assert_eq!(missing.code, 1, "{missing:?}");
    world.daemon.stop();
    let gone = world.ctl(&["backup", dir.join("c").to_str().unwrap()]);
    assert_eq!(gone.code, 7, "{gone:?}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "no half file");
}

#[test]
fn root_the_offline_restore_does_the_same() {
    let mut world = World::new("");
    world.furnish();
    let before = world.state();
    world.daemon.stop();
    world.sh("rm -r meta/db");
    let mut command = program("layerd");
    command
        .arg("restore")
        .arg("--root")
        .arg(world.daemon.root());
    let ended = end(&mut command);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.starts_with("5 snapshots are back"), "{ended:?}");
    world.restart();
    assert_eq!(world.state(), before);
}
