//! What happens to volumes and attachments, for those who watch.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use layerd_store::Timestamp;

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// `created`, `updated`, `renamed`, `deleted`, `undeleted`, `attached`, `detached` or
    /// `filling`.
    pub what: &'static str,
    /// Name of a volume or key of an attachment.
    pub subject: String,
    /// When.
    pub at: Timestamp,
    /// For `filling`: how far it is.
    pub amount: Option<Amount>,
}

/// How far the filling of a volume is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Names made.
    pub files: u64,
    /// Bytes of content written or shared.
    pub bytes: u64,
    /// How many names there will be; 0 if that is not known.
    pub files_expected: u64,
}

/// Someone who watches. Called while others wait, so it must not block.
pub trait Watcher: Send {
    /// Takes an event; answers whether it wants more.
    fn tell(&self, event: &Event) -> bool;

    /// Whether it still wants events.
    fn is_open(&self) -> bool;
}

/// Those who watch.
#[derive(Default)]
pub(crate) struct Events(Mutex<Vec<Box<dyn Watcher>>>);

impl Events {
    /// Tells all who watch.
    pub(crate) fn tell(&self, what: &'static str, subject: &str) {
        self.send(what, subject, None);
    }

    /// Tells how far the filling of a volume is.
    pub(crate) fn tell_amount(&self, volume: &str, amount: Amount) {
        self.send("filling", volume, Some(amount));
    }

    fn send(&self, what: &'static str, subject: &str, amount: Option<Amount>) {
        let event = Event {
            what,
            subject: subject.to_owned(),
            at: Timestamp::now(),
            amount,
        };
        let mut watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher.tell(&event));
    }

    pub(crate) fn add(&self, watcher: Box<dyn Watcher>) {
        let mut watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher.is_open());
        watchers.push(watcher);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
