//! Removing volumes and taking them back.

use std::time::{Duration, Instant};

use layerd_integration::Tree;
use layerd_integration::process::output;

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
    assert_eq!(deleted, [before["id"].to_string()]);
    world.crash();
    assert_eq!(world.names(&["--deleted"]), deleted);
    assert_eq!(world.run(&["volume", "undelete", "data"]), "data\n");
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

#[test]
fn root_a_name_that_is_taken_by_now_is_not_taken_away() {
    let world = World::new();
    world.create_with("data", "first");
    let first = world.inspect("data")["id"].to_string();
    world.run(&["volume", "rm", "data"]);
    world.create_with("data", "second");
    let error = world.fail(4, &["volume", "undelete", "data"]);
    assert!(error.contains("data"), "{error}");
    assert_eq!(
        (world.read("data").as_str(), world.names(&[]).len()),
        ("second", 1)
    );
    let second = world.inspect("data")["id"].to_string();
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
