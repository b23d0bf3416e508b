//! Requests that no client should send: refused with the right code, nothing changed.

use std::path::Path;

use layerd_integration::wire::{field, raw};
use tonic::Code;

use crate::World;

const SERVICE: &str = "/containerd.services.snapshots.v1.Snapshots/";

/// The largest message, as in containerd.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// Methods whose message has a key in field 2, and what else the message needs.
const KEYED: &[(&str, u8)] = &[
    ("Prepare", 2),
    ("View", 2),
    ("Mounts", 2),
    ("Remove", 2),
    ("Stat", 2),
    ("Usage", 2),
    ("Commit", 2),
    ("Commit", 3),
    ("Prepare", 3),
    ("View", 3),
    ("Commit", 5),
];

/// A message that is right but for one field.
fn message(method: &str, number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let right: &[(u8, &[u8])] = match method {
        "Commit" => &[(2, b"new"), (3, b"lone")],
        _ => &[(2, b"new")],
    };
    for (other, right) in right.iter().filter(|(other, _)| *other != number) {
        bytes.extend(field(*other, right));
    }
    bytes.extend(field(number, value));
    bytes
}

#[test]
fn root_bad_keys_are_invalid() {
    let mut world = World::furnished();
    let long = [b'k'; 4097];
    let bad: &[(&str, &[u8])] = &[
        ("with NUL", b"a\0b"),
        ("NUL alone", b"\0"),
        ("not UTF-8", b"a\xff"),
        ("half a character", b"\xc3"),
        ("a surrogate", b"\xed\xa0\x80"),
        ("overlong", b"\xc0\x80"),
        ("too long", &long),
    ];
    for (method, number) in KEYED {
        for (what, value) in bad {
            let what = format!("{method}, field {number}: {what}");
            let body = message(method, *number, value);
            let message = world.refuses_raw(
                &what,
                Code::InvalidArgument,
                &format!("{SERVICE}{method}"),
                &body,
            );
            assert!(!message.is_empty(), "{what}");
        }
        if !matches!((*method, *number), (_, 5) | ("Prepare" | "View", 3)) {
            let what = format!("{method}, field {number}: empty");
            let body = message(method, *number, b"");
            world.refuses_raw(
                &what,
                Code::InvalidArgument,
                &format!("{SERVICE}{method}"),
                &body,
            );
        }
    }
    for (what, value) in bad.iter().chain(&[("empty", &b""[..])]) {
        let body = field(2, &field(1, value));
        let what = format!("Update: {what}");
        world.refuses_raw(
            &what,
            Code::InvalidArgument,
            &format!("{SERVICE}Update"),
            &body,
        );
    }
    world.assert_no_errors_logged();
}

#[test]
fn root_a_key_has_4096_bytes_at_most() {
    let mut world = World::new();
    let (key, name) = ("k".repeat(4096), "é".repeat(2048));
    world.client.prepare(&key, "", &[]).unwrap();
    world.client.commit(&name, &key, &[]).unwrap();
    let heir = "h".repeat(4096);
    world.client.prepare(&heir, &name, &[]).unwrap();
    assert_eq!(world.client.stat(&heir).unwrap().parent, name);
    let long = "k".repeat(4097);
    let message = world.refuses("4097", Code::InvalidArgument, |c| c.prepare(&long, "", &[]));
    assert!(
        message.contains("4096") && message.contains("4097"),
        "{message}"
    );
    assert!(message.len() < 1000, "a refusal does not repeat the key");
    world.refuses("4097 as parent", Code::InvalidArgument, |c| {
        c.prepare("k", &long, &[])
    });
    world.kill9_and_restart();
    assert_eq!(world.client.list().len(), 2);
}

#[test]
fn root_bad_strings_anywhere_are_invalid() {
    let mut world = World::furnished();
    let bad = b"\xff\xfe";
    let label = |key: &[u8], value: &[u8]| [field(1, key), field(2, value)].concat();
    let with_label = |entry: Vec<u8>| [field(2, b"new"), field(4, &entry)].concat();
    let update = |paths: &[u8]| {
        let info = field(2, &field(1, b"active"));
        [info, field(3, &field(1, paths))].concat()
    };
    let cases = [
        ("Prepare", "a label's key", with_label(label(bad, b"v"))),
        ("Prepare", "a label's value", with_label(label(b"k", bad))),
        ("View", "a label's value", with_label(label(b"k", bad))),
        (
            "Prepare",
            "NUL in a label's key",
            with_label(label(b"k\0", b"v")),
        ),
        (
            "Prepare",
            "the snapshotter",
            [field(1, bad), field(2, b"new")].concat(),
        ),
        ("Update", "a path of the mask", update(bad)),
        ("Update", "a path unknown", update(b"parent")),
        ("List", "a filter", field(2, bad)),
        ("List", "a filter with NUL", field(2, b"name==a\0")),
        ("Cleanup", "the snapshotter", field(1, bad)),
    ];
    for (method, what, body) in cases {
        let what = format!("{method}: {what}");
        world.refuses_raw(
            &what,
            Code::InvalidArgument,
            &format!("{SERVICE}{method}"),
            &body,
        );
    }
}

