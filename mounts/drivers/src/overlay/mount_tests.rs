use std::fs;
use std::io::ErrorKind;

use layerd_mounts::mount::{Unmounted, mount, page_size, unmount};
use layerd_mounts::overlay_options::MAX_LOWERS;
use layerd_mounts::test_support::{LoopDisk, Mounted, enter_private_mounts};
use layerd_mounts::{Error, Mount, Slot};

use crate::driver::{Base, Driver, Stack};
use crate::overlay::{Options, Overlay};

fn stack(own: Option<u64>, parents: &[u64], writable: bool) -> Stack {
    Stack {
        own: own.map(Slot),
        parents: parents.iter().copied().map(Slot).collect(),
        writable,
        ids: None,
        limit: None,
    }
}

/// A driver on a disk of its own, and a place to mount on.
struct Ground {
    driver: Overlay,
    disk: LoopDisk,
}

impl Ground {
    fn new() -> Self {
        enter_private_mounts();
        let disk = LoopDisk::ext4(64);
        let root = disk.path().join("root");
        let driver = Overlay::open(&root, &Options::default()).expect("open");
        Self { driver, disk }
    }

    /// Makes a layer with one file.
    fn layer(&self, slot: u64, name: &str, content: &str) {
        self.driver
            .create(Slot(slot), &Base::deferred())
            .expect("create");
        fs::write(self.driver.layer_path(Slot(slot)).join(name), content).expect("write");
    }

    fn see(&self, stack: &Stack) -> Mounted {
        let plan = self.driver.plan(stack).expect("plan");
        Mounted::new(&plan, &self.disk.path().join("seen")).expect("mount")
    }
}

#[test]
fn root_overlay_hides_a_deleted_file() {
    let ground = Ground::new();
    ground.layer(1, "motd", "hi");
    ground
        .driver
        .create(Slot(2), &Base::on(Slot(1)))
        .expect("create");
    let seen = ground.see(&stack(Some(2), &[1], true));
    assert_eq!(fs::read(seen.path("motd")).expect("read"), b"hi");
    fs::remove_file(seen.path("motd")).expect("delete");
    assert!(!seen.path("motd").exists());
    assert!(ground.driver.layer_path(Slot(1)).join("motd").exists());
    drop(seen);
    let seen = ground.see(&stack(None, &[2, 1], false));
    assert!(!seen.path("motd").exists(), "nor does a view show it");
}

#[test]
fn root_what_is_written_lands_in_the_own_layer() {
    let ground = Ground::new();
    ground.layer(1, "below", "1");
    ground
        .driver
        .create(Slot(2), &Base::on(Slot(1)))
        .expect("create");
    for (own, parents) in [(1, &[][..]), (2, &[1])] {
        let seen = ground.see(&stack(Some(own), parents, true));
        fs::write(seen.path("new"), "new").expect("write");
        drop(seen);
        assert!(ground.driver.layer_path(Slot(own)).join("new").exists());
    }
}

#[test]
fn root_views_cannot_be_written() {
    let ground = Ground::new();
    ground.layer(1, "one", "1");
    ground.layer(2, "two", "2");
    ground
        .driver
        .create(Slot(3), &Base::empty())
        .expect("create");
    let views = [
        stack(Some(3), &[], false),
        stack(None, &[1], false),
        stack(None, &[2, 1], false),
    ];
    for view in views {
        let seen = ground.see(&view);
        let error = fs::write(seen.path("new"), "x").expect_err("read-only");
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{view:?}");
    }
}

#[test]
fn root_a_renamed_slot_stays_mounted_and_is_busy_only_inside() {
    let ground = Ground::new();
    ground.layer(1, "one", "1");
    ground
        .driver
        .create(Slot(2), &Base::on(Slot(1)))
        .expect("create");
    let seen = ground.see(&stack(Some(2), &[1], true));
    fs::write(seen.path("new"), "new").expect("write");
    ground.driver.discard(Slot(2)).expect("discard");
    assert_eq!(fs::read(seen.path("new")).expect("read"), b"new");
    drop(seen);
    ground
        .driver
        .delete(Slot(2), &|| true)
        .expect("delete, work directory and all");
}

#[test]
fn root_five_hundred_layers_really_mount() {
    let ground = Ground::new();
    let top = MAX_LOWERS as u64;
    // Numbers of four digits, as after a long life.
    let slot = |n: u64| 46_656 + n;
    for n in 0..top {
        ground.layer(slot(n), &format!("file{n}"), &n.to_string());
    }
    let parents: Vec<u64> = (0..top).rev().map(slot).collect();
    let plan = ground
        .driver
        .plan(&stack(None, &parents, false))
        .expect("plan");
    let (shared, _) = layerd_mounts::overlay_options::shorten(&plan[0].options, page_size());
    assert!(shared.is_some(), "they fit only when shortened");
    ground
        .driver
        .create(Slot(1), &Base::on(Slot(slot(0))))
        .expect("create");
    for stack in [stack(None, &parents, false), stack(Some(1), &parents, true)] {
        let seen = ground.see(&stack);
        for n in [0, 1, 250, top - 1] {
            let content = fs::read_to_string(seen.path(&format!("file{n}"))).expect("read");
            assert_eq!(content, n.to_string());
        }
    }
    let here = std::env::current_dir().expect("a working directory");
    assert!(!here.starts_with(ground.disk.path()), "only a thread moved");
}

#[test]
fn root_a_mount_in_use_is_busy_and_a_missing_one_is_gone() {
    let ground = Ground::new();
    ground.layer(1, "one", "1");
    let target = ground.disk.path().join("seen");
    let seen = ground.see(&stack(Some(1), &[], true));
    let held = fs::File::open(seen.path("one")).expect("open");
    assert!(matches!(unmount(&target), Err(Error::Busy { .. })));
    drop(held);
    drop(seen);
    assert_eq!(unmount(&target).expect("unmount"), Unmounted::AlreadyGone);
    let nowhere = ground.disk.path().join("nowhere");
    assert_eq!(unmount(&nowhere).expect("unmount"), Unmounted::AlreadyGone);
}

#[test]
fn root_a_failure_takes_back_the_mounts_before_it() {
    let ground = Ground::new();
    ground.layer(1, "one", "1");
    let target = ground.disk.path().join("seen");
    fs::create_dir(&target).expect("mkdir");
    let mut plan = ground
        .driver
        .plan(&stack(Some(1), &[], true))
        .expect("plan");
    plan.push(Mount {
        source: "/does/not/exist".to_owned(),
        ..plan[0].clone()
    });
    let error = mount(&plan, &target).expect_err("no such source");
    assert_eq!(error.io_kind(), Some(ErrorKind::NotFound));
    assert_eq!(unmount(&target).expect("unmount"), Unmounted::AlreadyGone);
}

#[test]
fn what_is_not_known_is_refused() {
    let target = tempfile::tempdir().expect("a temporary directory");
    let with = |kind: &str, option: &str| Mount {
        kind: kind.to_owned(),
        source: "/".to_owned(),
        options: vec![option.to_owned()],
    };
    for bad in [
        with("tmpfs", "ro"),
        with("bind", "uidmap=0:1:1"),
        with("overlay", "gidmap=0:1:1"),
        with("bind", "lowerdir=/"),
    ] {
        let refused = mount(std::slice::from_ref(&bad), target.path());
        assert!(
            matches!(refused, Err(Error::UnknownOption { .. })),
            "{bad:?}"
        );
    }
}
