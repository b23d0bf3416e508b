//! A whole Debian as an image of three layers, packed by GNU tar: a tree from debootstrap, packages
//! and directories that went, and names that became something of another kind.

use std::fs::{File, read_dir, remove_file, symlink_metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use layerd_integration::peers;
use layerd_integration::process::output;
use layerd_integration::tree::{Tree, xattrs};
use nix::mount::{MsFlags, mount, umount};
use rustix::fs::{XattrFlags, setxattr};

use super::served::Served;
use super::sides::{Said, Theirs};
use super::{Ground, Grown, Mode, accidents, colons, differences, served, shown};

/// Packages, directories, and what is new in place of a directory (an opaque one).
const GONE: &str = "
    dpkg --purge systemd-sysv systemd tzdata
    rm -r /usr/share/doc /usr/share/locale
    rm -r /usr/share/perl5
    mkdir -m 2750 /usr/share/perl5
    chown 33:44 /usr/share/perl5
    echo new >/usr/share/perl5/new
    ln /usr/bin/perl /usr/bin/perl-again
    chmod 4711 /usr/bin/env
    chown 1000:1000 /usr/bin/find
    touch /usr/bin/find /usr/bin/sort
";

/// Each kind of name in the place of another.
const TURNED: &str = "
    rm /etc/debian_version; mkdir /etc/debian_version; echo file >/etc/debian_version/file
    rm -r /usr/share/perl5; ln -s doc /usr/share/perl5
    rm /etc/issue; mkfifo /etc/issue; chmod 640 /etc/issue
    rm /etc/issue.net; mknod /etc/issue.net b 7 200
    rm -r /etc/skel; mknod /etc/skel c 200 7; chmod 600 /etc/skel
    rm /usr/bin/awk; mkdir /usr/bin/awk; ln /usr/bin/mawk /usr/bin/awk/mawk
    rm /etc/os-release; cp /usr/lib/os-release /etc/os-release
    rm /usr/bin/perl; ln -s perl-again /usr/bin/perl
    mkdir -m 700 /usr/share/doc; echo again >/usr/share/doc/again
    mv /usr/share/zoneinfo /usr/share/zones 2>/dev/null || mv /usr/share/misc /usr/share/more
";

/// The blobs, the lowest first, and what they show when all are unpacked.
struct Image {
    blobs: Vec<PathBuf>,
    wanted: Tree,
}

impl Image {
    fn make(ground: &Ground) -> Self {
        let blob = |number| ground.top.join(format!("layer{number}.tar.gz"));
        pack(&peers::Debian::Bookworm.tree(), &blob(0));
        let base = ground.dir("base");
        let mut unpack = Command::new("tar");
        unpack.args([
            "--extract",
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
        ]);
        output(unpack.arg("--file").arg(blob(0)).arg("-C").arg(&base));
        let mut stack = vec![base];
        for (number, script) in [(1, GONE), (2, TURNED)] {
            let upper = changed(ground, &stack, script);
            let staged = ground.dir("staged");
            output(Command::new("cp").arg("-aT").arg(&upper).arg(&staged));
            mark(&staged);
            pack(&staged, &blob(number));
            output(Command::new("rm").arg("-r").arg(&staged));
            stack.insert(0, upper);
        }
        Self {
            blobs: [0, 1, 2].map(blob).to_vec(),
            wanted: shown(ground, &stack, Tree::read),
        }
    }
}

/// Packs a tree as image builders do. Times are those of a build that can be repeated: members have
/// earlier ones than anything that unpacking leaves.
fn pack(tree: &Path, blob: &Path) {
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--use-compress-program=igzip",
        "--numeric-owner",
    ]);
    tar.args(["--xattrs", "--xattrs-include=*"]);
    tar.arg("--xattrs-exclude=trusted.overlay.*");
    tar.args(["--mtime=@1700000000", "--clamp-mtime"]);
    output(tar.arg("--file").arg(blob).arg("-C").arg(tree).arg("."));
}

