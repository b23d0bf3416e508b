//! Marks of layers that hold part of something: `<root>/m/<id>.part`, empty files.
//!
//! Apply makes the mark before the first file of a layer, and deletes it after the last. A killed
//! process leaves it, as all that was written before stays in the kernel. After a power cut the order
//! in which names reach the disk decides: where one journal has them in order, a file of the layer
//! is never there without the mark that is older; elsewhere the mark is durable before the first
//! file. So no layer that holds part of something is without its mark. One that is whole may have a
//! mark, if the power was cut before its deletion reached the disk: Apply that was to be durable had
//! that done before it answered; any other Apply is to be done again, as after any power cut before
//! Commit.

use layerd_store::{Kind, LayerId};
use tracing::{info, warn};

use crate::layers::file_digests::Mark;
use crate::{Error, Layers};

impl Layers {
    /// Marks a layer that is about to be filled. One file, made without waiting for the disk where
    /// names reach it in order.
    pub(super) fn mark_partial(&self, id: LayerId) -> Result<(), Error> {
        let durable = self.driver.shared_journal_device().is_none();
        let marked = self.digest_files.mark(id, Mark::Partial, "", durable);
        marked.map_err(Error::driver("mark a layer as incomplete"))
    }

    /// Takes the mark off a layer that is whole, or empty.
    pub(super) fn unmark_partial(&self, id: LayerId) -> Result<(), Error> {
        let unmarked = self.digest_files.unmark(id, Mark::Partial);
        unmarked.map_err(Error::driver("note that a layer is complete"))
    }

    /// Takes the mark off a layer that is whole; with `durable`, that and all of the layer is on the disk
    /// on return. After a failure the layer is marked again: its content may be lost.
    pub(super) fn unmark_whole(&self, id: LayerId, durable: bool) -> Result<(), Error> {
        self.unmark_partial(id)?;
        if !durable {
            return Ok(());
        }
        let synced = self.digest_files.sync().and_then(|()| self.driver.sync());
        synced.map_err(|cause| {
            if let Err(error) = self.mark_partial(id) {
                let error = &error as &dyn std::error::Error;
                warn!(error, %id, "mark a layer as incomplete");
            }
            Error::driver("bring a layer to the disk")(cause)
        })
    }

    /// Takes up the marks that an earlier process left: such a layer is not committed, nor is another
    /// unpacked into it. Marks of layers that are committed are deleted; those without a record stay,
    /// since their layer may come back with other records, and their id is not handed out again.
    pub(crate) fn recover_partial(&self) {
        let view = self.root.store.records();
        for id in self.digest_files.marks(Mark::Partial) {
            let record = view.get(id).or_else(|| view.get_removed(id));
            match record {
                Some(record) if record.kind != Kind::Committed => {
                    let key = record.key.as_str();
                    info!(key, %id, "a layer was unpacked into this snapshot in part; it can only be removed");
                    self.unpacks.note_half(id);
                }
                None => {}
                Some(_) => {
                    if let Err(cause) = self.digest_files.unmark(id, Mark::Partial) {
                        let error = &cause as &dyn std::error::Error;
                        warn!(error, "delete the mark of a layer that is committed");
                    }
                }
            }
        }
    }
}
