//! Refusals of all that cannot be stored, which change nothing.

use std::io::Cursor;

use super::{Attributes, Image, Memory, Node, Options, Special, finish, plain, writer};
use crate::erofs::{Error, Writer};

const ROOT: Node = Memory::ROOT;

fn with(name: &str, value: &[u8]) -> Attributes {
    Attributes {
        xattrs: vec![(name.as_bytes().to_vec(), value.to_vec())],
        ..plain(0o640)
    }
}

#[test]
fn names_that_cannot_be_are_refused() {
    let mut writer = writer();
    let long = vec![b'n'; 256];
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &long] {
        let made = writer.directory(ROOT, name, &plain(0o755));
        assert!(matches!(made, Err(Error::BadName { .. })), "{name:?}");
    }
    writer.directory(ROOT, b"a", &plain(0o755)).unwrap();
    let again = writer.special(ROOT, b"a", &plain(0o644), Special::Fifo);
    let again = again.unwrap_err().to_string();
    assert_eq!(again, "the directory has an entry `a` already");
    let fifo = writer.special(ROOT, b"f", &plain(0o644), Special::Fifo);
    let in_fifo = writer.directory(fifo.unwrap(), b"b", &plain(0o755));
    assert_eq!(
        in_fifo.unwrap_err().to_string(),
        "add an entry: the file is a FIFO"
    );
    let dir = writer.lookup(ROOT, b"a").unwrap();
    assert!(matches!(
        writer.link(ROOT, b"l", dir),
        Err(Error::WrongType { .. })
    ));
    let bytes = finish(writer);
    assert_eq!(Image::open(&bytes[..]).unwrap().walk().count(), 3);
}

#[test]
fn numbers_that_do_not_fit_are_refused() {
    let mut writer = writer();
    for special in [Special::Character(4096, 0), Special::Block(0, 1 << 20)] {
        let made = writer.special(ROOT, b"d", &plain(0o644), special);
        assert!(matches!(made, Err(Error::TooLarge { .. })), "{special:?}");
    }
    writer
        .special(
            ROOT,
            b"d",
            &plain(0o644),
            Special::Block(4095, (1 << 20) - 1),
        )
        .unwrap();
    let late = Attributes {
        modified: (0, 1_000_000_000),
        ..plain(0o644)
    };
    assert!(matches!(
        writer.set(ROOT, &late),
        Err(Error::TooLarge { .. })
    ));
    let made = writer.symlink(ROOT, b"s", &plain(0o777), &[b't'; 4096]);
    assert!(matches!(made, Err(Error::TooLarge { .. })));
    let made = writer.file(ROOT, b"s", &plain(0o644), 1 << 63);
    assert!(matches!(made, Err(Error::TooLarge { .. })));
    let options = Options {
        inline: 2049,
        ..Options::default()
    };
    let made = Writer::new(Cursor::new(Vec::new()), options);
    assert!(matches!(made, Err(Error::TooLarge { .. })));
    let bytes = finish(writer);
    let image = Image::open(&bytes[..]).unwrap();
    let device = image.lookup(&image.root().unwrap(), b"d").unwrap().unwrap();
    assert_eq!(device.device, (4095, (1 << 20) - 1));
}

#[test]
fn content_has_the_length_that_was_said() {
    let mut writer = writer();
    let mut file = writer.file(ROOT, b"f", &plain(0o644), 10).unwrap();
    file.write(b"12345678").unwrap();
    let more = file.write(b"901").unwrap_err().to_string();
    assert_eq!(more, "the content of a file has 8 bytes instead of 10");
    assert!(matches!(file.hole(3), Err(Error::Length { .. })));
    assert!(matches!(file.finish(), Err(Error::Length { .. })));
    assert_eq!(writer.lookup(ROOT, b"f"), None);
}

#[test]
fn attributes_that_cannot_be_stored_are_refused() {
    let mut writer = writer();
    let table: &[(&str, usize)] = &[
        ("system.other", 1),
        ("user.", 1),
        ("user", 1),
        ("user.a", 65_536),
        ("security.a\0b", 1),
        ("system.posix_acl_default", 44),
        ("system.posix_acl_access", 3),
        ("security.capability", 20),
    ];
    for (name, length) in table {
        let made = writer.special(ROOT, b"f", &with(name, &vec![1; *length]), Special::Fifo);
        assert!(matches!(made, Err(Error::Xattr { .. })), "{name}");
    }
    let five = (0..5).map(|number| (format!("user.{number}").into(), vec![0; 60_000]));
    let five = Attributes {
        xattrs: five.collect(),
        ..plain(0o644)
    };
    assert!(matches!(writer.set(ROOT, &five), Err(Error::Xattr { .. })));
    let twice = Attributes {
        xattrs: vec![(b"user.a".to_vec(), vec![1]), (b"user.a".to_vec(), vec![2])],
        ..plain(0o644)
    };
    let said = writer.set(ROOT, &twice).unwrap_err().to_string();
    assert_eq!(
        said,
        "the extended attribute `user.a` cannot be stored: it is there twice"
    );
    assert_eq!(writer.attributes(ROOT).xattrs, []);
}

