//! The reserve: below it nothing new is made, and the rest goes on.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use layerd_integration::image::write_layer;
use layerd_integration::metrics::{get, value};
use layerd_integration::process::wait_until;
use layerd_integration::{Daemon, Entry, Scratch, Snapshots};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use tonic::Code;

use super::{Ended, end, layer_dir, program};

/// A daemon on a small disk of its own.
struct Small {
    client: Snapshots,
    daemon: Daemon,
    scratch: Scratch,
}

impl Small {
    fn new(filesystem: &str, mebibytes: u64, percent: u64) -> Self {
        let scratch = Scratch::on(filesystem, mebibytes);
        let config = scratch.path().join("config.toml");
        // A removed layer stays for an hour, unless the reserve wants its space.
        let settings = format!(
            "[limits]\nkeep_free_percent = {percent}\n[metrics]\naddress = \"unix:{}\"\n\
             [trash]\nkeep_secs = 3600\nmin_free_percent = 0\nguard_percent = 0\n",
            scratch.path().join("metrics").display()
        );
        fs::write(&config, settings).unwrap();
        let arguments = ["--config", config.to_str().unwrap()];
        let daemon = Daemon::start_with(&scratch.dir("disk"), &arguments);
        Self {
            client: daemon.snapshots(),
            daemon,
            scratch,
        }
    }

    fn ctl(&self, arguments: &[&str]) -> Ended {
        let mut layerctl = program("layerctl");
        let layerctl = layerctl.arg("--address").arg(self.daemon.socket());
        end(layerctl.args(arguments))
    }

