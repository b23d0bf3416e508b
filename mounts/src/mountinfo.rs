//! The mount table, as in proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Number of the mount; used again once it is gone.
    pub id: u64,
    /// Number of the mount it stands on.
    pub parent: u64,
    /// Device number, major and minor.
    pub device: (u32, u32),
    /// The directory of the file system that is seen here.
    pub root: PathBuf,
    /// Where it is mounted, as seen from this process's root directory.
    pub target: PathBuf,
    /// Options of this mount, separated by commas.
    pub options: OsString,
    /// Set if it is in a peer group (`shared:N`).
    pub shared: bool,
    /// Set if mounts propagate to it from a peer group (`master:N`).
    pub slave: bool,
    /// Set if it cannot be bound, so that recursive binds leave it out (`unbindable`).
    pub unbindable: bool,
    /// File system type, as in `ext4`.
    pub kind: OsString,
    /// Source: a device, or any word.
    pub source: OsString,
    /// Options of the file system, separated by commas.
    pub super_options: OsString,
}

/// A line that is not as documented.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the mount table has no good {field}")]
pub struct BadLine {
    /// Which line, counted from 1.
    pub line: usize,
    /// Which field.
    pub field: &'static str,
}

/// Reads the mount table of the calling thread.
///
/// # Errors
/// [`Error::Io`]; `InvalidData` for a table that [`parse`] refuses.
pub fn read() -> Result<Vec<Entry>, Error> {
    let path = Path::new("/proc/thread-self/mountinfo");
    let fail = |cause| Error::io("read mount table", path, cause);
    let text = std::fs::read(path).map_err(fail)?;
    parse(&text).map_err(|bad| fail(std::io::Error::new(std::io::ErrorKind::InvalidData, bad)))
}

/// Parses a mount table. Bytes, because paths need not be text.
///
/// # Errors
/// [`BadLine`] for the first line that is not as documented: who decides by the table what may be
/// deleted must not decide by half of it.
pub fn parse(text: &[u8]) -> Result<Vec<Entry>, BadLine> {
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| {
            entry(line).map_err(|field| BadLine {
                line: index + 1,
                field,
            })
        })
        .collect()
}

/// Names the field that is wrong.
fn entry(line: &[u8]) -> Result<Entry, &'static str> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = |name| fields.next().ok_or(name);
    let id = number(next("mount id")?).ok_or("mount id")?;
    let parent = number(next("parent id")?).ok_or("parent id")?;
    let device = device(next("device")?).ok_or("device")?;
    let root = path(next("root")?);
    let target = path(next("mount point")?);
    let options = OsString::from_vec(unescape(next("options")?));
    let (mut shared, mut slave, mut unbindable) = (false, false, false);
    loop {
        match next("separator")? {
            b"-" => break,
            b"unbindable" => unbindable = true,
            field => {
                shared |= field.starts_with(b"shared:");
                slave |= field.starts_with(b"master:");
            }
        }
    }
    Ok(Entry {
        shared,
        slave,
        unbindable,
        id,
        parent,
        device,
        root,
        target,
        options,
        kind: OsString::from_vec(unescape(next("type")?)),
        source: OsString::from_vec(unescape(next("source")?)),
        super_options: OsString::from_vec(unescape(next("super options")?)),
    })
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device(field: &[u8]) -> Option<(u32, u32)> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    Some((number(&field[..colon])?, number(&field[colon + 1..])?))
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

/// Undoes the kernel's `\ooo` for blanks and backslashes. A backslash without three octal digits
/// stands for itself.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let (b'\\', Some(byte)) = (first, octal(tail)) {
            out.push(byte);
            rest = &tail[3..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits.get(..3)?).ok()?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| u8::from_str_radix(digits, 8).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::{any, proptest};

    use super::{BadLine, parse, read};

    #[test]
    fn every_field() {
        let table = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue\n";
        let propagation = |line: &[u8]| {
            let entries = parse(line).expect("a good line");
            (entries[0].shared, entries[0].slave, entries[0].unbindable)
        };
        assert_eq!(propagation(table), (false, true, false));
        let both = b"1 2 0:3 / / rw shared:7 master:1 - tmpfs none rw";
        assert_eq!(propagation(both), (true, true, false));
        let alone = b"1 2 0:3 / / rw unbindable - tmpfs none rw";
        assert_eq!(propagation(alone), (false, false, true));
        let entries = parse(table).expect("a good table");
        let [entry] = entries.as_slice() else {
            unreachable!("one line");
        };
        assert_eq!((entry.id, entry.parent, entry.device), (36, 35, (98, 0)));
        assert_eq!(entry.root, Path::new("/mnt1"));
        assert_eq!(entry.target, Path::new("/mnt2"));
        assert_eq!(entry.options, "rw,noatime");
        assert_eq!(entry.kind, "ext3");
        assert_eq!(entry.source, "/dev/root");
        assert_eq!(entry.super_options, "rw,errors=continue");
    }

    #[test]
    fn escapes_and_empty_words() {
        let table =
            b"1 2 0:3 / /a\\040b\\011c\\012d\\134040\\9 rw - overlay  rw,lowerdir=/x\\134:y";
        let entries = parse(table).expect("a good table");
        assert_eq!(entries[0].target, Path::new("/a b\tc\nd\\040\\9"));
        assert_eq!(entries[0].source, "");
        assert_eq!(entries[0].super_options, "rw,lowerdir=/x\\:y");
    }

    #[test]
    fn bad_lines_are_named() {
        let good = "1 2 0:3 / / rw - tmpfs none rw\n";
        let table = [
            ("x 2 0:3 / / rw - tmpfs none rw", "mount id"),
            ("1 2 03 / / rw - tmpfs none rw", "device"),
            ("1 2 0:3 / / rw tmpfs none rw", "separator"),
            ("1 2 0:3 / / rw - tmpfs none", "super options"),
        ];
        for (bad, field) in table {
            let text = format!("{good}{bad}\n");
            assert_eq!(parse(text.as_bytes()), Err(BadLine { line: 2, field }));
        }
    }

    #[test]
    fn reads_the_kernels_own() {
        let entries = read().expect("the mount table");
        assert!(entries.iter().any(|entry| entry.target == Path::new("/")));
    }

    proptest! {
        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&text);
        }
    }
}
