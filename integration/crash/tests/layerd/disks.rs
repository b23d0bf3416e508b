//! Disks that are really full.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use layerd_integration::{Scratch, process};
use nix::sys::statvfs::statvfs;
use tonic::Code;

use crate::Verdict;
use crate::errors::Kept;
use crate::home::{check_tidy, furnish, look, note};
use crate::model::{Content, World, compare};
use crate::operation::{Operation, commit, labels, prepare, remove, view};
use crate::process::Site;

/// A small file system with a root on it.
struct Disk {
    site: Site,
    path: PathBuf,
    world: World,
    _scratch: Scratch,
}

impl Disk {
    fn new(mebibytes: u64, mkfs: &[&str]) -> Self {
        let scratch = Scratch::new();
        let (image, path) = (scratch.path().join("image"), scratch.dir("disk"));
        File::create(&image)
            .unwrap()
            .set_len(mebibytes << 20)
            .unwrap();
        process::output(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image));
        process::output(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&image)
                .arg(&path),
        );
        Self {
            site: Site::new(path.join("root"), scratch.path()),
            path,
            world: World::new(),
            _scratch: scratch,
        }
    }

    /// Performs an operation that must succeed.
    fn run(&mut self, kept: &mut Kept<'_>, operation: &Operation) -> Verdict {
        kept.insist(operation)?;
        self.world = operation.apply(&self.world).unwrap();
        note(
            &mut kept.client,
            &self.site.root,
            &mut self.world,
            operation,
        )
    }

    /// Performs an operation that may be refused, but only for want of space. Answers whether it
    /// was.
    fn try_run(&mut self, kept: &mut Kept<'_>, operation: &Operation) -> Verdict<bool> {
        kept.revive()?;
        match operation.perform(&mut kept.client) {
            Ok(()) => {
                self.world = operation.apply(&self.world).unwrap();
                note(
                    &mut kept.client,
                    &self.site.root,
                    &mut self.world,
                    operation,
                )?;
                Ok(false)
            }
            Err(status) if status.code() == Code::ResourceExhausted => Ok(true),
            Err(status) => Err(format!(
                "{operation:?}: {status}; log:\n{}",
                self.site.tail()
            )),
        }
    }

    fn check(&self, kept: &mut Kept<'_>) -> Verdict {
        let found = look(&mut kept.client, &self.site)?;
        compare(&found, &self.world, &self.site.root, Content::Every).map(drop)
    }

    fn free(&self) -> u64 {
        let disk = statvfs(&self.path).unwrap();
        disk.blocks_free() * disk.fragment_size()
    }

    /// Makes layers, one of them large and unused.
    fn furnish(&mut self, kept: &mut Kept<'_>) -> Verdict {
        for (name, kib) in [("small", 10), ("large", 40 * 1024)] {
            let key = format!("{name}-active");
            self.run(kept, &prepare(&key, ""))?;
            let own = self.world[&key].own.clone().unwrap_or_default();
            for number in 0..kib / 200 {
                fs::write(self.site.root.join(&own).join(number.to_string()), "file").unwrap();
            }
            furnish(&self.site.root, &mut self.world, &key, 1, kib);
            self.run(kept, &commit(name, &key))?;
        }
        self.run(kept, &prepare("live", "small"))?;
        furnish(&self.site.root, &mut self.world, "live", 2, 10);
        Ok(())
    }
}

/// Writes until there is no space left.
fn fill_space(path: &Path) {
    let mut file = File::create(path.join("filler")).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        let bytes = vec![7; size];
        while file.write_all(&bytes).is_ok() {}
    }
    // Fails: the disk is full.
    let _ = file.sync_all();
}

/// Makes files until there are no inodes left.
fn fill_inodes(path: &Path) {
    let folder = path.join("filler");
    fs::create_dir(&folder).unwrap();
    let mut number = 0;
    while File::create(folder.join(number.to_string())).is_ok() {
        number += 1;
    }
}

/// Asks for all sorts of things until enough of them are refused.
fn press(disk: &mut Disk, kept: &mut Kept<'_>) -> Verdict<usize> {
    let mut refused = 0;
    for number in 0..40 {
        let large = format!("{number:0>3500}");
        let operations = [
            prepare(&format!("new {number}"), "small"),
            view(&format!("view {number}"), ""),
            Operation::Update {
                key: "live".into(),
                labels: labels(&[(&format!("label {number}"), &large)]),
            },
        ];
        for operation in operations {
            refused += usize::from(disk.try_run(kept, &operation)?);
        }
        disk.check(kept)?;
        if refused >= 12 {
            break;
        }
    }
    Ok(refused)
}

fn survive(mut disk: Disk, fill: fn(&Path)) -> Verdict {
    let site = disk.site.clone();
    let mut kept = Kept::start(&site)?;
    disk.furnish(&mut kept)?;
    fill(&disk.path);
    let refused = press(&mut disk, &mut kept)?;
    let told = |what: &'static str| move |why| format!("{what}: {why}");
    kept.kill_and_start()
        .map_err(told("start on the full disk"))?;
    disk.check(&mut kept)?;
    // As the client would: it repeats what fails.
    let before = disk.free();
    disk.run(&mut kept, &remove("large"))
        .map_err(told("Remove on the full disk"))?;
    check_tidy(&mut kept.client, &site, &disk.world)?;
    let gained = disk.free().saturating_sub(before) >> 20;
    disk.run(&mut kept, &prepare("again", "small"))?;
    furnish(&site.root, &mut disk.world, "again", 3, 10);
    disk.run(&mut kept, &commit("again, kept", "again"))?;
    disk.check(&mut kept)?;
    let restarts = kept.restarts;
    kept.stop()?;
    let mut kept = Kept::start(&site)?;
    disk.check(&mut kept)?;
    check_tidy(&mut kept.client, &site, &disk.world)?;
    println!("refused: {refused}, restarts: {restarts}, MiB given back: {gained}, bad: 0");
    if refused == 0 {
        return Err("the disk was never full".into());
    }
    kept.stop()
}

#[test]
fn root_ext4_when_full_lets_remove_and_goes_on() {
    let disk = Disk::new(128, &["mkfs.ext4", "-q", "-F", "-b", "4096"]);
    survive(disk, fill_space).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn root_xfs_when_full_lets_remove_and_goes_on() {
    let disk = Disk::new(320, &["mkfs.xfs", "-q"]);
    survive(disk, fill_space).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn root_without_inodes_layers_can_be_removed() {
    let disk = Disk::new(128, &["mkfs.ext4", "-q", "-F", "-b", "4096", "-N", "512"]);
    survive(disk, fill_inodes).unwrap_or_else(|why| panic!("{why}"));
}
