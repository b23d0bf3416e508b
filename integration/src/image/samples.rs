//! Layers for the tests.

use super::{Entry, Kind, Layer};

/// Commands of busybox that the tests call.
const APPLETS: [&str; 16] = [
    "cat", "chmod", "chown", "cp", "dd", "echo", "ln", "ls", "mkdir", "mv", "rm", "sh", "sleep",
    "stat", "sync", "touch",
];

/// A root file system with a shell: the machine's static busybox.
///
/// # Panics
/// If busybox is not installed.
#[must_use]
pub fn busybox() -> Layer {
    let program = std::fs::read("/bin/busybox")
        .expect("busybox is missing: run `make peers` (integration/peers/install.sh)");
    let mut layer: Layer = ["bin", "dev", "etc", "proc", "run", "sys", "tmp"]
        .map(Entry::directory)
        .into();
    layer.push(Entry::file("bin/busybox", program).mode(0o755));
    layer.extend(APPLETS.map(|name| Entry::symlink(format!("bin/{name}"), "busybox")));
    layer.push(Entry::file("etc/passwd", "root:x:0:0:root:/:/bin/sh\n"));
    layer.push(Entry::file("etc/motd", "from the first layer\n"));
    layer
}

/// Layers that use everything a layer can hold, and every way to hide what is below.
#[must_use]
pub fn corpus() -> Vec<Layer> {
    vec![busybox(), kinds(), names(), whiteouts(), replacements()]
}

/// `count` layers over busybox, each of which adds one file and changes another.
#[must_use]
pub fn tiny(count: usize) -> Vec<Layer> {
    let layer = |n: usize| {
        vec![
            Entry::directory("n"),
            Entry::file(format!("n/{n}"), n.to_string()),
            Entry::file("n/last", n.to_string()),
        ]
    };
    let above = (1..count).map(layer);
    [busybox()].into_iter().chain(above).collect()
}

fn kinds() -> Layer {
    // No "trusted." attributes: containerd leaves them out when it unpacks.
    vec![
        Entry::directory("kinds").mode(0o1777).owner(1, 2),
        Entry::file("kinds/setuid", "s").mode(0o4755).owner(0, 50),
        Entry::file("kinds/setgid", "g")
            .mode(0o2711)
            .owner(1000, 1001),
        Entry::file("kinds/secret", "x").mode(0o000),
        Entry::file("kinds/large-ids", "y").owner(65_534, 2_000_000),
        Entry::file("kinds/empty", ""),
        Entry::file("kinds/big", vec![7; 3 << 20]),
        Entry::hard_link("kinds/setuid-2", "kinds/setuid"),
        Entry::hard_link("elsewhere", "kinds/setuid"),
        Entry::symlink("kinds/dangling", "/no/such/file"),
        Entry::symlink("kinds/up", "../etc/motd").owner(3, 4),
        Entry::new("kinds/null", Kind::Character(1, 3)).mode(0o666),
        Entry::new("kinds/disk", Kind::Block(7, 300))
            .mode(0o660)
            .owner(0, 6),
        Entry::new("kinds/pipe", Kind::Pipe).mode(0o600),
        Entry::file("kinds/attributes", "z")
            .xattr("user.colour", b"blue")
            .xattr("user.bytes", &[0, 255, 10, 61]),
        // Version 2, effective, net_raw permitted.
        Entry::file("kinds/capable", "c").mode(0o755).xattr(
            "security.capability",
            &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        Entry::directory("kinds/marked").xattr("user.kind", b"directory"),
    ]
}

fn names() -> Layer {
    let long = "n".repeat(255);
    let deep = vec!["d".repeat(60); 10].join("/");
    vec![
        Entry::directory("names"),
        Entry::file(format!("names/{long}"), "longest name"),
        Entry::file(
            format!("names/{deep}/file"),
            "deep, with parents that have no entry",
        ),
        Entry::symlink("names/far", &format!("{deep}/file")),
        Entry::hard_link("names/deep-link", &format!("names/{deep}/file")),
        Entry::file("names/white space, comma:colon", "a"),
        Entry::file("names/back\\slash", "b"),
        Entry::file("names/grün-日本", "c"),
        Entry::file("names/new\nline", "d"),
        Entry::directory("names/hidden"),
        Entry::file("names/hidden/a", "1"),
        Entry::file("names/hidden/b", "2"),
        Entry::directory("names/gone"),
        Entry::file("names/gone/a", "3"),
        Entry::directory("names/turns-file"),
        Entry::file("names/turns-file/a", "4"),
        Entry::file("names/turns-directory", "5"),
    ]
}

fn whiteouts() -> Layer {
    vec![
        Entry::file(".wh.elsewhere", ""),
        Entry::file("etc/.wh.motd", ""),
        Entry::file("names/.wh.gone", ""),
        Entry::directory("names/hidden").mode(0o700),
        Entry::file("names/hidden/.wh..wh..opq", ""),
        Entry::file("names/hidden/c", "6"),
        Entry::file("kinds/.wh.setuid-2", ""),
    ]
}

fn replacements() -> Layer {
    vec![
        Entry::file("etc/motd", "from the last layer\n"),
        Entry::file("names/turns-file", "7"),
        Entry::directory("names/turns-directory"),
        Entry::file("names/turns-directory/a", "8"),
        Entry::directory("names/gone").owner(9, 9),
        Entry::file("kinds/empty", "no longer"),
        Entry::directory("kinds").mode(0o711).owner(5, 6),
    ]
}
