//! Ends between the steps of a call.

use std::fs;

use layerd_mounts::Slot;

use super::{FileSystem, Ground, own, read};
use crate::driver::{Base, Driver as _, Found, SlotKind, Survey as _};

/// Each state that a kill or a power cut can leave of a call that makes a layer.
#[test]
fn root_an_interrupted_create_is_made_good() {
    let Some(mut ground) = Ground::new(FileSystem::Ext4) else {
        return;
    };
    ground.create(1, &Base::empty());
    ground.put(1, "file", 4096);
    ground.commit(1);
    // Entries without a device.
    for (slot, names) in [(2, &["w/2"][..]), (3, &["w/3", "l/3"])] {
        for name in names {
            fs::create_dir(ground.root.join(name)).expect("an entry");
        }
        assert!(ground.driver().is_unused(Slot(slot)).expect("look"));
    }
    // A device without entries, as after a power cut, and one that the call was about to make.
    ground
        .driver()
        .create(Slot(4), &Base::on(Slot(1)))
        .expect("create");
    ground
        .driver()
        .create(Slot(5), &Base::on(Slot(1)))
        .expect("create");
    ground.put(5, "file", 1);
    ground.kill();
    for slot in [4, 5] {
        for folder in ["w", "l"] {
            let entry = ground.root.join(format!("{folder}/{slot}"));
            let _ = fs::remove_file(entry.join("from"));
            fs::remove_dir(entry).expect("lost");
        }
    }
    ground.pool.message("create_snap", |_| "300 1".to_owned());
    ground.driver = Some(ground.open(FileSystem::Ext4).expect("open"));
    let is_there = |slot: u64| {
        let snapshot = ground
            .driver()
            .devices()
            .message(&format!("create_snap {slot} 1"));
        snapshot.is_err()
    };
    assert!(!is_there(4), "it was looked for");
    assert!(is_there(300), "it was not announced");
    ground.create(300, &Base::empty());
    let gone = read(ground.driver(), 300, "file");
    assert!(gone.is_err(), "it was made anew");
    for slot in [2, 3, 300] {
        ground.remove(slot);
    }
    let left = ground.driver().list().expect("list");
    assert_eq!(left, [Found::Slot(SlotKind::Layer, Slot(1))]);
    let usage = ground.driver().usage(Slot(1), &|| true).expect("measure");
    assert_eq!(usage.inodes, 2);
}

#[test]
fn root_an_interrupted_delete_goes_on() {
    let Some(mut ground) = Ground::new(FileSystem::Ext4) else {
        return;
    };
    for slot in [1, 2] {
        ground.create(slot, &Base::empty());
    }
    ground.driver().discard(Slot(1)).expect("discard");
    ground.kill();
    ground.driver = Some(ground.open(FileSystem::Ext4).expect("open"));
    // Its device is deleted, its entry not yet.
    let devices = ground.driver().devices();
    devices
        .deactivate(Slot(1), super::super::PATIENCE)
        .expect("deactivate");
    assert!(devices.delete(Slot(1)).expect("delete"));
    ground
        .driver()
        .delete(Slot(1), &|| true)
        .expect("it goes on");
    let left = ground.driver().list().expect("list");
    assert_eq!(left, [Found::Slot(SlotKind::Layer, Slot(2))]);
}

/// A process that is killed while a device is suspended would leave it so.
#[test]
fn root_a_suspended_device_goes_on() {
    let Some(mut ground) = Ground::new(FileSystem::Ext4) else {
        return;
    };
    ground.create(1, &Base::empty());
    let mounted = ground.mount(&own(1), "rw");
    fs::write(mounted.path("file"), "x").expect("write");
    ground.kill();
    ground.pool.suspend(&ground.pool.devices()[0]);
    ground.driver = Some(ground.open(FileSystem::Ext4).expect("open"));
    fs::write(mounted.path("file"), "y").expect("it goes on");
    drop(mounted);
    ground.commit(1);
    assert_eq!(read(ground.driver(), 1, "file").expect("read"), b"y");
}

/// The base that is half made is made anew; what was written in a layer before a kill is there.
#[test]
fn root_an_interrupted_first_start_begins_anew() {
    let Some(mut ground) = Ground::new(FileSystem::Xfs) else {
        return;
    };
    let note = ground.root.join("d/pool");
    let text = fs::read_to_string(&note).expect("read");
    let unmade: String = text
        .lines()
        .filter(|line| !line.starts_with("base "))
        .map(|line| line.to_owned() + "\n")
        .collect();
    drop(ground.driver.take());
    fs::write(&note, unmade).expect("write");
    ground.driver = Some(ground.open(FileSystem::Xfs).expect("open"));
    assert_eq!(fs::read_to_string(&note).expect("read"), text, "as before");
    ground.create(1, &Base::empty());
    ground.put(1, "file", 9);
    ground.kill();
    // The mounts and the devices of a killed process are there until it is gone.
    ground.driver = Some(ground.open(FileSystem::Xfs).expect("open"));
    assert_eq!(read(ground.driver(), 1, "file").expect("read").len(), 9);
}
