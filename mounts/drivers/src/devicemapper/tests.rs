//! Tests on a pool of loop devices. Where the kernel has no device mapper they check that this is said.

mod crash;
mod pool;
mod refusals;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::Duration;

use layerd_mounts::test_support::{Mounted, enter_private_mounts};
use layerd_mounts::{Error, Slot, Usage};

use super::{Devicemapper, FileSystem, Options};
use crate::conformance;
use crate::driver::{Base, Driver, Found, SlotKind, Stack, Survey};
use crate::factory;
use pool::TestPool;

/// A driver on a pool of its own.
struct Ground {
    driver: Option<Devicemapper>,
    pool: TestPool,
    root: PathBuf,
}

impl Ground {
    /// `None` where there is no device mapper, which is looked for and said.
    fn new(file_system: FileSystem) -> Option<Self> {
        Self::sized(file_system, 1 << 30)
    }

    fn sized(file_system: FileSystem, data: u64) -> Option<Self> {
        enter_private_mounts();
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let root = scratch.path().join("root");
        let Some(pool) = TestPool::new(scratch, data) else {
            refuses_without_device_mapper();
            return None;
        };
        let mut ground = Self {
            driver: None,
            pool,
            root,
        };
        ground.driver = Some(ground.open(file_system).expect("open"));
        Some(ground)
    }

    fn options(&self, file_system: FileSystem) -> Options {
        Options {
            pool: self.pool.name.clone(),
            file_system,
            base_bytes: 512 << 20,
            keep_free_percent: 10,
        }
    }

    fn open(&self, file_system: FileSystem) -> Result<Devicemapper, Error> {
        Devicemapper::open(&self.root, &self.options(file_system))
    }

    fn driver(&self) -> &Devicemapper {
        self.driver.as_ref().expect("it is open")
    }

    /// Ends the driver without what an orderly end does, as a kill would.
    fn kill(&mut self) {
        let driver = self.driver.take().expect("it is open");
        // The kernel closes what it had open.
        driver.mounted.sweep(Duration::ZERO, Duration::MAX);
        std::mem::forget(driver);
    }

    /// Makes a layer as the engine does.
    fn create(&self, slot: u64, base: &Base) {
        let driver = self.driver();
        driver.create(Slot(slot), base).expect("create");
        driver.sync().expect("sync");
        driver.make_mountable(&own(slot)).expect("make mountable");
    }

    fn put(&self, slot: u64, name: &str, bytes: usize) {
        put(self.driver(), Slot(slot), name, bytes);
    }

    fn commit(&self, slot: u64) -> Usage {
        let driver = self.driver();
        let usage = driver.write_back(Slot(slot)).expect("write back");
        driver.freeze(&own(slot)).expect("freeze");
        driver.sync().expect("sync");
        usage
    }

    fn remove(&self, slot: u64) {
        let driver = self.driver();
        driver.discard(Slot(slot)).expect("discard");
        driver.sync().expect("sync");
        driver.delete(Slot(slot), &|| true).expect("delete");
    }

    fn mount(&self, stack: &Stack, name: &str) -> Mounted {
        self.driver().make_mountable(stack).expect("make mountable");
        let plan = self.driver().plan(stack).expect("plan");
        Mounted::new(&plan, &self.pool.path(name)).expect("mount")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        drop(self.driver.take());
    }
}

/// The refusal of a host whose kernel has no device mapper.
fn refuses_without_device_mapper() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let options = Options {
        pool: "layerd-none".to_owned(),
        ..Options::default()
    };
    let refused = Devicemapper::open(root.path(), &options).expect_err("there is none");
    let text = refused.to_string();
    assert!(text.contains("device mapper: "), "{text}");
    let left = fs::read_dir(root.path()).expect("list").count();
    assert_eq!(left, 0, "nothing was made");
    println!("no device mapper here, which is said: {text}");
}

