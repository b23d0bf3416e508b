//! Removing volumes and taking them back.

use std::process::Command;
use std::time::{Duration, Instant};

use layerd_integration::process::output;
use layerd_integration::{Daemon, Scratch, Tree};

use super::prune::on_terminal;
use super::{World, text};

#[test]
fn root_a_removed_volume_comes_back_whole() {
    let mut world = World::new();
    let path = world.create_with("data", "precious");
    std::fs::create_dir(path.join("sub")).unwrap();
    std::os::unix::fs::symlink("nowhere", path.join("sub/link")).unwrap();
    let (tree, before) = (Tree::read(&path), world.inspect("data"));
    assert_eq!(world.run(&["volume", "rm", "data"]), "data\n");
    assert!(!path.exists());
    assert_eq!(world.names(&[]).len(), 0);
    let deleted = world.names(&["--deleted"]);
    assert_eq!(deleted, [text(&before, "id")]);
    world.crash();
    assert_eq!(world.names(&["--deleted"]), deleted);
    assert_eq!(world.run(&["volume", "undelete", "data"]), "data\n");
    let error = world.fail(3, &["volume", "undelete", "data"]);
    assert!(error.contains("no volume data is in the trash"), "{error}");
    assert!(!error.contains("volume create"), "it is there: {error}");
    assert_eq!(Tree::read(&world.path("data")), tree);
    let after = world.inspect("data");
    assert_eq!(
        (&after["id"], &after["path"]),
        (&before["id"], &before["path"])
    );
    assert!(after["deleted_at"].is_null());
    world.crash();
    assert_eq!(Tree::read(&world.path("data")), tree);
    assert_eq!(world.names(&["--deleted"]).len(), 0);
}

/// Flags that keep root from deleting keep nothing from being given back.
#[test]
fn root_immutable_files_are_deleted_with_what_holds_them() {
    let world = World::on_small_disk();
    let volume = world.create_with("data", "precious");
    let mut snapshots = world.daemon.snapshots();
    let mounts = snapshots.prepare("k", "", &[]).unwrap();
    let layer = std::path::PathBuf::from(&mounts[0].source);
    std::fs::write(layer.join("file"), "x").unwrap();
    for fixed in [layer.join("file"), layer, volume.clone()] {
        output(Command::new("chattr").arg("+i").arg(fixed));
    }
    world.run(&["volume", "rm", "data"]);
    world.run(&["volume", "purge", "--yes", "data"]);
    assert_eq!(world.volume_folders(), 0);
    snapshots.remove("k").unwrap();
    world.daemon.assert_empty();
}

#[test]
fn root_a_name_that_is_taken_by_now_is_not_taken_away() {
    let world = World::new();
    world.create_with("data", "first");
    let first = text(&world.inspect("data"), "id").to_owned();
    world.run(&["volume", "rm", "data"]);
    world.create_with("data", "second");
    let error = world.fail(4, &["volume", "undelete", "data"]);
    assert!(error.contains("data"), "{error}");
    assert_eq!(
        (world.read("data").as_str(), world.names(&[]).len()),
        ("second", 1)
    );
    let second = text(&world.inspect("data"), "id").to_owned();
    world.run(&["volume", "rm", "data"]);
    let error = world.fail(6, &["volume", "undelete", "data"]);
    assert!(error.contains(&first) && error.contains(&second), "{error}");
    world.run(&["volume", "undelete", &first, "--as", "one"]);
    world.run(&["volume", "undelete", &second]);
    assert_eq!(
        (world.read("one"), world.read("data")),
        ("first".to_owned(), "second".to_owned())
    );
    let error = world.fail(3, &["volume", "undelete", "never"]);
    assert!(error.contains("volume ls --deleted"), "{error}");
}

#[test]
fn root_removing_says_what_was_not_there() {
    let world = World::new();
    for name in ["one", "two", "data-1"] {
        world.run(&["volume", "create", name]);
    }
    let ended = world.ctl(&["volume", "rm", "one", "data", "two"]);
    assert_eq!((ended.code, ended.out.as_str()), (3, "one\ntwo\n"));
    assert!(
        ended.error.contains("data-1"),
        "near names: {}",
        ended.error
    );
    assert_eq!(world.names(&[]), ["data-1"]);
    let again = world.json(&["volume", "rm", "-f", "one", "data-1"]);
    assert_eq!(
        (&again[0]["existed"], &again[1]["existed"]),
        (&false.into(), &true.into())
    );
    assert_eq!(text(&again[1], "removed"), "data-1");
}

