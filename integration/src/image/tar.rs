//! Writes tar archives: ustar headers, with pax records for what those cannot say.

use super::{Entry, Kind};

/// Written into every entry, so that archives of the same entries are the same bytes.
const MODIFIED: u64 = 1_700_000_000;

/// Bytes of a header, and the unit to which all else is filled up.
pub const BLOCK: usize = 512;

/// The archive of some entries.
#[must_use]
pub(super) fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let entry = &with_attributes(entry, entries);
        let pax = pax(entry);
        if !pax.is_empty() {
            out.extend(header("pax", b'x', 0o644, pax.len()));
            pad(&mut out, &pax);
        }
        write(&mut out, entry);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

/// A hard link carries the attributes of what it names: unpackers set them once more.
fn with_attributes(entry: &Entry, entries: &[Entry]) -> Entry {
    let Kind::HardLink(target) = &entry.kind else {
        return entry.clone();
    };
    let target = entries.iter().find(|other| other.path == *target);
    Entry {
        path: entry.path.clone(),
        kind: entry.kind.clone(),
        ..target
            .expect("a hard link names a path of its layer")
            .clone()
    }
}

fn write(out: &mut Vec<u8>, entry: &Entry) {
    let (flag, link, bytes): (u8, &str, &[u8]) = match &entry.kind {
        Kind::File(bytes) => (b'0', "", bytes),
        Kind::HardLink(target) => (b'1', target, &[]),
        Kind::Symlink(target) => (b'2', target, &[]),
        Kind::Character(..) => (b'3', "", &[]),
        Kind::Block(..) => (b'4', "", &[]),
        Kind::Directory => (b'5', "", &[]),
        Kind::Pipe => (b'6', "", &[]),
    };
    let mut head = header(&entry.path, flag, entry.mode, bytes.len());
    octal(&mut head[108..116], u64::from(entry.uid));
    octal(&mut head[116..124], u64::from(entry.gid));
    text(&mut head[157..257], link.as_bytes());
    if let Kind::Character(major, minor) | Kind::Block(major, minor) = entry.kind {
        octal(&mut head[329..337], u64::from(major));
        octal(&mut head[337..345], u64::from(minor));
    }
    seal(&mut head);
    out.extend(head);
    pad(out, bytes);
}

fn header(path: &str, flag: u8, mode: u32, size: usize) -> [u8; BLOCK] {
    let mut head = [0; BLOCK];
    text(&mut head[..100], path.as_bytes());
    octal(&mut head[100..108], u64::from(mode));
    octal(&mut head[108..116], 0);
    octal(&mut head[116..124], 0);
    octal(&mut head[124..136], size as u64);
    octal(&mut head[136..148], MODIFIED);
    head[156] = flag;
    head[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut head[329..337], 0);
    octal(&mut head[337..345], 0);
    seal(&mut head);
    head
}

/// The sum of all bytes, counting the field itself as spaces.
pub fn seal(head: &mut [u8; BLOCK]) {
    head[148..156].fill(b' ');
    let sum: u64 = head.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut head[148..155], sum);
}

/// Sets a text, cut off where the field ends; a pax record then has all of it.
pub fn text(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field.fill(0);
    field[..length].copy_from_slice(&value[..length]);
}

/// Octal digits that fill all but the last byte, which stays zero.
pub fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    let digits = format!("{value:0width$o}");
    field[..width].copy_from_slice(&digits.as_bytes()[digits.len() - width..]);
}

/// Adds bytes, filled up to whole blocks with zeros.
pub fn pad(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

fn pax(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    if entry.path.len() > 100 {
        record(&mut out, "path", entry.path.as_bytes());
    }
    if let Kind::Symlink(target) | Kind::HardLink(target) = &entry.kind
        && target.len() > 100
    {
        record(&mut out, "linkpath", target.as_bytes());
    }
    for (name, value) in &entry.xattrs {
        record(&mut out, &format!("SCHILY.xattr.{name}"), value);
    }
    out
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record, itself included.
pub fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend(format!("{length} {key}=").bytes());
    out.extend(value);
    out.push(b'\n');
}
