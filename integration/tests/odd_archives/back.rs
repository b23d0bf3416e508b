//! The other way: a tree that layerd packs, unpacked by containerd.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use layerd_integration::process::output;
use layerd_integration::{Scratch, Version};
use layerd_layers::diff::{DiffCompression, DiffOptions, diff};
use layerd_proto::containerd::types::Mount;
use nix::mount::{MsFlags, mount, umount};
use rustix::fs::{XattrFlags, setxattr};

use super::exact::{self, Exact};
use super::memory;
use super::theirs::Theirs;

/// Script that makes the lower layer.
const LOWER: &str = r#"
    mkdir -p usr/lib etc/conf.d deep/er/est gone/with/all anew replaced top
    ln -s usr/lib lib
    for n in 1 2 3; do echo $n >etc/$n; echo $n >gone/with/$n; echo $n >anew/$n; done
    echo x >usr/lib/x; echo kept >top/kept; echo file >becomes-directory; ln -s etc becomes-file
    mkdir becomes-link; echo in >becomes-link/in; echo twice >twice; ln twice again
    chmod 1777 top; chown 5:6 etc/3
"#;

/// Script of a container's changes, with everything that a layer can hold.
const CHANGES: &str = r#"
    echo new >usr/lib/new; echo more >>usr/lib/x; rm etc/1; rm -r gone
    rm -r anew; mkdir -m 2750 anew; echo other >anew/other; chown 7:8 anew
    rm becomes-directory; mkdir becomes-directory; echo in >becomes-directory/in
    rm becomes-file; echo content >becomes-file
    rm -r becomes-link; ln -s nowhere becomes-link
    mv replaced moved; touch -d @1234567890.123456789 moved; chmod 4755 etc/2; chown 4294967294:3000000000 top/kept
    ln usr/lib/new hard; ln hard deep/er/hard; ln -s hard soft; ln soft hard-soft 2>/dev/null || ln -P soft hard-soft
    mkfifo -m 640 pipe; mknod block b 7 200; mknod char c 4095 1048575; chmod 600 char
    : >empty; head -c 100000 /dev/zero >zeros; truncate -s 5M sparse; printf end >>sparse
    head -c 70000 /dev/urandom >noise
    touch -- .hidden ..x x.. "with space" "-dash" "*" "a:b" "=" "%41" "ü" "$(printf 'new\nline')" "$(printf '\377\376')"
    n=$(printf 'n%.0s' $(seq 1 255)); touch "$n"; mkdir -p "d/$n/$n"; echo deep >"d/$n/$n/file"
    ln -s "$(printf 't%.0s' $(seq 1 500))" long-link; ln -s "$(printf '\377')" odd-link
    touch -d @-1000000000 before; touch -d @5000000000.5 after
    rm twice; chmod 755 again
"#;

pub(crate) fn packed_for(version: Version) {
    let scratch = Scratch::new();
    let top = memory(&scratch);
    let mut theirs = Theirs::start(version, &scratch);
    let dir = |name: &str| {
        let dir = top.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    };
    let (lower, upper) = (dir("lower"), dir("upper"));
    run(&lower, LOWER);
    let wanted = shown(&dir, &lower, &upper, |at| {
        run(at, CHANGES);
        attributes(at);
        seen(at)
    });
    assert!(wanted.len() > 50, "{} names", wanted.len());
    for (number, compression) in [
        DiffCompression::None,
        DiffCompression::Gzip,
        DiffCompression::Zstd,
    ]
    .into_iter()
    .enumerate()
    {
        let layer = dir(&format!("layer{number}"));
        let blob = packed(&lower, &upper, compression);
        let mount = overlay(&lower, &layer, &dir("work"));
        theirs.apply(&blob, media_type(compression), mount).unwrap();
        let found = shown(&dir, &lower, &layer, seen);
        let differences = exact::differences(&wanted, &found);
        assert!(
            differences.is_empty(),
            "{compression:?}:\n{}",
            differences.join("\n")
        );
    }
}

