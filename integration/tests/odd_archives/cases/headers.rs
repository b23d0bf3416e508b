//! Cases of extended headers, of headers in odd order, and of sparse files.
#![allow(clippy::too_many_lines, reason = "tables of cases")]

use layerd_integration::image::tar::{BLOCK, octal, pad, seal, text};

use super::{Case, archive, case, changed, file, header, linked, member, pax, with_flag};

pub(super) fn records(cases: &mut Vec<Case>) {
    let numbers: [(&str, &[u8]); 9] = [
        ("empty", b""),
        ("of 7", b"7"),
        ("with zeros before", b"0007"),
        ("negative", b"-7"),
        ("with a plus sign", b"+7"),
        ("with a blank before", b" 7"),
        ("with a fraction", b"7.5"),
        ("no number", b"seven"),
        ("too large", b"99999999999999999999"),
    ];
    for key in ["uid", "gid", "mtime", "atime", "ctime", "size"] {
        for (how, value) in numbers {
            let odd = member(b'0', b"odd", b"1234567");
            cases.push(case(
                format!("record {key} {how}"),
                archive(&[pax(&[(key, value)]), odd]),
            ));
        }
    }
    let texts: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("of a name", b"another"),
        ("with a NUL", b"a\0b"),
        ("that is no UTF-8", b"\xff\xfe"),
        ("with a newline", b"a\nb"),
    ];
    for key in [
        "path",
        "linkpath",
        "uname",
        "comment",
        "hdrcharset",
        "VENDOR.key",
        "SCHILY.xattr.user.a",
        "SCHILY.xattr.",
        "SCHILY.xattr.trusted.a",
        "SCHILY.acl.access",
        "LIBARCHIVE.xattr.user.a",
        "GNU.sparse.name",
        "GNU.sparse.major",
        "a%3Db",
        "SCHILY.xattr.user.a%3Db",
    ] {
        for (how, value) in texts {
            for (what, odd) in [
                ("file", file(b"odd")),
                ("link", linked(b'2', b"odd", b"first")),
            ] {
                cases.push(case(
                    format!("record {key} {how}, of a {what}"),
                    archive(&[pax(&[(key, value)]), odd]),
                ));
            }
        }
    }
    let raw: [(&str, &[u8]); 9] = [
        ("too short a length", b"5 a=b\n"),
        ("too long a length", b"99 a=b\n"),
        ("no newline", b"6 a=b "),
        ("no equals sign", b"6 abc\n"),
        ("no key", b"5 =b\n"),
        ("no length", b" a=b\n"),
        ("a length of zero", b"0 a=b\n"),
        ("a length with a plus sign", b"+7 a=b\n"),
        ("a second record without an end", b"6 a=b\n12"),
    ];
    for (how, bytes) in raw {
        let notes = member(b'x', b"notes", bytes);
        cases.push(case(
            format!("records with {how}"),
            archive(&[notes, file(b"odd")]),
        ));
    }
    cases.push(case(
        "the same record twice",
        archive(&[pax(&[("path", b"one"), ("path", b"two")]), file(b"odd")]),
    ));
}

