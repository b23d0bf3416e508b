//! Marks of damaged layers: `<root>/m/<id>.quarantined`, each holding the reason.
//!
//! The record of a layer says that it is damaged, and a backup of the records may be older than that.
//! The mark stays with the layer: durable once damage is found, taken up at start by a record that
//! does not know of it, deleted with the layer.

use std::collections::BTreeSet;

use layerd_store::{LayerId, file};
use tracing::warn;

use crate::Layers;
use crate::layers::file_digests::{DigestFiles, Mark};

/// Reason of a mark that a power cut left empty.
const UNKNOWN: &str = "it was found to be damaged";

impl DigestFiles {
    fn reason(&self, id: LayerId) -> String {
        let read = file::read(&self.mark_path(id, Mark::Quarantined));
        let text = read.ok().flatten().map(String::from_utf8);
        match text {
            Some(Ok(text)) if !text.is_empty() => text,
            _ => UNKNOWN.to_owned(),
        }
    }
}

impl Layers {
    /// Leaves the reason beside the layer. A failure is logged: the record says it as well.
    pub(super) fn mark_quarantined(&self, id: LayerId, why: &str) {
        if let Err(cause) = self.digest_files.mark(id, Mark::Quarantined, why, true) {
            let error = &cause as &dyn std::error::Error;
            warn!(error, %id, "mark a layer as damaged");
        }
    }

    /// Takes up marks that the records do not know, as after a backup of them was put back, and marks
    /// layers whose records alone say that they are damaged. Marks without a record stay, since their
    /// layer may come back with other records, and their id is not handed out again.
    pub(crate) fn recover_quarantined(&self) {
        let records = self.root.store.records();
        let marked: BTreeSet<_> = self
            .digest_files
            .marks(Mark::Quarantined)
            .into_iter()
            .collect();
        for id in &marked {
            let record = records.get(*id).or_else(|| records.get_removed(*id));
            if record.is_some_and(|record| record.quarantine.is_none()) {
                self.bar(*id, self.digest_files.reason(*id));
            }
        }
        for record in records.iter().chain(records.removed()) {
            if let Some(why) = &record.quarantine
                && !marked.contains(&record.id)
            {
                self.mark_quarantined(record.id, why);
            }
        }
    }
}
