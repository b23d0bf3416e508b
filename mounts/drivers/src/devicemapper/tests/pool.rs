//! A pool on loop devices of files.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use layerd_mounts::sys::device_mapper::{Control, Target};
use layerd_mounts::sys::loop_device;
use layerd_mounts::thin::{PoolStatus, PoolTable};
use std::os::fd::AsFd as _;

/// Until it is dropped.
pub(super) struct TestPool {
    pub(super) name: String,
    control: Control,
    scratch: tempfile::TempDir,
    disks: Vec<(PathBuf, File)>,
}

impl TestPool {
    /// One with so many bytes of data; `None` where there is no device mapper.
    pub(super) fn new(scratch: tempfile::TempDir, data: u64) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let control = Control::open().ok()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("layerd_test_{}_{number}", std::process::id());
        let disk = |name: &str, bytes: u64| {
            let path = scratch.path().join(name);
            let mut options = File::options();
            let file = options.read(true).write(true).create_new(true).open(path);
            let file = file.expect("a file");
            file.set_len(bytes).expect("a sparse file");
            loop_device::attach_writable(file.as_fd()).expect("a loop device")
        };
        let disks = vec![disk("metadata", 8 << 20), disk("data", data)];
        let path = |index: usize| disks[index].0.display().to_string();
        let table = PoolTable {
            metadata: path(0),
            data: path(1),
            sectors: data / 512,
            block: 128,
            zeroes: true,
        };
        control.create(&name).expect("a device");
        control
            .load(&name, &table.target(), false)
            .expect("a table");
        control.resume(&name).expect("a pool");
        Some(Self {
            name,
            control,
            scratch,
            disks,
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Active devices of the pool.
    pub(super) fn devices(&self) -> Vec<String> {
        let prefix = format!("layerd-{}-", self.name);
        let all = self.control.list().expect("list").into_iter();
        all.filter(|name| name.starts_with(&prefix)).collect()
    }

    pub(super) fn status(&self) -> PoolStatus {
        let lines = self.control.status(&self.name).expect("a status");
        lines[0].text.parse().expect("a pool that works")
    }

    /// Sends a message whose rest is made of the transaction.
    pub(super) fn message(&self, text: &str, rest: impl FnOnce(u64) -> String) {
        let rest = rest(self.status().transaction);
        let sent = self.control.message(&self.name, &format!("{text} {rest}"));
        sent.expect("a message");
    }

    pub(super) fn suspend(&self, name: &str) {
        self.control.suspend(name).expect("suspend");
    }

    /// A device of another kind, on the disk of the data.
    pub(super) fn linear(&self) -> String {
        let name = format!("layerd-{}-zzzzz", self.name);
        let target = Target {
            start: 0,
            sectors: 8,
            kind: "linear".to_owned(),
            text: format!("{} 0", self.disks[0].0.display()),
        };
        self.control.create(&name).expect("a device");
        let loaded = self.control.load(&name, &target, true);
        // The pool may have its disks for itself.
        if loaded.and_then(|()| self.control.resume(&name)).is_err() {
            return self.name.clone() + "-none";
        }
        name
    }
}

impl Drop for TestPool {
    fn drop(&mut self) {
        for name in self.devices() {
            let _ = self.control.resume(&name);
            let _ = fs::remove_file(format!("/dev/mapper/{name}"));
            let gone = self.control.remove(&name);
            assert!(gone.is_ok() || std::thread::panicking(), "{name}: {gone:?}");
        }
        let gone = self.control.remove(&self.name);
        assert!(gone.is_ok() || std::thread::panicking(), "{gone:?}");
    }
}
