use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use layerd_mounts::limit::Limit;
use layerd_mounts::mount;
use layerd_mounts::test_support::{LoopDisk, Mounted, enter_private_mounts};
use layerd_mounts::{Slot, Space, mountinfo};
use nix::errno::Errno;

use crate::driver::{
    Base, Directories as _, Driver, Found, Limits, SlotKind, Stack, Survey, WorkDirs,
};
use crate::overlay::{Options, Overlay};
use crate::stacks::{on, view};

const MIB: u64 = 1 << 20;
const OWN: Slot = Slot(2);

/// A layer 1, and a limited layer 2 on it, on a disk of their own.
struct Ground {
    driver: Overlay,
    disk: LoopDisk,
}

impl Ground {
    fn new() -> Self {
        enter_private_mounts();
        let disk = LoopDisk::ext4(64);
        let driver = open(disk.path());
        driver.create(Slot(1), &Base::deferred()).expect("create");
        let below = driver.layer_path(Slot(1));
        fs::write(below.join("motd"), "hi").expect("write");
        fs::write(below.join("gone"), "soon").expect("write");
        WorkDirs::remove(&driver, Slot(1)).expect("committed");
        let limit = Limit {
            bytes: 16 * MIB,
            inodes: Some(100),
        };
        let base = Base::on(Slot(1)).limited(Some(limit));
        driver.create(OWN, &base).expect("create");
        Self { driver, disk }
    }

    fn stack(&self) -> Stack {
        on(OWN.0, [1])
    }

    /// Mounts the layer as a client does.
    fn see(&self) -> Mounted {
        let stack = self.stack();
        self.driver.make_mountable(&stack).expect("make mountable");
        let plan = self.driver.plan(&stack).expect("plan");
        assert_eq!(self.driver.top_of(&plan[0]), Some(OWN));
        Mounted::new(&plan, &self.disk.path().join("seen")).expect("mount")
    }

    fn reopen(&mut self) {
        self.driver = open(self.disk.path());
    }

    fn found(&self) -> Vec<Found> {
        let mut found = self.driver.list().expect("list");
        found.retain(|entry| !matches!(entry, Found::Slot(_, Slot(1))));
        let mut offline = Overlay::survey(&root(self.disk.path()))
            .list()
            .expect("list");
        offline.retain(|entry| !matches!(entry, Found::Slot(_, Slot(1))));
        assert_eq!(found, offline, "a daemon and a tool see the same");
        found
    }

    /// Requires that nothing of the layer is left, neither on the disk nor mounted.
    fn assert_gone(&self) {
        assert_eq!(self.found(), []);
        assert_eq!(mounts(self.disk.path()), Vec::<PathBuf>::new());
        assert_eq!(self.driver.limits().map(Limits::count), Some(0));
        assert!(
            fs::read_dir(root(self.disk.path()).join("t"))
                .expect("read")
                .next()
                .is_none()
        );
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for target in mounts(self.disk.path()) {
            mount::let_go(&target, &|_| true).expect("unmount");
        }
    }
}

pub(super) fn root(disk: &Path) -> PathBuf {
    disk.join("root")
}

pub(super) fn open(disk: &Path) -> Overlay {
    Overlay::open(&root(disk), &Options::default()).expect("open")
}

fn mounts(disk: &Path) -> Vec<PathBuf> {
    let root = root(disk).canonicalize().expect("resolve");
    let table = mountinfo::read().expect("the mount table").into_iter();
    let targets = table.map(|entry| entry.target);
    targets.filter(|target| target.starts_with(&root)).collect()
}

/// Writes a file of so many bytes, as far as it goes; answers why it ended early.
pub(super) fn write(path: &Path, bytes: u64) -> Option<Errno> {
    let mut file = File::create(path).expect("create");
    let piece = vec![7; 64 << 10];
    let written = (0..bytes >> 16).try_for_each(|_| file.write_all(&piece));
    let ended: Result<(), io::Error> = written.and_then(|()| file.sync_all());
    let cause = ended.err()?;
    Some(Errno::from_raw(cause.raw_os_error().expect("the kernel's")))
}

