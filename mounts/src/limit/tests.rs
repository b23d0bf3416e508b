use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::test_support::{LoopDisk, enter_private_mounts};

const MIB: u64 = 1 << 20;
const IMAGES: Enforcement = Enforcement::Image { has_xfs: true };

/// An image in the folder `v` of a disk, with a mount point, not mounted.
pub(super) fn made(disk: &LoopDisk, mib: u64) -> (Folder, Holder) {
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

fn busy<T: fmt::Debug>(outcome: Result<T, Error>) -> PathBuf {
    match outcome {
        Err(Error::Busy { path }) => path,
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn root_mounts_of_other_programs_are_not_taken_for_the_image() {
    enter_private_mounts();
    let disk = LoopDisk::ext4(64);
    let (folder, holder) = made(&disk, 8);
    let (data, inside) = (holder.data(), holder.data().join("inside"));
    assert!(!is_mounted(&folder, "v").expect("look"));
    holder.mount().expect("mount");
    assert!(is_mounted(&folder, "v").expect("look"));
    fs::create_dir(&inside).expect("a directory");
    let tmpfs = |on: &Path| {
        run_through("mount", &["-t", "tmpfs", "foreign"], &[on]);
        fs::write(on.join("file"), "foreign").expect("write");
    };
    for on in [&data, &inside] {
        tmpfs(on);
        assert_eq!(&busy(holder.let_go()), on);
        assert_eq!(
            fs::read_to_string(on.join("file")).expect("read"),
            "foreign"
        );
        if on == &data {
            assert_eq!(&busy(is_mounted(&folder, "v")), on);
        }
        crate::mount::unmount(on).expect("unmount");
        assert!(is_mounted(&folder, "v").expect("look"));
    }
    tmpfs(&inside);
    crate::mount::unmount(&inside).expect("unmount");
    holder.let_go().expect("let go");
    holder.let_go().expect("nothing is there");
    assert!(!is_mounted(&folder, "v").expect("look"));
    tmpfs(&data);
    assert_eq!(busy(is_mounted(&folder, "v")), data);
    crate::mount::unmount(&data).expect("unmount");
}

#[test]
fn root_an_image_that_is_none_is_named() {
    enter_private_mounts();
    for mib in [8, 300] {
        let disk = LoopDisk::xfs(&[]);
        let (folder, holder) = made(&disk, mib);
        let (path, image) = (folder.path.join("v"), holder.image());
        let kept = folder.path.join("kept");
        fs::rename(&image, &kept).expect("rename");
        let check = |problem: &str| {
            let found = image_problem(&path).expect(problem);
            assert!(found.contains(problem), "{found}");
            match holder.mount() {
                Err(Error::BadFileSystem { problem, .. }) => assert_eq!(problem, found),
                other => unreachable!("{other:?}"),
            }
        };
        check("it is gone");
        std::os::unix::fs::symlink(&kept, &image).expect("symlink");
        check("it is no regular file");
        fs::remove_file(&image).expect("remove");
        nix::unistd::mkfifo(&image, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
        check("it is no regular file");
        fs::remove_file(&image).expect("remove");
        fs::write(&image, "").expect("write");
        check("it is cut short");
        fs::write(&image, vec![7; 8 << 20]).expect("write");
        check("it has no superblock");
        fs::rename(&kept, &image).expect("rename");
        assert_eq!(image_problem(&path), None);
        let file = OpenOptions::new().write(true).open(&image).expect("open");
        file.set_len((mib - 1) * MIB).expect("cut");
        check("bytes are there");
    }
}
