//! Layers that become images. These tests mount, so they are root's.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use layerd_drivers::{Images as _, LayerForm, SlotKind};
use layerd_layers::Silent;
use layerd_layers::apply::Compression;
use layerd_mounts::test_support::enter_private_mounts;
use layerd_mounts::{mount, mountinfo};
use layerd_store::Kind;

use super::{Blob, PLAIN, Rig, Unpack, key, rig_in};
use crate::{Durability, Error, ErrorKind, Problem};

/// A rig with images, which are unmounted at the end.
struct Images(Option<Rig>);

impl Deref for Images {
    type Target = Rig;

    fn deref(&self) -> &Rig {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let Some(rig) = &self.0 else { return };
        let root = rig.dir.path().canonicalize().unwrap();
        for entry in mountinfo::read().unwrap() {
            if entry.target.starts_with(&root) {
                mount::let_go(&entry.target, &|_| true).unwrap();
            }
        }
    }
}

impl Images {
    fn new(durability: Durability) -> Self {
        enter_private_mounts();
        let dir = tempfile::tempdir().unwrap();
        Self(Some(rig_in(
            dir,
            LayerForm::Images,
            durability,
            &|driver| driver,
        )))
    }

    /// As after another start, in which new layers have this form.
    fn restart(mut self, layers: LayerForm) -> Self {
        let Rig {
            engine,
            driver,
            dir,
        } = self.0.take().unwrap();
        drop((engine, driver));
        Self(Some(rig_in(dir, layers, Durability::Full, &|driver| {
            driver
        })))
    }

    /// A committed image with one file.
    fn layer_of(&self, name: &str, parent: Option<&str>, file: &str, content: &[u8]) {
        let active = format!("{name}-active");
        self.create(&active, Kind::Active, parent);
        let blob = self.layer(file, content);
        self.apply(&active, &blob).unwrap();
        self.commit(&active, name).unwrap();
        assert!(self.driver.is_image(self.slot(name)));
    }

    /// Where a view of one layer shows it.
    fn shown(&self, name: &str) -> Result<PathBuf, Error> {
        let view = format!("view-of-{name}");
        if self.engine.layers.stat(&key(&view)).is_err() {
            let layers = &self.engine.layers;
            let create = layerd_store::Create {
                key: key(&view),
                kind: Kind::View,
                parent: Some(key(name)),
                labels: layerd_store::Labels::default(),
            };
            layers.create(create)?;
        }
        let mounts = self.engine.layers.mounts(&key(&view))?;
        assert_eq!((mounts.len(), mounts[0].kind.as_str()), (1, "bind"));
        Ok(PathBuf::from(&mounts[0].source))
    }

    fn image(&self, name: &str) -> PathBuf {
        let slot = self.slot(name).to_string();
        self.dir.path().join("root/i").join(slot)
    }
}

#[test]
fn root_a_layer_is_unpacked_into_an_image_and_shown() {
    for durability in [Durability::Full, Durability::Metadata] {
        let rig = Images::new(durability);
        let mounts = rig.create("a", Kind::Active, None);
        rig.apply("a", &rig.layer("f", &[7; 100_000])).unwrap();
        assert_eq!(rig.known("a"), rig.measured("a"));
        assert_eq!(
            rig.engine.layers.active_of(&mounts).unwrap().key(),
            &key("a")
        );
        rig.commit("a", "layer").unwrap();
        assert_eq!(rig.known("layer"), rig.measured("layer"));
        assert_eq!(rig.known("layer").1, 2, "the top and the file");
        assert!(!rig.path("layer").exists(), "no directory beside it");
        let shown = rig.shown("layer").unwrap();
        assert_eq!(fs::read(shown.join("f")).unwrap(), [7; 100_000]);
        let problems = rig.engine.fsck(false).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
    }
}

