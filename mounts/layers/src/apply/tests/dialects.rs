//! Archives of programs that keep to no standard, read as Go's archive/tar reads them.

use super::*;
use crate::tar::header::Header;
use crate::tar::samples::with;

fn named(name: &[u8], change: impl FnOnce(&mut Header)) -> Vec<u8> {
    with(b'0', name, b"", b"content", change)
}

#[test]
fn a_prefix_in_a_gnu_header_is_part_of_the_name() {
    let bench = Bench::new();
    bench.overlay(&[named(b"file", |header| {
        header.put(header::MAGIC, b"ustar  \0");
        header.put(header::PREFIX, b"some/prefix/dir");
    })]);
    assert_eq!(bench.read("some/prefix/dir/file"), "content");
    assert!(!bench.at("file").exists());
}

#[test]
fn the_access_time_of_a_gnu_header_is_set() {
    let bench = Bench::new();
    bench.overlay(&[named(b"file", |header| {
        header.put(header::MAGIC, b"ustar  \0");
        header.put_number(header::GNU_ATIME, 1_800_000_000);
    })]);
    let stat = bench.at("file").metadata().unwrap();
    assert_eq!((stat.atime(), stat.mtime()), (1_800_000_000, 1_700_000_000));
}

#[test]
fn empty_records_say_nothing() {
    let bench = Bench::new();
    let empty = extended(&[("path", b""), ("linkpath", b""), ("GNU.sparse.name", b"")]);
    let long = member(b'L', b"././@LongLink", b"", b"\0");
    bench.overlay(&[
        empty.clone(),
        file("file"),
        empty,
        symlink("link", "file"),
        long,
        file("long"),
    ]);
    for path in ["file", "link", "long"] {
        assert_eq!(bench.read(path), "content", "{path}");
    }
}

#[test]
fn the_last_of_several_extended_headers_counts() {
    let bench = Bench::new();
    bench.overlay(&[
        extended(&[("path", b"first"), ("mtime", b"5")]),
        extended(&[("path", b"second")]),
        file("third"),
    ]);
    assert_eq!(
        bench.at("second").metadata().unwrap().mtime(),
        1_700_000_000
    );
    assert_eq!(fs::read_dir(bench.layer()).unwrap().count(), 1);
}

#[test]
fn a_long_name_counts_before_one_in_an_extended_header() {
    let bench = Bench::new();
    let long = member(b'L', b"././@LongLink", b"", b"long\0");
    bench.overlay(&[extended(&[("path", b"pax")]), long, file("short")]);
    assert_eq!(bench.read("long"), "content");
}

#[test]
fn nuls_before_digits_are_filler() {
    let bench = Bench::new();
    bench.overlay(&[named(b"file", |header| {
        header.0[100..108].copy_from_slice(b"\x00000640\0");
        header.0[136..148].copy_from_slice(b"\0\0 0001750 \0");
    })]);
    let stat = bench.at("file").metadata().unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o640, 0o1750));
    let split = named(b"file", |header| header.put(header::MODE, b"64 4\0\0\0"));
    assert!(bench.refused(&[split]).contains("a mode that is no number"));
}

#[test]
fn root_nuls_before_digits_of_owners_are_filler() {
    test_support::need_root();
    let bench = Bench::new();
    bench.overlay(&[named(b"file", |header| {
        header.0[108..116].copy_from_slice(b"\0\x001750\0\0");
        header.0[116..124].copy_from_slice(b"\0\0\0\0\x00144");
    })]);
    let stat = bench.at("file").metadata().unwrap();
    assert_eq!((stat.uid(), stat.gid()), (0o1750, 0o144));
}

/// Go's writer ends there if it is not closed; docker save of old ended an archive so.
#[test]
fn a_stream_may_end_behind_the_content_of_its_last_member() {
    let whole = [file("a"), file("last")].concat();
    let header_alone = [file("a"), extended(&[("path", b"gone")])].concat();
    let content = whole.len() - 512 + b"content".len();
    let short = |length: usize| whole[..length].to_vec();
    for archive in [short(content), short(content + 5), whole.clone()] {
        let bench = Bench::new();
        bench.apply(&archive, OVERLAY, &Options::default()).unwrap();
        assert_eq!(
            (bench.read("a"), bench.read("last")),
            ("content".into(), "content".into())
        );
    }
    let without_file = header_alone.len() - 512 + 13;
    for archive in [header_alone.clone(), header_alone[..without_file].to_vec()] {
        let bench = Bench::new();
        bench.apply(&archive, OVERLAY, &Options::default()).unwrap();
        assert_eq!(bench.read("a"), "content");
    }
    for length in [content - 1, 1024 + 100, 1024 + 511] {
        let result = Bench::new().apply(&short(length), OVERLAY, &Options::default());
        let error = result.expect_err("cut");
        assert!(
            matches!(error, Error::Truncated { .. }),
            "{length}: {error}"
        );
    }
}