#[test]
fn root_what_is_no_message_is_invalid() {
    let mut world = World::furnished();
    let whole = [field(2, b"new"), field(3, b"base")].concat();
    let cut = |by: usize| whole[..whole.len() - by].to_vec();
    let cases: &[(&str, Vec<u8>)] = &[
        ("cut in a string", cut(1)),
        ("cut after a length", cut(4)),
        ("cut after a tag", cut(5)),
        ("a varint without end", vec![0xff; 11]),
        ("the key as a number", vec![2 << 3, 7]),
        (
            "the key as 64 bits",
            vec![2 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8],
        ),
        (
            "a length beyond the end",
            vec![2 << 3 | 2, 0xff, 0xff, 0xff, 0x7f],
        ),
        ("field number 0", vec![2, 1, b'x']),
        ("wire type 7", vec![2 << 3 | 7, 0]),
        ("a group without end", vec![9 << 3 | 3]),
        ("bytes of noise", (1..200).rev().collect()),
    ];
    for (what, body) in cases {
        for method in ["Prepare", "View", "Remove", "Stat", "List"] {
            let what = format!("{method}: {what}");
            world.refuses_raw(
                &what,
                Code::InvalidArgument,
                &format!("{SERVICE}{method}"),
                body,
            );
        }
    }
    world.assert_no_errors_logged();
}

#[test]
fn root_unknown_methods_are_unimplemented() {
    let mut world = World::furnished();
    for path in [
        "/containerd.services.snapshots.v1.Snapshots/Explode",
        "/containerd.services.snapshots.v1.Snapshots/prepare",
        "/containerd.services.snapshots.v2.Snapshots/Prepare",
        "/containerd.services.content.v1.Content/Info",
        "/x",
    ] {
        world.refuses_raw(path, Code::Unimplemented, path, &field(2, b"new"));
    }
}

#[test]
fn root_unknown_fields_are_ignored() {
    let mut world = World::new();
    let extra = [
        field(15, b"future"),
        vec![14 << 3, 42],
        vec![0x85, 0x06, 1, 2, 3, 4],
    ]
    .concat();
    let body = [extra.clone(), field(2, b"key"), extra].concat();
    raw(world.daemon.socket(), &format!("{SERVICE}Prepare"), &body).unwrap();
    assert_eq!(world.client.names(&[]).unwrap(), ["key"]);
    let body = [
        field(2, &field(1, b"key")),
        field(3, &field(1, b"labels")),
        field(9, b"x"),
    ];
    raw(
        world.daemon.socket(),
        &format!("{SERVICE}Update"),
        &body.concat(),
    )
    .unwrap();
}

/// A Prepare of exactly `size` bytes, filled with an unknown field.
fn sized(key: &str, size: usize) -> Vec<u8> {
    let key = field(2, key.as_bytes());
    let filler = vec![b'x'; size - key.len() - 5];
    let body = [key, field(15, &filler)].concat();
    assert_eq!(body.len(), size);
    body
}

#[test]
fn root_messages_have_16_mib_at_most() {
    let mut world = World::new();
    let prepare = format!("{SERVICE}Prepare");
    raw(world.daemon.socket(), &prepare, &sized("fits", MESSAGE_MAX)).unwrap();
    world.refuses_raw(
        "a byte more",
        Code::ResourceExhausted,
        &prepare,
        &sized("too large", MESSAGE_MAX + 1),
    );
    world.refuses_raw(
        "much more",
        Code::ResourceExhausted,
        &prepare,
        &sized("too large", 2 * MESSAGE_MAX),
    );
    assert_eq!(world.client.names(&[]).unwrap(), ["fits"]);
}

fn children(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Keys that look like something else.
const PATHS: [&str; 25] = [
    "..",
    ".",
    "/",
    "//",
    "../..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a//b",
    "a/../b",
    "a\nb",
    " ",
    "\t",
    "l/1",
    "../l/1",
    "1",
    "$(id)",
    "`id`",
    "%00",
    "%2e%2e",
    "\u{202e}x",
    "🦀",
    "-rf",
    "*",
    "k8s.io/13/extract-123-abcd sha256:0f",
];

/// A key is a name and nothing else, whatever it looks like.
#[test]
fn root_keys_never_become_paths() {
    let mut world = World::new();
    let (root, above) = (
        world.daemon.root().to_owned(),
        world.scratch.path().to_owned(),
    );
    let (in_root, in_scratch) = (children(&root), children(&above));
    for key in PATHS {
        let mounts = world.client.prepare(key, "", &[]).unwrap();
        assert_eq!(
            Path::new(&mounts[0].source).parent().unwrap(),
            root.canonicalize().unwrap().join("l")
        );
        assert_eq!(world.client.stat(key).unwrap().name, key);
    }
    assert_eq!(world.client.list().len(), PATHS.len(), "all different");
    world.kill9_and_restart();
    for key in PATHS {
        let name = format!("{key}/committed");
        world.client.commit(&name, key, &[]).unwrap();
        world.client.view(key, &name, &[]).unwrap();
        assert_eq!(world.client.stat(key).unwrap().parent, name);
    }
    for (at, name) in children(&root.join("l")).iter().enumerate() {
        let plain = name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        assert!(plain, "directory {at} is {name:?}");
    }
    for key in PATHS {
        world.client.remove(key).unwrap();
        world.client.remove(&format!("{key}/committed")).unwrap();
    }
    world.daemon.assert_empty();
    assert_eq!(children(&root), in_root);
    assert_eq!(children(&above), in_scratch);
}
