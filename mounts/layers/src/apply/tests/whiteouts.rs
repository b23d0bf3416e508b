//! Deletions, noted and executed.

use super::*;

fn is_whiteout(path: &Path) -> bool {
    let stat = path.symlink_metadata().unwrap();
    stat.mode() & libc::S_IFMT == libc::S_IFCHR && stat.rdev() == 0
}

/// Names in a layer below.
fn below(bench: &Bench, paths: &[&str]) {
    let lower = bench.lower();
    for path in paths {
        fs::create_dir_all(lower.join(path).parent().unwrap()).unwrap();
        fs::write(lower.join(path), "old").unwrap();
    }
}

#[test]
fn whiteouts_become_devices() {
    for known in [false, true] {
        let bench = Bench::new();
        if known {
            below(&bench, &["gone", "d/too", "back", ".wh.plnk", "..x"]);
        }
        let applied = bench.overlay(&[
            file(".wh.gone"),
            file("d/.wh.too"),
            file(".wh.back"),
            file("back"),
            directory(".wh..wh.plnk"),
            file(".wh...x"),
        ]);
        for path in ["gone", "d/too", ".wh.plnk", "..x"] {
            assert!(is_whiteout(&bench.at(path)), "{path}");
        }
        assert_eq!(bench.read("back"), "content");
        let listed = applied.whiteouts.unwrap();
        let names: Vec<&[u8]> = listed.iter().map(Vec::as_slice).collect();
        let expected: [&[u8]; 5] = [b"gone", b"d/too", b"back", b".wh.plnk", b"..x"];
        assert_eq!(names, expected);
    }
}

#[test]
fn a_whiteout_of_nothing_that_could_be_is_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.."] {
        let error = Bench::new().refused(&[file(name)]);
        assert!(error.contains("a whiteout of nothing"), "{error}");
    }
}

fn opaque(path: &Path) -> bool {
    let dir = File::open(path).unwrap();
    let path = crate::node::proc_path(dir.as_fd());
    let value = crate::node::xattr(&path, c"trusted.overlay.opaque").unwrap();
    value.as_deref() == Some(&b"y"[..])
}

/// A layer deletes only files of lower layers, whatever the order of its entries.
#[test]
fn root_a_directory_that_is_deleted_and_made_anew_hides_the_old_one() {
    test_support::need_root();
    let orders: [Vec<Vec<u8>>; 5] = [
        vec![file(".wh.d"), directory("d"), file("d/new")],
        vec![file(".wh.d"), file("d/new")],
        vec![directory("d"), file("d/new"), file(".wh.d")],
        vec![file("d/new"), file(".wh.d"), file(".wh.d")],
        vec![
            file("d/.wh.old"),
            file(".wh.d"),
            file("d/new"),
            file("d/.wh.old"),
        ],
    ];
    for order in &orders {
        for known in [false, true] {
            let bench = Bench::new();
            if known {
                below(&bench, &["d/old", "d/new"]);
            }
            bench.overlay(order);
            assert_eq!(bench.read("d/new"), "content");
            assert!(opaque(&bench.at("d")));
            assert_eq!(fs::read_dir(bench.at("d")).unwrap().count(), 1);
        }
    }
}

#[test]
fn root_whiteouts_that_hide_nothing_are_left_out() {
    test_support::need_root();
    let bench = Bench::new();
    let hidden = bench.lower();
    make_whiteout(&hidden.join("gone"));
    fs::create_dir_all(hidden.join("opaque")).unwrap();
    let set = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(hidden.join("opaque"), c"trusted.overlay.opaque", b"y", set).unwrap();
    below(&bench, &["gone", "opaque/x", "d/there", "file", "d/sub/x"]);
    let applied = bench.overlay(&[
        file(".wh.never"),
        file(".wh.gone"),
        file("opaque/.wh.x"),
        file("d/.wh.there"),
        file("d/.wh.never"),
        file("new/.wh.x"),
        file("d/sub/.wh.x"),
        file("d/sub/.wh..wh..opq"),
        file("own"),
        file(".wh.own"),
        file(".wh.file"),
        file(".wh.file"),
    ]);
    let mut found = Vec::new();
    let mut todo = vec![bench.layer()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if is_whiteout(&path) {
                found.push(path.strip_prefix(bench.layer()).unwrap().to_owned());
            } else if path.is_dir() {
                todo.push(path);
            }
        }
    }
    found.sort();
    assert_eq!(found, [Path::new("d/there"), Path::new("file")]);
    assert_eq!(bench.read("own"), "content");
    assert!(applied.whiteouts.is_some());
}