#[test]
fn root_layers_stand_on_images_and_on_directories() {
    let rig = Images::new(Durability::Full);
    rig.layer_of("one", None, "f", b"one");
    let rig = rig.restart(LayerForm::Directories);
    rig.create("b", Kind::Active, Some("one"));
    rig.apply("b", &rig.layer("g", b"two")).unwrap();
    rig.commit("b", "two").unwrap();
    assert!(!rig.driver.is_image(rig.slot("two")));
    let rig = rig.restart(LayerForm::Images);
    rig.layer_of("three", Some("two"), "h", b"three");
    let mounts = rig.create("c", Kind::Active, Some("three"));
    let lowers = mounts[0].options.iter();
    let lowers = lowers.filter_map(|option| option.strip_prefix("lowerdir="));
    let shown: Vec<_> = lowers
        .flat_map(|paths| paths.split(':'))
        .map(|path| fs::read_dir(path).unwrap().count())
        .collect();
    assert_eq!(shown, [1, 1, 1], "each layer is there");
    let diff = rig.engine.layers.changes(&key("three")).unwrap();
    assert_eq!(diff.key(), &key("three"));
}

#[test]
fn root_a_client_that_asks_for_mounts_before_commit_gets_files_to_write_to() {
    let rig = Images::new(Durability::Full);
    rig.create("a", Kind::Active, None);
    rig.apply("a", &rig.layer("f", b"f")).unwrap();
    let mounts = rig.engine.layers.mounts(&key("a")).unwrap();
    let shown = Path::new(&mounts[0].source);
    assert_eq!(shown, rig.path("a").canonicalize().unwrap());
    assert_eq!(fs::read(shown.join("f")).unwrap(), b"f");
    fs::write(shown.join("more"), [1; 50_000]).unwrap();
    rig.commit("a", "layer").unwrap();
    assert_eq!(rig.known("layer"), rig.measured("layer"));
    assert_eq!(rig.known("layer").1, 3);
}

#[test]
fn root_a_second_layer_goes_into_the_files_of_the_first() {
    let rig = Images::new(Durability::Full);
    rig.create("a", Kind::Active, None);
    rig.apply("a", &rig.layer("f", b"f")).unwrap();
    rig.apply("a", &rig.layer("g", b"g")).unwrap();
    rig.commit("a", "layer").unwrap();
    let shown = rig.shown("layer").unwrap();
    for name in ["f", "g"] {
        assert_eq!(fs::read(shown.join(name)).unwrap(), name.as_bytes());
    }
}

#[test]
fn root_what_was_written_through_old_mounts_is_not_dropped() {
    let rig = Images::new(Durability::Full);
    rig.create("a", Kind::Active, None);
    rig.apply("a", &rig.layer("f", b"f")).unwrap();
    fs::write(rig.path("a").join("more"), b"more").unwrap();
    let refused = rig.commit("a", "layer").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused:?}");
    let refused = rig.engine.layers.mounts(&key("a")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused:?}");
    fs::remove_file(rig.path("a").join("more")).unwrap();
    rig.commit("a", "layer").unwrap();
}

#[test]
fn root_an_image_that_fails_may_be_tried_again() {
    let rig = Images::new(Durability::Full);
    rig.create("a", Kind::Active, None);
    let whole = rig.layer("f", &[7; 100_000]);
    let failed = rig.apply("a", &whole[..50_000]).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Invalid, "{failed:?}");
    let folder = rig.dir.path().join("root/i");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    rig.apply("a", &whole).unwrap();
    rig.commit("a", "layer").unwrap();
}

#[test]
fn root_an_image_is_whole_after_a_restart_before_commit() {
    let rig = Images::new(Durability::Full);
    rig.create("a", Kind::Active, None);
    rig.apply("a", &rig.layer("f", b"f")).unwrap();
    let rig = rig.restart(LayerForm::Directories);
    rig.commit("a", "layer").unwrap();
    assert!(rig.driver.is_image(rig.slot("layer")));
    assert_eq!(rig.known("layer"), rig.measured("layer"));
    let shown = rig.shown("layer").unwrap();
    assert_eq!(fs::read(shown.join("f")).unwrap(), b"f");
}

