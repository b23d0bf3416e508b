use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::test_support::{LoopDisk, enter_private_mounts};

const MIB: u64 = 1 << 20;
const IMAGES: Enforcement = Enforcement::Image { has_xfs: true };

/// An image in the folder `v` of a disk, with a mount point, not mounted.
fn made(disk: &LoopDisk, mib: u64) -> (Folder, Holder) {
    let folder = Folder::make(disk.path(), c"held").expect("a folder");
    fs::create_dir(folder.path.join("v")).expect("a directory");
    fs::create_dir(folder.path.join("v/data")).expect("a mount point");
    let holder = Holder::new(&folder, "v");
    let limit = Limit {
        bytes: mib * MIB,
        inodes: None,
    };
    holder.make(limit, &IMAGES).expect("an image");
    (folder, holder)
}

fn run_through(program: &str, arguments: &[&str], paths: &[&Path]) {
    let mut command = Command::new(program);
    let output = command.args(arguments).args(paths).output().expect(program);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {said}");
}

/// Blocks of a file that shares some are written whole by xfs, which loop devices take over as sectors of
/// 4096 bytes; neither an ext4 with blocks of 1024 nor an xfs with sectors of 512 is mounted on those.
#[test]
fn root_an_image_that_was_copied_by_reflink_is_mounted() {
    enter_private_mounts();
    for mib in [6, 300] {
        let disk = LoopDisk::xfs(&[]);
        let (folder, holder) = made(&disk, mib);
        let (image, copy) = (holder.image(), folder.path.join("copy"));
        run_through("cp", &["--reflink=always"], &[&image, &copy]);
        holder.mount().expect("mount");
        fs::write(holder.data().join("file"), "content").expect("write");
        crate::mount::unmount(&holder.data()).expect("unmount");
        // Not to be mounted beside the other: an xfs has an identity.
        fs::rename(&copy, &image).expect("rename");
        holder.mount().expect("mount the copy");
        assert!(!holder.data().join("file").exists(), "made before");
        fs::write(holder.data().join("file"), "content").expect("write");
        crate::mount::unmount(&holder.data()).expect("unmount");
    }
}
