use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use layerd_mounts::test_support::{LoopDisk, Mounted, enter_private_mounts};
use layerd_mounts::{Error, Slot, Usage};

use super::{Btrfs, btrfs};
use crate::conformance;
use crate::driver::{Base, Driver, SlotKind, Stack, Survey};
use crate::{Found, factory};
use std::os::fd::AsFd as _;

struct Ground {
    driver: Btrfs,
    // Last: it is unmounted.
    disk: LoopDisk,
}

impl Ground {
    fn new() -> Self {
        enter_private_mounts();
        let disk = LoopDisk::btrfs();
        let driver = Btrfs::open(disk.path()).expect("open");
        Self { driver, disk }
    }

    /// Makes a layer as the engine does.
    fn create(&self, slot: u64, base: &Base) {
        self.driver.create(Slot(slot), base).expect("create");
        self.driver.sync().expect("sync");
        let stack = own(slot);
        self.driver.make_mountable(&stack).expect("make mountable");
    }

    fn put(&self, slot: u64, name: &str, bytes: usize) {
        let path = self.driver.layer_path(Slot(slot)).join(name);
        let mut file = File::create(path).expect("create");
        file.write_all(&vec![7; bytes]).expect("write");
        file.sync_all().expect("sync");
    }

    fn commit(&self, slot: u64) -> Usage {
        let usage = self.driver.write_back(Slot(slot)).expect("write back");
        self.driver.freeze(&own(slot)).expect("freeze");
        self.driver.sync().expect("sync");
        usage
    }

    fn remove(&self, slot: u64) {
        self.driver.discard(Slot(slot)).expect("discard");
        self.driver.sync().expect("sync");
        self.driver.delete(Slot(slot), &|| true).expect("delete");
    }

    fn path(&self, inside: &str) -> std::path::PathBuf {
        self.disk.path().join(inside)
    }
}

fn own(slot: u64) -> Stack {
    Stack {
        own: Some(Slot(slot)),
        parents: Vec::new(),
        writable: true,
        ids: None,
        limit: None,
    }
}

fn view_of(slot: u64) -> Stack {
    Stack {
        own: None,
        parents: vec![Slot(slot)],
        writable: false,
        ids: None,
        limit: None,
    }
}

#[test]
fn root_btrfs_keeps_the_contract() {
    let ground = Ground::new();
    conformance::check(&ground.driver, &|Slot(slot)| ground.put(slot, "file", 8192));
    let left = fs::read_dir(ground.path("g")).expect("list").count();
    assert_eq!(left, 0, "nothing is noted of layers that are gone");
}

#[test]
fn root_usage_is_that_of_the_changes() {
    const MIB: usize = 1 << 20;
    let ground = Ground::new();
    ground.create(1, &Base::empty());
    for number in 0..50 {
        ground.put(1, &number.to_string(), MIB / 50);
    }
    let first = ground.commit(1);
    assert_eq!(first.inodes, 51);
    assert!(
        (MIB as u64..2 * MIB as u64).contains(&first.bytes),
        "{first:?}"
    );
    ground.create(2, &Base::on(Slot(1)));
    let usage = |slot| ground.driver.usage(Slot(slot), &|| true).expect("measure");
    assert_eq!(
        usage(2),
        Usage {
            bytes: 0,
            inodes: 1
        },
        "nothing was added"
    );
    ground.put(2, "own", 3 * MIB);
    ground.put(2, "7", 4096);
    fs::remove_file(ground.driver.layer_path(Slot(2)).join("8")).expect("delete");
    let second = ground.commit(2);
    assert_eq!(
        second.inodes, 2,
        "one file was made; another one was written anew"
    );
    assert_eq!(second.bytes, 3 * MIB as u64 + 4096);
    ground.create(3, &Base::on(Slot(2)));
    assert_eq!(usage(1), first, "snapshots change nothing");
    assert_eq!(usage(2), second);
}

#[test]
fn root_a_committed_layer_is_not_written() {
    let ground = Ground::new();
    ground.create(1, &Base::empty());
    ground.put(1, "file", 1);
    ground.commit(1);
    let layer = ground.driver.layer_path(Slot(1));
    let refused = fs::write(layer.join("file"), "x").expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EROFS));
    // The commit may have come to nothing: the client is given its mounts again.
    ground.driver.make_mountable(&own(1)).expect("thaw");
    fs::write(layer.join("file"), "x").expect("writable again");
    ground.driver.make_mountable(&view_of(1)).expect("freeze");
    assert!(fs::write(layer.join("file"), "y").is_err(), "read-only");
}

