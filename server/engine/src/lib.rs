//! The daemon without a network: blocking, and plain to test.
//!
//! The engine joins what exists (the store) with what is on disk (a driver). Order of writes:
//! a new layer's directories are durable before its record, so a record always has its directory;
//! a removed layer's record is retired before its directory moves to the trash, so a directory
//! without a record was never acknowledged, or is on its way out. The engine never sees a message
//! of the wire and knows nothing of async.

mod attach;
mod backlog;
mod check;
mod content;
mod error;
mod events;
pub mod filter;
mod fullness;
#[cfg(test)]
mod gate;
mod health;
mod host_directory;
mod ids;
mod keyed_lock;
mod last_usage;
mod layers;
mod limit_text;
mod list;
mod reap;
mod recover;
mod reserve;
mod reserved;
mod root;
mod stack;
mod stale;
mod trash;
mod volumes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use layerd_drivers::Driver;
use layerd_mounts::limit::Method;
use layerd_mounts::mounter::Mounter;
use layerd_mounts::{Slot, VolumeDirs};
use layerd_store::call_phase::{self, enter_at};
use layerd_store::{Files, LayerId, Store, VolumeId};

pub use layerd_layers;

pub use attach::{Attach, AttachmentEntry, Attachments, Living, OciMount, Publish, Reconciled};
pub use check::{Fix, Problem, VolumeProblem};
pub use content::{ContentCounts, survey_content};
pub use error::{AttachError, Error, ErrorKind, LayerError, VolumeError};
pub use events::{Amount, Event, Topic, Watcher};
pub use fullness::Fullness;
pub use health::Health;
pub use layers::limits::layer_size;
pub use layers::{Active, Changes, Counts, Layers, Mounted, Pack, Removed, Unpack, UnpackOptions};
pub use list::{Entry, Listing};
pub use reap::Reaped;
pub use recover::{Finding, NewestCopy, Restored, newest_copy, restore_records, survey};
pub use reserved::{Level, Reserved};
pub use trash::{Discarded, TrashOptions};
pub use volumes::{
    Candidate, CreateVolume, Filled, Plan, Pruned, Purged, Source, VolumeEntry, VolumeFilter,
    VolumeRef, Volumes, is_nocopy, limit_of, owner_id, refuse_own_labels, size_asked,
};

use layers::file_digests::DigestFiles;
use root::Root;

/// Settings of an engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Limit for Usage of a writable layer to wait for a measurement begun after the call; then it
    /// answers with the last finished one.
    pub usage_patience: Duration,
    /// Durability of a layer's content at Commit.
    pub durability: Durability,
    /// Times for which removed layers and volumes are kept, and the mass-removal guard.
    pub trash: TrashOptions,
    /// Allows snapshots prepared as layers of images without a parent to get one at Commit. They are
    /// mounted as an overlay then.
    pub rebase: bool,
    /// Turns id mappings in labels into mount options; otherwise they are refused.
    pub id_mapping: bool,
    /// Limits of unpacking.
    pub unpack: UnpackOptions,
    /// Number of layers made ahead, so that Prepare need not wait for directories.
    pub layer_pool: usize,
    /// The socket that layerd is called on. Nothing is mounted over it.
    pub socket: Option<PathBuf>,
    /// Share of the disk's bytes and inodes that an import leaves free, in percent.
    pub import_keep_percent: u64,
    /// Share of the bytes and inodes of each file system with data that nothing new may take, in percent;
    /// 0 for none.
    pub keep_free_percent: u64,
    /// Bytes that the layer of each container can hold, unless labels say otherwise.
    pub container_size: Option<u64>,
    /// Way in which volumes are held to a size from now on.
    pub limits: Method,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            usage_patience: Duration::from_millis(500),
            durability: Durability::Full,
            trash: TrashOptions::default(),
            id_mapping: true,
            rebase: false,
            unpack: UnpackOptions::default(),
            layer_pool: 0,
            socket: None,
            import_keep_percent: 5,
            keep_free_percent: 0,
            container_size: None,
            limits: Method::default(),
        }
    }
}

/// Content on stable storage when Commit answers, besides the record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The content of the layer: Commit looks at each of its files and waits for what is dirty.
    #[default]
    Full,
    /// Nothing: a power cut within the kernel's write-back time can leave empty files, as with
    /// containerd's own snapshotters. Commit costs the same for a layer of any size.
    Metadata,
}

/// The open root: three wings, each with what it works on, over what they share.
///
/// [`Attachments`] use [`Volumes`] and [`Layers`], which do not know each other. What concerns all of a
/// root (recovery, fsck, the reaper) is the engine's own.
#[derive(Debug)]
pub struct Engine {
    root: Arc<Root>,
    /// Snapshots and their layers.
    pub layers: Arc<Layers>,
    /// Volumes and their content.
    pub volumes: Arc<Volumes>,
    /// Attachments and the mounts made for them.
    pub attachments: Attachments,
}

