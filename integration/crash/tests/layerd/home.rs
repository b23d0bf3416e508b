//! A root to crash on, put back to the same state as often as needed, and what must not be left
//! in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use layerd_crash::disk::Filesystem;
use layerd_integration::scratch::mounts_below;
use layerd_integration::{Scratch, Snapshots, process};
use layerd_proto::containerd::services::snapshots::v1::Kind;
use tempfile::TempDir;

use crate::Verdict;
use crate::content::{Layer, fill};
use crate::model::{World, observe, observe_one};
use crate::operation::{Operation, commit, prepare, view};
use crate::power::SIZE;
use crate::process::{Layerd, Site};

/// Default number of layers made ahead, at most.
const SPARES: usize = 128;
/// Limit for the reaper with the few layers of a test.
pub(crate) const REAP_LIMIT: Duration = Duration::from_secs(10);

/// A root with its model, and a copy of both to go back to.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) site: Site,
    pub(crate) world: World,
    template: PathBuf,
    // Last: they delete all of it.
    _scratch: Scratch,
    _memory: TempDir,
}

impl Home {
    /// A root that does not exist yet, on ext4.
    pub(crate) fn empty() -> Self {
        Self::empty_on(Filesystem::Ext4)
    }

    /// As [`empty`](Self::empty), on another file system. Its disk is a file in memory, where there is a
    /// folder for that: a kill leaves the same, and no flush is waited for.
    pub(crate) fn empty_on(filesystem: Filesystem) -> Self {
        let (scratch, memory) = (Scratch::new(), memory());
        let (image, disk) = (memory.path().join("image"), scratch.dir("disk"));
        filesystem.mount_new(&image, SIZE, &disk).unwrap();
        // Whatever is mounted below the folder is the daemon's.
        let folder = scratch.dir("disk/below");
        Self {
            site: Site::new(folder.join("root"), scratch.path()),
            world: World::new(),
            template: scratch.path().join("template"),
            _scratch: scratch,
            _memory: memory,
        }
    }

    /// A root with something of everything: committed layers over each other, an unused one, an active
    /// snapshot with content, and views.
    pub(crate) fn furnished() -> Self {
        Self::empty().furnish()
    }

    /// As [`furnished`](Self::furnished), on a file system of its own.
    pub(crate) fn furnished_on(filesystem: Filesystem) -> Self {
        Self::empty_on(filesystem).furnish()
    }

    fn furnish(self) -> Self {
        let mut home = self;
        let layerd = Layerd::start(&home.site).unwrap();
        let mut client = home.site.client();
        let operations = [
            prepare("base-active", ""),
            commit("base", "base-active"),
            prepare("middle-active", "base"),
            commit("middle", "middle-active"),
            prepare("unused-active", "base"),
            commit("unused", "unused-active"),
            prepare("live", "middle"),
            view("look", "middle"),
            view("look at nothing", ""),
        ];
        for (operation, seed) in operations.iter().zip(1..) {
            home.run(&mut client, operation, seed).unwrap();
        }
        for name in ["base", "middle", "unused"] {
            client.usage(name).unwrap();
        }
        layerd.stop().unwrap();
        home.keep();
        home
    }

    /// Performs an operation that must succeed, fills what it makes, and notes it in the model.
    pub(crate) fn run(
        &mut self,
        client: &mut Snapshots,
        operation: &Operation,
        seed: u64,
    ) -> Verdict {
        let done = operation.perform(client);
        done.map_err(|status| format!("{operation:?}: {status}"))?;
        let after = operation.apply(&self.world);
        self.world = after.map_err(|code| format!("{operation:?} should be {code}"))?;
        note(client, &self.site.root, &mut self.world, operation)?;
        if let Operation::Prepare { key, .. } = operation {
            furnish(&self.site.root, &mut self.world, key, seed, 64);
        }
        Ok(())
    }

    /// Makes what is there now the state to go back to. The daemon must not be running.
    pub(crate) fn keep(&self) {
        copy(&self.site.root, &self.template);
    }

    /// Goes back.
    pub(crate) fn reset(&self) {
        delete(&self.site.root);
        if self.template.exists() {
            copy(&self.template, &self.site.root);
        }
    }
}

/// A folder for disks: in memory, or where that is missing, among temporary files.
fn memory() -> TempDir {
    let folder = Path::new("/dev/shm");
    let of_all = std::env::temp_dir();
    let folder = if folder.is_dir() { folder } else { &of_all };
    let mut named = tempfile::Builder::new();
    named.prefix("crash-home-").tempdir_in(folder).unwrap()
}

/// Completes the model of what an operation that was acknowledged made.
pub(crate) fn note(
    client: &mut Snapshots,
    root: &Path,
    world: &mut World,
    operation: &Operation,
) -> Verdict {
    let Some(snap) = world.get_mut(operation.subject()) else {
        return Ok(());
    };
    let found = observe_one(client, root, operation.subject())?;
    snap.info = found.info;
    snap.mounts = found.mounts;
    snap.own = snap.own.take().or(found.own);
    Ok(())
}

/// Writes into an active snapshot as a client does that unpacks an image.
pub(crate) fn furnish(root: &Path, world: &mut World, key: &str, seed: u64, kib: usize) {
    let snap = world.get_mut(key).unwrap();
    let top = root.join(snap.own.as_ref().unwrap());
    fill(&top, seed, kib);
    snap.layer = Some(Arc::new(Layer::read(&top)));
}

