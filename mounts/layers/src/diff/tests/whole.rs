//! Layers made by comparing two whole trees.

use super::{
    AsFd, DiffOptions, File, Kind, Layering, Markers, Path, apply, as_applied, assert_same, build,
    carried, copy, copy_tree, entries, fs, items, manifest, packed, paths, plain, remove,
    test_support,
};
use crate::test_support::tree::Who;

fn whole() -> DiffOptions<'static> {
    DiffOptions {
        layering: Layering::Full,
        ..plain()
    }
}

fn copied(from: &Path, to: &Path) {
    let (from, to) = (File::open(from).unwrap(), File::open(to).unwrap());
    let options = copy::Options::default();
    copy_tree(&[from.as_fd()], Path::new(""), to.as_fd(), &options).unwrap();
}

/// Unpacks a layer onto a copy of `lower`, with deletions executed.
fn applied(layer: &[u8], lower: &Path) -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    copied(lower, tree.path());
    let open = File::open(tree.path()).unwrap();
    let target = apply::Target {
        layer: open.as_fd(),
        lowers: &[],
        whiteouts: apply::Whiteouts::Delete,
    };
    apply::apply(layer, &target, &apply::Options::default()).unwrap();
    tree
}

#[test]
fn a_whole_tree_gives_its_changes_only() {
    let (lower, upper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in ["kept/deep", "gone/sub", "type"] {
        fs::create_dir_all(lower.path().join(dir)).unwrap();
    }
    for file in ["kept/deep/a", "kept/b", "kept/same", "gone/sub/z", "type/x"] {
        fs::write(lower.path().join(file), "before").unwrap();
    }
    copied(lower.path(), upper.path());
    let at = |path: &str| upper.path().join(path);
    let same = packed(upper.path(), &[lower.path()], &whole()).unwrap();
    assert_eq!(entries(&same.0), [], "nothing was changed");
    fs::write(at("kept/deep/a"), "after!").unwrap();
    fs::remove_file(at("kept/b")).unwrap();
    remove(&at("gone"));
    remove(&at("type"));
    fs::write(at("type"), "").unwrap();
    fs::write(at("added"), "").unwrap();
    let layer = packed(upper.path(), &[lower.path()], &whole()).unwrap().0;
    let expected = [
        "added",
        ".wh.gone",
        "kept/",
        "kept/.wh.b",
        "kept/deep/",
        "kept/deep/a",
        "type",
    ];
    assert_eq!(paths(&layer).len(), expected.len(), "{:?}", paths(&layer));
    for path in expected {
        assert!(paths(&layer).contains(&path.to_owned()), "{path}");
    }
    let again = applied(&layer, lower.path());
    assert_same(
        &carried(manifest(upper.path())),
        &carried(manifest(again.path())),
    );
    let base = packed(upper.path(), &[], &whole()).unwrap().0;
    let plain = DiffOptions {
        layering: Layering::Diff(Markers::Trusted),
        ..plain()
    };
    assert_eq!(
        base,
        packed(upper.path(), &[], &plain).unwrap().0,
        "with nothing below, all of it is the layer"
    );
}

#[test]
fn root_changes_between_random_trees_come_back() {
    test_support::need_root();
    let strategy = (items(Who::Root, 30), items(Who::Root, 30));
    test_support::for_random(30, &strategy, |(below, above)| {
        let (lower, upper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        build(lower.path(), &below);
        build(upper.path(), &above);
        let layer = packed(upper.path(), &[lower.path()], &whole()).unwrap().0;
        let again = applied(&layer, lower.path());
        let was_there = manifest(lower.path());
        // An entry adds to the attributes of a directory that is there, as with containerd's applier.
        let carried = |path: &Path| {
            let mut tree = as_applied(carried(manifest(path)));
            for (path, seen) in &mut tree {
                if was_there
                    .get(path)
                    .is_some_and(|old| old.kind == Kind::Directory)
                {
                    seen.xattrs.clear();
                }
            }
            tree
        };
        assert_same(&carried(upper.path()), &carried(again.path()));
    });
}