#[test]
fn root_a_limited_layer_ends_writers_and_no_others() {
    let ground = Ground::new();
    let seen = ground.see();
    let space = Space::of(&seen.path("")).expect("df");
    assert!(
        space.bytes <= 16 * MIB && space.bytes > 10 * MIB,
        "{space:?}"
    );
    assert_eq!(write(&seen.path("large"), 32 * MIB), Some(Errno::ENOSPC));
    assert_eq!(write(&ground.disk.path().join("other"), 16 * MIB), None);
    let usage = ground.driver.usage(OWN, &|| true).expect("measure");
    assert!(
        usage.bytes > 8 * MIB && usage.bytes <= 16 * MIB,
        "{usage:?}"
    );
    assert_eq!(usage.inodes, 2);
    fs::remove_file(seen.path("large")).expect("remove");
    let made = (0..400).take_while(|number| File::create(seen.path(&number.to_string())).is_ok());
    let made = made.count();
    assert!((80..200).contains(&made), "{made} files");
    drop(seen);
    ground.driver.discard(OWN).expect("discard");
    ground.driver.delete(OWN, &|| true).expect("delete");
    ground.assert_gone();
}

#[test]
fn root_the_top_of_a_limited_layer_is_its_parents() {
    let ground = Ground::new();
    let below = ground.driver.layer_path(Slot(1));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1775);
    fs::set_permissions(&below, mode).expect("chmod");
    std::os::unix::fs::chown(&below, Some(3), Some(4)).expect("chown");
    let seen = ground.see();
    let top = fs::metadata(seen.path("")).expect("stat");
    assert_eq!((top.uid(), top.gid(), top.mode() & 0o7777), (3, 4, 0o1775));
    assert_eq!(fs::read_to_string(seen.path("motd")).expect("read"), "hi");
}

/// As after the end of the machine: mounts are made when they are asked for.
#[test]
fn root_a_limited_layer_is_mounted_again() {
    let mut ground = Ground::new();
    assert!(ground.driver.is_unused(OWN).expect("look"), "never mounted");
    assert_eq!(ground.found().len(), 2, "the layer, and its work directory");
    fs::write(ground.see().path("new"), "content").expect("write");
    assert!(!ground.driver.is_unused(OWN).expect("look"));
    let before = ground.driver.plan(&ground.stack()).expect("plan");
    ground.reopen();
    assert_eq!(ground.driver.plan(&ground.stack()).expect("plan"), before);
    for target in mounts(ground.disk.path()) {
        mount::let_go(&target, &|_| true).expect("unmount");
    }
    ground.reopen();
    assert!(!ground.driver.is_unused(OWN).expect("look"));
    assert_eq!(ground.driver.plan(&ground.stack()).expect("plan"), before);
    let unmounted = Mounted::new(&before, &ground.disk.path().join("seen"));
    unmounted.expect_err("nothing is written past the limit without the mount");
    assert_eq!(
        ground.driver.usage(OWN, &|| true).expect("measure").inodes,
        2
    );
    let seen = ground.see();
    assert_eq!(
        fs::read_to_string(seen.path("new")).expect("read"),
        "content"
    );
    assert_eq!(mounts(ground.disk.path()).len(), 1, "one mount");
}