    fn run(&self, arguments: &[&str]) -> String {
        let ended = self.ctl(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
        ended.out
    }

    /// A command that is refused because of the reserve; answers why.
    fn refused(&self, arguments: &[&str]) -> String {
        let ended = self.ctl(arguments);
        assert_eq!(ended.code, 10, "{arguments:?}: {ended:?}");
        assert!(
            ended.error.contains("keep_free_percent"),
            "{arguments:?}: {ended:?}"
        );
        ended.error
    }

    /// A committed snapshot and a container on it. Answers the container's directory.
    fn container(&mut self) -> PathBuf {
        self.client.prepare("making", "", &[]).unwrap();
        self.client.commit("image", "making", &[]).unwrap();
        layer_dir(&self.client.prepare("container", "image", &[]).unwrap())
    }

    fn level(&self) -> f64 {
        let (_, page) = get(&self.scratch.path().join("metrics"), "/metrics");
        let path = self.daemon.root().display();
        value(&page, &format!("layerd_reserve_level{{path=\"{path}\"}} "))
    }

    fn alarms(&self) -> usize {
        self.run(&["info"]).matches("ALARM: the reserve").count()
    }
}

/// Takes space until so many percent are free.
fn leave_free(folder: &Path, percent: u64) {
    let disk = statvfs(folder).unwrap();
    let free = disk.blocks_available() * disk.fragment_size();
    let keep = disk.blocks() * disk.fragment_size() * percent / 100;
    let path = folder.join("large");
    let file = File::options()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    let end = i64::try_from(file.metadata().unwrap().len()).unwrap();
    let length = i64::try_from(free - keep).unwrap();
    fallocate(&file, FallocateFlags::empty(), end, length).unwrap();
    file.sync_all().unwrap();
}

fn keeps_its_reserve(filesystem: &str, mebibytes: u64) {
    let mut small = Small::new(filesystem, mebibytes, 20);
    let container = small.container();
    small.client.prepare("done", "image", &[]).unwrap();
    small.client.prepare("target", "", &[]).unwrap();
    let removed = layer_dir(&small.client.prepare("removed", "", &[]).unwrap());
    fs::write(removed.join("file"), vec![7; 1 << 20]).unwrap();
    for name in ["data", "other"] {
        small.run(&["volume", "create", name]);
    }
    let target = small.scratch.dir("target");
    let target = format!("/data={}", target.display());
    let attach = [
        "attach",
        "--owner",
        "container:c",
        "-v",
        "data:/data",
        "--target",
    ];
    small.run(&[&attach[..], &[&target]].concat());
    let archive = small.scratch.path().join("layer.tar");
    write_layer(&archive, &[Entry::file("file", "content")]);
    let archive = archive.to_str().unwrap().to_owned();
    assert_eq!((small.level(), small.alarms()), (0.0, 0));

    fills_up(&mut small, &container);
    refuses_what_is_new(&mut small, &archive);
    goes_on_and_recovers(&mut small);
    small.run(&["layer", "apply", "target", &archive]);
    small.run(&["volume", "create", "new"]);
}

fn fills_up(small: &mut Small, container: &Path) {
    leave_free(container, 25);
    small.client.prepare("more", "image", &[]).unwrap();
    assert_eq!((small.level(), small.alarms()), (1.0, 1), "near");
    leave_free(container, 10);
    // What is known of it, without a look in the call that is refused.
    small.client.usage("container").unwrap();
    small.client.remove("removed").unwrap();
    wait_until("the trash to go first", Duration::from_secs(60), || {
        small
            .run(&["trash", "ls", "--format", "{{.Key}}"])
            .trim()
            .is_empty()
    });
}

fn refuses_what_is_new(small: &mut Small, archive: &str) {
    for refused in [
        small.client.prepare("new", "image", &[]).unwrap_err(),
        small.client.view("new", "image", &[]).unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        let text = refused.message();
        for part in [
            "bytes are free",
            "keep_free_percent = 20 keeps",
            "most is held by snapshot \"container\"",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    small.refused(&["volume", "create", "new"]);
    small.refused(&["volume", "clone", "data", "new"]);
    small.refused(&["volume", "snapshot", "data", "new"]);
    small.refused(&["volume", "import", "new", archive]);
    small.refused(&["layer", "apply", "target", archive]);
    small.refused(&["attach", "--owner", "container:d", "-v", "new:/new"]);
    assert_eq!((small.level(), small.alarms()), (2.0, 1));
    let doctor = small.ctl(&["doctor"]);
    assert!(
        doctor.out.contains("less than the reserve of"),
        "{doctor:?}"
    );
    let events = small.run(&["events", "--topic", "reserve", "--since", "1h", "-n", "2"]);
    assert!(
        events.contains("near") && events.contains("reached"),
        "{events}"
    );
}

/// Goes on with what is there, and gives space back.
fn goes_on_and_recovers(small: &mut Small) {
    let keys = small.client.names(&[]).unwrap();
    assert_eq!(keys, ["container", "done", "image", "more", "target"]);
    small.client.mounts("container").unwrap();
    small.client.commit("made", "done", &[]).unwrap();
    assert_eq!(
        small.run(&["volume", "create", "data"]),
        "data\n",
        "it is there"
    );
    small.run(&["attach", "--owner", "container:e", "-v", "data:/data"]);
    small.run(&["detach", "--owner", "container:e"]);
    small.run(&["detach", "--owner", "container:c"]);
    small.run(&["volume", "rm", "other"]);
    small.client.remove("more").unwrap();
    small.client.remove("container").unwrap();
    wait_until("room for new ones", Duration::from_secs(60), || {
        small.client.prepare("new", "image", &[]).is_ok()
    });
    assert_eq!((small.level(), small.alarms()), (0.0, 0));
}

#[test]
fn root_the_reserve_of_ext4_is_kept() {
    keeps_its_reserve("ext4", 64);
}

#[test]
fn root_the_reserve_of_xfs_is_kept() {
    keeps_its_reserve("xfs", 320);
}

#[test]
fn root_the_reserve_of_inodes_is_kept() {
    let mut small = Small::new("ext4", 24, 20);
    let container = small.container();
    let disk = statvfs(&container).unwrap();
    let many = disk.files_available() - disk.files() / 10;
    for number in 0..many {
        File::create(container.join(number.to_string())).unwrap();
    }
    let refused = small.client.prepare("new", "image", &[]).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("inodes are free"), "{refused:?}");
    small.client.remove("container").unwrap();
    wait_until("room for new ones", Duration::from_secs(60), || {
        small.client.prepare("new", "image", &[]).is_ok()
    });
}

/// A layer that is larger than what may be taken is not unpacked to its end.
#[test]
fn root_unpacking_ends_at_the_reserve() {
    let mut small = Small::new("ext4", 256, 50);
    let archive = small.scratch.path().join("layer.tar");
    write_layer(&archive, &[Entry::file("file", vec![7; 160 << 20])]);
    small.client.prepare("target", "", &[]).unwrap();
    small.refused(&["layer", "apply", "target", archive.to_str().unwrap()]);
    let left = statvfs(small.daemon.root()).unwrap();
    assert!(left.blocks_available() > left.blocks() / 8, "it went on");
    small.client.remove("target").unwrap();
    wait_until("room for new ones", Duration::from_secs(60), || {
        small.client.prepare("new", "", &[]).is_ok()
    });
}

#[test]
fn root_without_a_reserve_a_disk_is_used_to_its_end() {
    let mut small = Small::new("ext4", 64, 0);
    let container = small.container();
    // Above what the records need for themselves.
    leave_free(&container, 15);
    small.client.prepare("new", "image", &[]).unwrap();
    small.run(&["volume", "create", "new"]);
    assert!(!small.run(&["info"]).contains("Reserve"));
}
