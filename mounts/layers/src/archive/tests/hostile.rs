//! Archives that lie. Each must give a clear error, and change nothing outside of the destination.

use std::fs;

use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::sample::Index;

use super::{manifest, packed, test_support, unpack};
use crate::archive::{ExportOptions, ImportOptions};
use crate::error::Error;
use crate::tar::header::{self, Header};
use crate::tar::samples::{directory, extended, file, hard_link, long, member, sized, symlink};
use crate::tar::{Reader, pax};
use crate::test_support::assert_same;

/// Imports below a guarded directory: whatever happens, what lies beside the destination stays.
fn try_import(parts: &[Vec<u8>]) -> Result<(), Error> {
    let home = tempfile::tempdir().unwrap();
    let (dest, beside) = (home.path().join("dest"), home.path().join("beside"));
    fs::create_dir(&dest).unwrap();
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("secret"), "untouched").unwrap();
    let before = manifest(&beside);
    let mut archive = parts.concat();
    archive.resize(archive.len() + 1024, 0);
    let result = unpack(&archive, &dest, &ImportOptions::default());
    assert_same(&before, &manifest(&beside));
    let names = fs::read_dir(home.path()).unwrap().count();
    assert_eq!(names, 2, "something was made beside the destination");
    result.map(drop)
}

fn assert_refused(what: &str, expected: &str, parts: &[Vec<u8>]) {
    let error = try_import(parts).expect_err(what).to_string();
    assert!(error.contains(expected), "{what}: {error}");
}

#[test]
fn no_name_leaves_the_tree() {
    let up = "leads up";
    assert_refused("up", up, &[file("../beside/secret")]);
    assert_refused("up within", up, &[file("a/../../beside/secret")]);
    assert_refused("up and down", up, &[file("a/../b")]);
    assert_refused("just up", up, &[directory("..")]);
    let absolute = "absolute path";
    assert_refused("a root", absolute, &[file("/tmp/file")]);
    let pax = extended(&[("path", b"/tmp/x")]);
    assert_refused("a root by pax", absolute, &[pax, file("x")]);
    assert_refused("a root by long name", absolute, &[long(b"/tmp/x\0")]);
    let behind = "behind a symlink";
    let out = symlink("l", "../beside");
    assert_refused("out", behind, &[out, file("l/secret")]);
    assert_refused("to itself", behind, &[symlink("l", "."), file("l/x")]);
    let root = symlink("l", "/");
    assert_refused("a directory", behind, &[root, directory("l/x")]);
    assert_refused("below a file", "no directory", &[file("f"), file("f/x")]);
    assert_refused("no name", "empty name", &[file("")]);
    assert_refused("the tree", "whole tree", &[symlink("./", "x")]);
    assert_refused("a full directory", "not empty", &[file("d/x"), file("d")]);
    assert_refused("no target", "empty or too long", &[symlink("l", "")]);
    // What merely looks like it is no reason to refuse an archive.
    try_import(&[file("..x/y.."), symlink("l", "/etc/passwd")]).unwrap();
    try_import(&[symlink("l", "/etc"), file("l")]).unwrap();
}

#[test]
fn no_hard_link_leaves_the_tree() {
    assert_refused("up", "leads up", &[hard_link("h", "../beside/secret")]);
    assert_refused("a root", "absolute path", &[hard_link("h", "/etc/passwd")]);
    let out = symlink("l", "../beside");
    let link = hard_link("h", "l/secret");
    assert_refused("out", "behind a symlink", &[out, link]);
    assert_refused("nothing", "did not come before", &[hard_link("h", "none")]);
    let to_directory = "hard link to a directory";
    assert_refused(
        "a directory",
        to_directory,
        &[directory("d"), hard_link("h", "d")],
    );
    assert_refused("the tree", to_directory, &[hard_link("h", ".")]);
    try_import(&[symlink("l", "/etc/passwd"), hard_link("h", "l")]).unwrap();
    try_import(&[file("l"), hard_link("l", "l")]).unwrap();
}

