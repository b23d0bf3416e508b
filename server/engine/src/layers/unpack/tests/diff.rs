//! Layers made of snapshots.

use std::fs;
use std::io;
use std::path::Path;

use layerd_layers::diff::DiffCompression;
use layerd_layers::{Progress, Silent};
use layerd_mounts::Mount;
use layerd_store::Kind;

use super::{Rig, key, rig};
use crate::layers::unpack::Pack;
use crate::{Durability, Error, ErrorKind};

const PACK: Pack<'_> = Pack {
    compression: DiffCompression::None,
    source_date_epoch: None,
    progress: &Silent,
};

fn packed(rig: &Rig, left: &[Mount], right: &[Mount]) -> Result<Vec<u8>, Error> {
    let changes = rig.engine.layers.changes_between(left, right)?;
    let mut archive = Vec::new();
    rig.engine.layers.diff(&changes, &PACK, &mut archive)?;
    Ok(archive)
}

#[test]
fn what_was_unpacked_is_packed_again() {
    let rig = rig(Durability::Full);
    let base = rig.create("a", Kind::Active, None);
    rig.apply("a", &rig.layer("f", b"content")).unwrap();
    let empty = rig.create("empty", Kind::View, None);
    let archive = packed(&rig, &empty, &base).unwrap();
    rig.commit("a", "base").unwrap();
    let view = rig.create("v", Kind::View, Some("base"));
    assert_eq!(packed(&rig, &empty, &view).unwrap(), archive);

    let next = rig.create("b", Kind::Active, Some("base"));
    fs::write(rig.path("b").join("g"), b"more").unwrap();
    let second = packed(&rig, &view, &next).unwrap();
    rig.create("c", Kind::Active, None);
    rig.apply("c", &second).unwrap();
    assert_eq!(fs::read(rig.path("c").join("g")).unwrap(), b"more");
    assert!(!rig.path("c").join("f").exists());
    rig.commit("b", "top").unwrap();
    let top = rig.create("w", Kind::View, Some("top"));
    assert_eq!(packed(&rig, &view, &top).unwrap(), second);
}

#[test]
fn only_parent_and_child_have_a_difference() {
    let rig = rig(Durability::Full);
    let empty = rig.create("empty", Kind::View, None);
    rig.create("a", Kind::Active, None);
    rig.commit("a", "base").unwrap();
    let base = rig.create("base-view", Kind::View, Some("base"));
    let middle = rig.create("b", Kind::Active, Some("base"));
    rig.commit("b", "middle").unwrap();
    let middle_view = rig.create("middle-view", Kind::View, Some("middle"));
    let top = rig.create("c", Kind::Active, Some("middle"));
    assert!(packed(&rig, &middle_view, &top).is_ok());
    for (left, right) in [
        (&base, &top),
        (&empty, &top),
        (&top, &top),
        (&top, &middle_view),
        (&empty, &empty),
        (&middle, &top),
        (&empty, &middle_view),
    ] {
        let foreign = packed(&rig, left, right).unwrap_err();
        assert_eq!(foreign.kind(), ErrorKind::Unsupported, "{left:?} {right:?}");
    }
}

/// Removes the snapshot while it is read.
struct Remover<'r>(&'r Rig);

impl Progress for Remover<'_> {
    fn advanced(&self, _: u64, _: u64) {}
    fn cancelled(&self) -> bool {
        drop(self.0.engine.layers.remove(&key("a")));
        false
    }
}

#[test]
fn what_was_removed_while_it_was_read_is_no_layer() {
    let rig = rig(Durability::Full);
    rig.create("a", Kind::Active, None);
    rig.apply("a", &rig.layer("f", b"content")).unwrap();
    let changes = rig.engine.layers.changes(&key("a")).unwrap();
    let pack = Pack {
        progress: &Remover(&rig),
        ..PACK
    };
    let gone = rig
        .engine
        .layers
        .diff(&changes, &pack, &mut io::sink())
        .unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Missing, "{gone:?}");
    assert!(Path::new(&rig.dir.path().join("root/t")).exists());
}
