//! Copies out of images that share their blocks.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use layerd_layers::copy::{self, copy_tree};
use layerd_mounts::Slot;
use layerd_mounts::test_support::{LoopDisk, enter_private_mounts};

use super::{Disk, commit, open};
use crate::driver::{Base, Images, Survey};
use crate::overlay::{LayerForm, Overlay};

/// Bytes of a file system that are taken, once everything is written.
fn used(root: &Path) -> u64 {
    let folder = fs::File::open(root).expect("open");
    nix::unistd::syncfs(&folder).expect("sync");
    let disk = nix::sys::statvfs::statvfs(root).expect("look");
    (disk.blocks() - disk.blocks_free()) * disk.fragment_size()
}

/// Copies the file of an image; answers the bytes that are said to be shared, and those that the
/// copy took on the disk.
fn copy_out(driver: &Overlay, root: &Path, slot: Slot, content: &[u8]) -> (u64, u64) {
    let name = format!("copy-{slot}");
    fs::create_dir(root.join(&name)).expect("a folder");
    let dest = fs::File::open(root.join(&name)).expect("open");
    let layer = driver.open_layer(slot).expect("the layer");
    let image = driver.open_image(slot).expect("the image");
    let images = [image.as_ref().map(|image| image.as_fd())];
    let options = copy::Options {
        images: &images,
        ..copy::Options::default()
    };
    let before = used(root);
    let copied = copy_tree(&[layer.as_fd()], Path::new(""), dest.as_fd(), &options);
    let shared = copied.expect("copy").cloned_bytes;
    let taken = used(root).saturating_sub(before);
    assert_eq!(
        fs::read(root.join(name).join("file")).expect("read"),
        content
    );
    (shared, taken)
}

#[test]
fn root_copies_share_the_blocks_of_an_image() {
    enter_private_mounts();
    let large: Vec<u8> = (0..8_388_708_u32).map(|i| (i % 251) as u8 | 1).collect();
    let sparse = [&large[..1 << 20], &vec![0; 2 << 20], &large[..1 << 20]].concat();
    for (disk, shares) in [
        (Disk::new(LoopDisk::xfs(&[])), true),
        (Disk::new(LoopDisk::btrfs()), true),
        (Disk::new(LoopDisk::ext4(64)), false),
    ] {
        let root = disk.path();
        let driver = open(root, LayerForm::Images);
        commit(&driver, Slot(1), &Base::empty(), &large);
        commit(&driver, Slot(2), &Base::empty(), &sparse);
        commit(&driver, Slot(3), &Base::empty(), &large[..5000]);
        let (shared, taken) = copy_out(&driver, root, Slot(1), &large);
        assert_eq!(shared, if shares { 8 << 20 } else { 0 });
        assert_eq!(taken < 1 << 20, shares, "{taken} bytes");
        let (shared, taken) = copy_out(&driver, root, Slot(2), &sparse);
        assert_eq!(shared, if shares { 4 << 20 } else { 0 });
        assert_eq!(taken < 1 << 20, shares, "{taken} bytes");
        let (shared, _) = copy_out(&driver, root, Slot(3), &large[..5000]);
        assert_eq!(shared, 0, "too small");
    }
}
