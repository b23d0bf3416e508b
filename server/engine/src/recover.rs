//! Recovery at start, and fsck.
//!
//! The order of writes, and what a crash between any two steps leaves behind:
//!
//! | call    | steps, each durable before the next where it says so        | left by a crash: made good as |
//! |---------|--------------------------------------------------------------|------------------------------|
//! | Prepare, View | directories made; **journal**; record; answer          | directories without a record: abandoned, deleted |
//! | Prepare with directories made ahead (`layers/layer_pool.rs`) | directories made; **journal**; a call comes; record; answer | directories without a record: abandoned, deleted |
//! | Commit  | content written back; **journal**; record; answer; work directory dropped | an active snapshot, or a spare work directory: deleted |
//! | Commit of a layer prepared without its parent | attributes that it takes from below; then as above | an active snapshot: what was given is given again |
//! | Remove, restore, Update, figures | record; answer                      | nothing: what was removed stays in its place |
//! | reap    | directory to the trash, deleted; **journal**; record dropped  | a retired record without a directory, or with part of one: dropped, deleted by the next pass |
//! | export  | temporary file; its sync; rename; sync of the folder         | a temporary file: overwritten by the next |
//! | restore of the records | layers that the export does not know to `lost/`; sync of both folders; database built beside the other one; its sync; exchange of the two; sync of the folder | the database as it was, and layers in `lost/`: restored again |
//! | filling of a volume | content staged; its sync; exchange with the empty content; sync of both folders; record | staged content, which is deleted; on an ext4 without a journal, a volume of which e2fsck(8) took the content's name away: what is staged is put there |
//! | a start that fails | copy of the database; its sync; exchange of the two; sync of the folder; what failed deleted | the database that failed, or the copy, and one of them too many: deleted by the next start |
//!
//! "Record" is one transaction of the store, durable when it returns; "journal" is one wait that
//! all calls of the moment share. So a layer without a record was never acknowledged, and neither
//! it nor its work directory holds anything. One that holds something is younger than the records, as
//! after a backup of them was put back: it is left alone, and ids are handed out above all that is on
//! disk (`ids.rs`). Where the records are on the same file system, and it is one with
//! a journal, both are one wait: see `store/src/wal.rs`. Work directories are never waited for: start-up makes them anew.
//! File digests have a table of their own, in `layers/file_digests.rs`.

mod copy;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use layerd_drivers::{Driver, Found, SlotKind, Survey};
use layerd_mounts::volume_dirs::FoundVolumes;
use layerd_mounts::{Slot, VolumeDirs};
use layerd_store::{Export, LayerId, Record, Store};
use tracing::{error, info, warn};

use crate::check::{Facts, Fix, Problem, problems};
use crate::layers::file_digests::DigestFiles;
use crate::stack::base_of;
use crate::trash::hold_older;
use crate::volumes::survey_volumes;
use crate::{Engine, Error, Layers, ids, meta_folder, slot};

pub use copy::{NewestCopy, newest_copy};

/// Records that are back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Number of snapshots that are back.
    pub snapshots: usize,
    /// Number of layers that were moved to `lost/`.
    pub moved: usize,
    /// Name and age of the copy that was taken, as in "the newest export, 3 h old"; empty for a file.
    pub source: String,
}

/// A problem and what became of it.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The problem.
    pub problem: Problem,
    /// Set if it was repaired.
    pub repaired: bool,
}

/// Folders that are closed to other users, besides those of the driver.
const FOLDERS: [&str; 8] = [
    "meta",
    "m",
    "lost",
    "mnt",
    "volumes",
    "volumes/.staging",
    "volumes/.trash",
    "volumes/by-name",
];
const FOLDER_MODE: u32 = 0o700;

/// Problems of the folders themselves. An unreadable folder is none here: store and driver report it
/// when they open.
fn open_folders(root: &Path, of_driver: &[&str]) -> Vec<Problem> {
    let all = FOLDERS.iter().chain(of_driver);
    let folders = all.filter_map(|name| {
        let path = root.join(name);
        let found = fs::symlink_metadata(&path).ok()?;
        let mode = found.permissions().mode() & 0o7777;
        let is_wrong = found.is_dir() && mode != FOLDER_MODE;
        is_wrong.then_some(Problem::FolderMode { path, mode })
    });
    folders.collect()
}

/// Exports that would not help. Reads all of each, so start-up does without.
fn bad_exports(meta: &Path) -> Vec<Problem> {
    let Ok(entries) = fs::read_dir(meta) else {
        return Vec::new();
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_export = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix("export."));
        number.is_some_and(|number| number.parse::<u64>().is_ok())
    };
    paths
        .filter(|path| is_export(path))
        .filter_map(|path| match Export::read_own(&path) {
            Err(layerd_store::Error::Damaged { what: why, .. }) => {
                Some(Problem::BadExport { path, why })
            }
            // Gone by now: a newer one took its place.
            Ok(_) | Err(_) => None,
        })
        .collect()
}

