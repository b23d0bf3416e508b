//! Copies of volumes, and their size.

use std::process::Command;

use layerd_integration::Tree;
use layerd_integration::process::output;
use serde_json::json;

use super::{World, text};

/// Everything that a copy could lose.
const CONTENT: &str = "
    echo one > file
    mkdir -m 1770 sub && chown 12:34 sub
    echo two > sub/deep && chmod 4711 sub/deep
    ln sub/deep sub/same
    ln -s ../file sub/link
    mkfifo pipe
    truncate -s 64M hole
    touch -d 2001-02-03T04:05:06.789 sub/deep file
";

fn sh(script: &str, dir: &std::path::Path) -> String {
    let mut shell = Command::new("sh");
    output(shell.args(["-euc", script]).current_dir(dir))
}

#[test]
fn root_copies_are_whole_and_stand_alone() {
    let mut world = World::new();
    world.run(&["volume", "create", "data", "--opt", "mode=750"]);
    let path = world.path("data");
    sh(CONTENT, &path);
    let flags = rustix::fs::XattrFlags::CREATE;
    rustix::fs::setxattr(path.join("file"), "user.note", b"kept", flags).unwrap();
    let tree = Tree::read(&path);
    let id = world.inspect("data")["id"].clone();

    assert_eq!(world.run(&["volume", "snapshot", "data", "shot"]), "shot\n");
    assert_eq!(world.run(&["volume", "clone", "data", "copy"]), "copy\n");
    world.run(&["volume", "create", "copy-2", "--clone-of", "data"]);
    sh("echo changed > file; rm -r sub; echo new > new", &path);
    for copy in ["shot", "copy", "copy-2"] {
        assert_eq!(Tree::read(&world.path(copy)), tree, "{copy}");
    }
    assert_eq!(world.inspect("shot")["snapshot_of"], id);
    let copy = world.inspect("copy");
    assert_eq!(
        (text(&copy, "filled_from"), &copy["snapshot_of"]),
        ("volume data".to_owned(), &json!(null))
    );
    let again = world.one(&["volume", "clone", "data", "copy"]);
    assert_eq!(
        again["created"], false,
        "a repeated call makes no second copy"
    );
    assert_eq!(Tree::read(&world.path("copy")), tree);

    sh("echo mine > file", &world.path("copy"));
    assert_eq!(world.read("data"), "changed\n");
    world.run(&["volume", "rm", "data"]);
    world.crash();
    assert_eq!(Tree::read(&world.path("shot")), tree);
    assert_eq!(world.read("copy"), "mine\n");
}

#[test]
fn root_copies_of_nothing_and_onto_something_are_refused() {
    let world = World::new();
    world.create_with("data", "a");
    world.create_with("taken", "b");
    let error = world.fail(3, &["volume", "clone", "missing", "copy"]);
    assert!(error.contains("missing"), "{error}");
    world.fail(3, &["volume", "snapshot", "missing"]);
    world.fail(4, &["volume", "clone", "data", "taken"]);
    world.fail(4, &["volume", "snapshot", "data", "taken"]);
    assert_eq!(
        (world.read("taken").as_str(), world.names(&[]).len()),
        ("b", 2)
    );
    let dated = world.run(&["volume", "snapshot", "data"]);
    assert!(
        dated.starts_with("data-") && dated.len() > "data-1700000000".len(),
        "{dated}"
    );
    assert_eq!(world.read(dated.trim()), "a");
}

#[test]
fn root_exact_usage_is_what_du_says() {
    let world = World::new();
    world.run(&["volume", "create", "data"]);
    let path = world.path("data");
    let du = |what: &str| -> u64 {
        let figure = sh(&format!("du -s {what} ."), &path);
        figure.split_whitespace().next().unwrap().parse().unwrap()
    };
    let usage = |more: &[&str]| world.one(&[&["volume", "usage", "data"], more].concat());
    let fill = "
        head -c 3000000 /dev/urandom > big; ln big again; echo small > small
        mkdir -p a/b/c; truncate -s 64M hole; ln -s big link; sync -f .";
    sh(fill, &path);
    let first = usage(&[]);
    assert_eq!(first["bytes"], du("--block-size=1"));
    assert_eq!(first["inodes"], du("--inodes"));
    sh("head -c 900000 /dev/urandom > more; sync -f .", &path);
    let last = usage(&[]);
    assert_eq!(last["bytes"], first["bytes"], "not measured again");
    assert_eq!(usage(&[]), last, "nor is its time");
    let exact = usage(&["--exact"]);
    assert_eq!(exact["bytes"], du("--block-size=1"));
    assert_eq!(exact["inodes"], du("--inodes"));
    assert!(exact["bytes"].as_u64() >= first["bytes"].as_u64().map(|bytes| bytes + 900_000));
    assert!(text(&exact, "as_of") > text(&first, "as_of"));
    assert_eq!(usage(&[])["bytes"], exact["bytes"]);
    world.fail(3, &["volume", "usage", "missing"]);
}
