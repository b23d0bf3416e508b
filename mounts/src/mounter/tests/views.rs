//! Image views.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Ground;
use crate::mounter::{Effective, MountError, Mounter};
use crate::overlay_options::MAX_LOWERS;
use crate::types::Mount;

fn overlay(layers: &[PathBuf], more: &[&str]) -> Vec<Mount> {
    let layers: Vec<String> = layers.iter().map(|l| l.display().to_string()).collect();
    let mut options = vec![format!("lowerdir={}", layers.join(":"))];
    options.extend(more.iter().map(|option| (*option).to_owned()));
    vec![Mount {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options,
    }]
}

fn layer(ground: &Ground, name: &str, file: &str, content: &str) -> PathBuf {
    let path = ground.dir(name);
    fs::write(path.join(file), content).expect("write");
    path
}

fn cannot_be_written(path: &Path) {
    let error = fs::write(path.join("new"), "x").expect_err("it is read-only");
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn root_a_view_stacks_layers_nearest_first() {
    let ground = Ground::new();
    let top = layer(&ground, "top", "both", "top");
    let bottom = layer(&ground, "bottom", "both", "bottom");
    fs::write(bottom.join("below"), "below").expect("write");
    let target = ground.dir("target");
    let tree = ground
        .mounter
        .view(&overlay(&[top, bottom], &["ro", "index=off"]));
    let tree = tree.expect("view");
    assert_eq!(tree.read_only(), Effective::Recursive);
    let attached = ground.attach(tree, &target);
    assert_eq!(fs::read(target.join("both")).expect("read"), b"top");
    assert_eq!(fs::read(target.join("below")).expect("read"), b"below");
    cannot_be_written(&target);
    ground.detach(&target, &attached);
}

#[test]
fn root_a_view_of_one_layer_is_a_bind() {
    let ground = Ground::new();
    let only = layer(&ground, "only", "file", "x");
    let target = ground.dir("target");
    let plan = [Mount {
        kind: "bind".to_owned(),
        source: only.display().to_string(),
        options: vec!["rbind".to_owned(), "rw".to_owned()],
    }];
    let attached = ground.attach(ground.mounter.view(&plan).expect("view"), &target);
    assert_eq!(fs::read(target.join("file")).expect("read"), b"x");
    cannot_be_written(&target);
    ground.detach(&target, &attached);
}

#[test]
fn root_a_view_takes_as_many_layers_as_the_kernel() {
    let ground = Ground::new();
    let layers: Vec<PathBuf> = (0..MAX_LOWERS)
        .map(|n| layer(&ground, &format!("l/{n}"), &format!("file-{n}"), "")) // short, as layerd's are
        .collect();
    let target = ground.dir("target");
    let tree = ground.mounter.view(&overlay(&layers, &[])).expect("view");
    let attached = ground.attach(tree, &target);
    let seen = fs::read_dir(&target).expect("list").count();
    assert_eq!(seen, MAX_LOWERS);
    ground.detach(&target, &attached);
}

#[test]
fn root_a_view_takes_long_paths() {
    let ground = Ground::new();
    let deep = |name: &str| format!("{}/{name}", ["d".repeat(200).as_str(); 5].join("/"));
    let layers = [
        layer(&ground, &deep("one"), "one", "1"),
        layer(&ground, &deep("two"), "two", "2"),
    ];
    let target = ground.dir("target");
    let tree = ground.mounter.view(&overlay(&layers, &[])).expect("view");
    let attached = ground.attach(tree, &target);
    assert_eq!(fs::read(target.join("one")).expect("read"), b"1");
    assert_eq!(fs::read(target.join("two")).expect("read"), b"2");
    ground.detach(&target, &attached);
}

#[test]
fn root_layers_that_do_not_fit_a_page_are_mounted_or_refused() {
    let ground = Ground::new();
    let layers: Vec<PathBuf> = (0..100)
        .map(|n| layer(&ground, &format!("{}-{n}", "d".repeat(100)), "file", ""))
        .collect();
    match ground.mounter.view(&overlay(&layers, &[])) {
        Ok(tree) => assert_eq!(tree.read_only(), Effective::Recursive),
        Err(error) => assert!(error.to_string().contains("Linux 6.8"), "{error}"),
    }
}

#[test]
fn root_other_plans_are_refused() {
    let ground = Ground::new();
    let layers = [ground.dir("one"), ground.dir("two")];
    let writable = overlay(&layers, &["upperdir=/u", "workdir=/w"]);
    let two = [overlay(&layers, &[]), overlay(&layers, &[])].concat();
    for plan in [writable, two, Vec::new()] {
        let refused = ground.mounter.view(&plan);
        assert!(
            matches!(refused, Err(MountError::Unsupported { .. })),
            "{plan:?}: {refused:?}"
        );
    }
    let missing = overlay(&[layers[0].clone(), ground.disk.path().join("no")], &[]);
    let error = ground
        .mounter
        .view(&missing)
        .expect_err("a layer is missing");
    assert!(error.to_string().contains("/no"), "{error}");
    let unknown = overlay(&layers, &["nonsense=1"]);
    let error = ground.mounter.view(&unknown).expect_err("no such option");
    assert!(error.to_string().contains("nonsense"), "{error}");
}
