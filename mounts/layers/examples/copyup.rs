//! Copies a tree of many files out of two layers, once with `copy_tree` straight from the layers
//! and once with `cp -a` from their merged mount, and compares time and blocks.
//!
//! Run by hand, as root: `copyup [FILES] [ROUNDS]`. The layers lie on an xfs
//! of its own in a file; both ways end with a sync of that file system, caches are dropped before
//! each, and they take turns.

#![allow(clippy::print_stdout, reason = "it is what a benchmark is for")]

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use layerd_layers::Durable;
use layerd_layers::copy::{Options, copy_tree};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Bytes of all files together, a file on average: 836 MB in 20,001 files was measured before.
const AVERAGE: usize = 41_800;

fn main() {
    let number = |at: usize, default| {
        let given = std::env::args().nth(at);
        given.map_or(default, |given| given.parse().expect("a number"))
    };
    let (files, rounds) = (number(1, 20_000), number(2, 3));
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("run it as root");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).expect("private mounts");
    let disk = Disk::new();
    let layers = ["upper", "lower"].map(|name| disk.path(name));
    fill(&layers, files);
    let merged = disk.path("merged");
    let lower = layers
        .each_ref()
        .map(|layer| layer.to_str().expect("text"))
        .join(":");
    let options = format!("lowerdir={lower}");
    mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        MsFlags::MS_RDONLY,
        Some(&*options),
    )
    .expect("mount the overlay");
    let mut sums = [(Duration::ZERO, 0); 2];
    for round in 0..rounds {
        let (time, blocks) = measure(&disk, &|to| ours(&layers, to));
        let (cp_time, cp_blocks) = measure(&disk, &|to| {
            run(
                "cp",
                &["-a".as_ref(), merged.join(".").as_ref(), to.as_ref()],
            );
        });
        println!(
            "round {round}: copy_tree {time:.2?}, {} MiB; cp -a {cp_time:.2?}, {} MiB",
            blocks >> 20,
            cp_blocks >> 20,
        );
        sums[0] = (sums[0].0 + time, sums[0].1 + blocks);
        sums[1] = (sums[1].0 + cp_time, sums[1].1 + cp_blocks);
    }
    umount2(&merged, MntFlags::empty()).expect("unmount the overlay");
    let [(time, blocks), (cp_time, cp_blocks)] = sums;
    let blocks = blocks.max(1);
    println!(
        "cp -a takes {:.2} times as long",
        cp_time.as_secs_f64() / time.as_secs_f64()
    );
    println!("cp -a takes {} times the blocks", cp_blocks / blocks);
}

fn ours(layers: &[PathBuf; 2], to: &Path) {
    let open = |path: &Path| fs::File::open(path).expect("a directory");
    let layers = layers.each_ref().map(|layer| open(layer));
    let layers = layers.each_ref().map(AsFd::as_fd);
    let options = Options {
        durable: Durable::Content,
        ..Options::default()
    };
    copy_tree(&layers, Path::new(""), open(to).as_fd(), &options).expect("a copy");
}

/// Time to a synced copy, and bytes it takes on the disk.
fn measure(disk: &Disk, copy: &dyn Fn(&Path)) -> (Duration, u64) {
    let to = disk.path("to");
    disk.settle();
    let (before, start) = (disk.used(), Instant::now());
    copy(&to);
    disk.sync();
    let time = start.elapsed();
    disk.settle();
    let used = disk.used().saturating_sub(before);
    run("rm", &["-rf".as_ref(), to.as_ref()]);
    (time, used)
}

/// Files of many sizes in directories of a hundred; the upper layer replaces one in ten and deletes
/// one in a hundred.
fn fill(layers: &[PathBuf; 2], files: usize) {
    let content: Vec<u8> = (0..AVERAGE * 4)
        .map(|at| u8::try_from(at % 251).unwrap_or(0))
        .collect();
    for number in 0..files {
        let name = format!("d{}/f{number}", number / 100);
        // Sizes from 0 to twice the average, and back.
        let size = number * 7919 % (AVERAGE * 2);
        for (layer, take) in layers.iter().zip([number % 10 == 0, true]) {
            let path = layer.join(&name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            if take {
                fs::write(&path, &content[number % 1000..number % 1000 + size]).expect("a file");
            }
        }
        if number % 100 == 99 {
            let path = layers[0].join(&name);
            run(
                "mknod",
                &[path.as_ref(), "c".as_ref(), "0".as_ref(), "0".as_ref()],
            );
        }
    }
}

/// An xfs in a file, mounted.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (image, path) = (folder.path().join("image"), folder.path().join("mounted"));
        let file = fs::File::create(&image).expect("a file");
        file.set_len(6 << 30).expect("a sparse file");
        fs::create_dir(&path).expect("a directory");
        run("mkfs.xfs", &["-q".as_ref(), image.as_ref()]);
        run(
            "mount",
            &[
                "-o".as_ref(),
                "loop".as_ref(),
                image.as_ref(),
                path.as_ref(),
            ],
        );
        Self { folder }
    }

    /// A directory on it, made if need be.
    fn path(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join("mounted").join(name);
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    fn sync(&self) {
        let root = fs::File::open(self.folder.path().join("mounted")).expect("a directory");
        rustix::fs::syncfs(root).expect("sync");
    }

    /// Everything on the disk, nothing in memory.
    fn settle(&self) {
        self.sync();
        fs::write("/proc/sys/vm/drop_caches", "3").expect("drop caches");
    }

    fn used(&self) -> u64 {
        let path = self.folder.path().join("mounted");
        let stat = rustix::fs::statvfs(path).expect("statvfs");
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is mounted above it goes with the mount namespace.
        let _ = umount2(&self.folder.path().join("mounted"), MntFlags::MNT_DETACH);
    }
}

fn run(program: &str, arguments: &[&OsStr]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.expect(program).success(), "{program} {arguments:?}");
}