/// The upper directory with a script's changes in a stack.
fn changed(ground: &Ground, stack: &[PathBuf], script: &str) -> PathBuf {
    let upper = ground.dir(&format!("upper{}", stack.len()));
    let (work, place) = (ground.dir("work"), ground.dir("changing"));
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        colons(stack.iter()),
        upper.display(),
        work.display()
    );
    let flags = MsFlags::empty();
    mount(
        Some("overlay"),
        &place,
        Some("overlay"),
        flags,
        Some(&*options),
    )
    .unwrap();
    let script = format!("exec 2>&1; {script}");
    output(
        Command::new("chroot")
            .arg(&place)
            .args(["sh", "-euxc", &script]),
    );
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let (no, find) = (XattrFlags::empty(), place.join("usr/bin/find"));
    setxattr(&find, "security.capability", &capability, no).unwrap();
    setxattr(place.join("usr/share"), "user.note", b"of a directory", no).unwrap();
    umount(&place).unwrap();
    upper
}

/// Turns overlayfs' marks of what is deleted into those of an archive.
fn mark(dir: &Path) {
    for entry in read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = symlink_metadata(&path).unwrap();
        if found.is_dir() {
            mark(&path);
        } else if found.file_type().is_char_device() && found.rdev() == 0 {
            remove_file(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            File::create(dir.join(format!(".wh.{name}"))).unwrap();
        }
    }
    if xattrs(dir).contains_key("trusted.overlay.opaque") {
        File::create(dir.join(".wh..wh..opq")).unwrap();
    }
}

fn unpack_theirs(ground: &Ground, blobs: &[PathBuf]) -> Vec<(PathBuf, Said)> {
    let mut theirs = Theirs::start();
    let mut lowers = Vec::new();
    let mut unpack = |(index, blob)| {
        let layer = ground.dir(&format!("theirs{index}"));
        let said = theirs.apply_upon(ground, blob, &lowers, &layer);
        lowers.insert(0, layer.clone());
        (layer, said)
    };
    let all = blobs.iter().map(PathBuf::as_path).enumerate();
    all.map(&mut unpack).collect()
}

fn unpack_ours(ground: &Ground, mode: Mode, blobs: &[PathBuf]) -> (Served, Vec<(PathBuf, Said)>) {
    let mut served = Served::start(&ground.dir("layerd"), mode);
    if mode == Mode::Rebase {
        let layers = served.unpack_together(blobs);
        return (served, layers);
    }
    let names: Vec<_> = (0..=blobs.len()).map(|n| n.to_string()).collect();
    let parents = [""].into_iter().chain(names.iter().map(String::as_str));
    let each = blobs.iter().zip(&names).zip(parents);
    let layers = each.map(|((blob, name), parent)| served.unpack(blob, name, parent));
    let layers = layers.collect();
    (served, layers)
}

fn compare(mode: Mode) {
    let ground = Ground::new();
    let image = Image::make(&ground);
    let theirs = unpack_theirs(&ground, &image.blobs);
    let (served, ours) = unpack_ours(&ground, mode, &image.blobs);
    let mut found = Vec::new();
    let mut grown = Grown::default();
    for (index, ((one, ours), (two, theirs))) in ours.into_iter().zip(theirs).enumerate() {
        grown.ours.insert(0, one);
        grown.theirs.insert(0, two);
        let differences = differences(&ground, &ours, &theirs, &grown);
        found.extend(
            differences
                .iter()
                .map(|text| format!("layer {index}: {text}")),
        );
    }
    found.retain(|text| !(served.is_early() && accidents::is_early_one(text)));
    found.retain(|text| !(served.has_images() && served::is_access_time(text)));
    let count = found.len();
    found.truncate(50);
    assert_eq!(count, 0, "differences:\n{}", found.join("\n"));
    shown(&ground, &grown.ours, Tree::read).assert_equals(&image.wanted);
    assert!(image.wanted.0.len() > 3000, "a whole Debian has more names");
}

#[test]
fn root_a_debian_becomes_what_containerd_makes_of_it() {
    compare(Mode::Sequential);
}

#[test]
fn root_a_debian_as_images_becomes_what_containerd_makes_of_it() {
    compare(Mode::Images);
}

#[test]
fn root_a_debian_unpacked_all_at_once_becomes_what_containerd_makes_of_it() {
    compare(Mode::Rebase);
}
