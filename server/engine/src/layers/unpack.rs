//! Unpacks layers of images into snapshots, and makes layers of snapshots, without a mount.
//!
//! A client names snapshots by their mounts. These are only compared with the driver's plan for a
//! known snapshot: no path of a client is ever opened.
//!
//! Results of unpacking (usage, durability) stay in memory, so that Commit need not walk the layer. They
//! count only as long as no other process can have written to it: overlayfs never had it mounted
//! writable, its top directory is unchanged, and no client asked for its mounts meanwhile. Else, and
//! after a restart, Commit walks the layer, and its file digests (`file_digests.rs`) are deleted.

mod active;
mod image;
mod import;
mod memory;
mod pack;
mod partial;
mod rebase;
mod watch;

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use layerd_drivers::Stack;
use layerd_layers::apply::{
    self, Applied, Blob, Compression, DigestSink, Limits, Target, Whiteouts,
};
use layerd_layers::file_digests::Writer;
use layerd_layers::{Durable, Layering, Progress};
use layerd_mounts::{tree, user_namespace};
use layerd_store::{Kind, LayerId, Record, Records, Refusal, Usage};
use metrics::{counter, histogram};
use tracing::{debug, warn};

use crate::call_phase::enter;
use crate::events::Topic;
use crate::reserve::{self, Area};
use crate::stack::{Top, lineage};
use crate::{Error, LayerError, Layers, slot};
pub use active::Active;
use active::{foreign, quoted};
pub(crate) use memory::Unpacks;
use memory::{Claim, Found};
pub use pack::{Changes, Pack};
use watch::{Watch, Watched};

/// Settings of unpacking.
#[derive(Debug, Clone, Copy)]
pub struct UnpackOptions {
    /// Limits for a layer.
    pub limits: Limits,
    /// Threads that write small files, for each layer that is unpacked.
    pub workers: usize,
    /// Writes file digests of layers, with which their content can be checked later.
    pub file_digests: bool,
}

impl Default for UnpackOptions {
    /// The limits of the crate; as many threads as there are processors, but not more than four;
    /// manifests.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            limits: Limits::default(),
            workers: processors.min(4),
            file_digests: true,
        }
    }
}

/// Inodes of a layer from which on Apply brings names to the disk as well, so that Commit need not
/// wait for all of them: next to making so many, one more wait is nothing.
const MANY: u64 = 512;

/// Options of unpacking one layer.
#[derive(Clone, Copy)]
pub struct Unpack<'a> {
    /// Compression of the blob.
    pub compression: Compression,
    /// Expected length and digest.
    pub blob: Blob,
    /// Have it on stable storage on return, also with [`Durability::Metadata`](crate::Durability::Metadata).
    pub sync: bool,
    /// Receiver of progress, which may cancel.
    pub progress: &'a dyn Progress,
}

impl std::fmt::Debug for Unpack<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("Unpack");
        shown.field("compression", &self.compression);
        shown.field("blob", &self.blob);
        shown.field("sync", &self.sync);
        shown.finish_non_exhaustive()
    }
}

/// The directories that unpacking works on.
struct Opened {
    /// The one to fill, and those below, nearest first.
    open: Vec<OwnedFd>,
    whiteouts: Whiteouts,
    was_empty: bool,
    /// Set if the layer is to become an image.
    is_image_due: bool,
}

