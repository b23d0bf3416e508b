//! How old things in the trash are.

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
    /// The present on the clock that never jumps; for comparison with stamps in the records.
    #[must_use]
    pub fn steady_now(&self) -> SteadyTime {
        self.shared.clock.now()
    }

    /// Has ages outlive this process and the machine: saves the clock now and then while something
    /// is in the trash, and begins the ages of what an earlier version put there. To be called
    /// every few minutes. What fails is tried again with the next call.
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