pub(super) fn sequences(cases: &mut Vec<Case>) {
    let long = |flag, name: &[u8]| member(flag, b"././@LongLink", name);
    let global = |records: &[(&str, &[u8])]| with_flag(pax(records), b'g');
    let link = || linked(b'2', b"odd", b"first");
    let table: Vec<(&str, Vec<Vec<u8>>)> = vec![
        (
            "two extended headers",
            vec![
                pax(&[("path", b"a"), ("mtime", b"5")]),
                pax(&[("path", b"b")]),
                file(b"odd"),
            ],
        ),
        (
            "an extended header and a long name",
            vec![pax(&[("path", b"a")]), long(b'L', b"b\0"), file(b"odd")],
        ),
        (
            "a long name and an extended header",
            vec![long(b'L', b"b\0"), pax(&[("path", b"a")]), file(b"odd")],
        ),
        (
            "two long names",
            vec![long(b'L', b"a\0"), long(b'L', b"b\0"), file(b"odd")],
        ),
        (
            "a long name and an empty one",
            vec![long(b'L', b"a\0"), long(b'L', b"\0"), file(b"odd")],
        ),
        ("an empty long name", vec![long(b'L', b""), file(b"odd")]),
        (
            "a long name of a NUL",
            vec![long(b'L', b"\0"), file(b"odd")],
        ),
        (
            "a long name without a NUL",
            vec![long(b'L', b"name"), file(b"odd")],
        ),
        (
            "a long name with more behind its NUL",
            vec![long(b'L', b"name\0more"), file(b"odd")],
        ),
        (
            "a long link",
            vec![long(b'K', b"first\0"), linked(b'2', b"odd", b"x")],
        ),
        ("an empty long link", vec![long(b'K', b"\0"), link()]),
        (
            "a long link and an extended header",
            vec![long(b'K', b"a\0"), pax(&[("linkpath", b"b")]), link()],
        ),
        (
            "a long link of a file",
            vec![long(b'K', b"a\0"), file(b"odd")],
        ),
        (
            "a global header",
            vec![global(&[("path", b"a"), ("mtime", b"5")]), file(b"odd")],
        ),
        (
            "a global header between",
            vec![
                pax(&[("path", b"a")]),
                global(&[("mtime", b"5")]),
                file(b"odd"),
            ],
        ),
        (
            "a damaged global header",
            vec![
                with_flag(member(b'0', b"g", b"5 a=b\n"), b'g'),
                file(b"odd"),
            ],
        ),
        (
            "an empty extended header",
            vec![member(b'x', b"notes", b""), file(b"odd")],
        ),
        (
            "an extended header of Solaris",
            vec![with_flag(pax(&[("path", b"a")]), b'X'), file(b"odd")],
        ),
        (
            "a volume label",
            vec![member(b'V', b"label", b""), file(b"odd")],
        ),
        (
            "a file twice",
            vec![file(b"odd"), member(b'0', b"odd", b"other")],
        ),
        (
            "a file and a directory",
            vec![file(b"odd"), member(b'5', b"odd", b"")],
        ),
        (
            "a directory and a file",
            vec![member(b'5', b"odd", b""), file(b"odd")],
        ),
        (
            "a directory twice",
            vec![
                member(b'5', b"odd", b""),
                file(b"odd/x"),
                member(b'5', b"odd", b""),
            ],
        ),
        ("a file below a file", vec![file(b"odd"), file(b"odd/x")]),
        (
            "a file below a link",
            vec![
                member(b'5', b"d", b""),
                linked(b'2', b"odd", b"d"),
                file(b"odd/x"),
            ],
        ),
        (
            "a file below a link that leads out",
            vec![linked(b'2', b"odd", b"../../x"), file(b"odd/y")],
        ),
        (
            "a file below a link to itself",
            vec![linked(b'2', b"odd", b"odd"), file(b"odd/x")],
        ),
        ("a hard link", vec![linked(b'1', b"odd", b"first")]),
        ("a hard link with content", vec![with_content()]),
        (
            "a hard link to itself",
            vec![file(b"odd"), linked(b'1', b"odd", b"odd")],
        ),
        (
            "a hard link to nothing",
            vec![linked(b'1', b"odd", b"nothing")],
        ),
        (
            "a hard link to what comes later",
            vec![linked(b'1', b"odd", b"last")],
        ),
        (
            "a hard link to a directory",
            vec![member(b'5', b"d", b""), linked(b'1', b"odd", b"d")],
        ),
        (
            "a hard link to a link",
            vec![linked(b'2', b"l", b"first"), linked(b'1', b"odd", b"l")],
        ),
        (
            "a hard link out",
            vec![linked(b'1', b"odd", b"../../first")],
        ),
        ("a whiteout of nothing", vec![file(b".wh.odd")]),
        (
            "a whiteout of a file of the layer",
            vec![file(b"odd"), file(b".wh.odd")],
        ),
        (
            "a whiteout before the file",
            vec![file(b".wh.odd"), file(b"odd")],
        ),
        ("a whiteout without a name", vec![file(b".wh.")]),
        ("a whiteout of the directory", vec![file(b"d/.wh..")]),
        ("a whiteout of the parent", vec![file(b"d/.wh...")]),
        (
            "an opaque mark",
            vec![
                member(b'5', b"d", b""),
                file(b"d/x"),
                file(b"d/.wh..wh..opq"),
                file(b"d/y"),
            ],
        ),
        (
            "a directory that is a whiteout",
            vec![member(b'5', b".wh.odd", b"")],
        ),
        (
            "a link store of aufs",
            vec![member(b'5', b".wh..wh.plnk", b""), file(b".wh..wh.aufs")],
        ),
        (
            "two zero blocks between",
            vec![vec![0; 2 * BLOCK], file(b"odd")],
        ),
        ("a zero block between", vec![vec![0; BLOCK], file(b"odd")]),
    ];
    for (name, members) in table {
        cases.push(case(name, archive(&members)));
    }
}

