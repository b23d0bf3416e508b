//! One call at a time for a volume: a second one is told to come again, as the standard wants it.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tonic::Status;

/// Names and ids that calls work on.
#[derive(Debug, Clone, Default)]
pub(super) struct Busy(Arc<Mutex<BTreeSet<String>>>);

/// The right to work on one of them, until the work has ended: also when its client has gone.
#[derive(Debug)]
pub(super) struct Turn {
    busy: Busy,
    what: String,
}

impl Busy {
    /// Takes the right to work on `what`.
    ///
    /// # Errors
    /// ABORTED while another call has it.
    pub(super) fn begin(&self, what: String) -> Result<Turn, Status> {
        if !self.lock().insert(what.clone()) {
            return Err(Status::aborted(format!(
                "another call works on {what}; it goes on, so ask again"
            )));
        }
        let busy = self.clone();
        Ok(Turn { busy, what })
    }

    /// The set is whole even if a holder panicked: each use is one insert or remove.
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_call_is_aborted_until_the_first_has_ended() {
        let busy = Busy::default();
        let first = busy.begin("volume a".to_owned()).unwrap();
        let second = busy.begin("volume a".to_owned()).unwrap_err();
        assert_eq!(second.code(), tonic::Code::Aborted);
        busy.begin("volume b".to_owned()).unwrap();
        drop(first);
        busy.begin("volume a".to_owned()).unwrap();
    }
}
