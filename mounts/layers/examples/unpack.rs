//! Unpacks layers, one after the other, into directories that stand on each other, and says how
//! long it took.
//!
//! Run by hand, as root: `unpack [--workers N] [--durable no|content] [--digests] DIRECTORY
//! BLOB...`. `DIRECTORY` must be empty; layer `N` goes to `DIRECTORY/N`, its digests to
//! `DIRECTORY/N.digests`.

#![allow(clippy::print_stdout, reason = "it is what a benchmark is for")]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use layerd_layers::Durable;
use layerd_layers::apply::{DigestSink, Options, Target, Whiteouts, apply};
use layerd_layers::copy::Markers;
use layerd_layers::file_digests::Writer;

fn main() {
    let mut options = Options::default();
    let (mut paths, mut digestss) = (Vec::new(), false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match &*argument {
            "--workers" => options.workers = value().parse().expect("a number"),
            "--digests" => digestss = true,
            "--durable" => {
                options.durable = match &*value() {
                    "no" => Durable::No,
                    "content" => Durable::Content,
                    _ => unreachable!("no or content"),
                }
            }
            _ => paths.push(PathBuf::from(argument)),
        }
    }
    let (into, blobs) = paths.split_first().expect("a directory and blobs");
    unpack(into, blobs, &options, digestss);
}

fn unpack(into: &Path, blobs: &[PathBuf], options: &Options<'_>, digestss: bool) {
    let mut made: Vec<File> = Vec::new();
    let start = Instant::now();
    for (number, blob) in blobs.iter().enumerate() {
        let layer = into.join(number.to_string());
        std::fs::create_dir(&layer).expect("a new directory");
        let layer = File::open(layer).expect("a directory");
        let lowers: Vec<BorrowedFd<'_>> = made.iter().rev().map(AsFd::as_fd).collect();
        let target = Target {
            layer: layer.as_fd(),
            lowers: &lowers,
            whiteouts: Whiteouts::Devices(Markers::Trusted),
        };
        let begin = Instant::now();
        let digests = digestss.then(|| {
            let file = into.join(format!("{number}.digests"));
            Writer::new(File::create(file).expect("a new file"))
        });
        let with_digests = Options {
            digests: digests.as_ref().map(|writer| writer as &dyn DigestSink),
            ..*options
        };
        let applied = apply(File::open(blob).expect("a blob"), &target, &with_digests);
        let applied = applied.expect("unpack");
        if let Some(digests) = digests {
            digests.finish(options.durable).expect("a digests");
        }
        println!(
            "{} {:.3} s: {} MiB, {} inodes on {} MiB of disk, {} implied, {} whiteouts",
            blob.display(),
            begin.elapsed().as_secs_f64(),
            applied.size >> 20,
            applied.inodes,
            applied.bytes >> 20,
            applied.implied.len(),
            applied.whiteouts.map_or(0, |list| list.len()),
        );
        made.push(layer);
    }
    let unpacked = start.elapsed();
    if options.durable != Durable::No {
        rustix::fs::fsync(&made[0]).expect("a barrier");
    }
    println!(
        "all {:.3} s, and {:.3} s for the barrier",
        unpacked.as_secs_f64(),
        (start.elapsed() - unpacked).as_secs_f64()
    );
}
