//! What happens to volumes and attachments, for those who watch.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};

use layerd_store::Timestamp;

/// Events that a watcher may be behind before it is dropped.
const BEHIND: usize = 1024;

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// `created`, `updated`, `renamed`, `deleted`, `undeleted`, `attached` or `detached`.
    pub what: &'static str,
    /// Name of a volume or key of an attachment.
    pub subject: String,
    /// When.
    pub at: Timestamp,
}

/// Those who watch.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<Vec<SyncSender<Event>>>);

impl Events {
    /// Tells all watchers, without waiting for any: one that is too far behind is dropped.
    pub(crate) fn tell(&self, what: &'static str, subject: &str) {
        let mut watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Event {
            what,
            subject: subject.to_owned(),
            at: Timestamp::now(),
        };
        watchers.retain(|watcher| {
            let sent = watcher.try_send(event.clone());
            !matches!(
                sent,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
            )
        });
    }

    /// Watches from now on. The channel ends when the watcher is too far behind.
    pub(crate) fn watch(&self) -> Receiver<Event> {
        let (watcher, events) = sync_channel(BEHIND);
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(watcher);
        events
    }
}
