//! Power cuts while records are put back: by a start that fails, and by `layerd restore`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerd_crash::disk::{Cut, Filesystem, Later, Recorder, Recording};
use layerd_integration::Scratch;
use tonic::Code;

use crate::Verdict;
use crate::content::Layer;
use crate::home::{furnish, names, note};
use crate::model::{Content, World, compare, observe};
use crate::operation::{Operation, commit, prepare};
use crate::process::{Layerd, Site, restore};

const DISKS: [(Filesystem, u64); 2] = [(Filesystem::Ext4, 256 << 20), (Filesystem::Xfs, 320 << 20)];
/// Images of each disk that are looked at.
const IMAGES: usize = 16;
/// Open files with which layerd surely does not, and surely does, start.
const FILES: std::ops::Range<u64> = 10..60;

/// A root on a disk that is recorded.
struct Stage {
    recorder: Recorder,
    site: Site,
    scratch: Scratch,
}

impl Stage {
    fn new(disk: (Filesystem, u64)) -> Self {
        let scratch = Scratch::new();
        let recorder = Recorder::start(disk.0, disk.1).unwrap();
        let site = Site::new(recorder.path().join("root"), scratch.path());
        Self {
            recorder,
            site,
            scratch,
        }
    }

    /// Performs calls that must succeed, and fills what they make.
    fn run(&self, world: World, operations: &[Operation]) -> World {
        let mut client = self.site.client();
        let mut world = world;
        for (operation, seed) in operations.iter().zip(1..) {
            operation.perform(&mut client).unwrap();
            world = operation.apply(&world).unwrap();
            note(&mut client, &self.site.root, &mut world, operation).unwrap();
            if let Operation::Prepare { key, .. } = operation {
                furnish(&self.site.root, &mut world, key, seed, 16);
            }
        }
        world
    }
}

/// Looks at the disks after many cuts, each in a site of its own. None may be bad.
fn survive(
    recording: &mut Recording,
    directory: &Path,
    look: impl Fn(&Site) -> Verdict,
) -> Vec<String> {
    let mut cuts = recording.cuts(1, IMAGES, &Later::ALL);
    cuts.extend(Later::ALL.map(|later| recording.last_cut(later, 2)));
    let mut look_at = |cut: &Cut| {
        let image = recording.image(cut).unwrap();
        let mounted = image.mount().map_err(|error| format!("mount: {error}"))?;
        let site = Site::new(mounted.path().join("root"), directory);
        let _ = fs::remove_file(&site.log);
        look(&site).map_err(|why| format!("{why}; log:\n{}", site.tail()))?;
        let unmounted = mounted.unmount();
        unmounted.map_err(|error| format!("unmount: {error}"))
    };
    let looked = cuts
        .iter()
        .map(|cut| look_at(cut).map_err(|why| format!("{cut:?}: {why}")));
    looked.filter_map(Result::err).collect()
}

fn assert_holds(site: &Site, wanted: &World) -> Verdict {
    let layerd = Layerd::start(site)?;
    let found = observe(&mut site.client(), &site.root)?;
    compare(&found, wanted, &site.root, Content::Committed)?;
    layerd.stop()
}

/// A start that lacks open files puts the copy of the database in its place, and a later one finds
/// there what was acknowledged.
#[test]
fn root_a_start_that_fails_loses_nothing_to_a_power_cut() {
    for disk in DISKS {
        let mut stage = Stage::new(disk);
        let layerd = Layerd::start(&stage.site).unwrap();
        let operations = [prepare("a", ""), commit("b", "a"), prepare("c", "b")];
        let world = stage.run(World::new(), &operations);
        layerd.stop().unwrap();
        nix::unistd::sync();
        stage.recorder.begin();
        let starts = FILES.map(|files| Layerd::start_with_files(&stage.site, files));
        let failed = starts.take_while(Result::is_err).count();
        assert!(
            failed > 0 && failed < FILES.count(),
            "{failed} starts failed"
        );
        let mut recording = stage.recorder.finish().unwrap();
        let directory = stage.scratch.path();
        let bad = survive(&mut recording, directory, |site| assert_holds(site, &world));
        println!("{:?}: {failed} starts failed, bad: {}", disk.0, bad.len());
        assert!(bad.is_empty(), "{}", bad.join("\n\n"));
    }
}

/// Layers that are younger than the export are somewhere, whole, whenever the power goes.
#[test]
fn root_a_restore_loses_nothing_to_a_power_cut() {
    for disk in DISKS {
        let mut stage = Stage::new(disk);
        let layerd = Layerd::start(&stage.site).unwrap();
        let world = stage.run(World::new(), &[prepare("a", ""), commit("b", "a")]);
        layerd.stop().unwrap();
        let exported = exports(&stage.site.root);
        let layerd = Layerd::start(&stage.site).unwrap();
        let operations = ["1", "2", "3"].map(|n| [prepare("x", "b"), commit(n, "x")]);
        let younger = stage.run(world.clone(), &operations.concat());
        layerd.kill();
        let newer = exports(&stage.site.root);
        for export in newer.iter().filter(|path| !exported.contains(path)) {
            fs::remove_file(export).unwrap();
        }
        // As after a fault of the disk.
        let meta = stage.site.root.join("meta");
        fs::rename(meta.join("db"), meta.join("gone")).unwrap();
        nix::unistd::sync();
        stage.recorder.begin();
        restore(&stage.site).unwrap();
        let mut recording = stage.recorder.finish().unwrap();
        let is_younger = |name: &&String| !world.contains_key(*name);
        let names = younger.keys().filter(is_younger);
        let layers: Vec<_> = names
            .map(|name| younger[name].layer.clone().unwrap())
            .collect();
        assert_eq!(layers.len(), 3);
        let bad = survive(&mut recording, stage.scratch.path(), |site| {
            go_back(site)?;
            assert_holds(site, &world)?;
            layers.iter().try_for_each(|layer| is_kept(site, layer))
        });
        println!("{:?}: restored, bad: {}", disk.0, bad.len());
        assert!(bad.is_empty(), "{}", bad.join("\n\n"));
    }
}

fn exports(root: &Path) -> Vec<PathBuf> {
    let meta = root.join("meta");
    let names = names(&meta).into_iter();
    let exports = names.filter(|name| name.starts_with("export."));
    exports.map(|name| meta.join(name)).collect()
}

/// Restores the records if the daemon says that they are to be restored. Any start deletes what it
/// takes for left over.
fn go_back(site: &Site) -> Verdict {
    let layerd = Layerd::start(site)?;
    let is_lost = |code| code == Code::Unavailable;
    let lost = site
        .client()
        .stat("b")
        .is_err_and(|status| is_lost(status.code()));
    layerd.stop()?;
    if lost { restore(site) } else { Ok(()) }
}

/// In its place, or moved out of the way.
fn is_kept(site: &Site, layer: &Arc<Layer>) -> Verdict {
    let folders = ["l", "lost"].map(|folder| site.root.join(folder));
    let all = folders.iter().flat_map(|folder| {
        let names = names(folder).into_iter();
        names.map(|name| folder.join(name))
    });
    let mut same = all.filter(|path| Layer::read(path).difference(layer).is_none());
    same.next()
        .map(drop)
        .ok_or_else(|| "a layer that is younger than the export is gone".into())
}
