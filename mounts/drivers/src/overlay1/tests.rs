use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use layerd_mounts::test_support::{LoopDisk, Mounted, enter_private_mounts};
use layerd_mounts::{Error, Slot};
use rustix::fs::{IFlags, XattrFlags, ioctl_setflags, lgetxattr, lsetxattr};

use super::Overlay1;
use crate::conformance;
use crate::driver::{Base, Driver, Found, SlotKind, Stack, Survey};
use crate::stacks::{on, view};

fn open(root: &Path) -> Overlay1 {
    Overlay1::open(root, &[]).expect("open")
}

fn keeps_the_contract(root: &Path) {
    let driver = open(root);
    conformance::check_directories(&driver, &|slot| driver.layer_path(slot));
}

#[test]
fn overlay1_keeps_the_contract() {
    let root = tempfile::tempdir().expect("a temporary directory");
    keeps_the_contract(root.path());
}

#[test]
fn root_overlay1_keeps_the_contract_on_each_file_system() {
    enter_private_mounts();
    for disk in [
        LoopDisk::ext4(64),
        LoopDisk::ext4_without_journal(64),
        LoopDisk::xfs(&[]),
        LoopDisk::btrfs(),
        LoopDisk::tmpfs(),
    ] {
        keeps_the_contract(disk.path());
    }
}

/// A driver on a disk of its own, and a path to mount at.
struct Ground {
    driver: Overlay1,
    disk: LoopDisk,
}

impl Ground {
    fn new(disk: LoopDisk) -> Self {
        let driver = open(&disk.path().join("root"));
        Self { driver, disk }
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.disk.path().join("root").join(inside)
    }

    /// Makes a layer as the engine does.
    fn create(&self, slot: u64, parents: &[u64]) {
        let base = parents.first().map(|parent| Base::on(Slot(*parent)));
        let base = base.unwrap_or_else(Base::empty);
        self.driver.create(Slot(slot), &base).expect("create");
        let stack = on(slot, parents.iter().copied());
        self.driver.make_mountable(&stack).expect("make mountable");
    }

    fn see(&self, stack: &Stack) -> Mounted {
        let plan = self.driver.plan(stack).expect("plan");
        Mounted::new(&plan, &self.disk.path().join("seen")).expect("mount")
    }

    fn commit(&self, slot: u64, parents: &[u64]) {
        self.driver.write_back(Slot(slot)).expect("write back");
        self.driver
            .freeze(&on(slot, parents.iter().copied()))
            .expect("freeze");
        self.driver.sync().expect("sync");
        let work = self.driver.work_dirs().expect("work directories");
        work.remove(Slot(slot)).expect("the record is durable");
    }

    /// A layer with one file more than its parents.
    fn layer(&self, slot: u64, parents: &[u64]) {
        self.create(slot, parents);
        let path = self.driver.layer_path(Slot(slot));
        fs::write(path.join(slot.to_string()), slot.to_string()).expect("write");
        self.commit(slot, parents);
    }
}

/// Path, mode, owner, links in the layer and content of everything below a directory, in order.
fn tree(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let stat = fs::symlink_metadata(&path).expect("look");
        let inside = path.strip_prefix(root).expect("inside").display();
        let content = if stat.is_dir() {
            let entries = fs::read_dir(&path).expect("read");
            todo.extend(entries.map(|entry| entry.expect("an entry").path()));
            String::new()
        } else if stat.is_symlink() {
            fs::read_link(&path).expect("read").display().to_string()
        } else if stat.is_file() {
            fs::read_to_string(&path).expect("read")
        } else {
            stat.rdev().to_string()
        };
        let mut note = [0; 64];
        let noted = lgetxattr(&path, "user.note", &mut note);
        let note = String::from_utf8_lossy(&note[..noted.unwrap_or(0)]).into_owned();
        let (mode, uid, time) = (stat.mode(), stat.uid(), stat.mtime());
        lines.push(format!(
            "{inside} {mode:o} {uid} {time} {note:?} {content:?}"
        ));
    }
    lines.sort();
    lines
}

fn inode(path: PathBuf) -> u64 {
    fs::symlink_metadata(path).expect("look").ino()
}