#[test]
fn names_have_limits() {
    assert_refused("64 KiB", "path of 65536 bytes", &[long(&vec![b'a'; 65536])]);
    assert_refused(
        "4096",
        "path of 4096 bytes",
        &[long(&"ab/".repeat(1366).as_bytes()[..4096])],
    );
    assert_refused("256", "over 255 bytes", &[long(&[b'a'; 256])]);
    try_import(&[long(&[b'a'; 255])]).unwrap();
    try_import(&[long(format!("{}b", "a/".repeat(2046)).as_bytes())]).unwrap();
    let huge = sized(b'L', b"x", b"", b"", (8 << 30) - 1);
    assert_refused("a name of 8 GiB", "too large", &[huge]);
    let huge = sized(b'x', b"x", b"", b"", (8 << 30) - 1);
    assert_refused("a header of 8 GiB", "too large", &[huge]);
    let nul = extended(&[("path", b"a\0b")]);
    assert_refused("a NUL", "NUL in the name", &[nul, file("x")]);
    let nul = extended(&[("SCHILY.xattr.user.a\0b", b"v")]);
    assert_refused(
        "a NUL in an attribute",
        "NUL in the name of",
        &[nul, file("x")],
    );
}

#[test]
fn sizes_that_lie_are_refused() {
    let sparse = |size: &str, map: &str| {
        let records = [
            ("GNU.sparse.major", &b"1"[..]),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", size.as_bytes()),
        ];
        let mut content = map.as_bytes().to_vec();
        content.resize(512, 0);
        content.extend_from_slice(b"data");
        vec![extended(&records), member(b'0', b"x", b"", &content)]
    };
    try_import(&sparse("1000", "1\n500\n4\n")).unwrap();
    for (what, size, map) in [
        ("beyond the end", "1000", "1\n998\n4\n"),
        ("more than there is", "1000", "1\n0\n5\n"),
        ("less than there is", "1000", "1\n0\n3\n"),
        ("overlap", "1000", "2\n0\n2\n1\n2\n"),
        (
            "overflow",
            "18446744073709551615",
            "1\n18446744073709551612\n4\n",
        ),
        (
            "longer than files can be",
            "9223372036854775808",
            "1\n0\n4\n",
        ),
    ] {
        assert_refused(what, "contradict", &sparse(size, map));
    }
    for map in [
        "x\n",
        "99999999999\n",
        "1\n-1\n4\n",
        "1\n1.5\n4\n",
        "123456789012345678901\n",
    ] {
        assert_refused(map, "bad map", &sparse("1000", map));
    }
    let long = sized(b'0', b"f", b"", b"short", (8 << 30) - 1);
    assert!(matches!(try_import(&[long]), Err(Error::Truncated { .. })));
    let mut binary = Header::new(b'0');
    binary.put(header::NAME, b"f");
    binary.put(header::SIZE, &[0xff; 12]);
    let negative = binary.sealed().to_vec();
    assert_refused("a negative size", "no number", &[negative]);
    let most = extended(&[("size", b"18446744073709551615")]);
    assert_refused("a size of 2^64 - 1", "no archive has", &[most, file("x")]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = |what: &str, parts: &[Vec<u8>]| assert_refused(what, what, parts);
    let header = || extended(&[("mtime", b"1")]);
    refused("not a tar header", &[vec![7; 512]]);
    refused("a type that is not known", &[member(b'Z', b"x", b"", b"")]);
    refused("another volume", &[member(b'M', b"x", b"", b"")]);
    refused("two extended headers", &[header(), header(), file("x")]);
    refused("without a file", &[header()]);
    let damaged = member(b'x', b"h", b"", b"9 a=b\n");
    refused("damaged extended header", &[damaged, file("x")]);
    refused(
        "a time that is none",
        &[extended(&[("mtime", b"x")]), file("x")],
    );
    let invalid = extended(&[("uid", b"4294967295")]);
    refused("owner that cannot be", &[invalid, file("x")]);
    let named = extended(&[("SCHILY.acl.access", b"user:x:r--")]);
    refused("access list with names", &[named, file("x")]);
    refused(
        "what belongs to one file",
        &[global("path", "x"), file("x")],
    );
    refused(
        "later version",
        &[global("comment", "layerd archive 2"), file("x")],
    );
    let promise = || global("comment", "layerd archive 1");
    refused("checksum is missing", &[promise(), file("x")]);
    let wrong = global("comment", "layerd sha256 0000");
    refused("checksum is wrong", &[promise(), file("x"), wrong]);
}

#[test]
fn what_was_not_asked_for_is_refused() {
    let import = |mut archive: Vec<u8>, options| {
        let to = tempfile::tempdir().unwrap();
        archive.resize(archive.len() + 1024, 0);
        unpack(&archive, to.path(), &options)
    };
    let checksum = ImportOptions {
        checksum: true,
        ..ImportOptions::default()
    };
    let problem = import(file("x"), checksum).unwrap_err().to_string();
    assert!(problem.contains("it has no checksum"), "{problem}");
    let devices = ImportOptions {
        devices: false,
        ..ImportOptions::default()
    };
    let device = member(b'3', b"null", b"", b"");
    let problem = import(device, devices).unwrap_err().to_string();
    assert!(problem.contains("a device"), "{problem}");
}

/// A header about all files.
fn global(key: &str, value: &str) -> Vec<u8> {
    let mut data = Vec::new();
    pax::push(&mut data, key.as_bytes(), value.as_bytes());
    member(b'g', b"g", b"", &data)
}

fn sample() -> Vec<u8> {
    let from = tempfile::tempdir().unwrap();
    fs::create_dir(from.path().join("dir")).unwrap();
    fs::write(from.path().join("dir/file"), "x".repeat(1000)).unwrap();
    fs::hard_link(from.path().join("dir/file"), from.path().join("link")).unwrap();
    fs::File::create(from.path().join("sparse"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    packed(from.path(), &ExportOptions::default()).0
}

#[test]
fn every_cut_is_noticed() {
    let archive = sample();
    let end = archive.len() - 512; // one block of zeros will do
    for cut in 0..end {
        let to = tempfile::tempdir_in("/dev/shm").unwrap();
        let result = unpack(&archive[..cut], to.path(), &ImportOptions::default());
        assert!(
            matches!(result, Err(Error::Truncated { .. })),
            "{cut}: {result:?}"
        );
    }
}

#[test]
fn every_altered_byte_is_noticed() {
    let archive = sample();
    // What comes last is the header and the block of the checksum itself, and the end mark.
    for at in 0..archive.len() - 2048 {
        let mut altered = archive.clone();
        altered[at] ^= 0x41;
        let to = tempfile::tempdir_in("/dev/shm").unwrap();
        let options = ImportOptions {
            checksum: true,
            ..ImportOptions::default()
        };
        let result = unpack(&altered, to.path(), &options);
        assert!(result.is_err(), "byte {at} of {}", archive.len());
    }
}

/// Reads to the end; what matters is that it comes to one, and how it allocates.
fn read_all(archive: &[u8]) {
    let mut reader = Reader::new(archive);
    let mut buffer = [0; 4096];
    while let Ok(Some(_)) = reader.next_entry() {
        while matches!(reader.read(&mut buffer), Ok(1..)) {}
    }
}

#[test]
fn no_noise_makes_the_reader_panic() {
    let archive = sample();
    let changes = vec((any::<Index>(), any::<u8>()), 1..12);
    test_support::for_random(4000, &changes, |changes| {
        let mut altered = archive.clone();
        for (at, byte) in &changes {
            *at.get_mut(&mut altered) = *byte;
        }
        read_all(&altered);
        reseal(&mut altered);
        read_all(&altered);
    });
    let noise = vec(any::<u8>(), 0..3000).prop_map(|mut noise| {
        reseal(&mut noise);
        noise
    });
    test_support::for_random(4000, &noise, |noise| read_all(&noise));
}

/// Makes the sums of all blocks right, so that what they say is read.
fn reseal(archive: &mut [u8]) {
    for block in archive.as_chunks_mut::<512>().0 {
        if !block.iter().all(|byte| *byte == 0) {
            *block = Header(*block).sealed();
        }
    }
}

#[test]
fn noise_is_imported_or_refused_but_stays_inside() {
    let archive = sample();
    let changes = vec((any::<Index>(), any::<u8>()), 1..12);
    test_support::for_random(300, &changes, |changes| {
        let mut altered = archive.clone();
        for (at, byte) in &changes {
            *at.get_mut(&mut altered) = *byte;
        }
        reseal(&mut altered);
        let _ = try_import(&[altered]);
    });
}
