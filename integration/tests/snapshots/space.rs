//! Usage, and the space that Remove gives back.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use layerd_integration::Scratch;
use layerd_integration::process::{WAIT_LIMIT, output, wait_until};

use crate::{World, upper};

/// Bytes of blocks and inodes below a directory, itself included, each inode once.
fn walked(top: &Path) -> (i64, i64) {
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if seen.insert((meta.dev(), meta.ino())) {
            bytes += meta.blocks() * 512;
        }
        if meta.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    (
        i64::try_from(bytes).unwrap(),
        i64::try_from(seen.len()).unwrap(),
    )
}

/// Files of all kinds; on disk, so that their blocks are counted for good.
fn fill(top: &Path, name: &str, bytes: usize) {
    let dir = top.join(name);
    fs::create_dir_all(dir.join("deep/er")).unwrap();
    let mut file = File::create(dir.join("data")).unwrap();
    file.write_all(&vec![7; bytes]).unwrap();
    file.sync_all().unwrap();
    fs::hard_link(dir.join("data"), dir.join("deep/same")).unwrap();
    fs::hard_link(dir.join("data"), dir.join("deep/er/same")).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 1 << 30).unwrap();
    sparse.sync_all().unwrap();
    std::os::unix::fs::symlink("data", dir.join("link")).unwrap();
    File::create(dir.join("empty")).unwrap();
}

fn usage(world: &mut World, key: &str) -> (i64, i64) {
    let usage = world.client.usage(key).unwrap();
    (usage.size, usage.inodes)
}

#[test]
fn root_usage_is_what_du_says() {
    let mut world = World::new();
    let first = world.client.prepare("first", "", &[]).unwrap();
    let one = upper(&first).to_owned();
    assert_eq!(usage(&mut world, "first"), walked(&one), "empty");
    assert_eq!(usage(&mut world, "first").1, 1);
    for n in 1..=5 {
        fill(&one, &n.to_string(), n * 100_000);
        assert_eq!(
            usage(&mut world, "first"),
            walked(&one),
            "at once, round {n}"
        );
    }
    let du = output(Command::new("du").args(["-s", "--block-size=1"]).arg(&one));
    let du: i64 = du.split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!(usage(&mut world, "first").0, du);
    output(Command::new("rm").arg("-r").arg(one.join("1")));
    assert_eq!(usage(&mut world, "first"), walked(&one), "less again");
    let wanted = walked(&one);
    world.client.commit("1", "first", &[]).unwrap();
    assert_eq!(usage(&mut world, "1"), wanted, "right after the commit");
    let second = world.client.prepare("second", "1", &[]).unwrap();
    assert_eq!(
        usage(&mut world, "second"),
        walked(upper(&second)),
        "without its parent"
    );
    world.client.view("view", "1", &[]).unwrap();
    world.client.view("bare", "", &[]).unwrap();
    assert_eq!(usage(&mut world, "view"), (0, 0));
    assert_eq!(usage(&mut world, "bare"), (0, 0));
    fs::write(one.join("behind its back"), "x").unwrap();
    assert_eq!(usage(&mut world, "1"), wanted, "frozen");
    world.kill9_and_restart();
    assert_eq!(usage(&mut world, "1"), wanted, "frozen, also after a crash");
    assert_eq!(usage(&mut world, "second"), walked(upper(&second)));
}

/// A crash between Commit and the measurement: the figure is taken at the next start.
#[test]
fn root_usage_of_a_commit_is_right_at_once_and_after_a_crash() {
    let mut world = World::new();
    for round in 0..8 {
        let (key, name) = (format!("key {round}"), format!("name {round}"));
        let mounts = world.client.prepare(&key, "", &[]).unwrap();
        let dir = upper(&mounts).to_owned();
        for file in 0..200 {
            fs::create_dir(dir.join(file.to_string())).unwrap();
        }
        fill(&dir, "more", 50_000);
        if round % 2 == 0 {
            usage(&mut world, &key);
        }
        fill(&dir, "last", 70_000);
        let wanted = walked(&dir);
        world.client.commit(&name, &key, &[]).unwrap();
        if round % 4 < 2 {
            assert_eq!(usage(&mut world, &name), wanted, "round {round}");
        } else {
            world.kill9_and_restart();
            assert_eq!(
                usage(&mut world, &name),
                wanted,
                "round {round}, after a crash"
            );
        }
    }
}

