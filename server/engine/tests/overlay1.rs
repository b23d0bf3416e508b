//! The engine on the driver overlay1: layers are unpacked, compared and measured as changes, and
//! mounted as whole trees.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{apply, commit, create, diff, files, key, layer};
use layerd_drivers::factory;
use layerd_engine::{Engine, survey};
use layerd_mounts::fake::FakeMounter;
use layerd_store::Kind;

fn settings() -> factory::Settings {
    factory::Settings {
        kind: factory::Kind::Overlay1,
        ..factory::Settings::default()
    }
}

fn open(root: &Path) -> Engine {
    let driver = factory::open(root, &settings()).unwrap();
    let mounter = Arc::new(FakeMounter::new());
    Engine::open(root, driver, mounter, common::options()).unwrap()
}

/// The directory that a view of a layer is a bind of.
fn shown(engine: &Engine, layer: &str) -> PathBuf {
    create(engine, Kind::View, "look", Some(layer)).unwrap();
    let mounts = engine.layers.mounts(&key("look")).unwrap();
    assert_eq!(
        (&*mounts[0].kind, &*mounts[0].options),
        ("bind", &["ro".into(), "rbind".into()][..])
    );
    engine.layers.remove(&key("look")).unwrap();
    (&mounts[0].source).into()
}

/// Whiteouts are devices, which only root makes.
#[test]
fn root_layers_are_changes_that_are_mounted_as_whole_trees() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let engine = open(&root);
    create(&engine, Kind::Active, "a", None).unwrap();
    apply(
        &engine,
        "a",
        &layer(&["dir/gone", "dir/kept", "file", "old"]),
    )
    .unwrap();
    commit(&engine, "base", "a").unwrap();
    create(&engine, Kind::Active, "b", Some("base")).unwrap();
    apply(&engine, "b", &layer(&[".wh.old", "dir/.wh.gone", "new"])).unwrap();
    commit(&engine, "child", "b").unwrap();
    let base = ["dir/gone", "dir/kept", "file", "old"];
    assert_eq!(files(&shown(&engine, "base")), base);
    let whole = shown(&engine, "child");
    assert!(whole.starts_with(root.join("r")));
    assert_eq!(files(&whole), ["dir/kept", "file", "new"]);
    let usage = engine.layers.usage(&key("child")).unwrap();
    assert_eq!(
        usage.inodes, 5,
        "the top, a directory, two whiteouts and a file"
    );

    create(&engine, Kind::Active, "c", Some("child")).unwrap();
    let plan = engine.layers.mounts(&key("c")).unwrap();
    let lower = format!("lowerdir={}", whole.display());
    assert!(plan[0].options.contains(&lower), "{plan:?}");
    apply(&engine, "c", &layer(&["dir/more", ".wh.new"])).unwrap();
    let packed = diff(&engine, "c");
    create(&engine, Kind::Active, "d", Some("child")).unwrap();
    apply(&engine, "d", &packed).unwrap();
    for (active, name) in [("c", "one"), ("d", "two")] {
        commit(&engine, name, active).unwrap();
        assert_eq!(
            files(&shown(&engine, name)),
            ["dir/kept", "dir/more", "file"]
        );
    }
    assert_eq!(files(&shown(&engine, "base")), base, "the parent stays");
    assert!(engine.fsck(false).unwrap().is_empty());

    drop(engine);
    let offline = factory::survey(&root, &settings()).unwrap();
    assert_eq!(survey(&root, offline.as_ref()).unwrap(), [], "offline");
    // As in a backup without what can be made again.
    fs::rename(root.join("r"), dir.path().join("away")).unwrap();
    assert_eq!(survey(&root, offline.as_ref()).unwrap(), [], "no damage");
    let engine = open(&root);
    assert!(engine.fsck(false).unwrap().is_empty());
    assert_eq!(
        files(&shown(&engine, "one")),
        ["dir/kept", "dir/more", "file"]
    );
}