#[test]
fn root_one_volume_is_deleted_for_good() {
    let mut world = World::new();
    for name in ["one", "two", "two", "three"] {
        world.create_with(name, "content");
        if name == "one" {
            world.run(&["volume", "usage", name]);
        }
        world.run(&["volume", "rm", name]);
    }
    world.create_with("live", "kept");
    let ids = world.names(&["--deleted"]);
    let trash = world.daemon.root().join("volumes/.trash");
    let folders = || std::fs::read_dir(&trash).unwrap().count();
    assert_eq!(folders(), 4);
    let unasked = world.fail(5, &["volume", "purge", "one"]);
    assert!(unasked.contains("--force"), "{unasked}");
    let error = world.fail(3, &["volume", "purge", "--yes", "live"]);
    assert!(error.contains("not in the trash"), "{error}");
    let error = world.fail(6, &["volume", "purge", "--yes", "two"]);
    assert!(
        error.contains(&ids[1]) && error.contains(&ids[2]),
        "{error}"
    );
    assert_eq!(world.names(&["--deleted"]), ids);
    let asked = on_terminal(&world, &["volume", "purge", "one", &ids[1]], "n\n");
    let question = format!(
        "Delete 2 of 4 removed volumes for good: one (id {}, ",
        ids[0]
    );
    assert!(
        asked.code == 5 && asked.out.contains(&question),
        "{asked:?}"
    );
    let told = world.run(&["volume", "purge", "--yes", "one", &ids[1]]);
    assert_eq!(told, "one\ntwo\n2 deleted for good, 2 left in the trash\n");
    assert_eq!(world.names(&["--deleted"]), ids[2..]);
    assert_eq!(folders(), 2, "gone from the disk on return");
    world.fail(3, &["volume", "undelete", "one"]);
    world.crash();
    assert_eq!(world.names(&["--deleted"]), ids[2..]);
    assert_eq!(world.read("live"), "kept");

    let rows = world.json(&["trash", "ls"]);
    let rows: Vec<_> = rows
        .iter()
        .map(|row| (text(row, "kind"), text(row, "key")))
        .collect();
    let volume = |name: &str| ("volume".to_owned(), name.to_owned());
    assert_eq!(rows, [volume("two"), volume("three")]);
    let asked = on_terminal(&world, &["trash", "empty"], "n\n");
    assert!(asked.out.contains("and 2 removed volumes"), "{asked:?}");
    assert_eq!(world.one(&["trash", "empty", "--yes"])["volumes"], 2);
}

#[test]
fn root_the_time_in_the_trash_is_a_setting() {
    const LIMIT: Duration = Duration::from_secs(30);
    let scratch = Scratch::new();
    let file = scratch.path().join("config.toml");
    let settings = "[trash]\nkeep_volumes_secs = 0\n[reaper]\nevery_secs = 1\n";
    std::fs::write(&file, settings).unwrap();
    let arguments = ["--config", file.to_str().unwrap()];
    let daemon = Daemon::start_with(scratch.path(), &arguments);
    let world = World { daemon, scratch };
    world.create_with("data", "content");
    world.run(&["volume", "rm", "data"]);
    let began = Instant::now();
    while !world.names(&["--deleted"]).is_empty() {
        assert!(began.elapsed() < LIMIT, "still in the trash");
    }
    world.fail(3, &["volume", "undelete", "data"]);
}

/// Fails if the time depends on what is in the volume: looking at each of 20,000 files takes
/// longer than all of an answer.
#[test]
fn root_a_large_volume_goes_as_fast_as_a_small_one() {
    const FILES: usize = 20_000;
    let world = World::new();
    for (name, files) in [("small", 10), ("large", FILES)] {
        let path = world.create_with(name, "");
        let script = format!("seq {files} | xargs touch");
        let mut shell = std::process::Command::new("sh");
        output(shell.args(["-euc", &script]).current_dir(path));
    }
    let mut best = [Duration::MAX; 2];
    for _ in 0..5 {
        for (name, best) in ["small", "large"].into_iter().zip(&mut best) {
            let start = Instant::now();
            world.run(&["volume", "rm", name]);
            *best = start.elapsed().min(*best);
            world.run(&["volume", "undelete", name]);
        }
    }
    let files = std::fs::read_dir(world.path("large")).unwrap().count();
    assert_eq!(files, FILES + 1);
    println!("small: {:?}, large: {:?}", best[0], best[1]);
    assert!(best[1] < best[0] * 3, "small, large: {best:?}");
}