#[test]
fn attributes_up_to_the_limit_come_back() {
    let mut writer = writer();
    let four = (0..4).map(|number| (format!("user.{number}").into_bytes(), vec![number; 65_500]));
    let four = Attributes {
        xattrs: four.collect(),
        ..plain(0o644)
    };
    for name in [&b"a"[..], b"b"] {
        writer.symlink(ROOT, name, &four, &[b't'; 2000]).unwrap();
    }
    let bytes = finish(writer);
    let image = Image::open(&bytes[..]).unwrap();
    for name in [b"a", b"b"] {
        let link = image.lookup(&image.root().unwrap(), name).unwrap().unwrap();
        assert!(image.xattrs(&link).unwrap() == four.xattrs);
        assert_eq!(image.target(&link).unwrap(), [b't'; 2000]);
    }
}

#[test]
fn access_lists_agree_with_the_mode() {
    let acl = |entries: &[(u8, u8, u32)]| {
        let mut value = vec![2, 0, 0, 0];
        for (tag, permissions, id) in entries {
            value.extend_from_slice(&[*tag, 0, *permissions, 0]);
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    };
    let none = u32::MAX;
    let full = acl(&[
        (1, 7, none),
        (2, 5, 1000),
        (4, 7, none),
        (16, 7, none),
        (32, 7, none),
    ]);
    let name = "system.posix_acl_access";
    let mut writer = writer();
    writer.set(ROOT, &with(name, &full)).unwrap();
    let kept = acl(&[
        (1, 6, none),
        (2, 5, 1000),
        (4, 7, none),
        (16, 4, none),
        (32, 0, none),
    ]);
    assert_eq!(writer.attributes(ROOT).xattrs, [(name.into(), kept)]);
    let minimal = acl(&[(1, 7, none), (4, 7, none), (32, 7, none)]);
    writer.set(ROOT, &with(name, &minimal)).unwrap();
    assert_eq!(writer.attributes(ROOT).xattrs, []);
    let bad: [&[(u8, u8, u32)]; 5] = [
        &[(1, 7, none), (4, 7, none)],
        &[(4, 7, none), (1, 7, none), (32, 7, none)],
        &[(1, 7, none), (2, 7, 1), (4, 7, none), (32, 7, none)],
        &[(1, 8, none), (4, 7, none), (32, 7, none)],
        &[(1, 7, none), (4, 7, none), (32, 7, none), (64, 7, none)],
    ];
    for entries in bad {
        let set = writer.set(ROOT, &with(name, &acl(entries)));
        assert!(matches!(set, Err(Error::Xattr { .. })), "{entries:?}");
    }
}

#[test]
fn memory_is_limited() {
    let options = Options {
        most_memory: 100_000,
        ..Options::default()
    };
    let mut writer = Writer::new(Cursor::new(Vec::new()), options).unwrap();
    let mut made = 0;
    let refused = loop {
        let name = format!("file {made}");
        match writer.special(ROOT, name.as_bytes(), &plain(0o644), Special::Fifo) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert!((300..2000).contains(&made), "{made}");
    assert!(
        matches!(refused, Error::TooLarge { limit: 100_000, .. }),
        "{refused}"
    );
    let bytes = finish(writer);
    assert_eq!(Image::open(&bytes[..]).unwrap().walk().count(), made + 1);
}

/// Output that is counted and dropped.
struct Nowhere(u64);

impl std::io::Write for Nowhere {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0 += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::io::Seek for Nowhere {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        match to {
            std::io::SeekFrom::Start(at) => Ok(at),
            _ => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Peak of this process, which runs one test, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse::<u64>().unwrap() << 10
}

#[test]
fn a_directory_of_a_million_names_takes_bounded_memory() {
    const COUNT: u64 = 1_000_000;
    let before = peak();
    let mut writer = Writer::new(Nowhere(0), Options::default()).unwrap();
    let root = Writer::<Nowhere>::ROOT;
    let dir = writer.directory(root, b"dir", &plain(0o755)).unwrap();
    // 7919 is no factor of the count: all names, in no order.
    for number in 0..COUNT {
        let name = format!("file {:07}", number * 7919 % COUNT);
        let file = writer.file(dir, name.as_bytes(), &plain(0o644), 0).unwrap();
        file.finish().unwrap();
    }
    let (_, summary) = writer.finish().unwrap();
    assert_eq!(summary.inodes, COUNT + 2);
    let each = (peak() - before) / COUNT;
    assert!(each < 300, "{each} bytes for each file");
}
