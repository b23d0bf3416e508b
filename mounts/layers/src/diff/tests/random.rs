//! Random changes through a real overlay mount.

use std::io::Write as _;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};

use super::*;

/// A change to a file system. Indices choose among the paths that exist at that moment.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Make(Index, &'static str, New),
    Alter(Index, How),
    Link(Index, Index, &'static str),
    Rename(Index, Index, &'static str),
}

#[derive(Debug, Clone)]
pub(crate) enum New {
    File(u8),
    Dir,
    Symlink,
    Node(FileType),
    /// Gone again at once.
    Flicker,
}

#[derive(Debug, Clone)]
pub(crate) enum How {
    Remove,
    /// The same name as a new directory.
    Renew,
    /// The same name as a new file.
    Flatten,
    Overwrite(u8),
    /// In place, with the old time set again.
    Sneak,
    Mode(u32),
    /// Copies it up and leaves it as it was.
    ModeAndBack,
    Owner(u32),
    Attribute,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = || any::<Index>();
    let name = || select(vec!["a", "b", "c", "d", "e", "f", "g", "h"]);
    let change = prop_oneof![
        4 => (at(), name(), new()).prop_map(|(at, name, new)| Change::Make(at, name, new)),
        6 => (at(), how()).prop_map(|(at, how)| Change::Alter(at, how)),
        1 => (at(), at(), name()).prop_map(|(from, to, name)| Change::Link(from, to, name)),
        2 => (at(), at(), name()).prop_map(|(from, to, name)| Change::Rename(from, to, name)),
    ];
    vec(change, 0..25)
}

fn new() -> impl Strategy<Value = New> {
    let kinds = vec![
        FileType::Fifo,
        FileType::Socket,
        FileType::CharacterDevice,
        FileType::BlockDevice,
    ];
    prop_oneof![
        3 => any::<u8>().prop_map(New::File),
        3 => Just(New::Dir),
        2 => Just(New::Symlink),
        2 => select(kinds).prop_map(New::Node),
        1 => Just(New::Flicker),
    ]
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        4 => Just(How::Remove),
        4 => Just(How::Renew),
        2 => Just(How::Flatten),
        3 => any::<u8>().prop_map(How::Overwrite),
        1 => Just(How::Sneak),
        2 => (0..0o10000_u32).prop_map(How::Mode),
        2 => Just(How::ModeAndBack),
        1 => (0..3_u32).prop_map(How::Owner),
        1 => Just(How::Attribute),
    ]
}

