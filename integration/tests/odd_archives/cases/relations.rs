//! Cases of entries that concern each other: names given twice, hard links, whiteouts, symlinks on the
//! way.
#![allow(clippy::too_many_lines, reason = "tables of cases")]

use super::{Case, archive, case, changed, file, linked, member, octal, pax};

fn dir(name: &[u8]) -> Vec<u8> {
    member(b'5', name, b"")
}

fn symlink(name: &[u8], target: &[u8]) -> Vec<u8> {
    linked(b'2', name, target)
}

fn hard(name: &[u8], target: &[u8]) -> Vec<u8> {
    linked(b'1', name, target)
}

fn text(name: &[u8], content: &[u8]) -> Vec<u8> {
    member(b'0', name, content)
}

/// An entry with a mode of its own.
fn with_mode(flag: u8, name: &[u8], mode: u64) -> Vec<u8> {
    changed(flag, name, b"", |head| octal(&mut head[100..108], mode))
}

pub(super) fn relations(cases: &mut Vec<Case>) {
    let table: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("a file twice", vec![text(b"a", b"one"), text(b"a", b"two")]),
        (
            "a directory twice, with another mode",
            vec![dir(b"a"), text(b"a/x", b"x"), with_mode(b'5', b"a", 0o700)],
        ),
        (
            "a directory after its file",
            vec![text(b"a/x", b"x"), with_mode(b'5', b"a", 0o711)],
        ),
        (
            "a file in the place of a full directory",
            vec![dir(b"a"), text(b"a/x", b"x"), file(b"a")],
        ),
        (
            "a directory in the place of a file",
            vec![file(b"a"), dir(b"a"), text(b"a/x", b"x")],
        ),
        ("a file below a file", vec![file(b"a"), text(b"a/x", b"x")]),
        (
            "a symlink in the place of a directory",
            vec![dir(b"a"), text(b"a/x", b"x"), symlink(b"a", b"b")],
        ),
        (
            "a file through a symlink of the layer",
            vec![dir(b"b"), symlink(b"a", b"b"), text(b"a/x", b"x")],
        ),
        (
            "a file through an absolute symlink",
            vec![dir(b"b"), symlink(b"a", b"/b"), text(b"a/x", b"x")],
        ),
        (
            "a file through a symlink to the parent",
            vec![symlink(b"a", b".."), text(b"a/x", b"x")],
        ),
        (
            "a file through a symlink far up",
            vec![symlink(b"a", b"../../../.."), text(b"a/tmp/x", b"x")],
        ),
        (
            "a file through a symlink to itself",
            vec![symlink(b"a", b"a"), text(b"a/x", b"x")],
        ),
        (
            "a file through two symlinks in a ring",
            vec![symlink(b"a", b"b"), symlink(b"b", b"a"), text(b"a/x", b"x")],
        ),
        (
            "a file through a dangling symlink",
            vec![symlink(b"a", b"none"), text(b"a/x", b"x")],
        ),
        (
            "a directory in the place of a symlink to one",
            vec![dir(b"b"), symlink(b"a", b"b"), dir(b"a")],
        ),
        (
            "a file through a symlink with a slash behind",
            vec![dir(b"b"), symlink(b"a", b"b/"), text(b"a/x", b"x")],
        ),
        ("a hard link to itself", vec![hard(b"a", b"a")]),
        ("a hard link to nothing", vec![hard(b"a", b"none")]),
        (
            "a hard link to what comes later",
            vec![hard(b"a", b"b"), file(b"b")],
        ),
        (
            "a hard link to a directory",
            vec![dir(b"b"), hard(b"a", b"b")],
        ),
        (
            "a hard link to a symlink",
            vec![symlink(b"b", b"first"), hard(b"a", b"b")],
        ),
        (
            "a hard link through a symlink",
            vec![
                dir(b"d"),
                file(b"d/x"),
                symlink(b"s", b"d"),
                hard(b"a", b"s/x"),
            ],
        ),
        (
            "a hard link out of the tree",
            vec![hard(b"a", b"../../etc/hostname")],
        ),
        (
            "a hard link to an absolute path",
            vec![hard(b"a", b"/first")],
        ),
        (
            "a hard link in the place of its target's name",
            vec![hard(b"a", b"first"), hard(b"a", b"first")],
        ),
        (
            "a hard link with content",
            vec![changed(b'1', b"a", b"other", |head| {
                head[157..162].copy_from_slice(b"first")
            })],
        ),
        (
            "a hard link to a file that is written anew",
            vec![hard(b"a", b"first"), text(b"first", b"anew")],
        ),
        (
            "a hard link with another mode",
            vec![changed(b'1', b"a", b"", |head| {
                head[157..162].copy_from_slice(b"first");
                octal(&mut head[100..108], 0o4711);
            })],
        ),
        (
            "a hard link to a device",
            vec![member(b'3', b"d", b""), hard(b"a", b"d")],
        ),
        (
            "a hard link to a FIFO",
            vec![member(b'6', b"p", b""), hard(b"a", b"p")],
        ),
        ("a whiteout of nothing", vec![text(b".wh.none", b"")]),
        (
            "a whiteout before its file",
            vec![text(b".wh.a", b""), file(b"a")],
        ),
        ("a whiteout in a new directory", vec![text(b"d/.wh.x", b"")]),
        ("a whiteout that is a directory", vec![dir(b".wh.a")]),
        (
            "a whiteout that is a symlink",
            vec![symlink(b".wh.a", b"first")],
        ),
        (
            "a whiteout that is a hard link",
            vec![hard(b".wh.a", b"first")],
        ),
        ("a whiteout without a name", vec![text(b".wh.", b"")]),
        ("a whiteout of a dot", vec![text(b"d/.wh..", b"")]),
        ("a whiteout of two dots", vec![text(b"d/.wh...", b"")]),
        (
            "an opaque mark at the top",
            vec![text(b".wh..wh..opq", b"")],
        ),
        (
            "an opaque mark twice",
            vec![text(b"d/.wh..wh..opq", b""), text(b"d/.wh..wh..opq", b"")],
        ),
        (
            "an opaque mark after its files",
            vec![text(b"d/x", b"x"), text(b"d/.wh..wh..opq", b"")],
        ),
        (
            "a mark of AUFS",
            vec![
                dir(b".wh..wh.plnk"),
                file(b".wh..wh.plnk/x"),
                text(b".wh..wh.aufs", b""),
            ],
        ),
        (
            "a hard link into a mark of AUFS",
            vec![
                dir(b".wh..wh.plnk"),
                file(b".wh..wh.plnk/1.2"),
                hard(b"a", b".wh..wh.plnk/1.2"),
            ],
        ),
        (
            "a file with all bits of its mode",
            vec![with_mode(b'0', b"a", 0o7777)],
        ),
        (
            "a directory without rights",
            vec![with_mode(b'5', b"a", 0), text(b"a/x", b"x")],
        ),
        (
            "a mode with the bits of a type",
            vec![with_mode(b'0', b"a", 0o100_644)],
        ),
        (
            "a mode with the bits of another type",
            vec![with_mode(b'0', b"a", 0o40_755)],
        ),
        (
            "two extended headers for one file",
            vec![
                pax(&[("path", b"one")]),
                pax(&[("mtime", b"7")]),
                file(b"odd"),
            ],
        ),
        (
            "an extended header before the end",
            vec![pax(&[("path", b"one")])],
        ),
    ];
    for (name, members) in table {
        cases.push(case(name, archive(&members)));
    }
}
