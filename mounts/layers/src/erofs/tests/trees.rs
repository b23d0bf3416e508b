//! Whole trees.

use super::{Image, finish, kept, pack, seen, writer};
use crate::test_support::tree::{Item, Who, build, items};
use crate::test_support::{assert_same, for_random, manifest};

fn round_trip(items: &[Item]) {
    let source = tempfile::tempdir().unwrap();
    build(source.path(), items);
    let image = || {
        let mut writer = writer();
        pack(&mut writer, source.path());
        finish(writer)
    };
    let bytes = image();
    assert!(bytes == image(), "the same tree makes the same bytes");
    let image = Image::open(&bytes[..]).unwrap();
    assert_same(&kept(manifest(source.path())), &seen(&image));
}

#[test]
fn random_trees_come_out_as_they_were() {
    for_random(30, &items(Who::Anybody, 40), |items| round_trip(&items));
}

#[test]
fn root_random_layers_come_out_as_they_were() {
    crate::test_support::need_root();
    for_random(30, &items(Who::Layer, 40), |items| round_trip(&items));
}
