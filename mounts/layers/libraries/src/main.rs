//! Decompresses a layer with each library, and hashes what comes out, all in memory and in one
//! thread; prints the least processor time of five rounds, and MB of the decompressed layer a second.
//!
//! Run by hand: `cargo run --release [--features isal] -- LAYER.tar.gz [LAYER.tar.zst]`.

use std::hint::black_box;
use std::io::Read;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sha2::Digest;

const BUFFER: usize = 256 << 10;

fn main() {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let mut plain = Vec::new();
    for path in &paths {
        let blob = std::fs::read(path).expect("a layer");
        if blob.starts_with(&[0x1f, 0x8b]) {
            gzip(&blob, &mut plain);
        } else {
            zstandard(&blob, &mut plain);
        }
    }
    hashes(&plain);
}

fn gzip(blob: &[u8], plain: &mut Vec<u8>) {
    flate2::bufread::MultiGzDecoder::new(blob)
        .read_to_end(plain)
        .expect("gzip");
    let length = plain.len();
    report("flate2 with zlib-rs, MultiGzDecoder", length, || {
        drain(flate2::bufread::MultiGzDecoder::new(blob))
    });
    report("flate2 with zlib-rs, deflate without sum", length, || {
        drain(flate2::bufread::DeflateDecoder::new(&blob[header(blob)..]))
    });
    #[cfg(feature = "isal")]
    report("isal-rs (igzip)", length, || {
        drain(isal::read::GzipDecoder::new(blob))
    });
    let mut whole = vec![0; length];
    report("libdeflater (whole blob in memory)", length, || {
        let mut decoder = libdeflater::Decompressor::new();
        decoder.gzip_decompress(blob, &mut whole).expect("gzip")
    });
}

/// Bytes of a member's header.
fn header(blob: &[u8]) -> usize {
    let name = if blob[3] & 8 == 0 {
        0
    } else {
        blob[10..]
            .iter()
            .position(|byte| *byte == 0)
            .expect("a name")
            + 1
    };
    10 + name
}

fn zstandard(blob: &[u8], plain: &mut Vec<u8>) {
    plain.clear();
    zstd::stream::read::Decoder::new(blob)
        .expect("zstd")
        .read_to_end(plain)
        .expect("zstd");
    let length = plain.len();
    report("zstd", length, || {
        drain(zstd::stream::read::Decoder::new(blob).expect("zstd"))
    });
    report("ruzstd", length, || {
        drain(ruzstd::decoding::StreamingDecoder::new(blob).expect("zstd"))
    });
}

fn hashes(plain: &[u8]) {
    report("sha2, SHA-256", plain.len(), || {
        black_box(sha2::Sha256::digest(plain));
        plain.len()
    });
    report("crc32fast", plain.len(), || {
        black_box(crc32fast::hash(plain));
        plain.len()
    });
    report("xxhash-rust, XXH3 of 128 bits", plain.len(), || {
        black_box(xxhash_rust::xxh3::xxh3_128(plain));
        plain.len()
    });
}

fn drain(mut decoder: impl Read) -> usize {
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        match decoder.read(&mut buffer).expect("a sound blob") {
            0 => return total,
            read => total += read,
        }
    }
}

fn report(name: &str, length: usize, mut work: impl FnMut() -> usize) {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = now();
        assert_eq!(work(), length, "{name}");
        best = best.min(now() - start);
    }
    let speed = length as f64 / 1e6 / best.as_secs_f64();
    println!("| {name} | {:.3} | {speed:.0} |", best.as_secs_f64());
}

/// Time that this thread had a processor: others may want it too.
fn now() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        now.tv_sec.try_into().expect("past"),
        now.tv_nsec.try_into().expect("nanoseconds"),
    )
}
