//! The power-cut recorder on workloads whose outcome is known.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "this file is tests as a whole"
)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use layerd_crash::disk::{Filesystem, Later, Recorder, Recording};
use nix::unistd::geteuid;

const FILESYSTEMS: [(Filesystem, u64); 4] = [
    (Filesystem::Ext4, 64 << 20),
    (Filesystem::Xfs, 320 << 20),
    (Filesystem::Ext4WithoutJournal, 64 << 20),
    (Filesystem::Btrfs, 128 << 20),
];
/// Number of them that write over a block in its place.
const IN_PLACE: usize = 3;
const BLOCK: usize = 4096;

fn start((filesystem, size): (Filesystem, u64)) -> Recorder {
    assert!(geteuid().is_root(), "mounting: run this test as root");
    Recorder::start(filesystem, size).unwrap()
}

/// Writes a file and makes its content and its name durable.
fn durable(path: &Path, content: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(content).unwrap();
    file.sync_all().unwrap();
    File::open(path.parent().unwrap())
        .unwrap()
        .sync_all()
        .unwrap();
}

/// Overwrites a file past the page cache: the bytes reach the disk, but no flush follows.
fn overwrite(path: &Path, length: usize, byte: u8) {
    let file = File::options()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .unwrap();
    let room = vec![byte; length + BLOCK];
    let start = room.as_ptr().align_offset(BLOCK);
    file.write_all_at(&room[start..start + length], 0).unwrap();
}

/// Result of `look` on the disk after a cut at the end.
fn after<T>(recording: &mut Recording, later: Later, seed: u64, look: impl Fn(&Path) -> T) -> T {
    let image = recording.image(&recording.last_cut(later, seed)).unwrap();
    let mounted = image.mount().unwrap();
    let found = look(mounted.path());
    mounted.unmount().unwrap();
    found
}

#[test]
fn root_every_fsync_flushes_the_disk() {
    for filesystem in FILESYSTEMS {
        let recorder = start(filesystem);
        let before = recorder.seen();
        for number in 0..10 {
            durable(&recorder.path().join(number.to_string()), b"content");
        }
        let after = recorder.seen();
        let (writes, flushes) = (after.0 - before.0, after.1 - before.1);
        assert!(
            writes >= 20 && flushes >= 10,
            "{filesystem:?}: {writes}, {flushes}"
        );
    }
}

#[test]
fn root_synced_file_survives_and_unsynced_is_lost() {
    for filesystem in FILESYSTEMS {
        let recorder = start(filesystem);
        durable(&recorder.path().join("synced"), b"here");
        fs::write(recorder.path().join("unsynced"), b"gone").unwrap();
        let mut recording = recorder.finish().unwrap();
        for (seed, later) in (0..).zip(Later::ALL) {
            let content = after(&mut recording, later, seed, |path| {
                fs::read(path.join("synced")).unwrap()
            });
            assert_eq!(content, b"here", "{filesystem:?}, {later:?}");
        }
        let left = after(&mut recording, Later::Nothing, 0, |path| {
            path.join("unsynced").exists()
        });
        assert!(!left, "{filesystem:?}");
    }
}

#[test]
fn root_unflushed_writes_survive_as_chosen() {
    const BLOCKS: usize = 16;
    for filesystem in &FILESYSTEMS[..IN_PLACE] {
        let recorder = start(*filesystem);
        let file = recorder.path().join("file");
        durable(&file, &[b'o'; BLOCKS * BLOCK]);
        overwrite(&file, BLOCKS * BLOCK, b'n');
        let mut recording = recorder.finish().unwrap();
        let mut new = |later, seed, unit: usize| {
            after(&mut recording, later, seed, |path| {
                let content = fs::read(path.join("file")).unwrap();
                let blocks: Vec<&[u8]> = content.chunks(unit).collect();
                for block in &blocks {
                    assert!(block.iter().all(|byte| *byte == block[0]), "{later:?}");
                }
                blocks.iter().filter(|block| block[0] == b'n').count()
            })
        };
        assert_eq!(new(Later::Nothing, 0, BLOCK), 0);
        assert_eq!(new(Later::All, 0, BLOCK), BLOCKS);
        let torn: Vec<usize> = (0..4)
            .map(|seed| new(Later::Torn(4096), seed, BLOCK))
            .collect();
        assert!(torn.iter().all(|new| *new > 0 && *new < BLOCKS), "{torn:?}");
        let sectors = new(Later::Torn(512), 0, 512);
        assert!(
            sectors > 0 && sectors < BLOCKS * 8 && sectors % 8 != 0,
            "{sectors}"
        );
    }
}

/// Appends a hundred records, marks each, and says in how many of 40 images a marked one is missing.
fn losses(filesystem: (Filesystem, u64), sync: impl Fn(&File)) -> usize {
    let mut recorder = start(filesystem);
    durable(&recorder.path().join("records"), b"");
    recorder.begin();
    let marker = recorder.marker();
    let file = File::options()
        .append(true)
        .open(recorder.path().join("records"))
        .unwrap();
    for number in 1..=100u64 {
        (&file).write_all(&number.to_le_bytes()).unwrap();
        sync(&file);
        marker.mark(number);
    }
    drop(file);
    let mut recording = recorder.finish().unwrap();
    let lossy = |recording: &mut Recording, cut| {
        let image = recording.image(cut).unwrap();
        let mounted = image.mount().unwrap();
        let found = fs::read(mounted.path().join("records")).unwrap();
        let wanted: Vec<u8> = recording
            .marks(cut)
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        !found.starts_with(&wanted)
    };
    let cuts = recording.cuts(7, 40, &Later::ALL);
    cuts.iter().filter(|cut| lossy(&mut recording, cut)).count()
}

#[test]
fn root_acknowledged_records_are_never_lost_if_synced() {
    for filesystem in FILESYSTEMS {
        assert_eq!(losses(filesystem, |file| file.sync_data().unwrap()), 0);
    }
}

#[test]
fn root_missing_sync_is_found() {
    for filesystem in FILESYSTEMS {
        let lossy = losses(filesystem, |_| ());
        assert!(lossy > 20, "{filesystem:?}: {lossy}");
    }
}

#[test]
fn root_nothing_stays_mounted() {
    let mounted = |below: &Path| {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.contains(below.to_str().unwrap())
    };
    let recorder = start(FILESYSTEMS[0]);
    let scratch = recorder.path().parent().unwrap().to_owned();
    assert!(mounted(&scratch));
    drop(recorder);
    assert!(!mounted(&scratch) && !scratch.exists());

    let mut recording = start(FILESYSTEMS[0]).finish().unwrap();
    let image = recording.image(&recording.last_cut(Later::All, 0)).unwrap();
    let last = image.mount().unwrap();
    let scratch = image.path().parent().unwrap().to_owned();
    drop(recording);
    drop(image);
    assert!(mounted(&scratch) && last.path().join("lost+found").exists());
    drop(last);
    assert!(!mounted(&scratch) && !scratch.exists());
}
