//! Content of files, directories and links.

use super::{FileType, Image, Memory, Node, Special, add, finish, plain, writer};
use crate::erofs::Error;

const ROOT: Node = Memory::ROOT;

/// Reads a file of the root directory whole.
fn read(image: &Image<'_, [u8]>, name: &str) -> Vec<u8> {
    let root = image.root().unwrap();
    let file = image.lookup(&root, name.as_bytes()).unwrap().unwrap();
    let mut content = vec![1; usize::try_from(file.size).unwrap()];
    assert_eq!(image.read(&file, &mut content, 0).unwrap(), content.len());
    content
}

#[test]
fn files_of_every_length_come_back() {
    let content: Vec<u8> = (0..200_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let lengths = [
        0, 1, 511, 512, 513, 4095, 4096, 4097, 4608, 4609, 65_535, 65_536, 65_537, 131_072, 200_000,
    ];
    let mut writer = writer();
    for length in lengths {
        add(&mut writer, ROOT, &length.to_string(), &content[..length]);
    }
    let bytes = finish(writer);
    let image = Image::open(&bytes[..]).unwrap();
    for length in lengths {
        assert!(
            read(&image, &length.to_string()) == content[..length],
            "{length}"
        );
    }
}

#[test]
fn zeros_become_holes_and_come_back() {
    const CHUNK: usize = 64 << 10;
    let mut content = vec![0; 6 * CHUNK + 100];
    content[2 * CHUNK + 5000] = 7;
    content[4 * CHUNK] = 8;
    let mut writer = writer();
    add(&mut writer, ROOT, "data", &content);
    add(&mut writer, ROOT, "zero", &vec![0; 5 * CHUNK]);
    content[6 * CHUNK + 99] = 9;
    add(&mut writer, ROOT, "tail", &content);
    let bytes = finish(writer);
    assert!(bytes.len() < 6 * CHUNK, "{}", bytes.len());
    let image = Image::open(&bytes[..]).unwrap();
    assert!(read(&image, "tail") == content);
    content[6 * CHUNK + 99] = 0;
    assert!(read(&image, "data") == content);
    assert!(read(&image, "zero").iter().all(|byte| *byte == 0));
    let root = image.root().unwrap();
    let data = image.lookup(&root, b"data").unwrap().unwrap();
    let chunk = CHUNK as u64;
    assert_eq!(
        image.next_data(&data, 0).unwrap(),
        Some((2 * chunk, 3 * chunk))
    );
    assert_eq!(
        image.next_data(&data, 3 * chunk).unwrap(),
        Some((4 * chunk, 5 * chunk))
    );
    assert_eq!(image.next_data(&data, 5 * chunk).unwrap(), None);
}

#[test]
fn sparse_files_take_the_space_of_their_data() {
    let size = (1 << 39) + 12_345;
    let mut writer = writer();
    let mut file = writer.file(ROOT, b"sparse", &plain(0o600), size).unwrap();
    file.hole(5 << 30).unwrap();
    file.write(b"far behind 4 GiB").unwrap();
    file.hole(size - (5 << 30) - 20).unwrap();
    file.write(b"tail").unwrap();
    file.finish().unwrap();
    let mut file = writer.file(ROOT, b"empty", &plain(0o600), 1 << 62).unwrap();
    file.hole(1 << 62).unwrap();
    file.finish().unwrap();
    let bytes = finish(writer);
    // A chunk of 16 MiB and part of one, and addresses: 128 KiB and 2 MiB.
    assert!(bytes.len() < 19 << 20, "{}", bytes.len());
    let image = Image::open(&bytes[..]).unwrap();
    let root = image.root().unwrap();
    let file = image.lookup(&root, b"sparse").unwrap().unwrap();
    assert_eq!(file.size, size);
    let mut found = [1; 18];
    image.read(&file, &mut found, (5 << 30) - 1).unwrap();
    assert_eq!(&found, b"\0far behind 4 GiB\0");
    assert_eq!(image.read(&file, &mut found, size - 5).unwrap(), 5);
    assert_eq!(&found[..5], b"\0tail");
    let empty = image.lookup(&root, b"empty").unwrap().unwrap();
    assert_eq!(image.next_data(&empty, 0).unwrap(), None);
    assert_eq!((empty.size, image.length()), (1 << 62, bytes.len() as u64));
}

#[test]
fn large_directories_are_sorted() {
    let mut writer = writer();
    let dir = writer.directory(ROOT, b"dir", &plain(0o755)).unwrap();
    let target = writer.special(ROOT, b"fifo", &plain(0o644), Special::Fifo);
    let target = target.unwrap();
    // `!` and `-` sort before `.`, `/` and letters behind it.
    let names = (0..20_000_u32).rev().map(|number| match number % 3 {
        0 => format!("!{number}"),
        1 => format!("-{number}"),
        _ => format!("{number} {}", "n".repeat((number % 240) as usize)),
    });
    for name in names.clone() {
        writer.link(dir, name.as_bytes(), target).unwrap();
    }
    let bytes = finish(writer);
    let image = Image::open(&bytes[..]).unwrap();
    let root = image.root().unwrap();
    let dir = image.lookup(&root, b"dir").unwrap().unwrap();
    let found = image
        .entries(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().name);
    let found: Vec<_> = found.collect();
    let mut wanted: Vec<_> = names.map(String::into_bytes).collect();
    wanted.extend([b".".to_vec(), b"..".to_vec()]);
    wanted.sort();
    assert!(found == wanted, "all names, sorted by byte");
    let fifo = image.lookup(&root, b"fifo").unwrap().unwrap();
    assert_eq!((fifo.kind, fifo.links), (FileType::Fifo, 20_001));
}

#[test]
fn removed_files_are_gone_and_replaced_ones_new() {
    let mut writer = writer();
    let dir = writer.directory(ROOT, b"dir", &plain(0o755)).unwrap();
    let below = writer.directory(dir, b"below", &plain(0o755)).unwrap();
    let kept = add(&mut writer, below, "file", b"old");
    writer.link(ROOT, b"kept", kept).unwrap();
    writer.remove(ROOT, b"dir").unwrap();
    assert!(matches!(
        writer.remove(ROOT, b"dir"),
        Err(Error::Missing { .. })
    ));
    add(&mut writer, ROOT, "dir", b"new");
    let bytes = finish(writer);
    let image = Image::open(&bytes[..]).unwrap();
    assert_eq!(read(&image, "kept"), b"old");
    assert_eq!(read(&image, "dir"), b"new");
    assert_eq!((image.walk().count(), image.inodes()), (3, 3));
}

#[test]
fn a_file_that_was_given_up_leaves_nothing_but_space() {
    let mut writer = writer();
    let mut file = writer.file(ROOT, b"a", &plain(0o644), 10_000).unwrap();
    file.write(&[1; 5000]).unwrap();
    drop(file);
    add(&mut writer, ROOT, "a", &[2; 9000]);
    let bytes = finish(writer);
    let image = Image::open(&bytes[..]).unwrap();
    assert_eq!(read(&image, "a"), [2; 9000]);
}

#[test]
fn long_targets_of_symlinks_come_back() {
    let mut writer = writer();
    let targets: Vec<_> = [1, 2048, 4064, 4065, 4095]
        .map(|length| vec![b't'; length])
        .into();
    for target in &targets {
        let name = target.len().to_string();
        let made = writer.symlink(ROOT, name.as_bytes(), &plain(0o777), target);
        made.unwrap();
    }
    let bytes = finish(writer);
    let image = Image::open(&bytes[..]).unwrap();
    let root = image.root().unwrap();
    for target in targets {
        let name = target.len().to_string();
        let link = image.lookup(&root, name.as_bytes()).unwrap().unwrap();
        assert!(image.target(&link).unwrap() == target, "{name}");
    }
}
