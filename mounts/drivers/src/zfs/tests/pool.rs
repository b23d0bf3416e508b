//! A pool of ZFS in a file, for tests in a machine whose kernel has ZFS.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use layerd_mounts::test_support::{Mounted, enter_private_mounts};
use layerd_mounts::{Mount, Slot, Usage};

use super::super::program::Programs;
use super::super::{Zfs, datasets};
use crate::driver::{Base, Driver, Stack, Survey as _};
use crate::stacks::on;

/// A pool with a dataset for layers. Gone when dropped, also with what is mounted in the test's namespace.
pub(super) struct Pool {
    pub(super) name: String,
    dir: tempfile::TempDir,
    device: String,
}

impl Pool {
    pub(super) fn new() -> Self {
        enter_private_mounts();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let image = dir.path().join("pool");
        let file = File::create(&image).expect("a file");
        file.set_len(512 << 20).expect("a sparse file");
        let device = run("losetup", &["-f", "--show", text(&image)]);
        let pool = Self {
            name: format!("layerd-test-{}", std::process::id()),
            dir,
            device,
        };
        let make = ["create", "-o", "cachefile=none", "-O", "mountpoint=none"];
        run("zpool", &[&make[..], &[&pool.name, &pool.device]].concat());
        run("zfs", &["create", &pool.dataset()]);
        pool
    }

    /// Copies what is on its disk at this moment.
    pub(super) fn copy(&self) -> PathBuf {
        let copy = self.path("copy");
        fs::copy(self.path("pool"), &copy).expect("copy");
        copy
    }

    /// Puts a copy in its place, as after a power cut.
    pub(super) fn put_back(&mut self, copy: PathBuf) {
        let image = self.path("pool");
        run("zpool", &["destroy", "-f", &self.name]);
        run("losetup", &["-d", &self.device]);
        fs::rename(copy, &image).expect("rename");
        self.device = run("losetup", &["-f", "--show", text(&image)]);
        let import = ["import", "-N", "-f", "-o", "cachefile=none", "-d"];
        run(
            "zpool",
            &[&import[..], &[&self.device, &self.name]].concat(),
        );
    }

    pub(super) fn dataset(&self) -> String {
        format!("{}/layers", self.name)
    }

    pub(super) fn layer(&self, slot: u64) -> String {
        format!("{}/{}", self.dataset(), Slot(slot))
    }

    /// A directory of the test.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn open(&self) -> Zfs {
        self.open_as("root").expect("open")
    }

    /// Opens the driver with a root of this name.
    pub(super) fn open_as(&self, root: &str) -> Result<Zfs, layerd_mounts::Error> {
        Zfs::open(&self.path(root), Some(&self.dataset()))
    }

    /// Opens the driver with programs that note each of their calls in the file `calls`.
    pub(super) fn open_counted(&self) -> Zfs {
        let stand_in = |name: &str| {
            let path = self.path(name);
            let real = run("sh", &["-c", &format!("command -v {name}")]);
            let lines = format!(
                "#!/bin/sh\necho \"{name} $1\" >>{}\nexec {real} \"$@\"\n",
                text(&self.path("calls"))
            );
            fs::write(&path, lines).expect("write");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
            path
        };
        let programs = Programs::at(
            &stand_in("zfs"),
            &stand_in("zpool"),
            Duration::from_secs(60),
        );
        Zfs::open_with(&self.path("root"), Some(&self.dataset()), programs).expect("open")
    }

    /// Takes the calls that were noted.
    pub(super) fn take_calls(&self) -> Vec<String> {
        let path = self.path("calls");
        let noted = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        noted.lines().map(str::to_owned).collect()
    }

    /// Mounts what is planned for a stack.
    pub(super) fn mount(&self, driver: &Zfs, stack: &Stack, at: &str) -> Mounted {
        driver.make_mountable(stack).expect("make mountable");
        self.mount_plan(&driver.plan(stack).expect("plan"), at)
    }

    pub(super) fn mount_plan(&self, plan: &[Mount], at: &str) -> Mounted {
        Mounted::new(plan, &self.path(at)).expect("mount")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let destroyed = Command::new("zpool")
            .args(["destroy", "-f", &self.name])
            .output();
        let detached = Command::new("losetup").args(["-d", &self.device]).output();
        if !std::thread::panicking() {
            for ended in [destroyed, detached] {
                let ended = ended.expect("it starts");
                assert!(ended.status.success(), "{ended:?}");
            }
        }
    }
}

/// Makes a layer as the engine does.
pub(super) fn create(driver: &Zfs, slot: u64, base: &Base) {
    driver.create(Slot(slot), base).expect("create");
    driver.sync().expect("sync");
    driver
        .make_mountable(&on(slot, []))
        .expect("make mountable");
}

/// Writes a file into a layer, as Apply does.
pub(super) fn put(driver: &Zfs, slot: u64, name: &str, bytes: usize) {
    let top = driver.open_layer(Slot(slot)).expect("open");
    let path = fd_path(&top).join(name);
    let mut file = File::create(path).expect("create");
    file.write_all(&vec![7; bytes]).expect("write");
    file.sync_all().expect("sync");
}

/// Path of an open directory.
pub(super) fn fd_path(top: &std::os::fd::OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}", top.as_raw_fd()).into()
}

pub(super) fn commit(driver: &Zfs, slot: u64) -> Usage {
    let usage = driver.write_back(Slot(slot)).expect("write back");
    driver.freeze(&on(slot, [])).expect("freeze");
    driver.sync().expect("sync");
    usage
}

pub(super) fn remove(driver: &Zfs, slot: u64) -> Result<(), layerd_mounts::Error> {
    driver.discard(Slot(slot)).expect("discard");
    driver.sync().expect("sync");
    driver.delete(Slot(slot), &|| true)
}

/// Runs a program and answers what it prints.
pub(super) fn run(program: &str, arguments: &[&str]) -> String {
    let ended = Command::new(program)
        .args(arguments)
        .output()
        .expect(program);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(ended.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

pub(super) fn property(dataset: &str, name: &str) -> String {
    run("zfs", &["get", "-Hp", "-o", "value", name, dataset])
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Snapshot of a committed layer.
pub(super) fn frozen(pool: &Pool, slot: u64) -> String {
    format!("{}@{}", pool.layer(slot), datasets::SNAPSHOT)
}