fn media_type(compression: DiffCompression) -> &'static str {
    match compression {
        DiffCompression::None => "application/vnd.oci.image.layer.v1.tar",
        DiffCompression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        DiffCompression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

/// All but the top, whose times nothing carries, and times that containerd cannot express.
fn seen(top: &Path) -> Exact {
    let mut tree = exact::read(top);
    tree.remove(&b""[..]);
    if let Some(before) = tree.get_mut(&b"before"[..]) {
        *before = before.replace("-1000000000.000000000", "0.000000000");
    }
    for text in tree.values_mut() {
        // Reading sets it.
        if let Some((start, rest)) = text.split_once(" read ") {
            let rest = rest.split_once(' ').map_or("", |(_, rest)| rest);
            *text = format!("{start} {rest}");
        }
    }
    tree
}

fn run(at: &Path, script: &str) {
    output(Command::new("sh").args(["-euc", script]).current_dir(at));
}

/// Sets attributes for which there is no common tool.
fn attributes(at: &Path) {
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let all: [(&str, &str, &[u8]); 4] = [
        ("noise", "user.a", b"1"),
        ("noise", "user.b.c", b""),
        ("d", "user.d", b"of a directory"),
        ("hard", "security.capability", &capability),
    ];
    for (path, name, value) in all {
        setxattr(at.join(path), name, value, XattrFlags::empty()).unwrap();
    }
}

fn packed(lower: &Path, upper: &Path, compression: DiffCompression) -> Vec<u8> {
    let open = |path: &Path| File::open(path).unwrap();
    let (lower, upper) = (open(lower), open(upper));
    let options = DiffOptions {
        compression,
        ..DiffOptions::default()
    };
    let mut blob = Vec::new();
    diff(upper.as_fd(), &[lower.as_fd()], &options, &mut blob).unwrap();
    blob
}

fn overlay(lower: &Path, upper: &Path, work: &Path) -> Mount {
    Mount {
        r#type: "overlay".into(),
        source: "overlay".into(),
        options: [("lowerdir", lower), ("upperdir", upper), ("workdir", work)]
            .map(|(name, path)| format!("{name}={}", path.display()))
            .into(),
        ..Mount::default()
    }
}

/// Calls `look` with what shows one directory over another, to be written to.
fn shown<T>(
    dir: &dyn Fn(&str) -> PathBuf,
    lower: &Path,
    upper: &Path,
    look: impl FnOnce(&Path) -> T,
) -> T {
    let (place, work) = (dir("shown"), dir("work"));
    let options = overlay(lower, upper, &work).options.join(",");
    let (kind, flags) = (Some("overlay"), MsFlags::empty());
    mount(kind, &place, kind, flags, Some(&*options)).unwrap();
    let seen = look(&place);
    umount(&place).unwrap();
    seen
}

/// True for what means a deletion in a layer: it is packed as one, or not at all.
fn is_mark((name, text): (&Vec<u8>, &String)) -> bool {
    text.contains(" device 0 ") || name.starts_with(b".wh.")
}

/// Trees that odd archives became, packed by layerd and unpacked by containerd: nothing that layerd takes in
/// comes out otherwise.
pub(crate) fn taken_in_for(version: Version) {
    // Every other one: all of them take a minute.
    const STEP: usize = 2;
    let scratch = Scratch::new();
    let top = memory(&scratch);
    let mut theirs = Theirs::start(version, &scratch);
    let empty = top.join("empty");
    std::fs::create_dir(&empty).unwrap();
    let (mut packed_count, mut wrong) = (0, Vec::new());
    for (number, case) in super::cases::all().iter().enumerate().step_by(STEP) {
        let [one, two] = ["o", "t"].map(|side| top.join(format!("{side}{number}")));
        for dir in [&one, &two] {
            std::fs::create_dir(dir).unwrap();
        }
        let is_taken = super::ours(&case.blob, case.media_type, &one).is_ok();
        let wanted = seen(&one);
        if is_taken && !wanted.iter().any(is_mark) {
            packed_count += 1;
            let blob = packed(&empty, &one, DiffCompression::None);
            let said = theirs.apply_bound(&blob, media_type(DiffCompression::None), &two);
            match said {
                Ok(()) => {
                    let differences = exact::differences(&wanted, &seen(&two));
                    if !differences.is_empty() {
                        wrong.push(format!("{}: {}", case.name, differences.join("; ")));
                    }
                }
                Err(error) => wrong.push(format!("{}: {error}", case.name)),
            }
        }
        output(Command::new("rm").arg("-r").args([&one, &two]));
    }
    eprintln!("{packed_count} trees, {} differences", wrong.len());
    assert!(packed_count >= 200, "{packed_count} trees");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
