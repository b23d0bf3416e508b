//! The calls under way: what each does and since when, and how many there may be.
//!
//! A [`Call`] stands for a request from when it is let in until its work ends, which may be after
//! its client has gone: so a place is never given away while a thread is still busy with it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use layerd_store::call_phase::{CallPhase, PhaseObserver};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::OwnedSemaphorePermit;

tokio::task_local! {
    static OF_THIS_TASK: Arc<Call>;
}

/// One request that was let in.
#[derive(Debug)]
pub(crate) struct Call {
    calls: Calls,
    number: u64,
    phase: Arc<CallPhase>,
    /// Its place among those that may run at once.
    _place: OwnedSemaphorePermit,
}

impl Call {
    /// The request that this task works for, if it works for one.
    pub(crate) fn of_this_task() -> Option<Arc<Self>> {
        OF_THIS_TASK.try_with(Clone::clone).ok()
    }

    /// Runs a task for this call.
    pub(crate) async fn scope<F: Future>(self: Arc<Self>, task: F) -> F::Output {
        OF_THIS_TASK.scope(self, task).await
    }

    /// Its phase.
    pub(crate) fn phase(&self) -> &Arc<CallPhase> {
        &self.phase
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.list().under_way.remove(&self.number);
    }
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    next: u64,
    under_way: BTreeMap<u64, UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    method: &'static str,
    begun: Instant,
    /// When it is called slow.
    slow_after: Duration,
    phase: Arc<CallPhase>,
    was_named: bool,
}

impl UnderWay {
    fn slow(&self) -> Slow {
        Slow {
            method: self.method,
            running: self.begun.elapsed(),
            doing: self.phase.now(),
        }
    }
}

/// A call that takes long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slow {
    /// Name of the RPC.
    pub(crate) method: &'static str,
    /// Since it was let in.
    pub(crate) running: Duration,
    /// Its phase, and the time spent in it.
    pub(crate) doing: (&'static str, Duration),
}

impl Calls {
    /// Lets a request in, which holds `place` until its work ends. `observer` hears what it does.
    pub(crate) fn begin(
        &self,
        method: &'static str,
        slow_after: Duration,
        place: OwnedSemaphorePermit,
        observer: Option<Arc<dyn PhaseObserver>>,
    ) -> Arc<Call> {
        let phase = Arc::new(CallPhase::new(observer));
        let mut list = self.list();
        let number = list.next;
        list.next += 1;
        let under_way = UnderWay {
            method,
            begun: Instant::now(),
            slow_after,
            phase: phase.clone(),
            was_named: false,
        };
        list.under_way.insert(number, under_way);
        drop(list);
        Arc::new(Call {
            calls: self.clone(),
            number,
            phase,
            _place: place,
        })
    }

    /// Calls that have become slow and were not named before.
    pub(crate) fn newly_slow(&self) -> Vec<Slow> {
        let mut list = self.list();
        let slow = list.under_way.values_mut();
        slow.filter(|call| !call.was_named && call.begun.elapsed() > call.slow_after)
            .map(|call| {
                call.was_named = true;
                call.slow()
            })
            .collect()
    }

    /// All calls that have not ended.
    pub(crate) fn under_way(&self) -> Vec<Slow> {
        let list = self.list();
        list.under_way.values().map(UnderWay::slow).collect()
    }

    /// The list is whole even if a holder panicked: each use is one insert or remove.
    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    fn place() -> OwnedSemaphorePermit {
        Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
    }

    #[test]
    fn a_slow_call_is_named_once_and_forgotten_at_its_end() {
        let calls = Calls::default();
        let long = calls.begin("Apply", Duration::from_secs(60), place(), None);
        assert_eq!(calls.newly_slow(), []);
        let call = calls.begin("Prepare", Duration::ZERO, place(), None);
        let slow = calls.newly_slow();
        assert_eq!(slow.len(), 1);
        assert_eq!(slow[0].method, "Prepare");
        assert_eq!(calls.newly_slow(), []);
        drop(long);
        drop(call);
        assert!(calls.list().under_way.is_empty());
    }
}