fn put(driver: &dyn Driver, slot: Slot, name: &str, bytes: usize) {
    let top = driver.open_layer(slot).expect("open");
    let path = format!("/proc/self/fd/{}/{name}", top.as_raw_fd());
    let mut file = File::create(path).expect("create");
    file.write_all(&vec![7; bytes]).expect("write");
    file.sync_all().expect("sync");
}

fn read(driver: &dyn Driver, slot: u64, name: &str) -> std::io::Result<Vec<u8>> {
    let top = driver.open_layer(Slot(slot)).expect("open");
    fs::read(format!("/proc/self/fd/{}/{name}", top.as_raw_fd()))
}

fn own(slot: u64) -> Stack {
    crate::stacks::on(slot, [])
}

fn keeps_the_contract(file_system: FileSystem) {
    let Some(ground) = Ground::new(file_system) else {
        return;
    };
    let driver = ground.driver();
    conformance::check(driver, &|slot| put(driver, slot, "file", 8192));
    driver.mounted.sweep(Duration::ZERO, Duration::ZERO);
    assert_eq!(
        ground.pool.devices(),
        Vec::<String>::new(),
        "none is active"
    );
}

#[test]
fn root_devicemapper_keeps_the_contract_on_ext4() {
    keeps_the_contract(FileSystem::Ext4);
}

#[test]
fn root_devicemapper_keeps_the_contract_on_xfs() {
    keeps_the_contract(FileSystem::Xfs);
}

#[test]
fn root_usage_is_that_of_the_changes() {
    const MIB: usize = 1 << 20;
    for file_system in FileSystem::ALL {
        let Some(ground) = Ground::new(file_system) else {
            return;
        };
        let usage = |slot| {
            let usage = ground.driver().usage(Slot(slot), &|| true);
            usage.expect("measure")
        };
        ground.create(1, &Base::empty());
        assert_eq!(
            (usage(1).bytes, usage(1).inodes),
            (0, 1),
            "nothing was added"
        );
        for number in 0..20 {
            ground.put(1, &number.to_string(), MIB / 20);
        }
        let first = ground.commit(1);
        assert_eq!(first.inodes, 21);
        assert!(
            (MIB as u64..9 * MIB as u64).contains(&first.bytes),
            "{first:?}"
        );
        ground.create(2, &Base::on(Slot(1)));
        assert_eq!(
            (usage(2).bytes, usage(2).inodes),
            (0, 1),
            "nothing was added"
        );
        ground.put(2, "own", 3 * MIB);
        let second = ground.commit(2);
        assert_eq!(second.inodes, 2, "{file_system}");
        assert!(
            (3 * MIB as u64..12 * MIB as u64).contains(&second.bytes),
            "{second:?}"
        );
        assert_eq!((usage(1), usage(2)), (first, second), "figures stay");
        assert_eq!(read(ground.driver(), 2, "7").expect("read").len(), MIB / 20);
    }
}

#[test]
fn root_mounts_show_the_layer() {
    for file_system in FileSystem::ALL {
        let Some(ground) = Ground::new(file_system) else {
            return;
        };
        ground.create(1, &Base::empty());
        ground.put(1, "file", 1);
        ground.commit(1);
        ground.create(2, &Base::on(Slot(1)));
        {
            let mounted = ground.mount(&own(2), "rw");
            fs::write(mounted.path("file"), "y").expect("it may be written");
            let again = ground.mount(&own(2), "again");
            assert_eq!(fs::read(again.path("file")).expect("read"), b"y");
        }
        let view = crate::stacks::view([1]);
        let mounted = ground.mount(&view, "ro");
        let second = ground.mount(&view, "ro2");
        assert_eq!(fs::read(mounted.path("file")).expect("read"), [7]);
        assert_eq!(fs::read(second.path("file")).expect("read"), [7]);
        assert!(fs::write(mounted.path("file"), "z").is_err(), "read-only");
        let device = ground.driver().devices().path(Slot(1));
        let written = File::options().write(true).open(device);
        let refused = written.and_then(|mut device| device.write_all(&[0; 4096]));
        assert!(refused.is_err(), "nothing writes to a committed layer");
        ground.create(3, &Base::on(Slot(1)));
        assert_eq!(read(ground.driver(), 3, "file").expect("read"), [7]);
        let own_view = Base::empty().read_only();
        ground.driver().create(Slot(4), &own_view).expect("create");
        let stack = Stack {
            own: Some(Slot(4)),
            ..crate::stacks::view([])
        };
        let empty = ground.mount(&stack, "empty");
        assert_eq!(fs::read_dir(empty.path(".")).expect("list").count(), 0);
        drop((mounted, second, empty));
    }
}

