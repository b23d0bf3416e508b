//! Layers of the host, taken over by further names of their files.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use super::*;

/// A layer that another program keeps, beside the root.
fn source(rig: &Rig) -> PathBuf {
    let source = rig.dir.path().join("theirs");
    fs::create_dir_all(source.join("dir")).unwrap();
    fs::write(source.join("dir/file"), [1; 50_000]).unwrap();
    symlink("dir/file", source.join("link")).unwrap();
    source
}

fn import(rig: &Rig, name: &str, source: &Path) -> Result<(), Error> {
    let active = rig.engine.layers.active(&key(name))?;
    rig.engine.layers.import(&active, source, &Silent).map(drop)
}

#[test]
fn files_get_a_further_name_and_commit_measures_them() {
    for durability in [Durability::Full, Durability::Metadata] {
        let rig = rig(durability);
        let source = source(&rig);
        rig.create("a", Kind::Active, None);
        import(&rig, "a", &source).unwrap();
        let file = fs::metadata(rig.path("a").join("dir/file")).unwrap();
        assert_eq!(
            file.ino(),
            fs::metadata(source.join("dir/file")).unwrap().ino()
        );
        assert!(!rig.is_trusted("a"), "it is measured at Commit");
        rig.commit("a", "layer").unwrap();
        assert_eq!(rig.known("layer"), rig.measured("layer"));
        fs::remove_file(source.join("dir/file")).unwrap();
        let content = fs::read(rig.path("layer").join("link")).unwrap();
        assert_eq!(content, [1; 50_000]);
    }
}

#[test]
fn what_holds_something_takes_no_import() {
    let rig = rig(Durability::Full);
    let source = source(&rig);
    rig.create("a", Kind::Active, None);
    rig.apply("a", &rig.layer("f", b"f")).unwrap();
    let error = import(&rig, "a", &source).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("is not empty"), "{error}");
    rig.commit("a", "layer").unwrap();
    let missing = import(&rig, "b", &source).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Missing);
    let committed = import(&rig, "layer", &source).unwrap_err();
    assert_eq!(committed.kind(), ErrorKind::Refused);
}

#[test]
fn a_source_that_is_no_directory_of_others_is_refused_by_its_rule() {
    let rig = rig(Durability::Full);
    let source = source(&rig);
    rig.create("a", Kind::Active, None);
    let own = rig.dir.path().join("root/l");
    symlink(&own, rig.dir.path().join("to-own")).unwrap();
    let long = format!("/{}", "x/".repeat(3000));
    let table = [
        (PathBuf::from("relative"), "must be an absolute path"),
        (PathBuf::new(), "must be an absolute path"),
        (source.join("../theirs"), "without \"..\""),
        (source.join("nothing"), "No such file"),
        (source.join("link"), "Not a directory"),
        (own, "lies in layerd's data directory"),
        (
            rig.dir.path().join("to-own"),
            "lies in layerd's data directory",
        ),
        (PathBuf::from(long), "shorter than 4096 bytes"),
    ];
    for (path, rule) in table {
        let error = import(&rig, "a", &path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(rule), "{path:?}: {error}");
    }
    // Nothing was changed by it.
    import(&rig, "a", &source).unwrap();
}

/// Ends with the second file.
struct Impatient(std::sync::atomic::AtomicU64);

impl Progress for Impatient {
    fn advanced(&self, files: u64, _: u64) {
        self.0.fetch_add(files, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}

#[test]
fn half_an_import_is_not_committed() {
    let rig = rig(Durability::Full);
    let source = source(&rig);
    rig.create("a", Kind::Active, None);
    let active = rig.engine.layers.active(&key("a")).unwrap();
    let impatient = Impatient(0.into());
    let error = rig
        .engine
        .layers
        .import(&active, &source, &impatient)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stopping, "{error}");
    let refused = rig.commit("a", "layer").unwrap_err();
    assert!(
        refused.to_string().contains("holds part of a layer"),
        "{refused}"
    );
}