/// The kernel looks at descriptors when they are opened only.
#[test]
fn root_a_write_through_an_old_descriptor_is_found() {
    let ground = Ground::new();
    ground.create(1, &Base::empty());
    ground.put(1, "file", 1);
    let mut old = fs::OpenOptions::new()
        .append(true)
        .open(ground.driver.layer_path(Slot(1)).join("file"))
        .expect("open");
    ground.commit(1);
    ground.create(2, &Base::on(Slot(1)));
    old.write_all(b"late").expect("it still writes");
    old.sync_all().expect("sync");
    drop(old);
    let built_on = ground.driver.create(Slot(3), &Base::on(Slot(1)));
    assert!(
        matches!(built_on, Err(Error::Altered { .. })),
        "{built_on:?}"
    );
    let shown = ground.driver.make_mountable(&view_of(1));
    assert!(matches!(shown, Err(Error::Altered { .. })), "{shown:?}");
    for slot in [3, 2, 1] {
        ground.remove(slot);
    }
    assert_eq!(ground.driver.list().expect("list"), []);
}

/// As Docker in a container makes them, and snapshots of system tools, which are read-only.
#[test]
fn root_subvolumes_inside_go_with_their_layer() {
    let ground = Ground::new();
    ground.create(1, &Base::empty());
    let layer = File::open(ground.driver.layer_path(Slot(1))).expect("open");
    btrfs::create(layer.as_fd(), c"inner").expect("create");
    ground.put(1, "inner/file", 1);
    let inner = File::open(ground.driver.layer_path(Slot(1)).join("inner")).expect("open");
    btrfs::create(inner.as_fd(), c"second").expect("create");
    ground.put(1, "inner/second/file", 1);
    btrfs::snapshot(inner.as_fd(), layer.as_fd(), c"kept").expect("snapshot");
    let kept = File::open(ground.driver.layer_path(Slot(1)).join("kept")).expect("open");
    btrfs::set_read_only(kept.as_fd(), true).expect("as system tools do");
    drop((layer, inner, kept));
    ground.commit(1);
    ground.create(2, &Base::on(Slot(1)));
    let found = fs::read_dir(ground.driver.layer_path(Slot(2)).join("inner"));
    assert_eq!(
        found.expect("list").count(),
        0,
        "a snapshot does not reach into them"
    );
    ground.remove(2);
    ground.remove(1);
    assert_eq!(ground.driver.list().expect("list"), []);
}

#[test]
fn root_a_mount_inside_is_not_detached() {
    let ground = Ground::new();
    ground.create(1, &Base::empty());
    fs::create_dir(ground.driver.layer_path(Slot(1)).join("dir")).expect("a directory");
    ground.put(1, "file", 1);
    let plan = ground.driver.plan(&own(1)).expect("plan");
    ground.driver.discard(Slot(1)).expect("discard");
    assert!(!Path::new(&plan[0].source).exists(), "it is in the trash");
    let target = ground.path("t/1/dir");
    let flags = nix::mount::MsFlags::empty();
    let (kind, no_data) = (Some("tmpfs"), None::<&str>);
    nix::mount::mount(kind, &target, kind, flags, no_data).expect("mount");
    let busy = ground.driver.delete(Slot(1), &|| true);
    assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");
    nix::mount::umount(&target).expect("it is still mounted");
    ground.driver.delete(Slot(1), &|| true).expect("delete");
    assert_eq!(ground.driver.list().expect("list"), []);
}

#[test]
fn root_read_only_layers_can_be_moved_away() {
    let ground = Ground::new();
    ground.create(1, &Base::empty());
    ground.put(1, "file", 1);
    ground.commit(1);
    let found = Found::Slot(SlotKind::Layer, Slot(1));
    let kept = ground.driver.move_to_lost_found(&found).expect("move");
    assert!(kept.join("file").exists());
    assert_eq!(ground.driver.list().expect("list"), []);
}

#[test]
fn root_mounts_show_the_layer() {
    let ground = Ground::new();
    ground.create(1, &Base::empty());
    ground.put(1, "file", 1);
    ground.commit(1);
    ground.create(2, &Base::on(Slot(1)));
    let scratch = tempfile::tempdir().expect("a temporary directory");
    {
        let plan = ground.driver.plan(&own(2)).expect("plan");
        let mounted = Mounted::new(&plan, &scratch.path().join("rw")).expect("mount");
        fs::write(mounted.path("file"), "y").expect("it may be written");
    }
    let plan = ground.driver.plan(&view_of(1)).expect("plan");
    let mounted = Mounted::new(&plan, &scratch.path().join("ro")).expect("mount");
    assert_eq!(fs::read(mounted.path("file")).expect("read"), [7]);
    assert!(fs::write(mounted.path("file"), "z").is_err(), "read-only");
}

#[test]
fn root_another_file_system_is_refused() {
    enter_private_mounts();
    let disk = LoopDisk::xfs(&[]);
    let refused = Btrfs::open(disk.path()).expect_err("no btrfs").to_string();
    assert!(refused.contains("subvolumes: not on btrfs"), "{refused}");
    let settings = factory::Settings {
        kind: factory::Kind::Btrfs,
        ..factory::Settings::default()
    };
    let findings = factory::check(disk.path(), &settings).expect("check");
    assert!(
        findings.iter().any(|finding| finding.refuses()),
        "{findings:?}"
    );
}
