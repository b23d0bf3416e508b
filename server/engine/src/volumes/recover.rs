//! Recovery of volumes at start, and fsck.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use layerd_drivers::Found;
use layerd_mounts::volume_dirs::FoundVolumes;
use layerd_mounts::{Error as MountError, VolumeDirs};
use layerd_store::{Records, VolumeId};
use tracing::{error, warn};

use super::slot;
use crate::call_phase::enter_at;
use crate::check::{Fix, Problem, VolumeFacts, VolumeProblem, volume_problems};
use crate::ids::mount_points;
use crate::{Engine, Error, Volumes};

/// Compares the records of volumes and attachments of a root that no daemon serves with what is on
/// disk. `is_issued` says whether an id may have been handed out.
///
/// # Errors
/// [`Error::Driver`] if the disk cannot be read.
pub(crate) fn survey_volumes(
    root: &Path,
    view: &Records,
    is_issued: &dyn Fn(u64) -> bool,
) -> Result<BTreeSet<Problem>, Error> {
    let found = VolumeDirs::survey(root).map_err(Error::driver("list the volumes"))?;
    let mount_points = mount_points(root).map_err(Error::driver("list the mount points"))?;
    Ok(volume_problems(&VolumeFacts {
        root,
        found: &found,
        mount_points: &mount_points,
        view,
        is_issued,
        is_in_making: &|_| false,
    }))
}

impl Engine {
    /// Deletes what was staged, makes good what `found` shows, drops the records of what was deleted
    /// for good, and makes the links for people anew. Called before any request.
    pub(crate) fn recover_volumes(&self, found: &FoundVolumes) -> Result<(), Error> {
        let mut found = self.volumes.complete_exchanges(found.clone());
        found
            .unknown_entries
            .retain(|path| !self.clear_stale_link(path));
        let found = &found;
        for staged in &found.staged {
            note(
                self.volumes.dirs.drop_stage(*staged),
                "delete what an interrupted call staged",
            );
        }
        let view = self.root.store.records();
        for problem in self.volumes.compare_volumes(found)? {
            match problem.fix() {
                // All at once, below.
                _ if is_link(&problem) => {}
                Fix::Safe(_) => drop(self.repair(&problem)),
                Fix::OnRequest(_) => warn!("{problem}; it was left alone"),
                Fix::Quarantine(advice) | Fix::Advice(advice) => {
                    error!("{problem}; {advice}")
                }
            }
        }
        let volumes = view.volumes();
        for new in found.new.iter().map(|slot| VolumeId(slot.0)) {
            if volumes.get(new).is_some() {
                self.volumes.settle_volume(new);
            }
        }
        for volume in volumes.iter().map(|volume| slot(volume.id)) {
            // Some of those in the trash were moved back just now.
            if found.live.contains(&volume) || found.trashed.contains(&volume) {
                let data = self.volumes.dirs.data_path(volume);
                enter_at("making the content of a volume ready", &data);
                note(
                    self.volumes.dirs.ready(volume),
                    "mount the image of a volume",
                );
            }
        }
        // An interrupted deletion leaves it mounted.
        for removed in volumes.removed().map(|volume| slot(volume.id)) {
            note(self.volumes.dirs.rest(removed), "unmount a deleted volume");
        }
        self.volumes.forget_gone(found);
        let names: BTreeMap<_, _> = volumes
            .iter()
            .map(|volume| (volume.name.as_str().to_owned(), slot(volume.id)))
            .collect();
        note(
            self.volumes.dirs.link_all(&found.links, &names),
            "link the names of volumes",
        );
        Ok(())
    }
}

impl Volumes {
    /// Gives volumes that a power cut left without content, while it was exchanged, what is staged
    /// for them.
    fn complete_exchanges(&self, mut found: FoundVolumes) -> FoundVolumes {
        let staged = found.staged.clone();
        found.hollow.retain(|volume| {
            let completed = staged.contains(volume) && {
                let completed = self.dirs.complete_exchange(*volume);
                completed.unwrap_or_else(|cause| {
                    note(Err(cause), "complete the filling of a volume");
                    false
                })
            };
            !completed
        });
        found
    }

    /// Drops the records of removed volumes that are deleted for good: their folder is nowhere, and the disk
    /// of volumes is the one that it was. Another one, or none, has no trash of layerd's, or no folder of any
    /// volume that is not removed.
    fn forget_gone(&self, found: &FoundVolumes) {
        let view = self.root.store.records();
        let volumes = view.volumes();
        let is_live = |id: VolumeId| found.live.contains(&slot(id));
        let has_none = volumes.iter().all(|volume| !is_live(volume.id));
        if !found.has_trash || (has_none && volumes.iter().next().is_some()) {
            return;
        }
        let gone = volumes.removed().map(|volume| volume.id);
        let gone = gone.filter(|id| !is_live(*id) && !found.trashed.contains(&slot(*id)));
        self.forget_deleted(gone.collect());
    }