#[test]
fn root_a_layer_in_use_is_neither_committed_nor_deleted() {
    let Some(ground) = Ground::new(FileSystem::Ext4) else {
        return;
    };
    ground.create(1, &Base::empty());
    let mounted = ground.mount(&own(1), "rw");
    fs::write(mounted.path("file"), "x").expect("write");
    let busy = ground.driver().freeze(&own(1));
    let Err(Error::Busy { path }) = busy else {
        unreachable!("it is mounted: {busy:?}");
    };
    assert_eq!(path, ground.pool.path("rw"), "the error says where");
    fs::write(mounted.path("file"), "later").expect("it stays writable");
    ground.driver().discard(Slot(1)).expect("discard");
    let busy = ground.driver().delete(Slot(1), &|| true);
    assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");
    assert_eq!(
        fs::read(mounted.path("file")).expect("it goes on"),
        b"later"
    );
    drop(mounted);
    ground.driver().delete(Slot(1), &|| true).expect("delete");
    assert_eq!(ground.driver().list().expect("list"), []);
}

/// What was written between a commit that came to nothing and the next counts.
#[test]
fn root_a_commit_that_came_to_nothing_is_repeated() {
    let Some(ground) = Ground::new(FileSystem::Xfs) else {
        return;
    };
    ground.create(1, &Base::empty());
    ground.put(1, "one", 1);
    ground.commit(1);
    {
        let mounted = ground.mount(&own(1), "rw");
        fs::write(mounted.path("two"), "x").expect("writable again");
    }
    let usage = ground.commit(1);
    assert_eq!(usage.inodes, 3);
    assert_eq!(read(ground.driver(), 1, "two").expect("read"), b"x");
}

/// A call for the mounts may come between the freezing of a layer and its record.
#[test]
fn root_what_was_committed_is_frozen_before_it_is_shown() {
    let Some(ground) = Ground::new(FileSystem::Ext4) else {
        return;
    };
    ground.create(1, &Base::empty());
    ground.put(1, "file", 1);
    ground.commit(1);
    ground.driver().make_mountable(&own(1)).expect("thaw");
    drop(ground.mount(&crate::stacks::view([1]), "ro"));
    let device = ground.driver().devices().path(Slot(1));
    let written = File::options().write(true).open(&device);
    let refused = written.and_then(|mut device| device.write_all(&[0; 4096]));
    assert!(refused.is_err(), "it is frozen again");
    ground.driver().make_mountable(&own(1)).expect("thaw");
    let mounted = ground.mount(&own(1), "rw");
    let busy = ground.driver().create(Slot(2), &Base::on(Slot(1)));
    assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");
    drop(mounted);
    ground.driver().discard(Slot(2)).expect("discard");
    ground.create(3, &Base::on(Slot(1)));
}