fn make_whiteout(path: &Path) {
    crate::test_support::make_node(path, rustix::fs::FileType::CharacterDevice, (0, 0));
}

/// overlayfs merges root directories whatever their marks.
#[test]
fn root_an_opaque_mark_at_the_top_hides_all_names_below() {
    test_support::need_root();
    let bench = Bench::new();
    below(&bench, &["a", "b/x", "own/old"]);
    below(&bench, &["a", "c"]);
    bench.overlay(&[file("own/new"), file(".wh..wh..opq"), file("b")]);
    for path in ["a", "c"] {
        assert!(is_whiteout(&bench.at(path)), "{path}");
    }
    assert!(opaque(&bench.at("own")));
    assert_eq!(bench.read("b"), "content");
}

/// Those that are too many to be listed are found in the layer at Commit.
#[test]
fn any_number_of_whiteouts_is_taken() {
    let dir = format!("{}/", "d".repeat(250)).repeat(15);
    let mut members = Vec::new();
    for number in 0..5000 {
        let name = format!("{dir}.wh.{number}");
        members.extend(crate::tar::samples::long(name.as_bytes()));
    }
    let bench = Bench::in_dir(tempfile::tempdir_in("/dev/shm").unwrap());
    let applied = bench.overlay(&[members]);
    assert_eq!((applied.inodes, applied.whiteouts), (5016, None));
}

#[test]
fn whiteouts_are_executed_where_there_is_no_overlay() {
    let bench = Bench::new();
    for path in ["old/a/b", "old/c", "d/old", "d/sub/old", "d/link"] {
        fs::create_dir_all(bench.at(path).parent().unwrap()).unwrap();
        fs::write(bench.at(path), "old").unwrap();
    }
    let members = [
        file(".wh.old"),
        file("new"),
        file(".wh.new"),
        file(".wh.never"),
        file("d/before"),
        directory("d/sub"),
        file("d/.wh..wh..opq"),
        file("d/after"),
    ];
    let applied = bench.apply(&archive(&members), Whiteouts::Delete, &Options::default());
    assert_eq!(applied.unwrap().whiteouts, Some(Vec::new()));
    for gone in ["old", "d/old", "d/sub/old", "d/link"] {
        assert!(bench.at(gone).symlink_metadata().is_err(), "{gone}");
    }
    for kept in ["new", "d/before", "d/after"] {
        assert_eq!(bench.read(kept), "content", "{kept}");
    }
    assert!(bench.at("d/sub").is_dir());
}

#[test]
fn root_opaque_marks_fit_every_order() {
    test_support::need_root();
    let mark = || file("d/.wh..wh..opq");
    let orders: [Vec<Vec<u8>>; 4] = [
        vec![mark(), directory("d"), file("d/x")],
        vec![directory("d"), mark(), file("d/x")],
        vec![directory("d"), file("d/x"), mark()],
        vec![file("d/x"), mark(), directory("d")],
    ];
    for (markers, name) in [
        (Markers::Trusted, c"trusted.overlay.opaque"),
        (Markers::User, c"user.overlay.opaque"),
    ] {
        for order in &orders {
            let bench = Bench::new();
            let to = Whiteouts::Devices(markers);
            let applied = bench
                .apply(&archive(order), to, &Options::default())
                .unwrap();
            assert!(applied.implied.is_empty() && applied.whiteouts == Some(Vec::new()));
            assert_eq!(bench.read("d/x"), "content");
            let dir = File::open(bench.at("d")).unwrap();
            let path = crate::node::proc_path(dir.as_fd());
            let value = crate::node::xattr(&path, name).unwrap();
            assert_eq!(value.as_deref(), Some(&b"y"[..]));
            assert_eq!(fs::read_dir(bench.at("d")).unwrap().count(), 1);
        }
    }
}
