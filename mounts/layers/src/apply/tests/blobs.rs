//! Blobs: compression, digests, lengths, limits.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sha2::{Digest, Sha256};

use super::*;
use crate::apply::Blob;
use crate::error::Bound;

fn gzip(data: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::fast();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A skippable frame of Zstandard.
fn skippable(data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap();
    [&[0x5a, 0x2a, 0x4d, 0x18][..], &length.to_le_bytes(), data].concat()
}

/// An archive of more than a MiB that does not compress to nothing.
fn sample() -> Vec<u8> {
    let mut seed = 1_u64;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u8::try_from(seed >> 60).unwrap()
    };
    let large: Vec<u8> = (0..1 << 20).map(|_| noise()).collect();
    let mut members = vec![directory("d"), member(b'0', b"d/large", b"", &large)];
    for number in 0..100 {
        let name = format!("d/{number}");
        members.push(member(
            b'0',
            name.as_bytes(),
            b"",
            &large[number..number * 50],
        ));
    }
    archive(&members)
}

fn options(compression: Compression) -> Options<'static> {
    Options {
        compression,
        ..Options::default()
    }
}

fn fails(blob: &[u8], options: &Options<'_>) -> Error {
    let bench = Bench::new();
    bench.apply(blob, OVERLAY, options).expect_err("an error")
}

#[test]
fn every_compression_gives_the_same() {
    let plain = sample();
    let (first, second) = plain.split_at(plain.len() / 3);
    let (first_frame, second_frame) = (zstd(first), zstd(second));
    let table = [
        (Compression::None, plain.clone()),
        (Compression::Gzip, gzip(&plain)),
        (
            Compression::Gzip,
            [gzip(first), gzip(&[]), gzip(second)].concat(),
        ),
        (Compression::Zstd, zstd(&plain)),
        (
            Compression::Zstd,
            [
                skippable(b"x"),
                first_frame,
                skippable(&[]),
                second_frame,
                skippable(b"toc"),
            ]
            .concat(),
        ),
    ];
    for (compression, blob) in table {
        for compression in [compression, Compression::Detect] {
            let bench = Bench::new();
            let options = Options {
                blob: Blob {
                    size: Some(blob.len() as u64),
                    sha256: Some(Sha256::digest(&blob).into()),
                },
                workers: 2,
                durable: Durable::Content,
                ..options(compression)
            };
            let applied = bench.apply(&blob, OVERLAY, &options).unwrap();
            assert_eq!(applied.diff_id, <[u8; 32]>::from(Sha256::digest(&plain)));
            assert_eq!(applied.size, plain.len() as u64);
            let at = |path: &str| fs::read(bench.at(path)).unwrap();
            assert_eq!(at("d/large").len(), 1 << 20);
            assert_eq!(at("d/99"), at("d/large")[99..99 * 50]);
        }
    }
}

#[test]
fn what_follows_the_end_mark_counts_but_is_not_read() {
    let plain = [
        archive(&[file("x")]),
        archive(&[file("y")]),
        b"garbage".to_vec(),
    ]
    .concat();
    let bench = Bench::new();
    let applied = bench.apply(&plain, OVERLAY, &Options::default()).unwrap();
    assert_eq!(applied.size, plain.len() as u64);
    assert_eq!(applied.diff_id, <[u8; 32]>::from(Sha256::digest(&plain)));
    assert!(bench.at("x").exists() && !bench.at("y").exists());
}

#[test]
fn an_archive_may_end_without_an_end_mark() {
    for whole in [vec![], file("x"), [file("x"), vec![0; 512]].concat()] {
        let bench = Bench::new();
        let applied = bench.apply(&whole, OVERLAY, &Options::default()).unwrap();
        assert_eq!(applied.size, whole.len() as u64);
        assert_eq!(bench.at("x").exists(), !whole.is_empty());
    }
    for length in [1, 511, 513, 518] {
        let cut = &file("x")[..length];
        let error = fails(cut, &Options::default());
        assert!(
            matches!(error, Error::Truncated { .. }),
            "{length}: {error}"
        );
    }
}