impl Engine {
    /// Opens the records in `<root>/meta`, and makes good what an earlier process left half done:
    /// work directories that are missing are made, directories without a record are queued for
    /// the reaper. Changes nothing if it fails.
    ///
    /// # Errors
    /// [`Error::Store`] if the records cannot be opened, [`Error::Unrecorded`] if there are
    /// layers or volumes but no records, [`Error::Driver`] if the disk cannot be read.
    pub fn open(
        root: &Path,
        driver: Arc<dyn Driver>,
        mounter: Arc<dyn Mounter>,
        options: Options,
    ) -> Result<Self, Error> {
        enter_at("listing the layers", root);
        let found = driver.list().map_err(Error::driver("list the layers"))?;
        let volumes_path = root.join("volumes");
        enter_at("listing the volumes", &volumes_path);
        let found_volumes = VolumeDirs::survey(root).map_err(Error::driver("list the volumes"))?;
        recover::refuse_lost_records(root, &found, &found_volumes)?;
        enter_at("looking for ids on the disk", root);
        let taken = ids::taken(root, &found, &found_volumes);
        enter_at("opening the folder of volumes", &volumes_path);
        let volume_dirs =
            VolumeDirs::open(root).map_err(Error::driver("open the folder of volumes"))?;
        let volume_dirs = Arc::new(volume_dirs.limited_by(options.limits));
        enter_at("opening the folder of file digests", &root.join("m"));
        let digest_files =
            DigestFiles::open(root).map_err(Error::driver("open the folder of manifests"))?;
        let taken = taken.map_err(Error::driver("look for ids on the disk"))?;
        let store = open_store(root, &driver, &volume_dirs, taken)?;
        enter_at("reading the state of the trash", &meta_folder(root));
        let root = Arc::new(Root::open(root, store, options)?);
        enter_at("looking for layers made ahead", &root.path);
        let layers = Arc::new(Layers::open(root.clone(), driver, digest_files)?);
        let volumes = Arc::new(Volumes::new(root.clone(), volume_dirs));
        let attachments = Attachments::new(root.clone(), layers.clone(), volumes.clone(), mounter);
        let engine = Self {
            root,
            layers,
            volumes,
            attachments,
        };
        enter_at("making good what is left of layers", &engine.root.path);
        engine.recover(&found);
        enter_at("making good what is left of volumes", &volumes_path);
        engine.recover_volumes(&found_volumes)?;
        Ok(engine)
    }

    /// The data directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root.path
    }

    /// The storage driver.
    #[must_use]
    pub fn driver(&self) -> &dyn Driver {
        self.layers.driver.as_ref()
    }

    /// True if the last write of the database failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.root.store.has_failed()
    }

    /// Each file system with data, and how close its reserve is; none without a reserve. Waits for the
    /// file systems, which may hang.
    #[must_use]
    pub fn reserves(&self) -> Vec<Reserved> {
        self.root.reserves()
    }

    /// Tells `watcher` what happens from now on.
    pub fn watch(&self, watcher: Box<dyn Watcher>) {
        self.root.events.add(watcher);
    }

    /// Durability of Commit.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.root.options.durability
    }

    /// All records as one file, which `layerd restore` reads.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn backup(&self) -> Result<Vec<u8>, Error> {
        Ok(self.root.store.export()?)
    }

    /// Waits until the writer of the records has answered, which it cannot while the disk hangs.
    ///
    /// # Errors
    /// [`Error::Store`] if writes fail.
    pub fn ping(&self) -> Result<(), Error> {
        self.layers.save_damage();
        Ok(self.root.store.ping()?)
    }

    /// Waits until the disk has made a small write durable, or has refused it.
    pub fn probe_disk(&self) {
        self.root.store.probe_disk();
    }

    /// True if the database hangs, so that only a new process helps.
    #[must_use]
    pub fn has_hung(&self) -> bool {
        self.root.store.has_hung()
    }

    /// Ends work that takes long, so that the engine can be dropped soon. Calls under way end
    /// with [`Error::Stopping`] if they wait for such work.
    pub fn stop(&self) {
        self.root.backlog.stop();
        self.layers.usage_scanner.stop();
    }
}

/// Opens the records. Their barrier covers layers and volumes.
fn open_store(
    root: &Path,
    driver: &Arc<dyn Driver>,
    volume_dirs: &Arc<VolumeDirs>,
    ids_on_disk: Vec<u64>,
) -> Result<Store, Error> {
    let (layers, volumes) = (driver.clone(), volume_dirs.clone());
    let barrier = move |files| {
        let synced = match files {
            Files::Layers => layers.sync(),
            Files::Volumes => volumes.sync(),
        };
        synced.map_err(|cause| Arc::new(cause) as _)
    };
    let journal = driver.shared_journal_device();
    let options = layerd_store::Options {
        barrier: Box::new(barrier),
        shared_journal_device: journal.filter(|_| journal == volume_dirs.journal()),
        ids_on_disk,
    };
    Ok(Store::open(&meta_folder(root), options)?)
}

fn meta_folder(root: &Path) -> PathBuf {
    root.join("meta")
}

/// A volume's folder is named by its id.
fn volume_slot(id: VolumeId) -> Slot {
    Slot(id.0)
}

/// A layer's directory is named by its id.
fn slot(id: LayerId) -> Slot {
    Slot(id.0)
}