/// All paths below `root`, in order.
fn all(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let entry = entry.expect("an entry");
            // A directory of one layer lists its whiteouts.
            let Ok(kind) = entry.path().symlink_metadata() else {
                continue;
            };
            if kind.is_dir() {
                todo.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

fn perform(root: &Path, change: &Change) {
    let paths = all(root);
    let mut dirs = paths.clone();
    dirs.retain(|path| is_directory(path));
    dirs.push(root.to_owned());
    let new = |at: &Index, name: &str| {
        let path = at.get(&dirs).join(name);
        path.symlink_metadata().is_err().then_some(path)
    };
    let old = |at: &Index| (!paths.is_empty()).then(|| at.get(&paths).clone());
    match change {
        Change::Make(at, name, what) => {
            if let Some(path) = new(at, name) {
                make(&path, what);
            }
        }
        Change::Alter(at, how) => {
            if let Some(path) = old(at) {
                alter(&path, how);
            }
        }
        Change::Link(from, to, name) => {
            if let (Some(from), Some(to)) = (old(from), new(to, name))
                && !is_directory(&from)
            {
                fs::hard_link(from, to).expect("a link");
            }
        }
        Change::Rename(from, to, name) => {
            if let (Some(from), Some(to)) = (old(from), new(to, name)) {
                // Refused for directories that are not all new (EXDEV), or would hold themselves.
                let _ = fs::rename(from, to);
            }
        }
    }
}

fn content(byte: u8) -> Vec<u8> {
    vec![byte; usize::from(byte) * 37]
}

fn make(path: &Path, what: &New) {
    match what {
        New::File(byte) => fs::write(path, content(*byte)).expect("write"),
        New::Dir => fs::create_dir(path).expect("a directory"),
        New::Symlink => std::os::unix::fs::symlink("a/b", path).expect("a symlink"),
        New::Node(kind) => make_node(path, *kind, (5, 6)),
        New::Flicker => {
            fs::write(path, "").expect("write");
            fs::remove_file(path).expect("remove");
        }
    }
}

fn alter(path: &Path, how: &How) {
    let before = path.symlink_metadata().expect("metadata");
    match how {
        How::Remove => remove(path),
        How::Renew => {
            remove(path);
            fs::create_dir(path).expect("a directory");
        }
        How::Flatten => {
            remove(path);
            fs::write(path, "flat").expect("write");
        }
        How::Overwrite(byte) if before.is_file() => overwrite(path, &content(*byte)),
        How::Sneak if before.is_file() => {
            let length = usize::try_from(before.len()).expect("a small file");
            overwrite(path, &vec![b'!'; length]);
            set_times(path, before.mtime(), before.mtime_nsec());
        }
        How::Attribute if before.is_file() => {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(path, "user.new", b"value", flags).expect("an attribute");
        }
        How::Mode(mode) => set_mode(path, *mode),
        How::ModeAndBack => {
            set_mode(path, before.mode() ^ 0o1);
            set_mode(path, before.mode());
        }
        How::Owner(owner) => std::os::unix::fs::lchown(path, Some(*owner), None).expect("chown"),
        How::Overwrite(_) | How::Sneak | How::Attribute => {}
    }
}

fn set_mode(path: &Path, mode: u32) {
    if !path.symlink_metadata().expect("metadata").is_symlink() {
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777)).expect("chmod");
    }
}

/// Without O_CREAT, which the kernel refuses on a file of another owner in a sticky directory.
fn overwrite(path: &Path, content: &[u8]) {
    let file = File::options().write(true).truncate(true).open(path);
    file.expect("a file").write_all(content).expect("write");
}

pub(crate) type Case = (
    Vec<test_support::tree::Item>,
    Vec<test_support::tree::Item>,
    Vec<Change>,
);

pub(crate) fn cases() -> impl Strategy<Value = Case> {
    (items(Who::Root, 15), items(Who::Layer, 15), changes())
}

/// An overlay of two random layers, with random changes made in it.
pub(crate) fn changed<'a>(disk: &'a Disk, (low, high, changes): &Case) -> Bench<'a> {
    let mut bench = Bench::new(disk);
    build(bench.lowers[0].path(), low);
    bench.lowers.insert(0, disk.dir());
    build(bench.lowers[0].path(), high);
    bench.through_a_mount(|at| changes.iter().for_each(|change| perform(at, change)));
    bench
}

fn layers_come_back_on(kind: &str, mib: u64, times: u32) {
    test_support::enter_private_mounts();
    let disk = Disk::new(kind, mib);
    test_support::for_random(times, &cases(), |case| {
        let bench = changed(&disk, &case);
        assert_comes_back(&bench);
        assert!(
            bench.plain() == bench.plain(),
            "another layer of the same tree"
        );
    });
}

#[test]
fn root_random_changes_come_back_on_ext4() {
    layers_come_back_on("ext4", 600, 40);
}

#[test]
fn root_random_changes_come_back_on_xfs() {
    layers_come_back_on("xfs", 400, 25);
}

#[test]
fn root_random_layers_without_any_below_come_back() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 600);
    test_support::for_random(40, &items(Who::Layer, 30), |tree| {
        let mut bench = Bench::new(&disk);
        bench.lowers.clear();
        build(bench.upper.path(), &tree);
        assert_comes_back(&bench);
    });
}