#[test]
fn damaged_blobs_are_told_from_damaged_archives() {
    let plain = sample();
    for (compression, good) in [
        (Compression::Gzip, gzip(&plain)),
        (Compression::Zstd, zstd(&plain)),
    ] {
        let mut sum = good.clone();
        let at = sum.len() - 3;
        sum[at] ^= 1;
        let mut middle = good.clone();
        let half = good.len() / 2;
        for byte in &mut middle[half..half + 64] {
            *byte ^= 0x5a;
        }
        let table = [
            ("cut", good[..good.len() - 1].to_vec()),
            ("cut early", good[..good.len() / 2].to_vec()),
            ("cut in the header", good[..5].to_vec()),
            ("no bytes", vec![]),
            ("a bad sum", sum),
            ("another middle", middle),
            (
                "garbage behind",
                [good.clone(), b"garbage behind it".to_vec()].concat(),
            ),
            ("zeros behind", [good.clone(), vec![0; 512]].concat()),
            ("another kind", plain.clone()),
        ];
        for (what, blob) in table {
            if what == "no bytes" && compression == Compression::Zstd {
                continue; // no frames are no error
            }
            let error = fails(&blob, &options(compression));
            // What it decompresses to may be found out earlier than its sum.
            let known = matches!(error, Error::Compressed { .. })
                || what == "another middle" && matches!(error, Error::Malformed { .. });
            assert!(known, "{compression:?} {what}: {error}");
        }
    }
    let error = fails(
        &gzip(b"no archive, but long enough to be none").repeat(20),
        &Options::default(),
    );
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
}

#[test]
fn another_blob_than_was_said_is_refused() {
    let blob = gzip(&sample());
    let length = blob.len() as u64;
    let with = |size, sha256| Options {
        blob: Blob { size, sha256 },
        ..Options::default()
    };
    let error = fails(&blob, &with(None, Some([7; 32])));
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    assert!(error.to_string().contains(&"07".repeat(32)));
    for wanted in [0, length - 1, length + 1] {
        let error = fails(&blob, &with(Some(wanted), None));
        assert!(matches!(error, Error::Length { .. }), "{error}");
    }
}

fn within(limits: Limits) -> Options<'static> {
    Options {
        limits,
        ..Options::default()
    }
}

#[test]
fn limits_hold() {
    let bomb = archive(&[member(b'0', b"ones", b"", &vec![1; 18 << 20])]);
    let base = Limits::default();
    let ratio = Limits {
        most_ratio: 100,
        ..base
    };
    let bytes = Limits {
        most_bytes: 1 << 20,
        ..base
    };
    for (blob, limits, bound) in [
        (gzip(&bomb), ratio, Bound::Ratio),
        (zstd(&bomb), ratio, Bound::Ratio),
        (zstd(&bomb), bytes, Bound::Bytes),
    ] {
        beyond(&blob, limits, bound);
    }
    let entries = Limits {
        most_entries: 5,
        ..base
    };
    let directories = Limits {
        most_directories: 5,
        ..base
    };
    let implied = archive(&[file("a/b/c/d/e/f")]);
    beyond(&implied, entries, Bound::Entries);
    beyond(&implied, directories, Bound::Directories);
    let few = archive(&[file("a/b/c/d/f")]);
    Bench::new().apply(&few, OVERLAY, &within(entries)).unwrap();
    let bench = Bench::new();
    bench.apply(&few, OVERLAY, &within(directories)).unwrap();
}

fn beyond(blob: &[u8], limits: Limits, wanted: Bound) {
    match fails(blob, &within(limits)) {
        Error::Beyond { bound, .. } if bound == wanted => {}
        other => panic!("{wanted:?}: {other}"),
    }
}

