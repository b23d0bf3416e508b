//! Writes an image as the bytes of an input say, reads it back and compares; then alters it as the
//! rest of the input says and reads whatever comes of that.

use std::collections::BTreeMap;
use std::io::Cursor;

use layerd_layers::erofs::{Attributes, Error, FileType, Image, Node, Options, Special, Writer};

type Memory = Writer<Cursor<Vec<u8>>>;

/// Files of one input: as many as its names can tell apart.
const MOST: usize = 64;

/// Content of a file, or target of a symlink.
type Wanted = BTreeMap<Vec<u8>, Vec<u8>>;

/// The rest of an input.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> u16 {
        let low = self.next().unwrap_or(0);
        u16::from_le_bytes([low, self.next().unwrap_or(0)])
    }
}

/// One input.
pub(crate) fn image(data: &[u8]) {
    let mut bytes = Bytes(data);
    let inline = bytes.number() % 2049;
    let options = Options {
        inline,
        ..Options::default()
    };
    let mut writer = Memory::new(Cursor::new(Vec::new()), options).expect("good options");
    let mut wanted = Wanted::new();
    let mut dirs = vec![(Memory::ROOT, Vec::new())];
    for _ in 0..MOST {
        let Some(what) = bytes.next().filter(|what| *what != u8::MAX) else {
            break;
        };
        add(&mut writer, &mut bytes, what, &mut dirs, &mut wanted);
    }
    let (out, summary) = writer.finish().expect("memory takes all");
    let mut made = out.into_inner();
    assert_eq!(made.len() as u64, summary.bytes, "it is as long as it says");
    assert_eq!(read(&made).expect("a good image"), wanted);
    while let Some(byte) = bytes.next() {
        let at = usize::from(bytes.number()) % made.len();
        // From the end, where the metadata lies.
        let at = made.len() - 1 - at;
        made[at] = byte;
    }
    let _ = read(&made);
}

fn add(
    writer: &mut Memory,
    bytes: &mut Bytes<'_>,
    what: u8,
    dirs: &mut Vec<(Node, Vec<u8>)>,
    wanted: &mut Wanted,
) {
    let number = usize::from(what >> 4) % dirs.len();
    let (parent, path) = dirs[number].clone();
    let length = usize::from(bytes.next().unwrap_or(1));
    let name = vec![bytes.next().unwrap_or(b'n'); length];
    let path = [&path[..], b"/", &name].concat();
    let given = Attributes {
        permissions: bytes.number() & 0o7777,
        xattrs: vec![(b"user.a".to_vec(), vec![7; usize::from(what & 0x30)])],
        ..Attributes::default()
    };
    let mut content = Vec::new();
    let made = match what & 7 {
        0 => writer.directory(parent, &name, &given).map(|node| {
            dirs.push((node, path.clone()));
        }),
        1 => {
            content = vec![b't'; usize::from(bytes.number())];
            let made = writer.symlink(parent, &name, &given, &content);
            made.map(|_| ())
        }
        2 => {
            let device = Special::Character(bytes.number().into(), bytes.number().into());
            let made = writer.special(parent, &name, &given, device);
            made.map(|_| ())
        }
        3 => {
            let old = writer.lookup(Memory::ROOT, b"x");
            let old = old.filter(|old| writer.kind(*old) == FileType::Fifo);
            let old = old.map(|old| writer.link(parent, &name, old));
            old.unwrap_or(Err(Error::Missing { name: Vec::new() }))
        }
        4 => writer
            .special(parent, &name, &given, Special::Fifo)
            .map(|_| ()),
        _ => file(writer, parent, &name, &given, bytes, &mut content),
    };
    if made.is_ok() {
        wanted.insert(path, content);
    }
}

/// A file of pieces, of which some are holes.
fn file(
    writer: &mut Memory,
    parent: Node,
    name: &[u8],
    given: &Attributes,
    bytes: &mut Bytes<'_>,
    content: &mut Vec<u8>,
) -> Result<(), Error> {
    let mut pieces = Vec::new();
    for _ in 0..bytes.next().unwrap_or(0) % 8 {
        pieces.push((bytes.next().unwrap_or(0), usize::from(bytes.number())));
    }
    let size: usize = pieces.iter().map(|(_, length)| length).sum();
    let mut out = writer.file(parent, name, given, size as u64)?;
    for (byte, length) in pieces {
        match byte {
            0 => out.hole(length as u64)?,
            byte => out.write(&vec![byte & 0x7f; length])?,
        }
        content.resize(content.len() + length, byte & 0x7f);
    }
    out.finish().map(|_| ())
}

fn read(image: &[u8]) -> Result<Wanted, Error> {
    let image = Image::open(image)?;
    let mut found = Wanted::new();
    for file in image.walk() {
        let (path, inode) = file?;
        image.xattrs(&inode)?;
        let content = match inode.kind {
            FileType::Symlink => image.target(&inode)?,
            FileType::Regular => {
                image.next_data(&inode, 0)?;
                // More than any input can make.
                let length = usize::try_from(inode.size).unwrap_or(usize::MAX);
                let mut content = vec![1; length.min(1 << 20)];
                let read = image.read(&inode, &mut content, 0)?;
                content.truncate(read);
                content
            }
            _ => Vec::new(),
        };
        if !path.is_empty() {
            found.insert([b"/", &path[..]].concat(), content);
        }
    }
    Ok(found)
}
