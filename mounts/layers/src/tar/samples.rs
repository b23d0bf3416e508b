//! Members of archives, made by hand for tests.

use crate::tar::header::{self, Header};
use crate::tar::{padding, pax};

/// A header and its content, of a file that belongs to the user of the test.
pub(crate) fn member(kind: u8, name: &[u8], link: &[u8], content: &[u8]) -> Vec<u8> {
    sized(kind, name, link, content, content.len() as u64)
}

/// The same with another size in the header.
pub(crate) fn sized(kind: u8, name: &[u8], link: &[u8], content: &[u8], size: u64) -> Vec<u8> {
    let mode = if kind == b'5' { 0o755 } else { 0o644 };
    with(kind, name, link, content, |header| {
        header.put_number(header::SIZE, size);
        header.put_number(header::MODE, mode);
    })
}

/// The same with whatever else in the header.
pub(crate) fn with(
    kind: u8,
    name: &[u8],
    link: &[u8],
    content: &[u8],
    change: impl FnOnce(&mut Header),
) -> Vec<u8> {
    let mut header = Header::new(kind);
    header.put(header::NAME, name);
    header.put(header::LINK, link);
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    header.put_number(header::UID, uid.as_raw().into());
    header.put_number(header::GID, gid.as_raw().into());
    header.put_number(header::MODE, 0o644);
    header.put_number(header::MTIME, 1_700_000_000);
    header.put_number(header::SIZE, content.len() as u64);
    change(&mut header);
    let mut bytes = header.sealed().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len() + padding(content.len() as u64), 0);
    bytes
}

/// A file with little in it.
pub(crate) fn file(name: &str) -> Vec<u8> {
    member(b'0', name.as_bytes(), b"", b"content")
}

pub(crate) fn directory(name: &str) -> Vec<u8> {
    member(b'5', name.as_bytes(), b"", b"")
}

pub(crate) fn symlink(name: &str, target: &str) -> Vec<u8> {
    member(b'2', name.as_bytes(), target.as_bytes(), b"")
}

pub(crate) fn hard_link(name: &str, target: &str) -> Vec<u8> {
    member(b'1', name.as_bytes(), target.as_bytes(), b"")
}

/// An extended header for the member that follows.
pub(crate) fn extended(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        pax::push(&mut data, key.as_bytes(), value);
    }
    member(b'x', b"header", b"", &data)
}

/// A file whose name does not fit.
pub(crate) fn long(name: &[u8]) -> Vec<u8> {
    [member(b'L', b"././@LongLink", b"", name), file("short")].concat()
}
