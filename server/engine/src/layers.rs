//! The wing of snapshots and their layers: its fields, and what its parts share.

pub(crate) mod file_digests;
mod fullness;
mod labels;
mod layer_pool;
pub(crate) mod limits;
pub(crate) mod quarantine;
mod reap;
pub(crate) mod snapshots;
mod trash;
mod unpack;
mod usage_scanner;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use layerd_drivers::{Directories, Driver, Stack};
use layerd_layers::Layering;
use layerd_mounts::{IdMaps, Mount, user_namespace};
use layerd_store::{BadInput, Key, Labels, LayerId, Refusal};

pub use snapshots::{Counts, Mounted};
pub use trash::Removed;
pub use unpack::{Active, Changes, Pack, Unpack, UnpackOptions};

use crate::fullness::Marks;
use crate::root::Root;
use crate::stack::{Top, lineage};
use crate::{Durability, Error, LayerError, slot};
use file_digests::DigestFiles;
use layer_pool::LayerPool;
use quarantine::Quarantine;
use unpack::Unpacks;
use usage_scanner::UsageScanner;

const UID_LABEL: &str = "containerd.io/snapshot/uidmapping";
const GID_LABEL: &str = "containerd.io/snapshot/gidmapping";

/// Snapshots: their layers on the disk, and what is known of them in memory.
#[derive(Debug)]
pub struct Layers {
    pub(crate) root: Arc<Root>,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) usage_scanner: UsageScanner,
    pub(crate) pool: LayerPool,
    pub(crate) quarantine: Quarantine,
    pub(crate) unpacks: Unpacks,
    pub(crate) digest_files: DigestFiles,
    marks: Marks<LayerId>,
}

impl Layers {
    /// Starts the usage scanner and the thread that makes layers ahead.
    pub(crate) fn open(
        root: Arc<Root>,
        driver: Arc<dyn Driver>,
        digest_files: DigestFiles,
    ) -> Result<Self, Error> {
        let (store, ahead) = (&root.store, root.options.layer_pool);
        Ok(Self {
            usage_scanner: UsageScanner::start(
                store.clone(),
                driver.clone(),
                root.last_usage.clone(),
            )?,
            pool: LayerPool::start(store.clone(), driver.clone(), &root.path, ahead)?,
            quarantine: Quarantine::default(),
            unpacks: Unpacks::default(),
            digest_files,
            marks: Marks::default(),
            driver,
            root,
        })
    }

    /// Refusal of a call that needs a capability which the driver does not have.
    pub(crate) fn lacks(&self, what: &'static str) -> Error {
        let driver = self.driver.name();
        Error::Lacking { driver, what }
    }

    /// Directories of layers, if the driver keeps such.
    pub(crate) fn directories(&self) -> Result<&dyn Directories, Error> {
        let directories = self.driver.directories();
        directories.ok_or_else(|| self.lacks("directories of layers"))
    }

    /// Drops what the driver kept beside a layer while it was written.
    pub(crate) fn drop_work(&self, id: LayerId) -> Result<(), layerd_mounts::Error> {
        self.driver
            .work_dirs()
            .map_or(Ok(()), |work| work.remove(slot(id)))
    }

    /// Layers unpacked into snapshots, and layers made of snapshots, since the engine was opened.
    #[must_use]
    pub fn layers_moved(&self) -> (u64, u64) {
        self.unpacks.counts()
    }

    /// The id mappings that labels ask for.
    pub(crate) fn mappings(&self, labels: &Labels) -> Result<Option<IdMaps>, Error> {
        let ids = match (labels.get(UID_LABEL), labels.get(GID_LABEL)) {
            (None, None) => return Ok(None),
            (Some(uid), Some(gid)) => IdMaps::parse(uid, gid)?,
            _ => {
                let rule =
                    format!("must come together with its other half, {UID_LABEL} with {GID_LABEL}");
                return Err(BadInput::new("labels", rule).into());
            }
        };
        if !self.root.options.id_mapping {
            return Err(Error::Layer(LayerError::MappingOff));
        }
        if user_namespace::current().is_some() {
            return Err(Error::Layer(LayerError::MappingInNamespace));
        }
        if !self.driver.features().id_mapping {
            return Err(self.lacks("id mappings"));
        }
        if ids.root().is_none() {
            let rule = "must map id 0 of the container, to which the layer's top directory belongs";
            return Err(BadInput::new("labels uidmapping and gidmapping", rule).into());
        }
        Ok(Some(ids))
    }

    pub(crate) fn plan(&self, key: &Key, stack: &Stack) -> Result<Mounted, Error> {
        self.driver.plan(stack).map_err(|cause| {
            Error::Layer(LayerError::Plan {
                key: key.clone(),
                cause,
            })
        })
    }

    /// Has the driver make ready what mounts that are about to be answered refer to.
    pub(crate) fn make_mountable(&self, key: &Key, stack: &Stack) -> Result<(), Error> {
        let ready = self.driver.make_mountable(stack);
        ready.map_err(|cause| {
            self.note_bad_image(&cause);
            Error::Layer(LayerError::MakeMountable {
                key: key.clone(),
                cause,
            })
        })
    }

    /// Quarantines a layer whose image is not what was written.
    pub(crate) fn note_bad_image(&self, cause: &layerd_mounts::Error) {
        if let layerd_mounts::Error::BadImage { slot, problem, .. } = cause {
            let id = LayerId(slot.0);
            // A layer that was removed meanwhile has no image.
            if self.root.store.records().get(id).is_some() {
                self.bar(id, format!("its image cannot be used: {problem}"));
            }
        }
    }

    /// True if a layer is an image. Reads memory only.
    pub(crate) fn is_image(&self, id: LayerId) -> bool {
        let images = self.driver.images();
        images.is_some_and(|images| images.is_image(slot(id)))
    }

    /// Read-only mounts of a committed layer and those below it.
    pub(crate) fn image_plan(&self, layer: LayerId) -> Result<Vec<Mount>, Error> {
        let view = self.root.store.records();
        let record = view.get(layer).ok_or(Refusal::LayerGone { id: layer })?;
        self.quarantine.check_stack(&view, record)?;
        let stack = Top::view_of(record).stack(&view);
        let planned = self.driver.plan(&stack);
        let planned = planned.map_err(Error::driver("plan the mount of an image"))?;
        self.make_mountable(&record.key, &stack)?;
        Ok(planned)
    }

    /// The directories that hold what a committed snapshot shows, topmost first.
    pub(crate) fn layers_of(&self, image: LayerId) -> Result<Vec<OwnedFd>, Error> {
        let view = self.root.store.records();
        let record = view.get(image).ok_or(Refusal::LayerGone { id: image })?;
        let mut layers = self.open_layers(&view, record)?;
        if self.directories()?.layering() == Layering::Full {
            layers.truncate(1);
        }
        Ok(layers)
    }

    /// The images, if they are some, of the layers that [`layers_of`](Self::layers_of) answers.
    pub(crate) fn images_of(&self, image: LayerId) -> Result<Vec<Option<OwnedFd>>, Error> {
        let view = self.root.store.records();
        let record = view.get(image).ok_or(Refusal::LayerGone { id: image })?;
        let Some(images) = self.driver.images() else {
            return Ok(Vec::new());
        };
        let opened = lineage(&view, record).map(|slot| images.open_image(slot));
        opened
            .collect::<Result<_, _>>()
            .map_err(Error::driver("open the image of a layer"))
    }

    /// True if content is durable with the record of a Commit.
    pub(crate) fn is_full(&self) -> bool {
        self.root.options.durability == Durability::Full
    }
}