fn with_content() -> Vec<u8> {
    let mut head = header(b'1', b"odd", 7);
    text(&mut head[157..257], b"first");
    seal(&mut head);
    let mut out = head.to_vec();
    pad(&mut out, b"content");
    out
}

pub(super) fn sparse(cases: &mut Vec<Case>) {
    type Records<'a> = Vec<(&'a str, &'a [u8])>;
    let table: Vec<(&str, Records<'_>, &[u8])> = vec![
        (
            "0.1",
            vec![
                ("GNU.sparse.size", b"9"),
                ("GNU.sparse.numblocks", b"1"),
                ("GNU.sparse.map", b"2,7"),
            ],
            b"content",
        ),
        (
            "0.1 without a size",
            vec![("GNU.sparse.map", b"0,7")],
            b"content",
        ),
        (
            "0.1 with an empty map",
            vec![("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"")],
            b"",
        ),
        (
            "0.1 with an odd map",
            vec![("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"2,7,9")],
            b"content",
        ),
        (
            "0.1 beyond its end",
            vec![("GNU.sparse.size", b"8"), ("GNU.sparse.map", b"2,7")],
            b"content",
        ),
        (
            "0.1 with parts that overlap",
            vec![("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,4,2,3")],
            b"content",
        ),
        (
            "0.1 with too little content",
            vec![("GNU.sparse.size", b"20"), ("GNU.sparse.map", b"0,10")],
            b"content",
        ),
        (
            "0.1 with too much content",
            vec![("GNU.sparse.size", b"20"), ("GNU.sparse.map", b"0,3")],
            b"content",
        ),
        (
            "0.0",
            vec![
                ("GNU.sparse.size", b"9"),
                ("GNU.sparse.offset", b"2"),
                ("GNU.sparse.numbytes", b"7"),
            ],
            b"content",
        ),
        (
            "0.0 the wrong way round",
            vec![
                ("GNU.sparse.size", b"9"),
                ("GNU.sparse.numbytes", b"7"),
                ("GNU.sparse.offset", b"2"),
            ],
            b"content",
        ),
        (
            "0.0 with half a part",
            vec![("GNU.sparse.size", b"9"), ("GNU.sparse.offset", b"2")],
            b"content",
        ),
        ("a size alone", vec![("GNU.sparse.size", b"9")], b""),
        (
            "a size alone and content",
            vec![("GNU.sparse.size", b"9")],
            b"content",
        ),
        (
            "an unknown version",
            vec![
                ("GNU.sparse.major", b"2"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.size", b"9"),
            ],
            b"content",
        ),
        (
            "1.0 without a map",
            vec![
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"9"),
            ],
            b"content",
        ),
        (
            "a real size alone",
            vec![("GNU.sparse.realsize", b"7")],
            b"content",
        ),
        (
            "a minor version alone",
            vec![("GNU.sparse.minor", b"0")],
            b"content",
        ),
    ];
    for (how, notes, content) in table {
        let odd = member(b'0', b"odd", content);
        cases.push(case(format!("sparse {how}"), archive(&[pax(&notes), odd])));
    }
    for (how, map, size) in [
        ("", "1\n2\n7\n", 9),
        (" without a size", "1\n0\n7\n", 0),
        (" with a sign", "1\n+2\n7\n", 9),
    ] {
        let mut content = map.as_bytes().to_vec();
        content.resize(BLOCK, 0);
        content.extend(b"content");
        let real = size.to_string();
        let mut notes: Records<'_> = vec![("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")];
        if size > 0 {
            notes.push(("GNU.sparse.realsize", real.as_bytes()));
        }
        let odd = member(b'0', b"odd", &content);
        cases.push(case(
            format!("sparse 1.0{how}"),
            archive(&[pax(&notes), odd]),
        ));
    }
    let old = changed(b'S', b"odd", b"content", |head| {
        head[257..265].copy_from_slice(b"ustar  \0");
        octal(&mut head[386..398], 2);
        octal(&mut head[398..410], 7);
        octal(&mut head[483..495], 9);
    });
    cases.push(case("sparse of old GNU tar", archive(&[old])));
}
