//! Layers as thin devices, on a pool that `layerctl setup` makes of files. Where the kernel has no device
//! mapper, that is said, by setup and by the daemon.

use std::fs;
use std::path::Path;
use std::process::Command;

use layerd_integration::process::output;
use layerd_integration::{Containerd, Daemon, Scratch, Version};

use super::{World, text};

/// A pool, until it is dropped.
pub(super) struct Pool {
    name: String,
    units: String,
}

impl Pool {
    /// Makes one in a folder, twice: what is there stays.
    fn new(scratch: &Scratch) -> Self {
        let name = scratch.path().file_name().unwrap();
        let pool = Self {
            name: format!("test{}", name.to_str().unwrap()).replace('/', "_"),
            units: text(&scratch.dir("units")).to_owned(),
        };
        let folder = scratch.path().join("pool");
        let shown = output(&mut pool.setup(&folder, &[]));
        assert!(shown.contains("Nothing was changed"), "{shown}");
        assert!(!folder.exists(), "nothing was made");
        let made = output(&mut pool.setup(&folder, &["--write"]));
        assert!(made.contains("is active: 1073741824 bytes"), "{made}");
        let again = output(&mut pool.setup(&folder, &["--write"]));
        assert!(again.contains("is active\n"), "{again}");
        assert!(again.contains("is up to date"), "{again}");
        let mut larger = pool.layerctl();
        larger.args(["--data-file", "1280m", "--dir", text(&folder), "--write"]);
        let grown = output(&mut larger);
        assert!(grown.contains("has 1342177280 bytes now"), "{grown}");
        let mut other = pool.layerctl();
        other.args(["--data-file", "1g", "--dir", text(&scratch.dir("other"))]);
        let refused = other.arg("--write").output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("it is active on other disks"), "{said}");
        // A boot takes the pool away, and leaves its files.
        pool.take_away();
        let again = output(&mut pool.setup(&folder, &["--write"]));
        assert!(again.contains("is active: 1342177280 bytes"), "{again}");
        assert!(
            again.contains("thin_check finds the metadata in order"),
            "{again}"
        );
        pool
    }

    fn layerctl(&self) -> Command {
        let mut command = Command::new(layerctl());
        command.args(["setup", "devicemapper", "--pool", &self.name]);
        command.args(["--units", &self.units, "--rules", &self.units]);
        command
    }

    fn setup(&self, folder: &Path, more: &[&str]) -> Command {
        let mut command = self.layerctl();
        command.args(["--data-file", "1g", "--dir", text(folder)]);
        command.args(more);
        command
    }

    fn take_away(&self) {
        let gone = output(self.layerctl().arg("--remove"));
        assert!(gone.contains("is inactive"), "{gone}");
    }

    /// A configuration that names it.
    fn configuration(&self, scratch: &Scratch) -> String {
        let path = scratch.path().join("devicemapper.toml");
        let pool = &self.name;
        let containerd = scratch.path().join("c");
        let containerd = containerd.display();
        let words = format!(
            "driver = \"devicemapper\"\n[devicemapper]\npool = \"{pool}\"\nbase_size = \"512m\"\n\
             [containerd]\naddress = \"{containerd}/containerd.sock\"\nroot = \"{containerd}/root\"\n"
        );
        fs::write(&path, words).unwrap();
        text(&path).to_owned()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let gone = self.layerctl().arg("--remove").output();
        let is_gone = gone.as_ref().is_ok_and(|gone| gone.status.success());
        assert!(is_gone || std::thread::panicking(), "{gone:?}");
    }
}

/// The life of an image and a container; `between` happens between any two steps.
pub(super) fn lifecycle(version: Version, between: fn(&mut World)) {
    with_world(version, |world| super::lifecycle(world, between));
}

/// Devices are made in the middle of Prepare; none stays that no layer is made of.
#[test]
fn root_crash_while_importing_devices() {
    with_world(Version::V2_1, |world| {
        super::crash::while_importing_of(world, 12, 4)
    });
}

fn with_world(version: Version, act: impl FnOnce(World)) {
    let scratch = Scratch::new();
    if !Path::new("/dev/mapper/control").exists() {
        return says_that_there_is_none(&scratch);
    }
    let pool = Pool::new(&scratch);
    let configuration = pool.configuration(&scratch);
    let data = scratch.dir("d");
    let daemon = Daemon::start_with(&data, &["--config", &configuration]);
    let mut info = Command::new(layerctl());
    let info = output(info.arg("--address").arg(daemon.socket()).arg("info"));
    for fact in ["Pool Name", "Data Space Used", "Metadata Space Available"] {
        assert!(info.contains(fact), "no {fact} in:\n{info}");
    }
    // Of 1.6 its own differ alone can be asked.
    let (start, is_device): (fn(_, &_, &_) -> _, _) = match version {
        Version::V1_6 => (Containerd::start, true),
        _ => (Containerd::start_unpacking, false),
    };
    let containerd = start(version, &scratch.dir("c"), daemon.socket());
    act(World {
        containerd,
        daemon,
        pool: None,
        scratch,
        is_device,
    });
    drop(pool);
}

fn says_that_there_is_none(scratch: &Scratch) {
    let pool = Pool {
        name: "layerd-none".to_owned(),
        units: text(&scratch.dir("units")).to_owned(),
    };
    let configuration = pool.configuration(scratch);
    let mut check = Command::new(layerctl().with_file_name("layerd"));
    check.args(["check", "--config", &configuration, "--root"]);
    let checked = check.arg(scratch.path().join("root")).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(!checked.status.success(), "{said}");
    assert!(
        said.contains("FAIL device mapper: no /dev/mapper/control"),
        "{said}"
    );
    let made = pool
        .setup(&scratch.path().join("pool"), &["--write"])
        .output();
    let made = made.unwrap();
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(
        !made.status.success() && said.contains("modprobe dm-thin-pool"),
        "{said}"
    );
    assert!(!scratch.path().join("pool").exists(), "nothing was made");
    std::mem::forget(pool);
}

fn layerctl() -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("layerctl")
}
