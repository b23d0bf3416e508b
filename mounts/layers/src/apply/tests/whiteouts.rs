//! Deletions, noted and executed.

use super::*;

fn is_whiteout(path: &Path) -> bool {
    let stat = path.symlink_metadata().unwrap();
    stat.mode() & libc::S_IFMT == libc::S_IFCHR && stat.rdev() == 0
}

#[test]
fn whiteouts_become_devices() {
    let bench = Bench::new();
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
    let names: Vec<&[u8]> = applied.whiteouts.iter().map(Vec::as_slice).collect();
    let expected: [&[u8]; 5] = [b"gone", b"d/too", b"back", b".wh.plnk", b"..x"];
    assert_eq!(names, expected);
}

#[test]
fn a_whiteout_of_the_same_layer_is_refused_as_by_containerd() {
    for first in [
        file("x"),
        directory("x"),
        file("x/y"),
        symlink("x", "y"),
        file(".wh.x"),
    ] {
        let error = Bench::new().refused(&[first, file(".wh.x")]);
        assert!(
            error.contains("a whiteout of what is in the same layer"),
            "{error}"
        );
    }
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.."] {
        let error = Bench::new().refused(&[file(name)]);
        assert!(error.contains("a whiteout of nothing"), "{error}");
    }
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
    assert!(applied.unwrap().whiteouts.is_empty());
    for gone in ["old", "new", "d/old", "d/sub/old", "d/link"] {
        assert!(bench.at(gone).symlink_metadata().is_err(), "{gone}");
    }
    for kept in ["d/before", "d/after"] {
        assert_eq!(bench.read(kept), "content", "{kept}");
    }
    assert!(bench.at("d/sub").is_dir());
}

#[test]
fn root_opaque_marks_fit_every_order() {
    rig::need_root();
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
            assert!(applied.implied.is_empty() && applied.whiteouts.is_empty());
            assert_eq!(bench.read("d/x"), "content");
            let dir = File::open(bench.at("d")).unwrap();
            let path = crate::node::proc_path(dir.as_fd());
            let value = crate::node::xattr(&path, name).unwrap();
            assert_eq!(value.as_deref(), Some(&b"y"[..]));
            assert_eq!(fs::read_dir(bench.at("d")).unwrap().count(), 1);
        }
    }
}