/// Unknown entries of the folder; none if it cannot be read.
fn odd(root: &Path) -> Vec<Problem> {
    let (_, unknown_entries) = DigestFiles::of(root).list().unwrap_or_default();
    let unknown_entries = unknown_entries.into_iter();
    unknown_entries
        .map(|path| Problem::UnknownEntry { path })
        .collect()
}

/// An empty database must not take the place of one that was lost while its layers or volumes are
/// there.
pub(crate) fn refuse_lost_records(
    root: &Path,
    found: &[Found],
    volumes: &FoundVolumes,
) -> Result<(), Error> {
    let meta = meta_folder(root);
    let volumes = volumes.live.len() + volumes.trashed.len();
    let layers = found
        .iter()
        .filter(|entry| matches!(entry, Found::Slot(SlotKind::Layer, _)))
        .count();
    if layers + volumes == 0 || Store::exists(&meta)? {
        return Ok(());
    }
    Err(Error::Unrecorded {
        root: root.to_owned(),
        meta,
        layers,
        volumes,
    })
}

/// Puts an export in place of a lost or damaged database. Unless a file is named, it is the newest one, or
/// what the damaged database still holds if that is newer.
/// Layers of which it knows nothing are moved to `lost/`, not deleted: they are younger than the
/// export, and may be the only copy. Volumes of which it knows nothing stay. If it has something in
/// the trash, the trash is not deleted until a person decides. The daemon must not be
/// running. May be repeated after a crash.
///
/// # Errors
/// [`Error::NoExport`] if there is none; [`Error::Store`], [`Error::Driver`].
pub fn restore_records(
    root: &Path,
    driver: &dyn Driver,
    file: Option<&Path>,
) -> Result<Restored, Error> {
    let meta = meta_folder(root);
    let export = match file {
        Some(file) => Some(Export::read(file)?),
        None if !meta.exists() => None,
        None => Store::newest_copy(&meta)?,
    };
    let export = export.ok_or_else(|| Error::NoExport { meta: meta.clone() })?;
    let found = driver.list().map_err(Error::driver("list the layers"))?;
    let volumes = VolumeDirs::survey(root).map_err(Error::driver("list the volumes"))?;
    let taken = ids::taken(root, &found, &volumes);
    let taken = taken.map_err(Error::driver("look for ids on the disk"))?;
    let moved = move_unknown_layers(driver, &export, &found)?;
    keep_unknown_volumes(root, &export, &volumes)?;
    let was_removed = export.records().any(|record| record.removed.is_some());
    if was_removed || export.volumes().any(|volume| volume.removed.is_some()) {
        hold_older(&meta)?;
    }
    Store::restore(&meta, &export, &taken)?;
    let live = export.records().filter(|record| record.removed.is_none());
    let source = match file {
        Some(_) => String::new(),
        None => copy::named(copy::Origin::of(&export, &meta), export.taken),
    };
    Ok(Restored {
        snapshots: live.count(),
        moved,
        source,
    })
}

/// Moves layers that hold something and that an export does not know to `lost/`, durably. Answers how
/// many.
fn move_unknown_layers(
    driver: &dyn Driver,
    export: &Export,
    found: &[Found],
) -> Result<usize, Error> {
    let known: BTreeSet<LayerId> = export.records().map(|record| record.id).collect();
    let mut moved = BTreeSet::new();
    for entry in found {
        let Found::Slot(_, Slot(id)) = entry else {
            continue;
        };
        let id = LayerId(*id);
        // The next start deletes what holds nothing. All directories of a layer go, also those that
        // are left when the first is gone.
        if !known.contains(&id) && (moved.contains(&id) || !is_empty(driver, id)?) {
            moved.insert(id);
            let set_aside = driver.move_to_lost_found(entry);
            set_aside.map_err(Error::driver("move a layer to lost/"))?;
        }
    }
    Ok(moved.len())
}

/// Volumes that an export does not know stay where they are. Those that hold something lose the mark
/// of an interrupted call, durably: a power cut may have brought it back.
fn keep_unknown_volumes(root: &Path, export: &Export, found: &FoundVolumes) -> Result<(), Error> {
    let known: BTreeSet<u64> = export.volumes().map(|volume| volume.id.0).collect();
    let unknown = found.new.iter().filter(|slot| !known.contains(&slot.0));
    let dirs = VolumeDirs::open(root).map_err(Error::driver("open the folder of volumes"))?;
    for slot in unknown {
        let kept = dirs.is_empty(*slot).and_then(|is_empty| match is_empty {
            true => Ok(()),
            false => dirs.clear_marker(*slot),
        });
        kept.map_err(Error::driver("keep a volume that the export does not know"))?;
    }
    dirs.sync()
        .map_err(Error::driver("sync the folder of volumes"))
}

