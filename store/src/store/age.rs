//! Ages of entries in the trash.

use tracing::warn;

use super::{Shared, Store};
use crate::batches::Class;
use crate::model::{Removal, SteadyTime, Timestamp};
use crate::state;

impl Shared {
    pub(crate) fn removal_now(&self) -> Removal {
        Removal {
            time: Timestamp::now(),
            steady: Some(self.clock.now()),
        }
    }
}

impl Store {
    /// The present on the steady clock, for comparison with times in the records.
    #[must_use]
    pub fn steady_now(&self) -> SteadyTime {
        self.shared.clock.now()
    }

    /// Saves the steady clock while something is in the trash, at most every five minutes, and stamps
    /// entries of earlier versions, so that ages outlive process and boot. To be called every few
    /// minutes. A failure is logged and tried again with the next call.
    pub fn keep_ages(&self) {
        let records = self.records();
        if records.is_trash_empty() {
            return;
        }
        self.shared.clock.keep();
        if !records.has_unstamped() {
            return;
        }
        let shared = self.shared.clone();
        let stamped = self.writer.write(Class::Records, move |records| {
            state::stamp(records, shared.clock.now())
        });
        if let Err(cause) = stamped {
            let cause = &cause as &dyn std::error::Error;
            warn!(error = cause, "begin the ages of what is in the trash");
        }
    }
}