#[test]
fn root_commit_copies_a_limited_layer() {
    let mut ground = Ground::new();
    let seen = ground.see();
    fs::write(seen.path("new"), "content").expect("write");
    fs::remove_file(seen.path("gone")).expect("remove");
    fs::write(seen.path("motd"), "changed").expect("write");
    drop(seen);
    assert_eq!(ground.driver.stamp(OWN).expect("look"), None);
    ground.driver.write_back(OWN).expect("measure");
    ground.driver.freeze(&ground.stack()).expect("freeze");
    // Its record came to nothing; what is written meanwhile counts.
    fs::write(ground.see().path("new"), "newer").expect("write");
    ground.reopen();
    ground.driver.freeze(&ground.stack()).expect("again");
    ground.driver.sync().expect("sync");
    // As after a crash behind the record.
    ground.reopen();
    assert_eq!(
        ground.found(),
        [
            Found::Slot(SlotKind::Layer, OWN),
            Found::Slot(SlotKind::Work, OWN)
        ]
    );
    WorkDirs::remove(&ground.driver, OWN).expect("remove");
    assert_eq!(ground.found(), [Found::Slot(SlotKind::Layer, OWN)]);
    assert_eq!(mounts(ground.disk.path()), Vec::<PathBuf>::new());
    let plan = ground.driver.plan(&view([OWN.0, 1])).expect("plan");
    let seen = Mounted::new(&plan, &ground.disk.path().join("seen")).expect("mount");
    let read = |name| fs::read_to_string(seen.path(name));
    assert_eq!(read("new").expect("read"), "newer");
    assert_eq!(read("motd").expect("read"), "changed");
    assert_eq!(read("gone").unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn root_a_limited_layer_that_was_never_mounted_goes_like_others() {
    let ground = Ground::new();
    let again = ground.driver.create(
        OWN,
        &Base::on(Slot(1)).limited(Some(Limit {
            bytes: 16 * MIB,
            inodes: None,
        })),
    );
    assert_eq!(
        again.unwrap_err().io_kind(),
        Some(io::ErrorKind::AlreadyExists)
    );
    let empty = Base::empty().limited(Some(Limit {
        bytes: 16 * MIB,
        inodes: None,
    }));
    ground
        .driver
        .create(Slot(3), &empty)
        .expect_err("without a parent");
    assert_eq!(
        ground.driver.usage(OWN, &|| true).expect("measure").inodes,
        0
    );
    ground.driver.discard(OWN).expect("discard");
    ground.driver.discard(OWN).expect("again");
    assert_eq!(ground.found(), [Found::Slot(SlotKind::Trash, OWN)]);
    assert!(!ground.driver.is_empty(OWN).expect("look"));
    ground.driver.delete(OWN, &|| true).expect("delete");
    ground.assert_gone();
}

/// A mount of another program goes to the trash with the layer, and keeps it from being deleted.
#[test]
fn root_a_mount_of_another_program_on_a_limited_layer_stays() {
    let ground = Ground::new();
    fs::write(ground.see().path("new"), "content").expect("write");
    let data = root(ground.disk.path())
        .join("c")
        .join(OWN.to_string())
        .join("data");
    let tmpfs = |on: &Path| {
        let mut mount = std::process::Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "foreign"]).arg(on).status();
        assert!(mounted.expect("mount").success());
        fs::write(on.join("file"), "foreign").expect("write");
    };
    tmpfs(&data);
    let stack = ground.stack();
    let busy = |outcome| assert!(matches!(outcome, Err(layerd_mounts::Error::Busy { .. })));
    busy(ground.driver.make_mountable(&stack));
    ground.driver.discard(OWN).expect("discard");
    busy(ground.driver.delete(OWN, &|| true));
    let trashed = ground.driver.list().expect("list");
    assert!(trashed.contains(&Found::Slot(SlotKind::Trash, OWN)));
    let others = mounts(ground.disk.path());
    let other = others.iter().find(|mount| mount.join("file").exists());
    let other = other.expect("the mount is there");
    mount::unmount(other).expect("unmount");
    ground.driver.delete(OWN, &|| true).expect("delete");
    ground.assert_gone();
}

#[test]
fn root_a_layer_whose_image_cannot_be_used_is_missing() {
    let ground = Ground::new();
    let folder = root(ground.disk.path()).join("c").join(OWN.to_string());
    let image = folder.join("image");
    fs::write(ground.see().path("new"), "content").expect("write");
    mount::unmount(&folder.join("data")).expect("unmount");
    let kept = fs::read(&image).expect("read");
    fs::write(&image, &kept[..1 << 20]).expect("cut");
    let found = ground.found();
    assert!(
        found.contains(&Found::UnknownEntry(folder.clone())),
        "{found:?}"
    );
    assert!(!found.contains(&Found::Slot(SlotKind::Layer, OWN)));
    let refused = ground.driver.make_mountable(&ground.stack());
    assert!(matches!(
        refused,
        Err(layerd_mounts::Error::BadFileSystem { .. })
    ));
    fs::write(&image, kept).expect("write");
    assert!(ground.found().contains(&Found::Slot(SlotKind::Layer, OWN)));
    fs::write(&image, "").expect("empty");
    ground.driver.discard(OWN).expect("discard");
    ground.driver.delete(OWN, &|| true).expect("delete");
    ground.assert_gone();
}

/// As a crash leaves it while the image of what Commit copied is deleted.
#[test]
fn root_half_an_image_beside_a_committed_layer_is_deleted() {
    let mut ground = Ground::new();
    fs::write(ground.see().path("new"), "content").expect("write");
    ground.driver.freeze(&ground.stack()).expect("freeze");
    let folder = root(ground.disk.path()).join("c").join(OWN.to_string());
    mount::unmount(&folder.join("data")).expect("unmount");
    fs::remove_file(folder.join("image")).expect("remove");
    ground.reopen();
    let found = ground.found();
    let is_unknown = |entry: &Found| matches!(entry, Found::UnknownEntry(_));
    assert!(!found.iter().any(is_unknown), "{found:?}");
    WorkDirs::remove(&ground.driver, OWN).expect("remove");
    assert_eq!(ground.found(), [Found::Slot(SlotKind::Layer, OWN)]);
}