#[test]
fn root_an_owner_is_given_to_the_top() {
    use std::os::unix::fs::MetadataExt as _;
    let Some(ground) = Ground::new(FileSystem::Ext4) else {
        return;
    };
    ground.create(1, &Base::empty().owned(7, 8));
    ground.commit(1);
    ground.create(2, &Base::on(Slot(1)));
    ground.create(3, &Base::on(Slot(1)).owned(9, 10));
    for (slot, ids) in [(1, (7, 8)), (2, (7, 8)), (3, (9, 10))] {
        let top = ground.driver().open_layer(Slot(slot)).expect("open");
        let stat = File::from(top).metadata().expect("stat");
        assert_eq!((stat.uid(), stat.gid()), ids, "{slot}");
        assert_eq!(stat.mode() & 0o7777, 0o755);
    }
}

#[test]
fn root_a_full_pool_takes_no_layers_and_gives_them_up() {
    const MIB: usize = 1 << 20;
    let Some(ground) = Ground::sized(FileSystem::Ext4, 128 << 20) else {
        return;
    };
    ground.create(1, &Base::empty());
    ground.put(1, "most", 116 * MIB);
    ground.commit(1);
    let refused = ground.driver().create(Slot(2), &Base::on(Slot(1)));
    let refused = refused.expect_err("the reserve is reached");
    assert!(refused.is_full(), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("bytes of data free"), "{text}");
    assert_eq!(
        ground.driver().list().expect("list").len(),
        1,
        "nothing was made"
    );
    let found = factory::check(
        &ground.root,
        &factory::Settings {
            kind: factory::Kind::Devicemapper,
            devicemapper: ground.options(FileSystem::Ext4),
            ..factory::Settings::default()
        },
    );
    let found = found.expect("check");
    let space = found.iter().find(|finding| finding.name == "pool space");
    let space = space.expect("it is told");
    assert!(!space.ok && !space.refuses(), "{space:?}");
    let view = ground.mount(&crate::stacks::view([1]), "ro");
    assert_eq!(
        fs::metadata(view.path("most")).expect("read").len(),
        116 << 20
    );
    drop(view);
    ground.remove(1);
    ground.create(3, &Base::empty());
}

#[test]
fn root_layers_are_read_offline() {
    let Some(mut ground) = Ground::new(FileSystem::Xfs) else {
        return;
    };
    ground.create(1, &Base::empty());
    ground.put(1, "file", 5);
    ground.commit(1);
    drop(ground.driver.take());
    {
        let survey = Devicemapper::survey(&ground.root);
        let found = survey.list().expect("list");
        assert_eq!(found, [Found::Slot(SlotKind::Layer, Slot(1))]);
        assert!(!survey.is_unused(Slot(1)).expect("look"));
        let top = survey.open_layer(Slot(1)).expect("open");
        let path = format!("/proc/self/fd/{}/file", top.as_raw_fd());
        assert_eq!(fs::read(path).expect("read").len(), 5);
        let missing = survey.open_layer(Slot(2)).expect_err("there is none");
        assert_eq!(missing.io_kind(), Some(std::io::ErrorKind::NotFound));
    }
    assert_eq!(
        ground.pool.devices(),
        Vec::<String>::new(),
        "none is active"
    );
}

#[test]
fn root_devices_go_when_they_are_not_wanted() {
    let Some(ground) = Ground::new(FileSystem::Ext4) else {
        return;
    };
    ground.create(1, &Base::empty());
    let device = ground.driver().devices().path(Slot(1));
    let mounted = ground.mount(&own(1), "rw");
    ground
        .driver()
        .mounted
        .sweep(Duration::ZERO, Duration::ZERO);
    assert!(device.exists(), "it is in use");
    drop(mounted);
    ground
        .driver()
        .mounted
        .sweep(Duration::ZERO, Duration::from_secs(600));
    assert!(device.exists(), "it was asked for a moment ago");
    ground
        .driver()
        .mounted
        .sweep(Duration::ZERO, Duration::ZERO);
    assert!(fs::symlink_metadata(&device).is_err(), "and its name too");
    assert_eq!(ground.pool.devices(), Vec::<String>::new());
    std::os::unix::fs::symlink("../null", &device).expect("a stale name");
    drop(ground.mount(&own(1), "rw"));
}
