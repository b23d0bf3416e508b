//! Facts for health checks from outside.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use layerd_store::{Record, Room, Timestamp, newest_export};
use rustix::fs::{IFlags, ioctl_getflags};

use crate::{Engine, meta_folder};

/// The state of what a root rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Set if the process before this one was killed, or the power was cut.
    pub ended_uncleanly: bool,
    /// When the newest export of the records was written.
    pub exported: Option<Timestamp>,
    /// Set if records were changed since.
    pub export_is_behind: bool,
    /// Below this nothing new is taken.
    pub low: Room,
    /// Above this it is taken again.
    pub enough: Room,
    /// Set while nothing new is taken for want of space or inodes.
    pub is_full: bool,
    /// Folders of the data directory that are immutable or append-only.
    pub closed: Vec<PathBuf>,
    /// Set if the file system of the volumes is read-only.
    pub volumes_read_only: bool,
    /// Time for which a change of records has been waiting for the disk.
    pub writing_for: Duration,
    /// The latest time in a record; later than now if the clock went back.
    pub newest: Option<Timestamp>,
}

impl Engine {
    /// Looks at what the root rests on. Costs a walk through memory and a look at the folder of the
    /// records, which waits for the disk.
    #[must_use]
    pub fn health(&self) -> Health {
        let view = self.root.store.records();
        let (exported, export_is_behind) = self.export();
        Health {
            ended_uncleanly: self.root.store.was_unclean(),
            exported,
            export_is_behind,
            low: Room::LOW,
            enough: Room::ENOUGH,
            is_full: self.root.store.is_full(),
            closed: self.closed_folders(),
            // One that cannot be looked at fails every call, which says so.
            volumes_read_only: self.volumes.dirs.is_read_only().unwrap_or(false),
            writing_for: self.root.store.writing_for(),
            newest: view
                .iter()
                .chain(view.removed())
                .map(|record| latest(record))
                .max(),
        }
    }
}

impl Engine {
    /// Time of the newest export of the records, and whether records were changed since. Costs a look at the
    /// folder of the records, which waits for the disk.
    #[must_use]
    pub fn export(&self) -> (Option<Timestamp>, bool) {
        let sequence = self.root.store.records().sequence();
        match newest_export(&meta_folder(&self.root.path), sequence) {
            Some((exported, time)) => (Some(time), exported < sequence),
            None => (None, sequence > 0),
        }
    }

    /// Folders in which `chattr +i` or `+a` keeps layerd from making or deleting anything.
    fn closed_folders(&self) -> Vec<PathBuf> {
        let own = [
            "",
            "m",
            "meta",
            "meta/db",
            "mnt",
            "lost",
            "volumes",
            "volumes/.staging",
            "volumes/.trash",
            "volumes/by-name",
        ];
        let drivers = self.layers.driver.folders();
        let all = own.iter().chain(drivers);
        let all = all.map(|name| self.root.path.join(name));
        all.filter(|path| is_closed(path)).collect()
    }
}

fn is_closed(folder: &Path) -> bool {
    let flags = File::open(folder).and_then(|folder| Ok(ioctl_getflags(folder)?));
    // Some file systems have no flags, and some roots not all of the folders.
    flags.is_ok_and(|flags| flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND))
}

fn latest(record: &Record) -> Timestamp {
    let removed = record.removed.map(|removed| removed.time);
    record.updated.max(removed.unwrap_or(record.updated))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use layerd_drivers::{Memory, Overlay, Survey, overlay};
    use layerd_mounts::fake::FakeMounter;
    use layerd_mounts::test_support::{LoopDisk, enter_private_mounts};
    use layerd_store::{Create, Key, Kind, Labels};
    use rustix::fs::ioctl_setflags;

    use super::*;
    use crate::Options;

    #[test]
    fn root_each_folder_that_is_closed_is_named() {
        enter_private_mounts();
        let disk = LoopDisk::ext4(64);
        let driver = Overlay::open(disk.path(), &overlay::Options::default()).unwrap();
        let drivers = driver.folders();
        assert!(drivers.len() > 3, "{drivers:?}");
        let mounter = Arc::new(FakeMounter::new());
        let engine = Engine::open(disk.path(), Arc::new(driver), mounter, Options::default());
        let engine = engine.unwrap();
        assert_eq!(engine.health().closed, [] as [PathBuf; 0]);
        let own = ["meta", "meta/db", "volumes", "volumes/.trash"];
        for name in own.iter().chain(drivers) {
            let path = disk.path().join(name);
            let folder = File::open(&path).unwrap();
            let flags = ioctl_getflags(&folder).unwrap();
            for closed in [IFlags::IMMUTABLE, IFlags::APPEND] {
                ioctl_setflags(&folder, flags | closed).unwrap();
                let named = engine.health().closed;
                ioctl_setflags(&folder, flags).unwrap();
                assert_eq!(named, [path.as_path()], "{closed:?}");
            }
        }
    }

    #[test]
    fn health_tells_the_newest_time_and_whether_the_export_is_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (driver, mounter) = (Arc::new(Memory::new()), Arc::new(FakeMounter::new()));
        let engine = Engine::open(dir.path(), driver, mounter, Options::default()).unwrap();
        let before = engine.health();
        assert_eq!((before.newest, before.exported), (None, None));
        assert!(!before.ended_uncleanly && !before.is_full && !before.volumes_read_only);
        let key = Key::parse("key", "one").unwrap();
        let create = Create {
            key: key.clone(),
            kind: Kind::Active,
            parent: None,
            labels: Labels::default(),
        };
        let from = Timestamp::now();
        engine.layers.create(create).unwrap();
        let made = engine.health();
        let until = Timestamp::now();
        assert!(
            made.newest
                .is_some_and(|time| from <= time && time <= until)
        );
        assert!(made.export_is_behind, "{made:?}");
        engine.layers.remove(&key).unwrap();
        let removed = engine.health();
        assert!(removed.newest >= made.newest, "the trash counts as well");
    }
}