/// Writes what the test is about into a mounted layer on another.
fn change(seen: &Mounted) {
    fs::remove_file(seen.path("gone")).expect("delete");
    for file in ["hidden/old", "hidden/deep/old"] {
        fs::remove_file(seen.path(file)).expect("delete");
    }
    for dir in ["hidden/deep", "hidden"] {
        fs::remove_dir(seen.path(dir)).expect("delete");
    }
    fs::create_dir(seen.path("hidden")).expect("an opaque directory");
    fs::write(seen.path("hidden/new"), "new").expect("write");
    fs::write(seen.path("dir/changed"), "after").expect("copy up and write");
    fs::set_permissions(seen.path("dir"), fs::Permissions::from_mode(0o1771)).expect("chmod");
    lsetxattr(seen.path("dir"), "user.note", b"above", XattrFlags::empty()).expect("setxattr");
    fs::write(seen.path("one"), "linked").expect("write");
    fs::hard_link(seen.path("one"), seen.path("two")).expect("link");
    symlink("nowhere", seen.path("link")).expect("symlink");
    let renamed = fs::rename(seen.path("moved"), seen.path("away"));
    let cause = renamed.expect_err("redirect_dir is off, and programs copy");
    assert_eq!(cause.kind(), ErrorKind::CrossesDevices);
    fs::remove_dir(seen.path("empty")).expect("delete");
    fs::write(seen.path("empty"), "a file now").expect("write");
}

fn base(ground: &Ground) {
    ground.create(1, &[]);
    let layer = ground.driver.layer_path(Slot(1));
    for dir in ["hidden/deep", "dir", "moved", "empty"] {
        fs::create_dir_all(layer.join(dir)).expect("a directory");
    }
    for file in [
        "gone",
        "hidden/old",
        "hidden/deep/old",
        "dir/changed",
        "dir/kept",
    ] {
        fs::write(layer.join(file), "before").expect("write");
    }
    lsetxattr(
        layer.join("dir/kept"),
        "user.note",
        b"kept",
        XattrFlags::empty(),
    )
    .expect("setxattr");
    ground.commit(1, &[]);
}

#[test]
fn root_a_committed_layer_is_a_whole_tree_of_hard_links() {
    enter_private_mounts();
    for disk in [LoopDisk::ext4(64), LoopDisk::xfs(&[]), LoopDisk::btrfs()] {
        let ground = Ground::new(disk);
        base(&ground);
        let below = tree(&ground.driver.layer_path(Slot(1)));
        ground.create(2, &[1]);
        let shown = {
            let seen = ground.see(&on(2, [1]));
            change(&seen);
            tree(&seen.path(""))
        };
        let changes = ground.driver.usage(Slot(2), &|| true).expect("measure");
        ground.commit(2, &[1]);
        let whole = ground.path("r/2");
        assert_eq!(tree(&whole), shown, "the tree is what the mount showed");
        assert_eq!(
            inode(whole.join("dir/kept")),
            inode(ground.driver.layer_path(Slot(1)).join("dir/kept")),
            "a file of the parent has one more name"
        );
        assert_eq!(inode(whole.join("one")), inode(whole.join("two")));
        let after = ground.driver.usage(Slot(2), &|| true).expect("measure");
        assert_eq!(after, changes, "a layer is what it changes");
        let gone = ground.driver.layer_path(Slot(2)).join("gone");
        let gone = fs::symlink_metadata(gone).expect("the whiteout");
        assert!(gone.file_type().is_char_device(), "the changes stay too");
        {
            let seen = ground.see(&view([2, 1]));
            assert_eq!(tree(&seen.path("")), shown);
            let written = fs::write(seen.path("one"), "x").expect_err("read-only");
            assert_eq!(written.kind(), ErrorKind::ReadOnlyFilesystem);
        }
        ground.create(3, &[2, 1]);
        {
            let seen = ground.see(&on(3, [2, 1]));
            // But for the top directory, which is as old as the layer.
            assert_eq!(tree(&seen.path(""))[1..], shown[1..]);
            fs::write(seen.path("dir/kept"), "of the third").expect("copy up");
            fs::write(seen.path("one"), "of the third").expect("copy up");
        }
        ground.commit(3, &[2, 1]);
        assert_eq!(tree(&whole), shown, "nothing writes to a tree below");
        assert_eq!(tree(&ground.driver.layer_path(Slot(1))), below);
        let read = |name| fs::read_to_string(ground.path("r/3").join(name)).expect("read");
        assert_eq!((&*read("one"), &*read("two")), ("of the third", "linked"));
        for slot in [3, 2] {
            ground.driver.discard(Slot(slot)).expect("discard");
            assert!(ground.driver.is_empty(Slot(99)).expect("look"));
            let listed = ground.driver.list().expect("list");
            assert!(listed.contains(&Found::Slot(SlotKind::Trash, Slot(slot))));
            ground.driver.delete(Slot(slot), &|| true).expect("delete");
        }
        assert_eq!(tree(&ground.driver.layer_path(Slot(1))), below);
        let left = ground.driver.list().expect("list");
        assert_eq!(left, [Found::Slot(SlotKind::Layer, Slot(1))]);
        assert_eq!(fs::read_dir(ground.path("t")).expect("read").count(), 0);
    }
}