impl Layers {
    /// Unpacks the blob that `source` yields into an active snapshot.
    ///
    /// With [`Durability::Full`](crate::Durability::Full) all content is on the disk on return, of a layer of many files
    /// everything, and Commit makes the rest durable without looking at each file; with `sync`
    /// everything is durable on return. Costs
    /// one pass over the blob and five threads besides those that write small files.
    ///
    /// # Errors
    /// `Missing`; `Refused` if the snapshot is not active, if another call unpacks into it, or if
    /// one did and failed: then it holds part of a layer, and can only be removed. `Invalid` if
    /// the blob is not what `unpack` says, is no sound archive, or asks for more than it may;
    /// `Full`, also if the disk's reserve is reached meanwhile; `Stopping`; `Internal` if `source` or the disk fails. Unless nothing was written by
    /// then, the snapshot can only be removed.
    ///
    /// # Cancellation
    /// Ends soon after `progress` says so, or after the snapshot was removed.
    pub fn apply(
        &self,
        active: &Active,
        source: impl Read + Send,
        unpack: &Unpack<'_>,
    ) -> Result<Applied, Error> {
        let (claim, view, record) = self.claim(active)?;
        let checked = self.root.check_reserve(Area::Layers);
        checked.inspect_err(|_| claim.undone())?;
        let layers = self.open_target(&view, &record);
        let layers = layers.inspect_err(|_| claim.undone())?;
        if layers.is_image_due {
            return self.apply_to_image(&record, &layers, &claim, source, unpack);
        }
        let marked = self.mark_partial(record.id);
        marked.inspect_err(|_| claim.undone())?;
        let wanted = self.root.options.unpack.file_digests && layers.was_empty;
        let digests = self.begin_digests(record.id, wanted);
        let applied = self.fill_layer(source, &layers, &claim, unpack, digests.as_ref());
        let applied = applied
            .map_err(|cause| self.give_up(&record, &layers, &claim, unpack.progress, cause))?;
        let digests = self.end_digests(record.id, digests, self.wanted(unpack));
        self.note_applied(&record, &claim, unpack, &applied, layers.was_empty, digests)?;
        self.tell_applied(&record, &applied);
        Ok(applied)
    }

    fn tell_applied(&self, record: &Record, applied: &Applied) {
        let key = record.key.as_str();
        debug!(key, id = %record.id, bytes = applied.size, "applied");
        if let Some(first) = &applied.first_left_out {
            let first = first.display();
            warn!(
                key, id = %record.id, devices = applied.left_out, %first,
                "devices of a layer were left out: none can be made in a user namespace"
            );
        }
        self.root.events.tell(Topic::Layer, "unpacked", key);
    }

    /// Claims an active layer for unpacking: until the claim is dropped it is not committed, and a
    /// removal cancels the unpacking.
    fn claim(&self, active: &Active) -> Result<(Claim<'_>, Arc<Records>, Arc<Record>), Error> {
        let (id, key) = (active.record.id, active.key());
        let _guard = self.unpacks.lock(id);
        let claim = self.unpacks.claim(id, key)?;
        // It may have been committed or removed before the claim.
        let view = self.root.store.records();
        match view.get(id).filter(|record| record.kind == Kind::Active) {
            Some(record) => {
                let record = record.clone();
                Ok((claim, view, record))
            }
            None => {
                claim.undone();
                let key = key.clone();
                Err(Refusal::Missing { key }.into())
            }
        }
    }

    fn open_target(&self, view: &Records, record: &Record) -> Result<Opened, Error> {
        self.quarantine.check_stack(view, record)?;
        let stack = Top::recorded(view, record, None).stack(view);
        self.plan(&record.key, &stack)?;
        let layering = self.directories()?.layering();
        self.expand(record)?;
        let is_image_due = self.is_image_due(record)?;
        let mut open = self.open_layers(view, record)?;
        if layering == Layering::Full {
            open.truncate(1);
        }
        Ok(Opened {
            was_empty: self.is_empty(record.id, &open[0])?,
            is_image_due,
            whiteouts: whiteouts(layering, &stack),
            open,
        })
    }

    /// Notes that others may write to a snapshot from now on, so that Commit looks at each file.
    pub fn left_to_others(&self, active: &Active) {
        self.unpacks.distrust(active.record.id);
    }

