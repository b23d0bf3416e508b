//! Volumes as archives: out, back, and what is refused.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use layerd_integration::process::output;
use layerd_integration::{Daemon, Scratch, Tree};

use super::prune::on_terminal;
use super::{Ended, World, text};

/// Everything that an archive could lose.
const CONTENT: &str = "
    echo one > file
    mkdir -m 1770 sub && chown 12:34 sub
    echo two > sub/deep && chmod 4711 sub/deep
    ln sub/deep sub/same
    ln -s ../file sub/link
    mkfifo pipe
    mknod device c 1 3
    truncate -s 64M hole && echo end >> hole
    touch -d 2001-02-03T04:05:06.789 sub/deep file
    touch \"$(printf 'odd\\nname')\"
    mkdir -p long/$(printf 'x%.0s' $(seq 200))/$(printf 'y%.0s' $(seq 200))
";

fn sh(script: &str, dir: &Path) -> String {
    output(Command::new("sh").args(["-euc", script]).current_dir(dir))
}

fn xattr(path: &Path, value: &[u8]) {
    let flags = rustix::fs::XattrFlags::CREATE;
    rustix::fs::setxattr(path, "user.note", value, flags).unwrap();
}

/// Inode number: the same for two names of one file.
fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).unwrap().ino()
}

impl World {
    /// On a small ext4 of its own.
    pub(crate) fn on_small_disk() -> Self {
        let scratch = Scratch::new();
        let disk = scratch.dir("disk");
        let make = "truncate -s 256M image; mkfs.ext4 -q -F -N 20000 image
            mount -o loop image disk";
        sh(make, scratch.path());
        let daemon = Daemon::start(&disk);
        Self { daemon, scratch }
    }