/// Copies a tree with everything that a file system keeps of it, in place of what is there.
pub(crate) fn copy(from: &Path, to: &Path) {
    delete(to);
    process::output(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// Deletes a tree in which nothing is mounted.
pub(crate) fn delete(path: &Path) {
    assert_eq!(mounts_below(path), [] as [PathBuf; 0]);
    process::output(Command::new("rm").arg("-rf").arg(path));
}

/// Ids that were ever seen on disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ids(BTreeSet<u64>);

impl Ids {
    /// Notes the ids that are on disk now.
    pub(crate) fn note(&mut self, root: &Path) {
        for folder in ["l", "w", "t", "i"] {
            let names = names(&root.join(folder)).into_iter();
            self.0.extend(names.filter_map(|name| number(&name)));
        }
    }

    /// Checks that a directory such as `l/3z` is newer than all that were seen.
    pub(crate) fn check_new(&self, own: &Path) -> Verdict {
        let name = own.file_name().unwrap().to_str().unwrap();
        let last = self.0.last().copied().unwrap_or(0);
        match number(name) {
            Some(id) if id > last => Ok(()),
            _ => Err(format!("id {name} is handed out, {last} was seen before")),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let number = name.split_once('.').map_or(name, |(number, _)| number);
    u64::from_str_radix(number, 36).ok()
}

/// Names in a directory; none if it is missing.
pub(crate) fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Has the reaper run until `folder` is empty, or the daemon is killed in it.
pub(crate) fn reap(client: &mut Snapshots, folder: &Path) {
    let begun = Instant::now();
    while client.cleanup().is_ok() && !names(folder).is_empty() && begun.elapsed() < REAP_LIMIT {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Has the reaper run until `left` names nothing.
pub(crate) fn reap_all(client: &mut Snapshots, left: impl Fn() -> Option<String>) -> Verdict {
    let begun = Instant::now();
    loop {
        let _ = client.cleanup();
        let Some(left) = left() else {
            return Ok(());
        };
        if begun.elapsed() > REAP_LIMIT {
            return Err(format!("left behind: {left}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Has the reaper run and requires that it leaves exactly what the model has.
pub(crate) fn check_tidy(client: &mut Snapshots, site: &Site, world: &World) -> Verdict {
    let begun = Instant::now();
    loop {
        client
            .cleanup()
            .map_err(|status| format!("Cleanup: {status}"))?;
        thread::sleep(Duration::from_millis(3));
        let Err(left) = tidy(site, world) else {
            return Ok(());
        };
        if begun.elapsed() > REAP_LIMIT {
            return Err(format!("{left}; log:\n{}", site.tail()));
        }
    }
}

/// Every layer has its directories, and nothing else does but those made ahead: empty ones, up to
/// a limit. Answers the names of the layers.
pub(crate) fn check_layers(root: &Path, world: &World) -> Verdict<BTreeSet<String>> {
    let own = |snap: &crate::model::Snap| {
        let own = snap.own.as_ref()?.file_name()?;
        Some(own.to_str()?.to_owned())
    };
    let layers: BTreeSet<String> = world.values().filter_map(own).collect();
    let stacked = world.values();
    let stacked = stacked.filter(|snap| snap.is(Kind::Active) && !snap.info.parent.is_empty());
    let work: BTreeSet<String> = stacked.filter_map(own).collect();
    for (folder, recorded) in [("l", &layers), ("w", &work)] {
        let folder = root.join(folder);
        let there = names(&folder);
        let is_spare =
            |name: &&String| !layers.contains(*name) && names(&folder.join(name)).is_empty();
        let spare = there.difference(recorded).filter(is_spare).count();
        let kept = there.intersection(recorded).count();
        if kept + spare != there.len() || kept != recorded.len() || spare > SPARES {
            return Err(format!(
                "{} holds {there:?}, of which {spare} spare, and the records {recorded:?}",
                folder.display()
            ));
        }
    }
    Ok(layers)
}

fn tidy(site: &Site, world: &World) -> Verdict {
    let root = &site.root;
    check_layers(root, world)?;
    let trash = names(&root.join("t"));
    if !trash.is_empty() {
        return Err(format!("in the trash: {trash:?}"));
    }
    tidy_folders(root)
}

fn tidy_folders(root: &Path) -> Verdict {
    let top = names(root);
    if !top
        .iter()
        .all(|name| ["c", "e", "i", "l", "w", "t", "m", "meta", "volumes", "x"].contains(&&**name))
    {
        return Err(format!("in the root: {top:?}"));
    }
    let images: Vec<_> = ["i", "x"].map(|folder| names(&root.join(folder))).into();
    if images.iter().any(|names| !names.is_empty()) {
        return Err(format!("images of no layer: {images:?}"));
    }
    // A layer whose content could not be written is marked as damaged for as long as it is there.
    let mut beside = names(&root.join("m"));
    beside.retain(|name| {
        let damaged = name.strip_suffix(".quarantined");
        !damaged.is_some_and(|id| root.join("l").join(id).exists())
    });
    if !beside.is_empty() {
        return Err(format!("digests or marks of no layer: {beside:?}"));
    }
    let mut files = names(&root.join("meta"));
    files.extend(names(&root.join("meta/db")));
    let temporary = |name: &&String| {
        let endings = ["new", "copy", "touched", "generating", "tmp"];
        name.rsplit_once('.')
            .is_some_and(|(_, end)| endings.contains(&end))
    };
    if let Some(name) = files.iter().find(temporary) {
        return Err(format!("left in meta: {name}"));
    }
    let mounts = mounts_below(root);
    if mounts.is_empty() {
        Ok(())
    } else {
        Err(format!("mounted: {mounts:?}"))
    }
}

/// Everything the daemon says, and nothing left over.
pub(crate) fn look(client: &mut Snapshots, site: &Site) -> Verdict<World> {
    observe(client, &site.root)
}
