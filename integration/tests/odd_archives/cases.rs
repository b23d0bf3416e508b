//! The archives. Each is a good one with one thing in it that is odd.

#![allow(clippy::too_many_lines, reason = "tables of cases")]

use std::io::Write;

use layerd_integration::image::tar::{BLOCK, octal, pad, record, seal, text};

#[path = "cases/headers.rs"]
mod headers;
#[path = "cases/relations.rs"]
mod relations;

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

pub(crate) struct Case {
    /// Its oddity.
    pub(crate) name: String,
    pub(crate) blob: Vec<u8>,
    pub(crate) media_type: &'static str,
}

fn case(name: impl Into<String>, blob: Vec<u8>) -> Case {
    let (name, media_type) = (name.into(), TAR);
    Case {
        name,
        blob,
        media_type,
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    numbers(&mut cases);
    formats(&mut cases);
    headers::records(&mut cases);
    headers::sequences(&mut cases);
    ends(&mut cases);
    types(&mut cases);
    names(&mut cases);
    sums(&mut cases);
    headers::sparse(&mut cases);
    compressed(&mut cases);
    relations::relations(&mut cases);
    cases
}

type Header = [u8; BLOCK];

fn header(flag: u8, name: &[u8], size: usize) -> Header {
    let mut head = [0; BLOCK];
    text(&mut head[..100], name);
    octal(
        &mut head[100..108],
        if flag == b'5' { 0o755 } else { 0o644 },
    );
    octal(&mut head[108..116], 0);
    octal(&mut head[116..124], 0);
    octal(&mut head[124..136], size as u64);
    octal(&mut head[136..148], 1_600_000_000);
    head[156] = flag;
    head[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut head[329..337], 0);
    octal(&mut head[337..345], 0);
    head
}

/// A member whose header was changed, with the sum of what it is then.
fn changed(flag: u8, name: &[u8], content: &[u8], change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut head = header(flag, name, content.len());
    change(&mut head);
    seal(&mut head);
    let mut out = head.to_vec();
    pad(&mut out, content);
    out
}

fn member(flag: u8, name: &[u8], content: &[u8]) -> Vec<u8> {
    changed(flag, name, content, |_| {})
}

fn file(name: &[u8]) -> Vec<u8> {
    member(b'0', name, b"content")
}

fn linked(flag: u8, name: &[u8], target: &[u8]) -> Vec<u8> {
    changed(flag, name, b"", |head| text(&mut head[157..257], target))
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        record(&mut out, key, value);
    }
    member(b'x', b"notes", &out)
}

fn with_flag(mut member: Vec<u8>, flag: u8) -> Vec<u8> {
    let mut head: Header = member[..BLOCK].try_into().unwrap();
    head[156] = flag;
    seal(&mut head);
    member[..BLOCK].copy_from_slice(&head);
    member
}

/// Members between two that show where reading goes on, and an end mark.
fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut out = [file(b"first"), members.concat(), file(b"last")].concat();
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

const FIELDS: [(&str, usize, usize); 5] = [
    ("mode", 100, 8),
    ("uid", 108, 8),
    ("gid", 116, 8),
    ("size", 124, 12),
    ("mtime", 136, 12),
];

/// Ways to write 7, or what is none.
fn encodings(width: usize) -> Vec<(&'static str, Vec<u8>)> {
    let digits = |text: String| text.into_bytes();
    let filled = |text: &[u8]| {
        let mut field = text.to_vec();
        field.resize(width, 0);
        field
    };
    let mut binary = vec![0; width];
    binary[0] = 0x80;
    binary[width - 1] = 7;
    let mut negative = vec![0xff; width];
    negative[width - 1] = 0xf9;
    let mut huge = vec![0xff; width];
    huge[0] = 0xbf;
    vec![
        (
            "with NULs before",
            [vec![0; 2], filled(b"0007")[..width - 2].to_vec()].concat(),
        ),
        (
            "with a NUL before",
            [vec![0], filled(b"00007")[..width - 1].to_vec()].concat(),
        ),
        ("with NULs and blanks before", filled(b"\0 \0 7")),
        ("with blanks before", digits(format!("{:>1$}", "7", width))),
        ("with blanks behind", filled(b"0007  ")),
        ("with a blank and a NUL behind", filled(b"0007 ")),
        ("without an end", digits(format!("{:0>1$}", "7", width))),
        ("with a blank in it", filled(b"00 07")),
        ("with a NUL and more behind", filled(b"0007\09")),
        ("with a NUL in it", filled(b"7\x007")),
        ("with a digit too high", filled(b"0008")),
        ("with letters", filled(b"0x7")),
        ("with a plus sign", filled(b"+7")),
        ("with a minus sign", filled(b"-7")),
        ("empty", vec![0; width]),
        ("of blanks", vec![b' '; width]),
        ("binary", binary),
        ("binary and negative", negative),
        ("binary and too large", huge),
    ]
}

