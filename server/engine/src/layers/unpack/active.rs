//! The snapshot that a layer is to be unpacked into: found by its mounts or by its key.

use std::sync::Arc;

use layerd_mounts::Mount;
use layerd_store::{Key, Kind, LayerId, Record, Records, Refusal};

use crate::layers::snapshots::find;
use crate::stack::Top;
use crate::{Error, LayerError, Layers};

/// An active snapshot that a layer is to be unpacked into: this one, whatever has its key later.
#[derive(Debug, Clone)]
pub struct Active {
    pub(super) record: Arc<Record>,
}

impl Active {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.record.key
    }
}

impl Layers {
    /// Answers which active snapshot these are the mounts of. Reads memory only.
    ///
    /// # Errors
    /// `Unsupported` if they are not exactly what [`mounts`](Layers::mounts) answers for one.
    pub fn active_of(&self, mounts: &[Mount]) -> Result<Active, Error> {
        let view = self.root.store.records();
        let record = self.shown(&view, mounts)?;
        if record.kind != Kind::Active {
            return foreign(format!("{} is not active", quoted(&record.key)));
        }
        self.check_planned(mounts, &view, record)?;
        let record = record.clone();
        Ok(Active { record })
    }

    /// The active snapshot with this key.
    ///
    /// # Errors
    /// `Missing`; `Refused` if the snapshot is not active.
    pub fn active(&self, key: &Key) -> Result<Active, Error> {
        let view = self.root.store.records();
        let record = find(&view, key)?.clone();
        match record.kind {
            Kind::Active => Ok(Active { record }),
            kind => Err(Refusal::NotActive {
                key: key.clone(),
                kind,
            }
            .into()),
        }
    }

    /// The snapshot whose layer a list of one mount shows on top, whatever else the mount says.
    pub(super) fn shown<'v>(
        &self,
        view: &'v Records,
        mounts: &[Mount],
    ) -> Result<&'v Arc<Record>, Error> {
        let [mount] = mounts else {
            return foreign(format!("{} mounts at once", mounts.len()));
        };
        let Some(slot) = self.driver.top_of(mount) else {
            return foreign(format!("a mount of type {:?}", mount.kind));
        };
        match view.get(LayerId(slot.0)) {
            Some(record) => Ok(record),
            None => foreign(format!("layer {slot}, which is no snapshot's")),
        }
    }

    /// Refuses mounts that differ in anything from those of a snapshot.
    pub(super) fn check_planned(
        &self,
        mounts: &[Mount],
        view: &Records,
        record: &Record,
    ) -> Result<(), Error> {
        let ids = self.mappings(&record.labels)?;
        let stack = Top::recorded(view, record, ids).stack(view);
        let planned = self.plan(&record.key, &stack)?;
        if planned == mounts {
            return Ok(());
        }
        foreign(format!(
            "other mounts than those of {}",
            quoted(&record.key)
        ))
    }
}

pub(super) fn quoted(key: &Key) -> String {
    format!("snapshot {:?}", key.as_str())
}

pub(super) fn foreign<T>(what: String) -> Result<T, Error> {
    Err(Error::Layer(LayerError::Foreign { what }))
}