    fn import(&self, name: &str, archive: &[u8]) -> Ended {
        let mut child = self
            .command(&["volume", "import", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A refused archive is not read to its end.
        let _ = child.stdin.take().unwrap().write_all(archive);
        let output = child.wait_with_output().unwrap();
        Ended {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            error: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Folders of volumes on disk, staged ones among them.
    pub(crate) fn volume_folders(&self) -> usize {
        let volumes = self.daemon.root().join("volumes");
        let count = |dir: &Path| fs::read_dir(dir).map_or(0, Iterator::count);
        let named = ["by-name", ".staging", ".trash"].map(|name| volumes.join(name));
        let rest = named.iter().filter(|dir| dir.exists()).count();
        count(&volumes) - rest + count(&named[1])
    }
}

/// Owner, group and mode of the top folder of a volume.
fn top(world: &World, name: &str) -> String {
    sh("stat -c '%u %g %a' .", &world.path(name))
}

#[test]
fn root_options_of_a_volume_win_over_what_fills_it() {
    let world = World::new();
    world.commit_image();
    world.run(&[
        "volume",
        "create",
        "data",
        "--opt",
        "uid=5",
        "--opt",
        "mode=2750",
    ]);
    assert_eq!(top(&world, "data"), "5 0 2750\n");
    let archive = world.scratch.path().join("data.tar");
    let archive = archive.to_str().unwrap();
    world.run(&["volume", "export", "data", archive]);
    world.run(&["volume", "import", "same", archive]);
    assert_eq!(top(&world, "same"), "5 0 2750\n", "as in the archive");
    let options = ["--opt", "uid=7", "--opt", "gid=8"];
    world.run(&[&["volume", "import", "other", archive], &options[..]].concat());
    assert_eq!(
        top(&world, "other"),
        "7 8 2750\n",
        "as asked, else as in the archive"
    );
    world.run(&["volume", "clone", "data", "copy", "--opt", "mode=1777"]);
    assert_eq!(top(&world, "copy"), "5 0 1777\n");
    world.run(&["volume", "snapshot", "data", "shot"]);
    assert_eq!(top(&world, "shot"), "5 0 2750\n");

    // The directory of the image is 5:6 and 0750.
    world.run(&[
        "volume", "create", "asked", "--opt", "uid=70", "--opt", "mode=700",
    ]);
    let more = "type=volume,src=new,dst=/seed,on-missing=create,volume-opt=gid=9";
    let fill = ["attach", "--owner", "pod:x", "--fill-from", "image"];
    for (name, mount, want) in [
        ("asked", "type=volume,src=asked,dst=/seed", "70 6 700\n"),
        ("new", more, "5 9 750\n"),
    ] {
        let one = world.one(&[&fill[..], &["--key", name, "--mount", mount]].concat());
        assert_eq!(one["filled"], true, "{one}");
        assert_eq!(top(&world, name), want, "{name}");
        assert_eq!(world.read(name), "from the image");
    }
}

#[test]
fn root_archives_carry_all_there_is() {
    let mut world = World::new();
    world.run(&["volume", "create", "data", "--opt", "mode=2750"]);
    let path = world.path("data");
    sh(CONTENT, &path);
    xattr(&path.join("file"), b"kept\0exactly");
    let tree = Tree::read(&path);
    let file = world.scratch.path().join("data.tar");
    let file = file.to_str().unwrap();

    let told = world.one(&["volume", "export", "data", file]);
    let sum = sh(&format!("sha256sum {file}"), &path);
    assert_eq!(sum.split(' ').next().unwrap(), text(&told, "sha256"));
    let length = fs::metadata(file).unwrap().len();
    assert_eq!(told["bytes"], length);
    assert!(length < 1 << 20, "the hole was written: {length}");
    assert_eq!(
        (&told["left_out"], &told["changed"]),
        (&0.into(), &0.into())
    );

    let imported = world.one(&["volume", "import", "copy", file, "-l", "a=b"]);
    assert_eq!(imported["verified"], true);
    // The archive also names the top folder.
    assert_eq!(imported["files"], told["files"]);
    assert_eq!(text(&imported, "filled_from"), "archive");
    assert_eq!(imported["labels"]["a"], "b");
    assert_eq!(Tree::read(&world.path("copy")), tree);
    let copy = world.path("copy");
    assert_eq!(inode(&copy.join("sub/deep")), inode(&copy.join("sub/same")));
    let blocks = sh("du --block-size=1K hole | cut -f1", &copy);
    assert!(
        blocks.trim().parse::<u64>().unwrap() < 1024,
        "no hole: {blocks}"
    );

    // Through a pipe, which is what people do between two machines.
    let exported = world
        .command(&["volume", "export", "data"])
        .output()
        .unwrap();
    assert!(exported.status.success());
    assert_eq!(exported.stdout, fs::read(file).unwrap());
    let said = String::from_utf8(exported.stderr).unwrap();
    assert!(said.contains(&text(&told, "sha256")), "{said}");
    let piped = world.import("piped", &exported.stdout);
    assert_eq!(piped.code, 0, "{piped:?}");
    assert!(piped.out.contains("checksum verified"), "{piped:?}");
    world.crash();
    for name in ["copy", "piped"] {
        assert_eq!(Tree::read(&world.path(name)), tree, "{name}");
    }
}

#[test]
fn root_other_programs_read_and_write_archives() {
    let world = World::new();
    let path = world.create_with("data", "from layerd");
    xattr(&path.join("file"), b"kept");
    sh("mkdir sub; ln file sub/same", &path);
    let archive = world
        .command(&["volume", "export", "data"])
        .output()
        .unwrap();
    let out = world.scratch.dir("out");
    let tar_file = world.scratch.path().join("out.tar");
    fs::write(&tar_file, &archive.stdout).unwrap();
    let extract = "tar --xattrs --xattrs-include='*' -xpf ../out.tar";
    sh(extract, &out);
    assert_eq!(Tree::read(&out), Tree::read(&path));
    sh(
        "tar --xattrs --xattrs-include='*' -cf ../theirs.tar .",
        &out,
    );
    let theirs = world.scratch.path().join("theirs.tar");
    let told = world.run(&["volume", "import", "theirs", theirs.to_str().unwrap()]);
    assert!(told.contains("no checksum"), "{told}");
    assert_eq!(Tree::read(&world.path("theirs")), Tree::read(&path));
}

#[test]
fn root_what_is_no_whole_archive_leaves_nothing() {
    let world = World::new();
    world.create_with("data", "content that a bit can be turned in");
    let archive = world
        .command(&["volume", "export", "data"])
        .output()
        .unwrap()
        .stdout;
    let folders = world.volume_folders();
    let mut turned = archive.clone();
    let find = |what: &[u8]| archive.windows(what.len()).position(|part| part == what);
    turned[find(b"content that").unwrap()] ^= 1;
    let cases: [(&str, Vec<u8>); 4] = [
        ("checksum", turned),
        ("ends at byte", archive[..archive.len() / 2].to_vec()),
        ("ends at byte", Vec::new()),
        ("bad archive", vec![b'x'; 4096]),
    ];
    for (why, bytes) in cases {
        let refused = world.import("new", &bytes);
        assert_eq!(refused.code, 6, "{why}: {refused:?}");
        assert!(refused.error.contains(why), "{why}: {refused:?}");
        assert_eq!(
            (world.names(&[]), world.volume_folders()),
            (vec!["data".to_owned()], folders)
        );
    }
    let taken = world.import("data", &archive);
    assert_eq!(taken.code, 4, "{taken:?}");
    assert_eq!(world.read("data"), "content that a bit can be turned in");
    world.fail(3, &["volume", "export", "nothing"]);
    let missing = world.ctl(&["volume", "import", "new", "/nowhere/at.tar"]);
    assert_eq!(missing.code, 1, "{missing:?}");
}

/// One header of a tar, with nothing in it that layerd wrote.
fn header(name: &str, kind: u8, size: u64, link: &str) -> Vec<u8> {
    let mut block = vec![0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[test]
fn root_hostile_archives_stay_inside_and_within_limits() {
    let world = World::on_small_disk();
    let folders = world.volume_folders();
    let secret = world.scratch.path().join("secret");
    fs::write(&secret, "not yours").unwrap();
    let end = vec![0_u8; 1024];
    let through = [
        header("out", b'2', 0, world.scratch.path().to_str().unwrap()),
        header("out/planted", b'0', 0, ""),
        end.clone(),
    ];
    let deep = "d/".repeat(40);
    // Many names, each of which implies dozens of directories.
    let crowd = (0..2_000).map(|number| header(&format!("{number}/{deep}f"), b'0', 0, ""));
    let cases: [(i32, &str, Vec<u8>); 5] = [
        (
            6,
            "leads up",
            [header("../planted", b'0', 0, ""), end.clone()].concat(),
        ),
        (6, "behind a symlink", through.concat()),
        (
            6,
            "absolute path",
            [header("l", b'1', 0, "/etc/passwd"), end.clone()].concat(),
        ),
        // 8 GiB less one byte is what the field holds; the small disk below has less.
        (
            10,
            "import_keep_percent",
            [header("big", b'0', (8 << 30) - 1, ""), end].concat(),
        ),
        (10, "files", crowd.flatten().collect()),
    ];
    for (code, why, bytes) in cases {
        let refused = world.import("new", &bytes);
        assert_eq!(refused.code, code, "{why}: {refused:?}");
        assert!(refused.error.contains(why), "{why}: {refused:?}");
        let left = (world.names(&[]).len(), world.volume_folders());
        assert_eq!(left, (0, folders), "{why}");
    }
    assert!(!world.scratch.path().join("planted").exists());
    assert_eq!(fs::read_to_string(secret).unwrap(), "not yours");
    let free = sh(
        "df --output=pcent . | tail -1",
        &world.daemon.root().join("volumes"),
    );
    let used: u64 = free.trim().trim_end_matches('%').parse().unwrap();
    assert!(used < 50, "space was not given back: {used} %");
}

#[test]
fn root_nothing_is_written_to_a_terminal_and_progress_only_there() {
    let world = World::new();
    world.create_with("data", "content");
    let file = world.scratch.path().join("data.tar");
    let file = file.to_str().unwrap();
    let terminal = |arguments: &[&str]| on_terminal(&world, arguments, "");
    for refused in [
        &["volume", "export", "data"][..],
        &["volume", "import", "new"],
    ] {
        let refused = terminal(refused);
        assert_eq!(refused.code, 5, "{refused:?}");
        assert!(refused.out.contains("is a terminal"), "{refused:?}");
    }
    sh("head -c 10000000 /dev/urandom > big", &world.path("data"));
    let shown = terminal(&["volume", "export", "data", file]);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.out.contains("exporting data: "), "{shown:?}");
    let shown = terminal(&["volume", "import", "new", file]);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.out.contains("importing new ["), "{shown:?}");
    let fill = "for d in $(seq 20); do mkdir $d; (cd $d; touch $(seq 300)); done";
    sh(fill, &world.path("data"));
    let clone = terminal(&["volume", "clone", "data", "copy"]);
    assert_eq!(clone.code, 0, "{clone:?}");
    assert!(clone.out.contains("filling copy: "), "{clone:?}");
    // How many files there will be is known once the source was measured.
    world.run(&["volume", "usage", "data"]);
    let clone = terminal(&["volume", "clone", "data", "again"]);
    assert!(clone.out.contains("filling again ["), "{clone:?}");
    let quiet = world.ctl(&["volume", "export", "data", file, "--force"]);
    assert_eq!((quiet.code, quiet.error.as_str()), (0, ""), "{quiet:?}");
}