    /// Usage of an active layer, if it is known from unpacking and still true. With
    /// [`Durability::Full`](crate::Durability::Full) all its content is on the disk as well, and names wait for the driver's
    /// next barrier.
    ///
    /// # Errors
    /// `Refused` if a layer is being unpacked into it, or part of one was.
    pub(crate) fn unpacked(&self, active: &Record) -> Result<Option<Usage>, Error> {
        let found = self.unpacks.found(active.id, &active.key)?;
        let found = found.filter(|found| found.durable || !self.is_full());
        let Some(found) = found else { return Ok(None) };
        let stamp = self.directories()?.stamp(slot(active.id));
        let stamp = stamp.map_err(Error::driver("look at a layer"))?;
        let trusted = stamp.is_some() && stamp == found.stamp;
        debug!(key = active.key.as_str(), id = %active.id, trusted, "unpacked before");
        Ok(trusted.then_some(found.usage))
    }

    fn fill_layer(
        &self,
        source: impl Read + Send,
        layers: &Opened,
        claim: &Claim<'_>,
        unpack: &Unpack<'_>,
        digests: Option<&Writer>,
    ) -> Result<Applied, layerd_layers::Error> {
        let open: Vec<BorrowedFd<'_>> = layers.open.iter().map(AsFd::as_fd).collect();
        let target = Target {
            layer: open[0],
            lowers: &open[1..],
            whiteouts: layers.whiteouts,
        };
        let digests = digests.map(|digests| digests as &dyn DigestSink);
        self.unpack_with(source, claim, unpack, digests, |source, options| {
            let applied = apply::apply(source, &target, options)?;
            Ok((applied.size, applied))
        })
    }

    /// Has `apply` unpack a blob, which it is given with options; it answers the bytes of the
    /// decompressed stream and its result.
    fn unpack_with<R: Read + Send, T>(
        &self,
        source: R,
        claim: &Claim<'_>,
        unpack: &Unpack<'_>,
        digests: Option<&dyn DigestSink>,
        apply: impl FnOnce(
            Watched<'_, R>,
            &apply::Options<'_>,
        ) -> Result<(u64, T), layerd_layers::Error>,
    ) -> Result<T, layerd_layers::Error> {
        let watch = self.watch(claim, unpack.progress);
        let options = apply::Options {
            compression: unpack.compression,
            blob: unpack.blob,
            limits: self.root.options.unpack.limits,
            durable: self.wanted(unpack),
            workers: self.root.options.unpack.workers,
            progress: &watch,
            digests,
            leaves_out_devices: user_namespace::current().is_some(),
        };
        let source = Watched {
            source,
            watch: &watch,
        };
        enter("unpacking the layer");
        let begun = Instant::now();
        let (size, applied) = apply(source, &options)?;
        histogram!("layerd_unpack_seconds").record(begun.elapsed());
        counter!("layerd_unpack_bytes_total").increment(size);
        Ok(applied)
    }

    /// Progress that ends work on a claimed layer early.
    fn watch<'a>(&'a self, claim: &'a Claim<'a>, client: &'a dyn Progress) -> Watch<'a> {
        Watch {
            root: &self.root,
            client,
            claim: Some(claim),
            reserve: Some(reserve::Watched::new(&self.root, Area::Layers)),
        }
    }

    /// Unpacking brings the content to the disk; the next barrier does the rest.
    fn wanted(&self, unpack: &Unpack<'_>) -> Durable {
        if self.is_full() || unpack.sync {
            Durable::Content
        } else {
            Durable::No
        }
    }

    /// Has the driver bring what was made in a layer to the disk with its next barrier, or now.
    fn note_filled(&self) -> Result<(), Error> {
        let noted = self.directories()?.filled();
        noted.map_err(Error::driver("bring a layer to the disk"))
    }

