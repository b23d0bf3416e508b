//! Images that were cut off or altered: errors, and an end.

use proptest::collection::vec;
use proptest::prelude::any;

use super::{Image, Memory, Node, add, finish, plain, writer};
use crate::erofs::format::{SUPER_OFFSET, le32};
use crate::erofs::{Attributes, Error, FileType, Special, crc};
use crate::test_support::for_random;

const ROOT: Node = Memory::ROOT;

/// A small image with everything that the format has.
fn sample() -> Vec<u8> {
    let mut writer = writer();
    let dir = writer.directory(ROOT, b"dir", &plain(0o755)).unwrap();
    for number in 0..150 {
        add(
            &mut writer,
            dir,
            &format!("file with a long name {number}"),
            b"x",
        );
    }
    let mut zeros = vec![0; 200_000];
    zeros[70_000] = 1;
    let sparse = add(&mut writer, ROOT, "sparse", &zeros);
    writer.link(ROOT, b"again", sparse).unwrap();
    add(&mut writer, ROOT, "data", &[3; 5000]);
    let given = Attributes {
        xattrs: vec![(b"user.a".to_vec(), vec![1; 100])],
        ..plain(0o644)
    };
    writer.symlink(ROOT, b"link", &given, b"target").unwrap();
    let device = Special::Character(0, 0);
    writer.special(ROOT, b"device", &given, device).unwrap();
    finish(writer)
}

/// Reads all that can be read.
fn read_all(bytes: &[u8]) -> Result<(), Error> {
    let image = Image::open(bytes)?;
    let mut buffer = vec![0; 64 << 10];
    for file in image.walk() {
        let (_, inode) = file?;
        image.xattrs(&inode)?;
        match inode.kind {
            FileType::Regular => {
                image.read(&inode, &mut buffer, 0)?;
                image.read(&inode, &mut buffer, inode.size.saturating_sub(5))?;
                image.next_data(&inode, 0)?;
            }
            FileType::Symlink => {
                image.target(&inode)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn seal(bytes: &mut [u8]) {
    bytes[SUPER_OFFSET + 4..][..4].fill(0);
    let sum = crc::crc32c(&bytes[SUPER_OFFSET..4096]);
    bytes[SUPER_OFFSET + 4..][..4].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn every_shorter_image_is_refused() {
    let whole = sample();
    read_all(&whole).unwrap();
    for length in (0..whole.len()).step_by(509) {
        let cut = read_all(&whole[..length]);
        assert!(
            matches!(cut, Err(Error::Corrupt { .. })),
            "{length}: {cut:?}"
        );
    }
}

#[test]
fn a_superblock_that_was_altered_is_refused() {
    let whole = sample();
    for at in SUPER_OFFSET..4096 {
        let mut altered = whole.clone();
        altered[at] ^= 0x10;
        assert!(read_all(&altered).is_err(), "byte {at}");
    }
}

#[test]
fn altered_images_end_in_an_error_or_in_other_content() {
    let whole = sample();
    let blocks = le32(&whole, SUPER_OFFSET + 40) as usize;
    let metadata = blocks * 4096;
    let changes = vec(
        (any::<proptest::sample::Index>(), any::<u8>(), any::<bool>()),
        1..6,
    );
    for_random(400, &changes, |changes| {
        let mut altered = whole.clone();
        for (index, byte, is_metadata) in changes {
            // Most of the image is content, which nothing depends on.
            let start = if is_metadata { metadata } else { SUPER_OFFSET };
            let at = start + index.index(whole.len() - start);
            altered[at] = byte;
        }
        seal(&mut altered);
        let _ = read_all(&altered); // ends, without a panic
    });
}

#[test]
fn a_directory_within_itself_is_refused() {
    let mut writer = writer();
    let outer = writer.directory(ROOT, b"outer", &plain(0o755)).unwrap();
    writer.directory(outer, b"inner", &plain(0o755)).unwrap();
    let mut bytes = finish(writer);
    let (outer, place) = {
        let image = Image::open(&bytes[..]).unwrap();
        let outer = image
            .lookup(&image.root().unwrap(), b"outer")
            .unwrap()
            .unwrap();
        // `inner` is the third entry; those of a short directory lie behind its inode.
        let head = u64::from(le32(&bytes, SUPER_OFFSET + 40)) * 4096 + outer.number * 32 + 64;
        (outer.number, usize::try_from(head).unwrap() + 2 * 12)
    };
    bytes[place..place + 8].copy_from_slice(&outer.to_le_bytes());
    let found = read_all(&bytes).unwrap_err().to_string();
    assert!(
        found.ends_with("`.` or `..` that leads elsewhere"),
        "{found}"
    );
}
