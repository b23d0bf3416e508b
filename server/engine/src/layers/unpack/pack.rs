//! Layers made of what snapshots changed.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use layerd_layers::Progress;
use layerd_layers::diff::{self, DiffCompression, DiffOptions, Diffed, IdRange, IdRanges};
use layerd_mounts::{IdMap, IdMaps, Mount};
use layerd_store::{Key, Kind, LayerId, Record, Records, Refusal};
use tracing::{debug, warn};

use super::{Watch, foreign, quoted};
use crate::events::Topic;
use crate::layers::snapshots::find;
use crate::stack::Top;
use crate::{Error, LayerError, Layers};

/// A snapshot whose changes are to be a layer.
#[derive(Debug, Clone)]
pub struct Changes {
    record: Arc<Record>,
}

/// Options of making a layer.
#[derive(Clone, Copy)]
pub struct Pack<'a> {
    /// Compression.
    pub compression: DiffCompression,
    /// Latest time of a file, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// Receiver of progress, which may cancel.
    pub progress: &'a dyn Progress,
}

impl std::fmt::Debug for Pack<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("Pack");
        shown.field("packing", &self.compression);
        shown.field("source_date_epoch", &self.source_date_epoch);
        shown.finish_non_exhaustive()
    }
}

impl Changes {
    /// Key or name of the snapshot.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.record.key
    }
}

impl Layers {
    /// Changes of a snapshot to its parent.
    ///
    /// # Errors
    /// `Missing`; `Refused` for a view, which changes nothing.
    pub fn changes(&self, key: &Key) -> Result<Changes, Error> {
        let view = self.root.store.records();
        let record = find(&view, key)?;
        if record.kind == Kind::View {
            let (key, kind) = (key.clone(), record.kind);
            return Err(Refusal::NotActive { key, kind }.into());
        }
        let record = record.clone();
        Ok(Changes { record })
    }

    /// Changes from the snapshot of the mounts `left` to that of `right`, of which it must be the
    /// parent: `right` are the mounts of an active snapshot or of a view of a committed one,
    /// `left` those of a view of its parent, or of an empty view if it has none. Reads memory only.
    ///
    /// # Errors
    /// `Unsupported` otherwise.
    pub fn changes_between(&self, left: &[Mount], right: &[Mount]) -> Result<Changes, Error> {
        let view = self.root.store.records();
        let upper = self.shown(&view, right)?;
        match upper.kind {
            Kind::Active => self.check_planned(right, &view, upper)?,
            Kind::Committed => self.check_view(right, &view, upper)?,
            Kind::View => return foreign(format!("{}, which is empty", quoted(&upper.key))),
        }
        let lower = self.shown(&view, left)?;
        let parent = view.ancestors(upper).next();
        match (parent, lower.kind) {
            (None, Kind::View) => self.check_planned(left, &view, lower)?,
            (Some(parent), Kind::Committed) if parent.id == lower.id => {
                self.check_view(left, &view, lower)?;
            }
            _ => {
                let (left, right) = (quoted(&lower.key), quoted(&upper.key));
                return foreign(format!("{left}, which is not the parent of {right}"));
            }
        }
        let record = upper.clone();
        Ok(Changes { record })
    }

    /// Writes what a snapshot changed as a layer, and flushes `out`. The snapshot may be in use:
    /// each file is as it was when it was read.
    ///
    /// # Errors
    /// `Missing` if the snapshot was removed before the end; `Unsupported` if only a mount can show
    /// what it holds; `Refused` if that cannot be a layer, `Internal` if it cannot be read or `out` fails. What was written by then is no
    /// layer.
    ///
    /// # Cancellation
    /// Ends soon after `progress` says so.
    pub fn diff(
        &self,
        changes: &Changes,
        pack: &Pack<'_>,
        out: &mut dyn Write,
    ) -> Result<Diffed, Error> {
        let view = self.root.store.records();
        // As it is now: what stood below it then may have been removed, or put below it, since.
        let record = view.get(changes.record.id);
        let missing = || Refusal::Missing {
            key: changes.key().clone(),
        };
        let record = record.ok_or_else(missing)?;
        self.quarantine.check_stack(&view, record)?;
        let layers = self.open_layers(&view, record)?;
        let layers: Vec<BorrowedFd<'_>> = layers.iter().map(AsFd::as_fd).collect();
        let ids = self.mappings(&record.labels)?.map(|ids| ranges(&ids));
        let options = DiffOptions {
            compression: pack.compression,
            source_date_epoch: pack.source_date_epoch,
            layering: self.directories()?.layering(),
            ids: ids.as_ref(),
            progress: &Watch {
                root: &self.root,
                client: pack.progress,
                claim: None,
                reserve: None,
            },
        };
        let diffed = diff::diff(layers[0], &layers[1..], &options, out);
        // The reaper may have been faster than who read.
        self.check_there(record.id, &record.key)?;
        let diffed = diffed.map_err(|cause| self.not_packed(&record.key, cause, ids.is_some()))?;
        self.unpacks.count_diff();
        if let Some(first) = &diffed.first_left_out {
            warn!(
                key = record.key.as_str(), count = diffed.left_out, first = %first.display(),
                "left names out of a layer that begin with .wh., which stand for deletions there"
            );
        }
        debug!(key = record.key.as_str(), id = %record.id, bytes = diffed.uncompressed, "diffed");
        self.root
            .events
            .tell(Topic::Layer, "packed", record.key.as_str());
        Ok(diffed)
    }

    fn check_there(&self, id: LayerId, key: &Key) -> Result<(), Error> {
        match self.root.store.records().get(id) {
            Some(_) => Ok(()),
            None => Err(Refusal::Missing { key: key.clone() }.into()),
        }
    }

    /// A differ that mounts the snapshot can make a layer of features that only overlayfs understands;
    /// but not of an id-mapped one, whose mount shows other owners than its parent's.
    fn not_packed(&self, key: &Key, cause: layerd_layers::Error, mapped: bool) -> Error {
        match cause {
            layerd_layers::Error::Feature { .. } if !mapped => {
                Error::Layer(LayerError::NeedsMount {
                    key: key.clone(),
                    cause,
                })
            }
            layerd_layers::Error::Stopped if self.root.backlog.is_stopping() => Error::Stopping,
            cause => Error::Layer(LayerError::Pack {
                key: key.clone(),
                cause,
            }),
        }
    }

    /// Refuses mounts that differ in anything from those of a view of a committed snapshot.
    fn check_view(&self, mounts: &[Mount], view: &Records, record: &Record) -> Result<(), Error> {
        let top = match record.kind {
            Kind::Committed => Top::view_of(record),
            Kind::Active | Kind::View => Top::recorded(view, record, None),
        };
        let planned = self.plan(&record.key, &top.stack(view))?;
        if planned == mounts {
            return Ok(());
        }
        foreign(format!(
            "other mounts than those of a view of {}",
            quoted(&record.key)
        ))
    }
}

fn ranges(ids: &IdMaps) -> IdRanges {
    let range = |map: &IdMap| IdRange {
        container: map.container,
        host: map.host,
        length: map.length,
    };
    IdRanges {
        uid: ids.uid.iter().map(range).collect(),
        gid: ids.gid.iter().map(range).collect(),
    }
}