/// overlayfs takes 500 lower directories, and their names have to fit into a page.
#[test]
fn each_mount_has_one_lower_directory_at_any_depth() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let driver = open(root.path());
    let parents: Vec<u64> = (1..=3000).rev().collect();
    let plan = driver
        .plan(&on(4000, parents.iter().copied()))
        .expect("plan");
    let lower = format!("lowerdir={}/r/{}", root.path().display(), Slot(3000));
    assert!(plan[0].options.contains(&lower), "{plan:?}");
    assert_eq!(driver.top_of(&plan[0]), Some(Slot(4000)));
    let plan = driver.plan(&view(parents.iter().copied())).expect("plan");
    assert_eq!(
        (&*plan[0].kind, driver.top_of(&plan[0])),
        ("bind", Some(Slot(3000)))
    );
}

#[test]
fn a_commit_that_came_to_nothing_is_made_again() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let driver = open(root.path());
    driver.create(Slot(1), &Base::empty()).expect("create");
    driver.create(Slot(2), &Base::on(Slot(1))).expect("create");
    let layer = driver.layer_path(Slot(2));
    fs::write(layer.join("first"), "1").expect("write");
    driver.freeze(&on(2, [1])).expect("freeze");
    fs::remove_file(layer.join("first")).expect("delete");
    fs::write(layer.join("second"), "2").expect("write");
    // As after a crash in the middle.
    fs::create_dir(root.path().join("w/2/tree")).expect("a directory");
    fs::write(root.path().join("w/2/tree/part"), "x").expect("write");
    driver.freeze(&on(2, [1])).expect("freeze");
    let names = || {
        let entries = fs::read_dir(root.path().join("r/2")).expect("read");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(), ["second"]);
    assert_eq!(
        fs::read_dir(root.path().join("w/2")).expect("read").count(),
        0
    );
}

/// Takes away what is below a root.
fn lose(root: &Path, inside: &str) {
    let lost = tempfile::tempdir_in(root).expect("a temporary directory");
    fs::rename(root.join(inside), lost.path().join("lost")).expect("move");
}

#[test]
fn a_missing_tree_is_made_again() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let driver = open(root.path());
    let mut parents = Vec::new();
    for slot in 1..5 {
        let base = parents.first().map(|parent| Base::on(Slot(*parent)));
        let base = base.unwrap_or_else(Base::empty);
        driver.create(Slot(slot), &base).expect("create");
        let file = driver.layer_path(Slot(slot)).join(slot.to_string());
        fs::write(file, "x").expect("write");
        driver
            .freeze(&on(slot, parents.iter().copied()))
            .expect("freeze");
        driver
            .work_dirs()
            .expect("they are")
            .remove(Slot(slot))
            .expect("drop");
        parents.insert(0, slot);
    }
    // As in a copy of the root without what can be made again.
    lose(root.path(), "r");
    drop(driver);
    let driver = open(root.path());
    driver.make_mountable(&view([4, 3, 2, 1])).expect("make");
    for slot in 1..5 {
        assert!(root.path().join(format!("r/4/{slot}")).exists(), "{slot}");
    }
    assert!(!root.path().join("r/1").exists(), "it is its own");
    let found = driver.list().expect("list");
    assert_eq!(found.len(), 4, "no work directory stays: {found:?}");
    lose(root.path(), "l/3");
    lose(root.path(), "r");
    drop(driver);
    let driver = open(root.path());
    let lost = driver.make_mountable(&view([4, 3, 2, 1]));
    let kind = lost.as_ref().err().and_then(Error::io_kind);
    assert_eq!(kind, Some(ErrorKind::NotFound), "{lost:?}");
}