/// Zeros become 31,000 times as many; neither they nor a start that says little are a bomb.
#[test]
fn zeros_are_no_bomb() {
    let mut content = vec![0; 40 << 20];
    let alone = archive(&[member(b'0', b"zeros", b"", &content)]);
    assert!(alone.len() / zstd(&alone).len() > 4000);
    content.extend((0..70_000_u32).flat_map(u32::to_le_bytes));
    let first = archive(&[member(b'0', b"zeros", b"", &content), file("last")]);
    for (plain, size) in [(&alone, 40 << 20), (&first, content.len())] {
        for blob in [gzip(plain), zstd(plain)] {
            let bench = Bench::new();
            let applied = bench.apply(&blob, OVERLAY, &Options::default()).unwrap();
            assert!(applied.bytes < 1 << 20, "{} bytes on disk", applied.bytes);
            let zeros = fs::read(bench.at("zeros")).unwrap();
            assert!(zeros[..] == content[..size], "the content is another");
        }
    }
    let ones = archive(&[member(b'0', b"ones", b"", &vec![1; 40 << 20]), sample()]);
    let blob = zstd(&ones);
    let whole = Options {
        blob: Blob {
            size: Some(blob.len() as u64),
            sha256: None,
        },
        limits: Limits {
            most_ratio: 100,
            ..Limits::default()
        },
        ..Options::default()
    };
    Bench::new().apply(&blob, OVERLAY, &whole).unwrap();
    beyond(&blob, whole.limits, Bound::Ratio);
}

#[test]
fn wide_windows_are_taken_up_to_the_limit() {
    let plain = sample();
    // The window of a frame whose length was not known stands behind its descriptor.
    let wide = |log: u8| {
        let mut blob = zstd(&plain);
        assert_eq!(blob[4] & 0x20, 0);
        blob[5] = (log - 10) << 3;
        blob
    };
    for log in [27, 28, 29] {
        let applied = Bench::new().apply(&wide(log), OVERLAY, &Options::default());
        assert_eq!(applied.unwrap().size, plain.len() as u64, "{log}");
    }
    beyond(&wide(30), Limits::default(), Bound::Window);
    let narrow = Limits {
        most_window: 1 << 20,
        ..Limits::default()
    };
    beyond(&[zstd(b""), wide(21)].concat(), narrow, Bound::Window);
    // One after the other, in any order.
    let blob = wide(28);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                Bench::new()
                    .apply(&blob, OVERLAY, &Options::default())
                    .unwrap()
            });
        }
    });
}

/// Labels that say so are wrong now and then; a plain archive is one whatever its first name.
#[test]
fn what_is_compressed_is_found_where_it_is_called_plain() {
    let plain = sample();
    for blob in [gzip(&plain), zstd(&plain), gzip(&archive(&[file("x")]))] {
        let applied = Bench::new().apply(&blob, OVERLAY, &options(Compression::None));
        assert!(applied.unwrap().inodes > 1);
    }
    let odd = archive(&[member(b'0', b"\x1f\x8b\x08\x00", b"", b"plain")]);
    let bench = Bench::new();
    bench
        .apply(&odd, OVERLAY, &options(Compression::None))
        .unwrap();
    assert_eq!(fs::read_dir(bench.layer()).unwrap().count(), 1);
}

/// Says stop after so many bytes.
struct Patience(AtomicU64);

impl Progress for Patience {
    fn advanced(&self, _: u64, bytes: u64) {
        // Several threads tell at once: none may undo what another has told.
        let less = |left: u64| Some(left.saturating_sub(bytes));
        self.0.fetch_update(Relaxed, Relaxed, less).unwrap();
    }

    fn cancelled(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

#[test]
fn it_stops_when_it_is_told_to() {
    for patience in [0, 1, 1 << 19] {
        let progress = Patience(AtomicU64::new(patience));
        let options = Options {
            progress: &progress,
            ..Options::default()
        };
        let error = fails(&gzip(&sample()), &options);
        assert!(matches!(error, Error::Stopped), "{error}");
    }
}

/// Fails after so many bytes.
struct Broken<'a>(&'a [u8], usize);

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1 == 0 {
            return Err(io::Error::other("the wire was cut"));
        }
        let most = self.1.min(buffer.len()).min(1000);
        let read = self.0.read(&mut buffer[..most])?;
        self.1 -= read;
        Ok(read)
    }
}

#[test]
fn a_source_that_fails_is_blamed() {
    let blob = gzip(&sample());
    let bench = Bench::new();
    let layer = File::open(bench.layer()).unwrap();
    let target = Target {
        layer: layer.as_fd(),
        lowers: &[],
        whiteouts: OVERLAY,
    };
    for after in [0, 10, 100_000] {
        let error = apply(Broken(&blob, after), &target, &Options::default()).expect_err("broken");
        assert!(
            chain(&error).ends_with("the wire was cut"),
            "{}",
            chain(&error)
        );
        assert!(matches!(error, Error::Stream { .. }));
    }
}
