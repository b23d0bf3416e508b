//! Images beside erofs-utils, which `make peers` unpacks.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use super::{Image, Memory, add, finish, kept, pack, plain, seen, writer};
use crate::test_support::tree::{Who, build, items};
use crate::test_support::{assert_same, for_random, manifest};

/// Runs one of its programs, which finds no fault.
fn run(program: &str, options: &[&str], paths: &[&Path]) {
    let peer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers/erofs-utils/run");
    let mut command = Command::new(peer);
    let output = command.arg(program).args(options).args(paths).output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.expect("erofs-utils: run `make peers`");
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    assert!(status.success(), "{program}: {said}");
    assert!(!said.contains("<E>"), "{program}: {said}");
}

fn fsck(image: &Path) {
    run("fsck.erofs", &["--extract"], &[image]);
}

#[test]
fn root_peers_find_no_fault_in_random_layers() {
    for_random(10, &items(Who::Layer, 60), |items| {
        let folder = tempfile::tempdir().unwrap();
        let (source, image) = (folder.path().join("source"), folder.path().join("image"));
        fs::create_dir(&source).unwrap();
        build(&source, &items);
        let mut writer = writer();
        pack(&mut writer, &source);
        fs::write(&image, finish(writer)).unwrap();
        fsck(&image);
    });
}

#[test]
fn root_peers_find_no_fault_in_large_directories() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let mut writer = writer();
    let dir = writer.directory(Memory::ROOT, b"dir", &plain(0o755));
    let dir = dir.unwrap();
    for number in 0..2000 {
        add(
            &mut writer,
            dir,
            &format!("a file with a name {number}"),
            b"x",
        );
    }
    add(&mut writer, dir, "zeros", &vec![0; 300_000]);
    fs::write(&image, finish(writer)).unwrap();
    fsck(&image);
}

#[test]
fn root_peers_make_images_that_are_read_here() {
    for_random(8, &items(Who::Root, 40), |items| {
        let folder = tempfile::tempdir().unwrap();
        let (source, image) = (folder.path().join("source"), folder.path().join("image"));
        fs::create_dir(&source).unwrap();
        build(&source, &items);
        run("mkfs.erofs", &["--quiet"], &[&image, &source]);
        let file = File::open(&image).unwrap();
        assert_same(
            &kept(manifest(&source)),
            &seen(&Image::open(&file).unwrap()),
        );
    });
}