    /// Compares records and folders of volumes and attachments, as of now.
    pub(crate) fn look_at_volumes(&self) -> Result<BTreeSet<Problem>, Error> {
        let found = self.dirs.list();
        self.compare_volumes(&found.map_err(Error::driver("list the volumes"))?)
    }

    /// The records are read after the folders.
    fn compare_volumes(&self, found: &FoundVolumes) -> Result<BTreeSet<Problem>, Error> {
        let mount_points = mount_points(&self.root.path);
        Ok(volume_problems(&VolumeFacts {
            root: &self.root.path,
            found,
            mount_points: &mount_points.map_err(Error::driver("list the mount points"))?,
            view: &self.root.store.records(),
            is_issued: &|id| self.root.store.is_issued(id),
            is_in_making: &|id| self.root.store.is_issued_now(id),
        }))
    }

    /// Does what is safe, if the records still ask for it. No volume is taken back meanwhile.
    pub(crate) fn make_volume_good(&self, problem: &VolumeProblem) -> Result<(), MountError> {
        let _pass = self.root.backlog.hold();
        let (view, dirs) = (self.root.store.records(), &self.dirs);
        let is_live = |id: &VolumeId| view.volumes().get(*id).is_some();
        match problem {
            VolumeProblem::Abandoned { id } => dirs.discard(slot(*id)),
            VolumeProblem::InTrash { id, .. } if is_live(id) => dirs.restore(slot(*id)).map(drop),
            VolumeProblem::NotInTrash { id, .. } if !is_live(id) => dirs.retire(slot(*id)),
            VolumeProblem::NoLink { id, name } if is_live(id) => {
                dirs.link(name.as_str(), slot(*id))
            }
            VolumeProblem::SpareLink { name } => dirs.unlink(name),
            _ => Ok(()),
        }
    }
}

impl Engine {
    /// Moves what no record names out of the way, or deletes a mount point at which nothing is
    /// mounted. Answers where it is then.
    pub(crate) fn set_volume_aside(
        &self,
        problem: &VolumeProblem,
    ) -> Result<Option<PathBuf>, MountError> {
        match problem {
            VolumeProblem::Unrecorded { path } => {
                VolumeDirs::release(path)?;
                let found = Found::UnknownEntry(path.clone());
                self.layers.driver.move_to_lost_found(&found).map(Some)
            }
            VolumeProblem::UnknownMountPoint { path } => delete_empty(path).map(|()| None),
            _ => Ok(None),
        }
    }
}

impl Engine {
    /// Clears an entry of the folder of links that is none: where there is no journal, a power cut may
    /// leave the name of a link with what had its inode before. After one, what holds something goes to
    /// lost+found. True if it was so.
    fn clear_stale_link(&self, path: &Path) -> bool {
        let folder = path.parent().and_then(Path::file_name);
        if folder.is_none_or(|name| name != "by-name") {
            return false;
        }
        if delete_empty(path).is_ok() {
            return true;
        }
        if !self.root.store.was_unclean() {
            return false;
        }
        if path.is_symlink() {
            // People have links of their own there, which lead somewhere.
            let leads = fs::read_link(path).is_ok_and(|target| !target.as_os_str().is_empty());
            return !leads && fs::remove_file(path).is_ok();
        }
        let found = Found::UnknownEntry(path.to_owned());
        match self.layers.driver.move_to_lost_found(&found) {
            Ok(kept) => {
                warn!(path = %path.display(), kept = %kept.display(), "moved what is no link out of the way");
                true
            }
            Err(cause) => {
                note(Err(cause), "move what is no link out of the way");
                false
            }
        }
    }
}

/// An empty directory or file, as attachments are mounted on.
fn delete_empty(path: &Path) -> Result<(), MountError> {
    let found = fs::symlink_metadata(path);
    let deleted = found.and_then(|found| match found.is_file() && found.len() == 0 {
        true => fs::remove_file(path),
        false => fs::remove_dir(path),
    });
    deleted.map_err(|cause| MountError::Io {
        attempt: "delete the mount point",
        path: path.to_owned(),
        cause,
    })
}

fn is_link(problem: &Problem) -> bool {
    use VolumeProblem::{NoLink, SpareLink};
    matches!(problem, Problem::Volume(NoLink { .. } | SpareLink { .. }))
}