#[test]
fn root_a_damaged_image_is_found_before_it_is_mounted_and_hurts_no_other() {
    let rig = Images::new(Durability::Full);
    rig.layer_of("good", None, "f", b"good");
    rig.layer_of("bad", None, "g", &[7; 100_000]);
    let image = rig.image("bad");
    let mut bytes = fs::read(&image).unwrap();
    bytes[50_000] ^= 1;
    fs::write(&image, bytes).unwrap();
    let rig = rig.restart(LayerForm::Images);
    let mut found = Vec::new();
    let counts = rig
        .engine
        .check_content(false, &Silent, &mut |finding| found.push(finding.problem));
    assert_eq!(counts.unwrap().layers, 2);
    let [Problem::Altered { key: bad, .. }] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(bad, &key("bad"));
    let damaged = rig.shown("bad").unwrap_err();
    assert_eq!(damaged.kind(), ErrorKind::Damaged, "{damaged:?}");
    let rig = rig.restart(LayerForm::Images);
    for name in ["bad", "view-of-bad"] {
        let damaged = rig.engine.layers.mounts(&key(name)).unwrap_err();
        let wanted = [ErrorKind::Damaged, ErrorKind::Missing, ErrorKind::Refused];
        assert!(wanted.contains(&damaged.kind()), "{damaged:?}");
    }
    let damaged = rig.engine.layers.stat(&key("bad")).unwrap_err();
    assert_eq!(damaged.kind(), ErrorKind::Damaged, "also after a start");
    assert_eq!(
        fs::read(rig.shown("good").unwrap().join("f")).unwrap(),
        b"good"
    );
}

#[test]
fn root_an_image_that_is_gone_is_a_missing_layer() {
    let rig = Images::new(Durability::Full);
    rig.layer_of("layer", None, "f", b"f");
    fs::remove_file(rig.image("layer")).unwrap();
    let rig = rig.restart(LayerForm::Images);
    let damaged = rig.engine.layers.stat(&key("layer")).unwrap_err();
    assert_eq!(damaged.kind(), ErrorKind::Damaged);
}

#[test]
fn root_a_removed_image_can_be_taken_back_until_it_is_deleted() {
    let rig = Images::new(Durability::Full);
    rig.layer_of("layer", None, "f", b"f");
    rig.shown("layer").unwrap();
    let id = rig.engine.layers.stat(&key("layer")).unwrap().record.id;
    let slot = rig.slot("layer");
    let remove = || {
        drop(rig.engine.layers.remove(&key("view-of-layer")));
        rig.engine.layers.remove(&key("layer")).unwrap();
    };
    remove();
    rig.engine.layers.restore(id).unwrap();
    assert_eq!(
        fs::read(rig.shown("layer").unwrap().join("f")).unwrap(),
        b"f"
    );
    remove();
    rig.engine.empty_trash();
    rig.engine.reap();
    assert!(!rig.driver.is_image(slot));
    let left = rig.driver_list();
    assert_eq!(left, [], "{left:?}");
}

impl Images {
    fn driver_list(&self) -> Vec<(SlotKind, layerd_mounts::Slot)> {
        use layerd_drivers::{Found, Survey as _};
        let found = self.driver.list().unwrap().into_iter();
        found
            .filter_map(|entry| match entry {
                Found::Slot(place, slot) => Some((place, slot)),
                Found::UnknownEntry(_) => None,
            })
            .collect()
    }
}

#[test]
fn root_a_layer_that_is_durable_at_once_is_an_image_too() {
    let rig = Images::new(Durability::Metadata);
    rig.create("a", Kind::Active, None);
    let active = rig.engine.layers.active(&key("a")).unwrap();
    let unpack = Unpack {
        compression: Compression::None,
        blob: Blob::default(),
        sync: true,
        ..PLAIN
    };
    let layer = rig.layer("f", b"f");
    rig.engine
        .layers
        .apply(&active, &layer[..], &unpack)
        .unwrap();
    assert!(rig.driver.is_image(rig.slot("a")));
}
