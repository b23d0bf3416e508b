//! Images as the kernel reads them.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags};

use super::{Image, Options, Writer, kept, pack, plain, seen};
use crate::test_support::tree::{Who, build, items};
use crate::test_support::{assert_same, enter_private_mounts, for_random, manifest};

/// An image that is mounted from its file.
pub(crate) struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    /// Writes and mounts an image.
    fn new(write: impl FnOnce(&mut Writer<File>)) -> Self {
        Self::of(|file| {
            let mut writer = Writer::new(file, Options::default()).unwrap();
            write(&mut writer);
            writer.finish().unwrap();
        })
    }

    /// Mounts the image that is written into a file.
    pub(crate) fn of(write: impl FnOnce(File)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(File::create_new(folder.path().join("image")).unwrap());
        let mounted = folder.path().join("mounted");
        fs::create_dir(&mounted).unwrap();
        let made = Self { folder };
        let image = made.image();
        let image = image.to_str().unwrap();
        // Kernels before 6.12 refuse a file, and so do all on tmpfs and overlayfs.
        let direct = nix::mount::mount(
            Some(image),
            &mounted,
            Some("erofs"),
            MsFlags::MS_RDONLY,
            None::<&str>,
        );
        if direct == Err(nix::errno::Errno::ENOTBLK) {
            let looped = ["-t", "erofs", "-o", "ro,loop", image];
            let status = Command::new("mount").args(looped).arg(&mounted).status();
            assert!(status.unwrap().success(), "mount by a loop device");
        } else {
            direct.unwrap();
        }
        made
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.path(), MntFlags::MNT_DETACH);
    }
}

#[test]
fn root_the_kernel_shows_random_layers_as_they_were() {
    enter_private_mounts();
    for_random(12, &items(Who::Layer, 60), |items| {
        let source = tempfile::tempdir().unwrap();
        build(source.path(), &items);
        let mounted = Mounted::new(|writer| pack(writer, source.path()));
        let wanted = kept(manifest(source.path()));
        assert_same(&wanted, &kept(manifest(&mounted.path())));
        let file = File::open(mounted.image()).unwrap();
        assert_same(&wanted, &seen(&Image::open(&file).unwrap()));
    });
}

#[test]
fn root_the_kernel_finds_every_name_of_a_large_directory() {
    enter_private_mounts();
    let names: Vec<_> = (0..3000_u32)
        .map(|number| format!("{}{number}", ["!", "-", ".", "x"][number as usize % 4]))
        .collect();
    let mounted = Mounted::new(|writer| {
        let root = Writer::<File>::ROOT;
        let dir = writer.directory(root, b"dir", &plain(0o755)).unwrap();
        for name in &names {
            let file = writer.file(dir, name.as_bytes(), &plain(0o644), 0);
            file.unwrap().finish().unwrap();
        }
    });
    let dir = mounted.path().join("dir");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), names.len());
    for name in &names {
        assert!(dir.join(name).symlink_metadata().is_ok(), "{name}");
    }
}

#[test]
fn root_the_kernel_reads_files_beyond_4_gib_and_their_holes() {
    enter_private_mounts();
    let size = 6 << 30;
    let mounted = Mounted::new(|writer| {
        let root = Writer::<File>::ROOT;
        let mut file = writer.file(root, b"sparse", &plain(0o644), size).unwrap();
        file.hole(5 << 30).unwrap();
        file.write(b"here").unwrap();
        file.hole((1 << 30) - 4).unwrap();
        file.finish().unwrap();
    });
    let file = File::open(mounted.path().join("sparse")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size);
    let mut found = [1; 8];
    file.read_exact_at(&mut found, (5 << 30) - 2).unwrap();
    assert_eq!(&found, b"\0\0here\0\0");
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert!(data > 4 << 30, "{data}");
    let blocks = fs::metadata(mounted.image()).unwrap().blocks();
    assert!(
        blocks * 512 < 2 << 20,
        "the image is sparse: {blocks} blocks"
    );
}