fn numbers(cases: &mut Vec<Case>) {
    for (field, at, width) in FIELDS {
        for (how, bytes) in encodings(width) {
            let content: &[u8] = if field == "size" {
                b"1234567"
            } else {
                b"content"
            };
            let odd = changed(b'0', b"odd", content, |head| {
                head[at..at + width].copy_from_slice(&bytes);
            });
            cases.push(case(format!("{field} {how}"), archive(&[odd])));
        }
    }
    for (how, bytes) in encodings(8) {
        for (what, flag) in [("device", b'3'), ("file", b'0')] {
            let odd = changed(flag, b"odd", b"", |head| {
                octal(&mut head[337..345], 3);
                head[329..337].copy_from_slice(&bytes);
            });
            cases.push(case(
                format!("major number of a {what} {how}"),
                archive(&[odd]),
            ));
        }
    }
}

fn formats(cases: &mut Vec<Case>) {
    let magics: [(&str, &[u8]); 6] = [
        ("v7", b"\0\0\0\0\0\0\0\0"),
        ("ustar", b"ustar\x0000"),
        ("ustar of no version", b"ustar\0\0\0"),
        ("GNU", b"ustar  \0"),
        ("GNU of another version", b"ustar 00"),
        ("star", b"ustar\x0000"),
    ];
    let prefixes: [(&str, &[u8]); 7] = [
        ("no prefix", b""),
        ("a prefix", b"some/prefix/dir"),
        ("a prefix of one letter", b"p"),
        ("a prefix that could be a time", b"14000000000"),
        ("a prefix and no number of change", b"14000000000\0some"),
        ("a prefix of 131 bytes", &[b'p'; 131]),
        ("a prefix in UTF-8", "ü".as_bytes()),
    ];
    for (format, magic) in magics {
        for (what, prefix) in prefixes {
            for flag in *b"053" {
                let odd = changed(flag, b"odd", b"", |head| {
                    head[257..265].copy_from_slice(magic);
                    text(&mut head[345..500], prefix);
                    octal(&mut head[329..337], 1);
                    octal(&mut head[337..345], 3);
                    if format == "star" {
                        octal(&mut head[476..488], 1_500_000_000);
                        octal(&mut head[488..500], 1_500_000_000);
                        head[508..].copy_from_slice(b"tar\0");
                    }
                });
                let name = format!("{format} with {what}, type {}", flag as char);
                cases.push(case(name, archive(&[odd])));
            }
        }
    }
}

fn ends(cases: &mut Vec<Case>) {
    let body = [file(b"first"), file(b"last")].concat();
    let content = body.len() - BLOCK + 7;
    let cut = |length: usize| body[..length].to_vec();
    let then = |more: &[u8]| [&body, more].concat();
    let table = [
        ("no archive", Vec::new()),
        ("one byte", vec![b'x']),
        ("a zero block alone", vec![0; BLOCK]),
        ("two zero blocks alone", vec![0; 2 * BLOCK]),
        ("half a zero block alone", vec![0; BLOCK / 2]),
        ("no end mark", body.clone()),
        ("half an end mark", then(&[0; BLOCK])),
        ("a part of an end mark", then(&[0; BLOCK + 100])),
        ("less than a block behind", then(&[0; 100])),
        ("no padding", cut(content)),
        ("a part of the padding", cut(content + 10)),
        ("a part of the content", cut(content - 1)),
        ("no content", cut(body.len() - BLOCK)),
        ("a part of a header", cut(body.len() - BLOCK - 1)),
        (
            "an extended header and no file",
            then(&pax(&[("path", b"x")])),
        ),
        (
            "an extended header and an end mark",
            then(&[pax(&[("path", b"x")]), vec![0; 1024]].concat()),
        ),
        (
            "an extended header without its padding",
            then(&pax(&[("path", b"x")])[..BLOCK + 10]),
        ),
        (
            "a long name and no file",
            then(&member(b'L', b"l", b"name\0")),
        ),
        (
            "a long name without its padding",
            then(&member(b'L', b"l", b"name\0")[..BLOCK + 5]),
        ),
        (
            "a long name cut off",
            then(&member(b'L', b"l", b"name\0")[..BLOCK + 3]),
        ),
        (
            "text behind the end mark",
            then(&[&[0; 1024][..], b"more"].concat()),
        ),
        (
            "an archive behind the end mark",
            then(&[vec![0; 1024], file(b"more")].concat()),
        ),
        ("text and no archive", b"this is no archive ".repeat(60)),
    ];
    for (name, blob) in table {
        cases.push(case(format!("end: {name}"), blob));
    }
}