/// Compares records and directories of a root that no daemon serves, without changing anything:
/// the database is read from a copy, which needs space for itself in the folder for temporary
/// files.
///
/// # Errors
/// [`Error::Store`] if the database is damaged or in use, [`Error::Unrecorded`] if there is none
/// although there are layers, [`Error::Driver`] if the disk cannot be read.
pub fn survey(root: &Path, layers: &dyn Survey) -> Result<Vec<Problem>, Error> {
    let found = layers.list().map_err(Error::driver("list the layers"))?;
    let volumes = VolumeDirs::survey(root).map_err(Error::driver("list the volumes"))?;
    refuse_lost_records(root, &found, &volumes)?;
    let (view, ids_below) = Store::inspect(&meta_folder(root))?;
    let is_issued = |id| id < ids_below.0;
    let facts = Facts {
        found: &found,
        claimed: &[],
        view: &view,
        is_issued: &is_issued,
        // Where this cannot be told, it is.
        is_used: &|id| !layers.is_unused(slot(id)).unwrap_or(false),
        needs_work: &|record| needs_work(layers, record),
    };
    let mut all = problems(&facts);
    all.extend(survey_volumes(root, &view, &is_issued)?);
    all.extend(open_folders(root, layers.folders()));
    all.extend(odd(root));
    all.extend(bad_exports(&meta_folder(root)));
    let mut kept = Vec::new();
    for problem in all {
        // Made ahead, and deleted by the next start.
        if let Problem::Abandoned { id } = problem
            && is_empty(layers, id)?
        {
            continue;
        }
        kept.push(problem);
    }
    Ok(kept)
}

fn is_empty(layers: &(impl Survey + ?Sized), id: LayerId) -> Result<bool, Error> {
    let is_empty = layers.is_empty(slot(id));
    is_empty.map_err(Error::driver("look into a layer"))
}

/// True if the driver keeps directories beside the layer of a snapshot.
fn needs_work(layers: &(impl Survey + ?Sized), record: &Record) -> bool {
    layers.needs_work(&base_of(record))
}

impl Engine {
    /// Makes good what `found` shows; called before any request.
    pub(crate) fn recover(&self, found: &[Found]) {
        if self.root.store.was_unclean() {
            info!("the last process did not end in order; everything acknowledged was verified");
        }
        let found = &self.drop_stale(found);
        let problems = problems(&Facts {
            found,
            claimed: &[],
            view: &self.root.store.records(),
            is_issued: &|id| self.root.store.is_issued(id),
            is_used: &|id| self.layers.is_used(id),
            needs_work: &|record| needs_work(self.layers.driver.as_ref(), record),
        });
        let kept: BTreeSet<_> = problems.iter().filter_map(Problem::unrecorded).collect();
        let is_abandoned = |problem: &&Problem| matches!(problem, Problem::Abandoned { .. });
        match problems.iter().filter(is_abandoned).count() {
            0 => {}
            layers => info!(layers, "layers that no snapshot was made of are deleted"),
        }
        let others = open_folders(&self.root.path, self.layers.driver.folders())
            .into_iter()
            .chain(odd(&self.root.path));
        for problem in problems.into_iter().chain(others) {
            match problem.fix() {
                // What cannot be made good is logged, and found again by fsck.
                Fix::Safe(_) => drop(self.make_good(&problem)),
                Fix::OnRequest(_) => warn!("{problem}; it was left alone"),
                Fix::Quarantine(advice) | Fix::Advice(advice) => {
                    error!("{problem}; {advice}");
                }
            }
            if let Some(id) = problem.quarantined() {
                self.layers.quarantine.set(id, problem.to_string());
            }
        }
        self.layers.remove_stray_digests(&kept);
        self.layers.recover_partial();
        self.layers.recover_quarantined();
    }

    /// Compares records and directories, and with `repair` does what the fixes announce. Two
    /// looks are taken, so that calls under way are not mistaken for problems. Costs two readings
    /// of layerd's folders.
    ///
    /// # Errors
    /// [`Error::Driver`] if the disk cannot be read.
    pub fn fsck(&self, repair: bool) -> Result<Vec<Finding>, Error> {
        let first = self.look()?;
        let mut both = self.look()?;
        both.retain(|problem| first.contains(problem));
        let barred = both.iter().filter_map(Problem::quarantined).collect();
        self.layers.quarantine.keep_only(&barred);
        Ok(both
            .into_iter()
            .map(|problem| self.find(problem, repair))
            .collect())
    }

