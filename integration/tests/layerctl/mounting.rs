//! `layerctl snapshot mount` and `umount`.

use std::process::Command;

use layerd_integration::process::output;

use super::World;

#[test]
fn root_mount_shows_a_snapshot_and_changes_nothing() {
    let world = World::new();
    world.fill();
    let dir = world.scratch.dir("mnt");
    let dir_text = dir.to_str().unwrap();
    world.run(&["snapshot", "mount", "--rw", "work", dir_text]);
    std::fs::write(dir.join("file"), "hello").unwrap();
    world.run(&["snapshot", "umount", dir_text]);

    world.run(&["snapshot", "mount", "work", dir_text]);
    assert_eq!(std::fs::read_to_string(dir.join("file")).unwrap(), "hello");
    let refused = std::fs::write(dir.join("other"), "").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    // A container may have it mounted at the same time.
    let second = world.scratch.dir("second");
    world.run(&[
        "snapshot",
        "mount",
        "--rw",
        "work",
        second.to_str().unwrap(),
    ]);
    world.run(&["snapshot", "umount", second.to_str().unwrap()]);
    world.run(&["snapshot", "umount", dir_text]);
    assert!(!dir.join("file").exists());
    let again = world.run(&["snapshot", "umount", dir_text]);
    assert!(again.starts_with("Nothing is mounted"), "{again}");

    let (code, error) = world.fail(&["snapshot", "mount", "top", dir_text]);
    assert_eq!(code, 5, "{error}");
    assert!(error.contains("snapshot view"), "{error}");
    world.run(&["snapshot", "mount", "look", dir_text]);
    world.run(&["snapshot", "umount", dir_text]);
}

#[test]
fn root_mount_and_umount_leave_the_daemon_s_and_others_alone() {
    let world = World::new();
    world.fill();
    let root = world.daemon.root().to_owned();
    let dir = world.scratch.dir("mnt");
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let refused = |command: &str, path: &std::path::Path, why: &str| {
        let path = text(path);
        let all = ["snapshot", command, "work", &path];
        let all: Vec<_> = match command {
            "umount" => ["snapshot", "umount", &path].to_vec(),
            _ => all.to_vec(),
        };
        let (code, error) = world.fail(&all);
        assert_eq!(code, 6, "{path}: {error}");
        assert!(error.contains(why), "{path}: {error}");
    };
    let run = |program: &str, arguments: &[&str]| {
        output(Command::new(program).args(arguments));
    };
    let alias = world.scratch.dir("alias");
    run("mount", &["--bind", &text(&root.join("l")), &text(&alias)]);
    for command in ["mount", "umount"] {
        refused(command, std::path::Path::new("/"), "root directory");
    }
    refused("mount", &root, "lies in layerd's data directory");
    refused("mount", &root.join("meta"), "lies in layerd's data");
    refused("mount", &alias, "lies in layerd's data directory");
    refused("mount", root.parent().unwrap(), "holds layerd's data");
    let missing = text(&dir.join("missing"));
    let (code, error) = world.fail(&["snapshot", "mount", "work", &missing]);
    assert_eq!(code, 3, "{error}");
    world.run(&[
        "attach",
        "--owner",
        "person:x",
        "-v",
        "vol:/v",
        "--target",
        &format!("/v={}", text(&dir)),
    ]);
    refused("mount", &dir, "mount point already");
    refused("umount", &dir, "attachment \"person:x:/v\" has it mounted");
    world.run(&["detach", "--owner", "person:x"]);
    run("mount", &["-t", "tmpfs", "theirs", &text(&dir)]);
    refused("umount", &dir, "is no snapshot");
    run("umount", &[&text(&dir)]);
    run("umount", &[&text(&alias)]);
    world.run(&["snapshot", "mount", "work", &text(&dir)]);
    refused("mount", &dir, "mount point already");
    world.run(&["snapshot", "umount", &text(&dir)]);
}
