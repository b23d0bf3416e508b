//! A disk that containers fill to the last byte: snapshots can be removed, and the daemon starts.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use layerd_integration::process::wait_until;
use layerd_integration::{Daemon, Scratch, Snapshots};
use tonic::Code;

use super::layer_dir;

/// More than one half of the journal holds.
const MANY: usize = 300;

/// Writes until nothing fits any more.
fn fill(file: &Path) {
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(file)
        .unwrap();
    for size in [1 << 20, 4096, 1] {
        let block = vec![7; size];
        while file.write_all(&block).is_ok() && file.sync_data().is_ok() {}
    }
}

fn start(scratch: &Scratch) -> Daemon {
    let config = scratch.path().join("config.toml");
    let settings = "[trash]\nkeep_secs = 3600\nmin_free_percent = 0\nguard_percent = 0\n";
    fs::write(&config, settings).unwrap();
    Daemon::start_with(
        &scratch.dir("disk"),
        &["--config", config.to_str().unwrap()],
    )
}

fn remove(client: &mut Snapshots, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let removed = client.remove(&format!("many {number}"));
        removed.unwrap_or_else(|status| panic!("{number}: {status:?}"));
    }
}

fn survives_a_full_disk(scratch: &Scratch) {
    let mut daemon = start(scratch);
    let mut client = daemon.snapshots();
    for number in 0..MANY {
        client.prepare(&format!("many {number}"), "", &[]).unwrap();
    }
    let container = client.prepare("container", "", &[]).unwrap();
    let file = layer_dir(&container).join("file");
    let reserve = daemon.root().join("meta/reserve");
    assert!(reserve.exists());
    fill(&file);
    let refused = client.prepare("new", "", &[]).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(reserve.exists(), "not needed yet");
    fill(&file);
    remove(&mut client, 0..20);
    daemon.kill9();
    daemon.restart();
    client = daemon.snapshots();
    fill(&file);
    remove(&mut client, 20..MANY - 20);
    fill(&file);
    daemon.stop();
    daemon.restart();
    client = daemon.snapshots();
    remove(&mut client, MANY - 20..MANY);
    let refused = client.prepare("new", "", &[]).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let names: Vec<_> = client.list().into_iter().map(|info| info.name).collect();
    assert_eq!(names, ["container"]);
    client.remove("container").unwrap();
    fs::remove_file(&file).unwrap();
    wait_until("new ones to be taken", Duration::from_secs(20), || {
        client.prepare("new", "", &[]).is_ok()
    });
    assert!(reserve.exists(), "it is kept anew");
}

#[test]
fn root_a_full_btrfs_takes_removals() {
    survives_a_full_disk(&Scratch::on("btrfs", 256));
}

#[test]
fn root_a_full_xfs_takes_removals() {
    survives_a_full_disk(&Scratch::on("xfs", 320));
}

#[test]
fn root_a_full_ext4_takes_removals() {
    survives_a_full_disk(&Scratch::on("ext4", 64));
}

/// The journal that an older release left on btrfs is copied on write until it is opened.
#[test]
fn root_the_journal_on_btrfs_is_written_in_place() {
    let scratch = Scratch::on("btrfs", 256);
    let mut daemon = start(&scratch);
    let journal = daemon.root().join("meta/db/journal");
    let is_in_place = || {
        let flags = rustix::fs::ioctl_getflags(File::open(&journal).unwrap()).unwrap();
        flags.contains(rustix::fs::IFlags::NOCOW)
    };
    assert!(is_in_place());
    daemon.snapshots().prepare("kept", "", &[]).unwrap();
    daemon.kill9();
    let copied = journal.with_extension("copied");
    fs::write(&copied, fs::read(&journal).unwrap()).unwrap();
    fs::rename(&copied, &journal).unwrap();
    assert!(!is_in_place());
    daemon.restart();
    assert!(is_in_place());
    daemon.snapshots().stat("kept").unwrap();
}

/// A disk that is smaller than what a full one has to have again: nothing is wrong while snapshots are
/// made, and they are made again after it was full.
#[test]
fn root_a_small_disk_is_full_when_it_takes_nothing() {
    let scratch = Scratch::on("ext4", 20);
    let daemon = start(&scratch);
    let mut client = daemon.snapshots();
    let container = client.prepare("container", "", &[]).unwrap();
    let alarms = || {
        let mut info = super::program("layerctl");
        let info = info.arg("--address").arg(daemon.socket()).arg("info");
        super::end(info).out.matches("ALARM").count()
    };
    assert_eq!(alarms(), 0);
    let file = layer_dir(&container).join("file");
    fill(&file);
    let refused = client.prepare("new", "", &[]).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(alarms(), 1);
    fs::remove_file(&file).unwrap();
    client.prepare("new", "", &[]).unwrap();
    assert_eq!(alarms(), 0);
}