/// Makes empty files below `dir`, some of them deep.
fn many_files(dir: &Path, count: usize) {
    for folder in 0..count / 500 {
        let folder = dir.join(format!("{folder}/deep"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..500 {
            File::create(folder.join(file.to_string())).unwrap();
        }
    }
}

#[test]
fn root_remove_is_fast_for_20000_files() {
    let mut world = World::new();
    let mounts = world.client.prepare("key", "", &[]).unwrap();
    many_files(upper(&mounts), 20_000);
    // Remove waits for a flush of the disk, and is not to find all of these in it.
    rustix::fs::syncfs(File::open(upper(&mounts)).unwrap()).unwrap();
    let start = Instant::now();
    world.client.remove("key").unwrap();
    let took = start.elapsed();
    eprintln!("Remove of 20000 files: {took:?}");
    assert!(took < Duration::from_millis(500), "{took:?}");
    wait_until("the layer to go from the layers", WAIT_LIMIT, || {
        !upper(&mounts).exists()
    });
    world.client.prepare("key", "", &[]).unwrap();
    world.client.remove("key").unwrap();
    let start = Instant::now();
    world.daemon.assert_empty();
    eprintln!("the space was back {:?} later", start.elapsed());
    world.assert_no_errors_logged();
}

/// Free bytes of the file system that holds a path.
fn free(path: &Path) -> u64 {
    let disk = rustix::fs::statvfs(path).unwrap();
    disk.f_bfree * disk.f_frsize
}

#[test]
fn root_removed_space_comes_back_on_the_disk() {
    let scratch = Scratch::on_xfs(400);
    let daemon = layerd_integration::Daemon::start(&scratch.dir("disk"));
    let mut client = daemon.snapshots();
    client.prepare("warm", "", &[]).unwrap();
    client.remove("warm").unwrap();
    daemon.assert_empty();
    let before = free(daemon.root());
    let mounts = client.prepare("large", "", &[]).unwrap();
    let mut file = File::create(upper(&mounts).join("file")).unwrap();
    file.write_all(&vec![1; 64 << 20]).unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert!(free(daemon.root()) + (60 << 20) < before);
    client.remove("large").unwrap();
    client.cleanup().unwrap();
    wait_until("the space to come back", Duration::from_secs(20), || {
        free(daemon.root()) + (4 << 20) > before
    });
}

/// Something mounted inside a removed layer keeps the layer, and nothing else.
#[test]
fn root_remove_does_not_wait_for_a_mount_inside() {
    let mut world = World::configured("[reaper]\nevery_secs = 1");
    let mounts = world.client.prepare("key", "", &[]).unwrap();
    let inside = upper(&mounts).join("mnt");
    fs::create_dir(&inside).unwrap();
    fs::write(upper(&mounts).join("file"), "x").unwrap();
    let elsewhere = world.scratch.dir("elsewhere");
    fs::write(elsewhere.join("precious"), "x").unwrap();
    output(
        Command::new("mount")
            .arg("--bind")
            .arg(&elsewhere)
            .arg(&inside),
    );
    let start = Instant::now();
    world.client.remove("key").unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    world.client.prepare("key", "", &[]).unwrap();
    world.client.prepare("other", "", &[]).unwrap();
    world.client.remove("other").unwrap();
    world.client.remove("key").unwrap();
    let trash = world.daemon.root().join("t");
    let left = || -> Vec<PathBuf> {
        fs::read_dir(&trash)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    };
    wait_until(
        "only the mounted layer to be left",
        Duration::from_secs(10),
        || {
            world.client.cleanup().unwrap();
            left().len() == 1
        },
    );
    std::thread::sleep(Duration::from_millis(1500));
    assert!(
        elsewhere.join("precious").exists(),
        "deletion stays on its own side"
    );
    let kept = left();
    assert_eq!(kept.len(), 1);
    output(Command::new("umount").arg(kept[0].join("mnt")));
    world.daemon.assert_empty();
    assert!(elsewhere.join("precious").exists());
    assert!(
        world.daemon.log().contains("mount point"),
        "the log says why"
    );
}