fn note(outcome: Result<(), MountError>, attempt: &'static str) {
    if let Err(cause) = outcome {
        warn!(error = &cause as &dyn std::error::Error, "{attempt}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use layerd_drivers::Memory;
    use layerd_mounts::fake::FakeMounter;
    use layerd_mounts::volume_dirs::Top;
    use layerd_store::VolumeName;

    use super::*;
    use crate::{CreateVolume, Options};

    fn open(root: &Path) -> Engine {
        let mounter = Arc::new(FakeMounter::new());
        Engine::open(root, Arc::new(Memory::new()), mounter, Options::default()).unwrap()
    }

    #[test]
    fn a_volume_that_lost_its_content_within_an_exchange_gets_what_is_staged() {
        let root = tempfile::tempdir().unwrap();
        let engine = open(root.path());
        let name = VolumeName::parse("name", "data").unwrap();
        let request = CreateVolume {
            name: Some(name.clone()),
            ..CreateVolume::default()
        };
        let (made, _) = engine.volumes.create_volume(&request).unwrap();
        let dirs = &engine.volumes.dirs;
        drop(
            dirs.stage(slot(made.volume.id), Top::default(), None)
                .unwrap(),
        );
        let staged = root.path().join("volumes/.staging");
        let staged = staged.join(slot(made.volume.id).to_string()).join("data");
        fs::write(staged.join("file"), "content").unwrap();
        dirs.exchange(slot(made.volume.id)).unwrap();
        // As fsck(8) does if both names of what is new were on the disk.
        fs::remove_dir(&staged).unwrap();
        fs::rename(&made.path, &staged).unwrap();
        drop(engine);
        // A name that was on the disk before the directory.
        fs::write(root.path().join("volumes/.staging/zz"), "").unwrap();
        let link = root.path().join("volumes/by-name/gone");
        fs::write(&link, "").unwrap();
        fs::create_dir(link.with_file_name("folder")).unwrap();
        fs::write(link.with_file_name("kept"), "a user's").unwrap();

        let engine = open(root.path());
        let content = engine.volumes.volume(&name).unwrap().path.join("file");
        assert_eq!(fs::read_to_string(content).unwrap(), "content");
        let found = engine.volumes.dirs.list().unwrap();
        assert_eq!((found.hollow, found.staged), (vec![], vec![]));
        assert_eq!(found.unknown_entries, [link.with_file_name("kept")]);
    }

    /// Brings folders and links of three volumes, of which `removed` is in the trash, into disorder.
    fn disturb(engine: &Engine, ids: [VolumeId; 3]) {
        let [moved, unlinked, removed] = ids.map(slot);
        let dirs = &engine.volumes.dirs;
        dirs.retire(moved).unwrap();
        dirs.unlink("unlinked").unwrap();
        dirs.link("spare", unlinked).unwrap();
        assert!(dirs.restore(removed).unwrap());
    }

    /// Each finding with its fix, and whether that was done.
    fn problems(engine: &Engine, repair: bool) -> Vec<(String, &'static str, bool)> {
        let findings = engine.fsck(repair).unwrap().into_iter();
        let mut problems: Vec<_> = findings
            .map(|one| {
                let text = one.problem.to_string();
                let is_seen_by_people = text.contains("by-name/unlinked");
                assert_eq!(one.problem.is_volume_missing(), is_seen_by_people, "{text}");
                (text, one.problem.fix().text(), one.repaired)
            })
            .collect();
        problems.sort();
        problems
    }

    #[test]
    fn fsck_and_a_start_put_folders_and_links_where_the_records_say() {
        let root = tempfile::tempdir().unwrap();
        let engine = open(root.path());
        let ids = ["moved", "unlinked", "removed"].map(|text| {
            let name = Some(VolumeName::parse("name", text).unwrap());
            let request = CreateVolume {
                name,
                ..CreateVolume::default()
            };
            engine.volumes.create_volume(&request).unwrap().0.volume.id
        });
        let removed = VolumeName::parse("name", "removed").unwrap();
        engine.volumes.delete_volume(&removed).unwrap();
        assert_eq!(problems(&engine, true), []);
        let whole = engine.volumes.dirs.list().unwrap();

        disturb(&engine, ids);
        let seen = [
            (
                "the folder of volume moved is in the trash, but the volume was not deleted",
                "move it back",
            ),
            (
                "the folder of volume removed is in its place, but the volume was deleted",
                "move it to the trash",
            ),
            (
                "the link volumes/by-name/spare leads to no volume of that name",
                "delete it",
            ),
            (
                "the link volumes/by-name/unlinked is missing or leads to another volume",
                "make it anew",
            ),
        ];
        let with = |repaired| seen.map(|(text, fix)| (text.to_owned(), fix, repaired));
        assert_eq!(problems(&engine, false), with(false));
        assert_eq!(problems(&engine, true), with(true));
        assert_eq!(problems(&engine, false), []);
        let found = engine.volumes.dirs.list().unwrap();
        assert_eq!(
            (found.live, found.trashed, found.links),
            (
                whole.live.clone(),
                whole.trashed.clone(),
                whole.links.clone()
            )
        );

        disturb(&engine, ids);
        drop(engine);
        let engine = open(root.path());
        assert_eq!(problems(&engine, false), []);
        let found = engine.volumes.dirs.list().unwrap();
        assert_eq!(
            (found.live, found.trashed, found.links),
            (whole.live, whole.trashed, whole.links)
        );
    }
}