fn types(cases: &mut Vec<Case>) {
    let flags =
        (0..=255).filter(|flag: &u8| flag.is_ascii_graphic() || [0, 1, b' ', 255].contains(flag));
    for flag in flags {
        let odd = changed(flag, b"odd", b"content", |head| {
            text(&mut head[157..257], b"first")
        });
        cases.push(case(
            format!("type {:?}", char::from(flag)),
            archive(&[odd]),
        ));
    }
}

fn names(cases: &mut Vec<Case>) {
    let all: [&[u8]; 22] = [
        b"",
        b".",
        b"./",
        b"/",
        b"..",
        b"../..",
        b"a/..",
        b"a/../b",
        b"/a",
        b"//a",
        b"./a",
        b"a/",
        b"a//b",
        b"a/./b",
        b"a/b/",
        b"...",
        b" ",
        b"a\nb",
        b"\xff",
        b"-a",
        b"a\\b",
        &[b'n'; 100],
    ];
    for name in all {
        for (what, flag) in [
            ("file", b'0'),
            ("old file", 0),
            ("directory", b'5'),
            ("link", b'2'),
        ] {
            let odd = linked(flag, name, if flag == b'2' { b"first" } else { b"" });
            cases.push(case(
                format!("{what} {:?}", name.escape_ascii().to_string()),
                archive(&[odd]),
            ));
        }
    }
    for target in [
        &b""[..],
        b"/",
        b".",
        b"..",
        b"/etc/passwd",
        b"a\\b",
        &[b't'; 100],
    ] {
        let shown = target.escape_ascii().to_string();
        cases.push(case(
            format!("link to {shown:?}"),
            archive(&[linked(b'2', b"odd", target)]),
        ));
    }
    for length in [255, 256, 4095, 4096] {
        let name = vec![b'n'; length];
        cases.push(case(
            format!("a name of {length} bytes"),
            archive(&[pax(&[("path", &name)]), file(b"odd")]),
        ));
        let target = vec![b't'; length];
        cases.push(case(
            format!("a link to {length} bytes"),
            archive(&[pax(&[("linkpath", &target)]), linked(b'2', b"odd", b"x")]),
        ));
    }
}

fn sums(cases: &mut Vec<Case>) {
    let high = b"h\xc3\xbc\xff";
    let signed = |head: &mut Header| {
        head[148..156].fill(b' ');
        let sum: i64 = head.iter().map(|byte| i64::from(byte.cast_signed())).sum();
        octal(&mut head[148..155], sum.cast_unsigned() & 0o777_777);
    };
    type Change<'a> = &'a dyn Fn(&mut Header);
    let table: [(&str, Change<'_>); 6] = [
        ("with blanks before", &|head| {
            rewrite(head, |sum| format!("{sum:>7o}\0"))
        }),
        ("with a blank behind", &|head| {
            rewrite(head, |sum| format!("{sum:07o} "))
        }),
        ("as old tars wrote it", &|head| {
            rewrite(head, |sum| format!("{sum:06o}\0 "))
        }),
        ("without an end", &|head| {
            rewrite(head, |sum| format!("{sum:08o}"))
        }),
        ("that is wrong", &|head| {
            rewrite(head, |sum| format!("{:06o}\0 ", sum + 1))
        }),
        ("of signed bytes", &signed),
    ];
    for (how, change) in table {
        let mut head = header(b'0', high, 7);
        change(&mut head);
        let mut odd = head.to_vec();
        pad(&mut odd, b"content");
        cases.push(case(format!("a sum {how}"), archive(&[odd])));
    }
}

fn rewrite(head: &mut Header, written: impl Fn(u64) -> String) {
    head[148..156].fill(b' ');
    let sum = head.iter().map(|byte| u64::from(*byte)).sum();
    head[148..156].copy_from_slice(written(sum).as_bytes());
}

fn compressed(cases: &mut Vec<Case>) {
    let plain = archive(&[file(b"odd")]);
    let (first, second) = plain.split_at(plain.len() / 2);
    let table = [
        ("in two members", [gzip(first), gzip(second)].concat(), GZIP),
        (
            "with zeros behind",
            [gzip(&plain), vec![0; 100]].concat(),
            GZIP,
        ),
        (
            "with text behind",
            [gzip(&plain), b"text".to_vec()].concat(),
            GZIP,
        ),
        (
            "cut off",
            gzip(&plain)[..gzip(&plain).len() - 4].to_vec(),
            GZIP,
        ),
        ("that is plain", plain.clone(), GZIP),
        ("that says it is plain", gzip(&plain), TAR),
        ("of nothing", gzip(b""), GZIP),
    ];
    for (how, blob, media_type) in table {
        let name = format!("gzip {how}");
        cases.push(Case {
            name,
            blob,
            media_type,
        });
    }
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut child = std::process::Command::new("gzip")
        .args(["--no-name", "--stdout"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("gzip is there");
    let mut stdin = child.stdin.take().expect("it was asked for");
    stdin.write_all(data).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends").stdout
}