    /// Notes what was found, unless the layer held something else before.
    fn note_applied(
        &self,
        record: &Record,
        claim: &Claim<'_>,
        unpack: &Unpack<'_>,
        applied: &Applied,
        was_empty: bool,
        digests: bool,
    ) -> Result<(), Error> {
        let stamp = self.directories()?.stamp(slot(record.id));
        let stamp = stamp.map_err(Error::driver("look at a layer"))?;
        if self.wanted(unpack) != Durable::No {
            self.note_filled()?;
        }
        let durable = unpack.sync || self.is_full() && applied.inodes >= MANY;
        self.unmark_whole(record.id, durable)?;
        claim.done(Found {
            usage: Usage {
                bytes: applied.bytes,
                inodes: applied.inodes,
            },
            durable: self.wanted(unpack) != Durable::No,
            stamp: stamp.filter(|_| was_empty),
            digests,
            implied: applied.implied.clone(),
            whiteouts: applied.whiteouts.clone(),
            top: applied.top,
        });
        Ok(())
    }

    /// A layer that is as empty as before may be tried again. It has no manifest.
    fn give_up(
        &self,
        record: &Record,
        layers: &Opened,
        claim: &Claim<'_>,
        progress: &dyn Progress,
        cause: layerd_layers::Error,
    ) -> Error {
        self.drop_digests(record.id);
        match self.is_empty(record.id, &layers.open[0]) {
            // A mark that stays is taken off by the next Apply.
            Ok(true) if self.unmark_partial(record.id).is_ok() => claim.undone(),
            Ok(true) => {}
            Ok(false) => {}
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, id = %record.id, "look into a layer");
            }
        }
        self.not_applied(record, claim, progress, cause)
    }

    /// The error of a call whose unpacking failed.
    fn not_applied(
        &self,
        record: &Record,
        claim: &Claim<'_>,
        progress: &dyn Progress,
        cause: layerd_layers::Error,
    ) -> Error {
        let key = record.key.clone();
        match cause {
            // After a cancellation any failure means that the snapshot was removed.
            _ if claim.is_cancelled() => Refusal::Missing { key }.into(),
            _ if self.root.backlog.is_stopping() => Error::Stopping,
            _ if claim.is_at_reserve() => self.root.reserve_reached(Area::Layers),
            _ if progress.cancelled() => Error::Layer(LayerError::Unpack {
                key,
                cause: layerd_layers::Error::Stopped,
            }),
            layerd_layers::Error::Beyond { bound, limit } => {
                Error::Layer(LayerError::TooMuch { key, bound, limit })
            }
            cause => LayerError::Unpack { key, cause }.into(),
        }
    }

    fn is_empty(&self, id: LayerId, layer: &OwnedFd) -> Result<bool, Error> {
        let empty = tree::is_empty(layer.as_fd(), Path::new(&format!("layer {id}")));
        empty.map_err(Error::driver("look into a layer"))
    }

    /// The directories that say what a snapshot holds and what it changes, topmost first: its own and
    /// all below; of whole trees its own and the nearest below.
    pub(crate) fn open_layers(
        &self,
        view: &Records,
        record: &Record,
    ) -> Result<Vec<OwnedFd>, Error> {
        let most = match self.directories()?.layering() {
            Layering::Diff(_) => usize::MAX,
            Layering::Full => 2,
        };
        let opened = lineage(view, record)
            .take(most)
            .map(|slot| self.driver.open_layer(slot));
        let opened = opened.collect::<Result<_, _>>();
        opened.map_err(|cause| {
            self.note_bad_image(&cause);
            Error::driver("open a layer")(cause)
        })
    }
}

/// Handling of whiteouts: kept as marks for the layers below; executed in a whole tree and in a layer
/// without a parent.
fn whiteouts(layering: Layering, stack: &Stack) -> Whiteouts {
    match layering {
        Layering::Diff(markers) if !stack.parents.is_empty() => Whiteouts::Devices(markers),
        Layering::Diff(_) | Layering::Full => Whiteouts::Delete,
    }
}

#[cfg(test)]
mod tests;