    fn look(&self) -> Result<Vec<Problem>, Error> {
        let before = self.root.store.records();
        let found = self
            .layers
            .driver
            .list()
            .map_err(Error::driver("list the layers"))?;
        let mut claimed = self.layers.pool.ids();
        claimed.extend(self.root.store.claimed());
        // What a call left that failed a moment ago is as good as gone.
        claimed.extend(self.root.backlog.awaited());
        let view = self.root.store.records();
        let mut all = problems(&Facts {
            found: &found,
            claimed: &claimed,
            view: &view,
            is_issued: &|id| self.root.store.is_issued(id),
            is_used: &|id| self.layers.is_used(id),
            needs_work: &|record| needs_work(self.layers.driver.as_ref(), record),
        });
        all.extend(self.volumes.look_at_volumes()?);
        all.extend(open_folders(&self.root.path, self.layers.driver.folders()));
        all.extend(odd(&self.root.path));
        all.extend(bad_exports(&meta_folder(&self.root.path)));
        // A snapshot made since the directories were read seems to lack its own.
        let settled = |problem: &Problem| {
            problem
                .quarantined()
                .is_none_or(|id| before.get(id).is_some())
        };
        Ok(all.into_iter().filter(settled).collect())
    }

    fn find(&self, problem: Problem, repair: bool) -> Finding {
        if let Some(id) = problem.quarantined() {
            self.layers.quarantine.set(id, problem.to_string());
        }
        let repaired = repair && self.repair(&problem);
        Finding { problem, repaired }
    }

    pub(crate) fn repair(&self, problem: &Problem) -> bool {
        match problem.fix() {
            Fix::Safe(_) => self.make_good(problem),
            Fix::OnRequest(_) => self.set_aside(problem),
            Fix::Quarantine(_) | Fix::Advice(_) => false,
        }
    }

    fn set_aside(&self, problem: &Problem) -> bool {
        let moved = match problem {
            Problem::UnknownEntry { path }
            | Problem::BadExport { path, .. }
            | Problem::BadFileDigests { path, .. } => {
                let unknown_entry = Found::UnknownEntry(path.clone());
                self.layers
                    .driver
                    .move_to_lost_found(&unknown_entry)
                    .map(Some)
            }
            Problem::UnknownLayer { id, .. } | Problem::Unrecorded { id } => {
                self.layers.set_layer_aside(*id)
            }
            Problem::InTrash { id, .. } => {
                let trash = Found::Slot(SlotKind::Trash, slot(*id));
                self.layers.driver.move_to_lost_found(&trash).map(Some)
            }
            Problem::Volume(problem) => self.set_volume_aside(problem),
            _ => return false,
        };
        match moved {
            Ok(target) => {
                let target = target.unwrap_or_default();
                info!(target = %target.display(), "{problem}; it is out of the way");
                true
            }
            Err(cause) => {
                warn!(
                    error = &cause as &dyn std::error::Error,
                    "{problem}; it could not be moved"
                );
                false
            }
        }
    }

    /// A failure leaves the problem for the next look; nothing rests on it being gone.
    fn make_good(&self, problem: &Problem) -> bool {
        let done = match problem {
            Problem::Abandoned { id } => {
                self.root.backlog.abandon(*id);
                return true;
            }
            Problem::NoWorkDirectory { id, .. } => self
                .layers
                .driver
                .work_dirs()
                .map_or(Ok(()), |work| work.restore(slot(*id))),
            Problem::SpareWorkDirectory { id, .. } => self.layers.drop_work(*id),
            Problem::Volume(problem) => self.volumes.make_volume_good(problem),
            Problem::FolderMode { path, .. } => {
                let made = fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE));
                made.map_err(|cause| layerd_mounts::Error::Io {
                    attempt: "change the mode of",
                    path: path.clone(),
                    cause,
                })
            }
            _ => Ok(()),
        };
        match &done {
            Ok(()) => info!("{problem}; made good"),
            Err(cause) => warn!(
                error = cause as &dyn std::error::Error,
                "{problem}; it could not be made good"
            ),
        }
        done.is_ok()
    }
}

impl Layers {
    /// Where this cannot be told, it is.
    pub(crate) fn is_used(&self, id: LayerId) -> bool {
        !self.driver.is_unused(slot(id)).unwrap_or(false)
    }

    /// Moves all directories of a layer. Answers where one of them is.
    fn set_layer_aside(&self, id: LayerId) -> Result<Option<PathBuf>, layerd_mounts::Error> {
        let mut last = None;
        for kind in [SlotKind::Work, SlotKind::Trash, SlotKind::Layer] {
            match self.driver.move_to_lost_found(&Found::Slot(kind, slot(id))) {
                Ok(target) => last = Some(target),
                Err(cause) if cause.io_kind() == Some(io::ErrorKind::NotFound) => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(last)
    }
}
