//! Content of measured layers.

use std::fs;
use std::path::{Path, PathBuf};

use layerd_integration::Entry;
use layerd_integration::image::tar::{BLOCK, octal, seal, text};
use layerd_integration::image::write_layer;

/// Size of a small file.
const SMALL: usize = 4096;
/// Files in one directory.
const IN_ONE: usize = 100;

/// Writes `count` small files, a hundred to a directory.
pub(crate) fn small_files(top: &Path, count: usize) {
    files(top, count, SMALL);
}

/// Makes `count` empty files, a hundred to a directory.
pub(crate) fn empty_files(top: &Path, count: usize) {
    files(top, count, 0);
}

fn files(top: &Path, count: usize, size: usize) {
    for first in (0..count).step_by(IN_ONE) {
        let dir = top.join(format!("d{first}"));
        fs::create_dir(&dir).expect("the layer can be written");
        for file in first..count.min(first + IN_ONE) {
            let path = dir.join(format!("f{file}"));
            fs::write(path, bytes(file, size)).expect("the layer can be written");
        }
    }
}

/// Writes one file of `mebibytes`.
pub(crate) fn large_file(top: &Path, mebibytes: usize) {
    let content = bytes(mebibytes, mebibytes << 20);
    fs::write(top.join("large"), content).expect("the layer can be written");
}

/// Makes the archives of an image of `layers` layers with `files` files each, of 1 to 20 KiB, in
/// `dir`.
pub(crate) fn archives(dir: &Path, layers: usize, files: usize) -> Vec<PathBuf> {
    let archive = |layer: usize| {
        let path = dir.join(format!("layer-{layer}.tar"));
        write_layer(&path, &entries(layer, files));
        path
    };
    (0..layers).map(archive).collect()
}

/// Writes one member of an archive: a directory (`5`) or a file (`0`).
pub(crate) fn write_member(out: &mut impl std::io::Write, name: &str, flag: u8, content: &[u8]) {
    let mut head = [0; BLOCK];
    text(&mut head[..100], name.as_bytes());
    octal(
        &mut head[100..108],
        if flag == b'5' { 0o755 } else { 0o644 },
    );
    octal(&mut head[108..116], 0);
    octal(&mut head[116..124], 0);
    octal(&mut head[124..136], content.len() as u64);
    octal(&mut head[136..148], 1_700_000_000);
    head[156] = flag;
    head[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut head);
    let padding = content.len().next_multiple_of(BLOCK) - content.len();
    for part in [&head[..], content, &[0; BLOCK][..padding]] {
        out.write_all(part).expect("there is room");
    }
}

fn entries(layer: usize, files: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    for file in 0..files {
        let dir = format!("layer{layer}-{}", file / IN_ONE);
        if file % IN_ONE == 0 {
            entries.push(Entry::directory(&dir));
        }
        let content = bytes(file, size(layer, file));
        entries.push(Entry::file(format!("{dir}/f{file}"), content));
    }
    entries
}

/// Bytes of a file of an image: spread evenly from 1 to 20 KiB.
fn size(layer: usize, file: usize) -> usize {
    1024 + (file * 7919 + layer * 104_729) % (19 * 1024)
}

/// Bytes that no file system stores as a hole or in an inode.
fn bytes(seed: usize, size: usize) -> Vec<u8> {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(size.div_ceil(8)).flatten().take(size).collect()
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn five_layers_hold_a_hundred_mebibytes() {
        let layer = |layer| (0..2000).map(|file| size(layer, file)).sum::<usize>();
        let mebibytes = (0..5).map(layer).sum::<usize>() >> 20;
        assert!((95..=110).contains(&mebibytes), "{mebibytes}");
    }
}
