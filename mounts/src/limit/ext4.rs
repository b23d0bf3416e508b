//! Size to which an ext4 can be enlarged, by its superblock.
//!
//! mkfs.ext4 keeps blocks free for the descriptors of more groups (the resize inode). Beyond them resize2fs
//! moves what stands behind the descriptors: an interruption loses content, and with e2fsprogs 1.47.0 an
//! ext4 of 4 MiB loses all of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Place and length of the superblock, in bytes.
const AT: u64 = 1024;
const LENGTH: usize = 1024;
const MAGIC: u64 = 0xef53;
/// Features: descriptors in each group of groups, and 64 bits.
const META_BG: u64 = 0x10;
const WIDE: u64 = 0x80;

/// Most bytes to which an image is enlarged without moving what is in it; `None` without such a limit, and for
/// other file systems. One read.
///
/// # Errors
/// Those of pread(2); an image that is too short for a superblock.
pub(super) fn most_bytes(image: &File) -> io::Result<Option<u64>> {
    let mut block = [0; LENGTH];
    image.read_exact_at(&mut block, AT)?;
    Ok(most(&block))
}

/// Bytes of the ext4 of an image; `None` without one. One read.
///
/// # Errors
/// As for [`most_bytes`].
pub(super) fn bytes(image: &File) -> io::Result<Option<u64>> {
    let mut block = [0; LENGTH];
    image.read_exact_at(&mut block, AT)?;
    Ok(length(&block))
}

fn number(block: &[u8; LENGTH], at: usize, bytes: usize) -> u64 {
    let field = block.get(at..at + bytes).unwrap_or_default();
    let digits = field.iter().rev();
    digits.fold(0_u64, |number, digit| number << 8 | u64::from(*digit))
}

fn length(block: &[u8; LENGTH]) -> Option<u64> {
    let number = |at, bytes| number(block, at, bytes);
    if number(0x38, 2) != MAGIC {
        return None;
    }
    let high = match number(0x60, 4) & WIDE {
        0 => 0,
        _ => number(0x150, 4),
    };
    let block_size = 1024_u64.checked_shl(u32::try_from(number(0x18, 4)).ok()?)?;
    (high << 32 | number(0x4, 4)).checked_mul(block_size)
}

fn most(block: &[u8; LENGTH]) -> Option<u64> {
    let number = |at, bytes| number(block, at, bytes);
    let features = number(0x60, 4);
    if number(0x38, 2) != MAGIC || features & META_BG != 0 {
        return None;
    }
    let block_size = 1024_u64.checked_shl(u32::try_from(number(0x18, 4)).ok()?)?;
    let descriptor = match features & WIDE {
        0 => 32,
        _ => number(0xfe, 2),
    };
    let blocks = number(0x4, 4).checked_sub(number(0x14, 4))?;
    let in_group = number(0x20, 4);
    let in_block = block_size.checked_div(descriptor)?;
    let groups = blocks.checked_next_multiple_of(in_group)? / in_group;
    let used = groups.checked_next_multiple_of(in_block)? / in_block;
    let groups = (used + number(0xce, 2)).checked_mul(in_block)?;
    groups.checked_mul(in_group)?.checked_mul(block_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A superblock with these fields.
    fn block(fields: &[(usize, &[u8])]) -> [u8; LENGTH] {
        let mut block = [0; LENGTH];
        for (at, bytes) in fields {
            block[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        block
    }

    #[test]
    fn an_ext4_has_room_for_the_descriptors_that_it_keeps_blocks_for() {
        // As mkfs.ext4 makes one of 4 MiB: blocks of 1 KiB, 8192 in a group, 31 for descriptors of 64 bytes.
        let small = [
            (0x04, &[0x00, 0x10, 0, 0][..]),
            (0x14, &[1]),
            (0x20, &[0x00, 0x20]),
            (0x38, &[0x53, 0xef]),
            (0x60, &[0xc2, 0x02]),
            (0xce, &[31]),
            (0xfe, &[64]),
        ];
        assert_eq!(most(&block(&small)), Some(4 << 30));
        let with = |at, bytes: &'static [u8]| {
            let more = [(at, bytes)];
            most(&block(&[&small[..], &more].concat()))
        };
        assert_eq!(with(0x60, &[0x42, 0x02]), Some(8 << 30), "32 bytes each");
        assert_eq!(with(0xce, &[0]), Some(128 << 20), "none is kept");
        assert_eq!(with(0x60, &[0xd2, 0x02]), None, "meta_bg");
        assert_eq!(with(0x38, &[0, 0]), None, "no ext4");
        assert_eq!(with(0x20, &[0, 0]), None, "damaged");
        assert_eq!(with(0xfe, &[0]), None, "damaged");
    }
}
