//! Events. A watcher is called at once, on the thread of the operation, so it must not block; an event
//! that no watcher wants is not built.

use std::fmt;

use layerd_store::Timestamp;
use parking_lot::Mutex;

/// Topic of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// A snapshot: `prepared`, `viewed`, `committed` (under its new name), `updated`, `removed` or
    /// `restored`; of one with a limit also `80_percent_full`, `95_percent_full` or `below_80_percent`.
    Snapshot,
    /// The content of a snapshot: `unpacked` into it, or `packed` from it.
    Layer,
    /// A volume: `created`, `updated`, `renamed`, `deleted`, `undeleted` or `filling`; of one with a limit
    /// also `80_percent_full`, `95_percent_full` or `below_80_percent`.
    Volume,
    /// An attachment: `attached` or `detached`.
    Attachment,
    /// The trash: `deleted` (so many layers), `emptied` on demand, `held` or `released`.
    Trash,
    /// The reserve of a file system with data: it is `reached`, `near`, or there is `enough`.
    Reserve,
}

impl Topic {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::Snapshot,
        Self::Layer,
        Self::Volume,
        Self::Attachment,
        Self::Trash,
        Self::Reserve,
    ];

    /// Its name for clients.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Layer => "layer",
            Self::Volume => "volume",
            Self::Attachment => "attachment",
            Self::Trash => "trash",
            Self::Reserve => "reserve",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its topic.
    pub topic: Topic,
    /// One of the words of its topic.
    pub what: &'static str,
    /// Key or name of what it is about; what there is to say of the trash.
    pub subject: String,
    /// When.
    pub at: Timestamp,
    /// For `filling`: how far it is.
    pub amount: Option<Amount>,
}

/// Progress of filling a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Names made.
    pub files: u64,
    /// Bytes of content written or shared.
    pub bytes: u64,
    /// Expected number of names; 0 if unknown.
    pub files_expected: u64,
}

/// Someone who watches. Called while others wait, so it must not block.
pub trait Watcher: Send {
    /// True if events of this topic have a watcher now.
    fn wants(&self, topic: Topic) -> bool;

    /// Takes an event; answers whether it wants more.
    fn tell(&self, event: &Event) -> bool;

    /// True while it wants events.
    fn is_open(&self) -> bool;
}

/// Those who watch.
#[derive(Default)]
pub(crate) struct Events(Mutex<Vec<Box<dyn Watcher>>>);

impl Events {
    /// Tells all who watch.
    pub(crate) fn tell(&self, topic: Topic, what: &'static str, subject: &str) {
        self.send(topic, what, subject, None);
    }

    /// Tells how far the filling of a volume is.
    pub(crate) fn tell_amount(&self, volume: &str, amount: Amount) {
        self.send(Topic::Volume, "filling", volume, Some(amount));
    }

    fn send(&self, topic: Topic, what: &'static str, subject: &str, amount: Option<Amount>) {
        let mut watchers = self.0.lock();
        if !watchers.iter().any(|watcher| watcher.wants(topic)) {
            return;
        }
        let event = Event {
            topic,
            what,
            subject: subject.to_owned(),
            at: Timestamp::now(),
            amount,
        };
        watchers.retain(|watcher| !watcher.wants(topic) || watcher.tell(&event));
    }

    pub(crate) fn add(&self, watcher: Box<dyn Watcher>) {
        let mut watchers = self.0.lock();
        watchers.retain(|watcher| watcher.is_open());
        watchers.push(watcher);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