#[test]
fn a_tree_without_its_layer_goes() {
    let root = tempfile::tempdir().expect("a temporary directory");
    drop(open(root.path()));
    fs::create_dir_all(root.path().join("r/7/dir")).expect("a directory");
    fs::create_dir(root.path().join("r/of a user")).expect("a directory");
    let offline = Overlay1::survey(root.path());
    let unknown = |name: &str| Found::UnknownEntry(root.path().join("r").join(name));
    let found = offline.list().expect("list");
    assert!(found.contains(&unknown("7")) && found.contains(&unknown("of a user")));
    let driver = open(root.path());
    let mut found = driver.list().expect("list");
    found.sort_by_key(|entry| matches!(entry, Found::Slot(..)));
    let trash = Found::Slot(SlotKind::Trash, Slot(7));
    assert_eq!(found, [unknown("of a user"), trash]);
    driver.delete(Slot(7), &|| true).expect("delete");
    let moved = driver.move_to_lost_found(&found[0]).expect("move");
    assert_eq!(moved, root.path().join("lost/r-of a user"));
    assert_eq!(driver.list().expect("list"), []);
}

#[test]
fn root_a_file_that_takes_no_link_is_copied() {
    enter_private_mounts();
    let ground = Ground::new(LoopDisk::ext4(64));
    ground.layer(1, &[]);
    let file = ground.driver.layer_path(Slot(1)).join("1");
    let open = fs::File::open(&file).expect("open");
    ioctl_setflags(&open, IFlags::IMMUTABLE).expect("chattr +i");
    ground.layer(2, &[1]);
    let copy = ground.path("r/2/1");
    assert_ne!(inode(copy.clone()), inode(file));
    assert_eq!(fs::read_to_string(copy).expect("read"), "1");
    ioctl_setflags(&open, IFlags::empty()).expect("chattr -i");
}

/// Directories take inodes, of which a file system may have too few.
#[test]
fn root_a_commit_without_inodes_is_repeated_when_there_are_some() {
    enter_private_mounts();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (kind, flags) = (Some("tmpfs"), nix::mount::MsFlags::empty());
    let options = Some("size=16m,nr_inodes=150");
    nix::mount::mount(kind, dir.path(), kind, flags, options).expect("mount");
    {
        let driver = open(dir.path());
        driver.create(Slot(1), &Base::empty()).expect("create");
        for number in 0..40 {
            let path = driver.layer_path(Slot(1)).join(number.to_string());
            fs::create_dir(path).expect("a directory");
        }
        for slot in 2..5 {
            driver
                .create(Slot(slot), &Base::on(Slot(1)))
                .expect("create");
        }
        for slot in 2..4 {
            driver.freeze(&on(slot, [1])).expect("there are inodes");
        }
        let full = driver.freeze(&on(4, [1]));
        let kind = full.as_ref().err().and_then(Error::io_kind);
        assert_eq!(kind, Some(ErrorKind::StorageFull), "{full:?}");
        assert!(!dir.path().join("w/4/tree").exists(), "it gives them back");
        assert!(!dir.path().join("r/4").exists());
        driver.discard(Slot(3)).expect("discard");
        driver.delete(Slot(3), &|| true).expect("delete");
        driver.freeze(&on(4, [1])).expect("there are inodes again");
        assert!(dir.path().join("r/4/39").is_dir());
    }
    nix::mount::umount(dir.path()).expect("unmount");
}

#[test]
fn what_it_cannot_do_is_refused() {
    let root = tempfile::tempdir().expect("a temporary directory");
    for option in ["redirect_dir=on", "metacopy=on", "redirect_dir=follow"] {
        let refused = Overlay1::open(root.path(), &[option.to_owned()]);
        let error = refused.expect_err("it depends on paths").to_string();
        assert!(error.contains(option), "{error}");
    }
    let driver = open(root.path());
    let deferred = driver.create(Slot(1), &Base::deferred());
    assert!(
        matches!(deferred, Err(Error::NotAStack { .. })),
        "{deferred:?}"
    );
    assert_eq!(driver.list().expect("list"), []);
}
