//! Layers that lie.

use super::*;
use crate::tar::samples::{long, sized};

#[test]
fn names_that_are_too_long_are_refused() {
    let bench = Bench::new();
    let deep = "d/".repeat(1900) + "file";
    bench.overlay(&[long(deep.as_bytes())]);
    let too_deep = "d/".repeat(2048) + "file";
    let error = bench.refused(&[long(too_deep.as_bytes())]);
    assert!(error.contains("a path of 4100 bytes"), "{error}");
    let huge = "n".repeat(64 << 10);
    assert!(
        bench
            .refused(&[long(huge.as_bytes())])
            .contains("a path of 65536 bytes")
    );
    let name = "n".repeat(256);
    assert!(
        bench
            .refused(&[long(name.as_bytes())])
            .contains("File name too long")
    );
    let inside = format!("{name}/x");
    assert!(
        bench
            .refused(&[long(inside.as_bytes())])
            .contains("File name too long")
    );
    let link = extended(&[("linkpath", huge.as_bytes())]);
    assert!(
        bench
            .refused(&[link, symlink("l", "")])
            .contains("File name too long")
    );
    assert!(bench.refused(&[symlink("l", "")]).contains("No such file"));
    let null = extended(&[("path", b"a\0b")]);
    assert!(
        bench
            .refused(&[null, file("x")])
            .contains("a NUL in the name")
    );
}

#[test]
fn sizes_that_lie_are_no_harm() {
    let bench = Bench::new();
    for size in [513, 1 << 20, 1 << 33, (1 << 33) - 1] {
        let lie = sized(b'0', b"x", b"", b"content", size);
        let error = bench
            .apply(&lie, OVERLAY, &Options::default())
            .expect_err("a lie");
        let known = matches!(error, Error::Truncated { .. } | Error::Malformed { .. });
        assert!(known, "{size}: {error}");
    }
    let most = extended(&[("size", b"18446744073709551615")]);
    assert!(
        bench
            .refused(&[most, file("x")])
            .contains("a size that no archive has")
    );
    let notes = sized(b'x', b"x", b"", b"", 1 << 30);
    assert!(bench.refused(&[notes]).contains("too large"));
    // What has no content is not believed to have any.
    let dir = sized(b'5', b"d", b"", b"", 1 << 30);
    bench.overlay(&[dir, file("d/x")]);
    // Before ustar it may have.
    let old = member(0, b"e/", b"", b"skipped");
    bench.overlay(&[old, file("e/x"), member(b'0', b"f/", b"", b"a file")]);
    assert_eq!(bench.read("f"), "a file");
}

#[test]
fn a_sparse_file_takes_no_blocks_for_its_holes() {
    let bench = Bench::new();
    let map = extended(&[
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.minor", b"1"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.size", b"1099511627776"),
        ("GNU.sparse.map", b"1099511623680,4096"),
    ]);
    let applied = bench.overlay(&[map, member(b'0', b"x", b"", &[7; 4096])]);
    assert!(applied.bytes < 1 << 20);
    let mut end = File::open(bench.at("sparse")).unwrap();
    assert_eq!(end.metadata().unwrap().len(), 1 << 40);
    std::io::Seek::seek(&mut end, std::io::SeekFrom::End(-4097)).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut end, &mut bytes).unwrap();
    assert_eq!((bytes.len(), bytes[0], bytes[4096]), (4097, 0, 7));
}

#[test]
fn global_headers_are_passed_over() {
    let bench = Bench::new();
    let mut global = extended(&[
        ("path", b"evil"),
        ("mtime", b"1"),
        ("comment", b"layerd archive 1"),
    ]);
    let mut header = crate::tar::header::Header(global[..512].try_into().unwrap());
    header.0[header::TYPE] = b'g';
    global[..512].copy_from_slice(&header.sealed());
    bench.overlay(&[global, file("x")]);
    assert_eq!(bench.at("x").metadata().unwrap().mtime(), 1_700_000_000);
}

#[test]
fn many_files_do_not_deadlock() {
    // Each file lies in a buffer of its own, with other members between them.
    let mut members = Vec::new();
    for number in 0..100 {
        members.push(file(&format!("d/{number}")));
        for other in 0..600 {
            members.push(symlink(&format!("l/{number}-{other}"), "x"));
        }
    }
    let bench = Bench::new();
    let options = Options {
        durable: Durable::Content,
        ..Options::default()
    };
    let applied = bench.apply(&archive(&members), OVERLAY, &options).unwrap();
    assert_eq!(applied.inodes, 3 + 100 * 601);
}

/// Nothing of such an entry is made, not even the directories on the way, and nothing of its name goes.
#[test]
fn devices_that_are_left_out_are_counted() {
    let bench = Bench::new();
    let options = Options {
        leaves_out_devices: true,
        ..Options::default()
    };
    let node = |kind, name: &[u8]| with(kind, name, b"", b"", |_| {});
    let members = [
        file("kept"),
        node(b'3', b"./kept"),
        node(b'4', b"missing/disk"),
        node(b'3', b".wh.kept"),
        node(b'6', b"fifo"),
    ];
    let applied = bench.apply(&archive(&members), OVERLAY, &options).unwrap();
    let first = applied.first_left_out.as_deref();
    assert_eq!((applied.left_out, first), (3, Some(Path::new("kept"))));
    assert_eq!((applied.inodes, applied.implied.len()), (3, 0));
    assert!(bench.at("kept").is_file() && bench.at("fifo").exists());
    let linked = [node(b'3', b"null"), hard_link("link", "null")];
    let refused = bench.apply(&archive(&linked), OVERLAY, &options);
    let said = chain(&refused.expect_err("a link to nothing"));
    assert!(
        said.contains("a file that this layer does not have"),
        "{said}"
    );
}
