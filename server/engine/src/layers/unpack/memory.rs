//! Results of unpacking, kept in memory until Commit.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use layerd_drivers::Stamp;
use layerd_store::{Key, LayerId, Usage};
use parking_lot::{Mutex, MutexGuard};

use crate::keyed_lock::{KeyedGuard, KeyedLock};
use crate::{Error, LayerError};

/// Layers that are being unpacked, or were and are not committed yet.
#[derive(Debug, Default)]
pub(crate) struct Unpacks {
    layers: Mutex<HashMap<LayerId, State>>,
    pub(super) locks: KeyedLock<LayerId>,
    applied: AtomicU64,
    diffed: AtomicU64,
}

#[derive(Debug, Clone)]
enum State {
    /// An Apply is at it, and ends when `cancel` is set.
    UnderWay {
        cancel: Arc<AtomicBool>,
        /// Others may write to the layer meanwhile.
        distrusted: bool,
    },
    /// It failed and left something behind.
    Half,
    Done(Arc<Found>),
}

/// Results of unpacking one layer.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Disk usage of the layer.
    pub(crate) usage: Usage,
    /// Set if the content of all files is on the disk.
    pub(crate) durable: bool,
    /// State of the layer at the end; `None` if its usage is unknown.
    pub(crate) stamp: Option<Stamp>,
    /// Set if this unpacking made its file digests.
    pub(crate) digests: bool,
    /// Directories that were made only because something lies in them, attributes unknown.
    pub(crate) implied: Vec<Vec<u8>>,
    /// Whiteout devices; none if there are too many to list.
    pub(crate) whiteouts: Option<Vec<Vec<u8>>>,
    /// Set if the archive has an entry for the root directory.
    pub(crate) top: bool,
}

/// The right to unpack into a layer. Dropped without a word, the layer is taken to hold part of
/// something.
#[derive(Debug)]
pub(crate) struct Claim<'u> {
    unpacks: &'u Unpacks,
    id: LayerId,
    cancel: Arc<AtomicBool>,
    at_reserve: AtomicBool,
    before: Option<State>,
}

impl Unpacks {
    /// Takes a layer to unpack into.
    pub(crate) fn claim(&self, id: LayerId, key: &Key) -> Result<Claim<'_>, Error> {
        let mut layers = self.layers();
        let before = layers.get(&id).cloned();
        check(before.as_ref(), key)?;
        let cancel = Arc::new(AtomicBool::new(false));
        let state = State::UnderWay {
            cancel: cancel.clone(),
            distrusted: false,
        };
        layers.insert(id, state);
        Ok(Claim {
            unpacks: self,
            id,
            cancel,
            at_reserve: AtomicBool::new(false),
            before,
        })
    }

    /// Waits until no other call commits a layer or claims it for unpacking.
    pub(crate) fn lock(&self, id: LayerId) -> KeyedGuard<'_, LayerId> {
        self.locks.lock(&id)
    }

    /// Results of a layer; an error if it is incomplete.
    pub(crate) fn found(&self, id: LayerId, key: &Key) -> Result<Option<Arc<Found>>, Error> {
        let layers = self.layers();
        let state = layers.get(&id);
        check(state, key)?;
        Ok(match state {
            Some(State::Done(found)) => Some(found.clone()),
            _ => None,
        })
    }

    /// Notes that a layer holds part of something.
    pub(crate) fn note_half(&self, id: LayerId) {
        self.layers().insert(id, State::Half);
    }

    /// Notes that others may write to a layer from now on, also while an Apply is at it.
    pub(crate) fn distrust(&self, id: LayerId) {
        match self.layers().get_mut(&id) {
            Some(State::Done(found)) => {
                *found = Arc::new(Found {
                    stamp: None,
                    ..Found::clone(found)
                });
            }
            Some(State::UnderWay { distrusted, .. }) => *distrusted = true,
            Some(State::Half) | None => {}
        }
    }

    /// Ends an Apply into a layer that was removed. That a layer holds part of something stays
    /// known: it can be taken back out of the trash.
    pub(crate) fn end(&self, id: LayerId) {
        let mut layers = self.layers();
        match layers.get(&id) {
            Some(State::UnderWay { cancel, .. }) => cancel.store(true, Ordering::Release),
            Some(State::Done(_)) => drop(layers.remove(&id)),
            Some(State::Half) | None => {}
        }
    }

    /// Drops what is known of a layer that was committed or deleted, and ends an Apply into it.
    pub(crate) fn forget(&self, id: LayerId) {
        if let Some(State::UnderWay { cancel, .. }) = self.layers().remove(&id) {
            cancel.store(true, Ordering::Release);
        }
    }

    /// Counts a layer that was made of a snapshot.
    pub(crate) fn count_diff(&self) {
        self.diffed.fetch_add(1, Ordering::Relaxed);
    }

    /// Layers unpacked, and layers made, since the start.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.applied), count(&self.diffed))
    }

    /// The map is whole even if a holder panicked: each use is one insert or remove.
    fn layers(&self) -> MutexGuard<'_, HashMap<LayerId, State>> {
        self.layers.lock()
    }
}

fn check(state: Option<&State>, key: &Key) -> Result<(), Error> {
    match state {
        Some(State::UnderWay { .. }) => {
            Err(Error::Layer(LayerError::BeingUnpacked { key: key.clone() }))
        }
        Some(State::Half) => Err(Error::Layer(LayerError::HalfUnpacked { key: key.clone() })),
        Some(State::Done(_)) | None => Ok(()),
    }
}

impl Claim<'_> {
    /// True if the snapshot was removed.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Acquire)
    }

    /// Ends the work because the reserve of the disk is reached.
    pub(crate) fn end_for_reserve(&self) {
        self.at_reserve.store(true, Ordering::Release);
    }

    /// True after [`end_for_reserve`](Self::end_for_reserve).
    pub(crate) fn is_at_reserve(&self) -> bool {
        self.at_reserve.load(Ordering::Acquire)
    }

    /// True if the work is to end for either reason.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_cancelled() || self.is_at_reserve()
    }

    /// The layer is whole. Answers whether others may have written to it meanwhile.
    pub(crate) fn done(&self, mut found: Found) -> bool {
        if let Some(State::Done(before)) = &self.before {
            found.implied.splice(0..0, before.implied.iter().cloned());
            let lists = before.whiteouts.clone().zip(found.whiteouts.take());
            found.top |= before.top;
            found.whiteouts = lists.map(|(before, new)| [before, new].concat());
        }
        self.unpacks.applied.fetch_add(1, Ordering::Relaxed);
        let mut was_distrusted = false;
        self.end(|distrusted| {
            was_distrusted = distrusted;
            found.stamp = found.stamp.filter(|_| !distrusted);
            State::Done(Arc::new(found))
        });
        was_distrusted
    }

    /// Nothing was written: the layer is what it was.
    pub(crate) fn undone(&self) {
        let mut layers = self.unpacks.layers();
        if let (Some(state), Some(before)) = (layers.get_mut(&self.id), &self.before) {
            *state = before.clone();
        } else {
            layers.remove(&self.id);
        }
    }

    /// Only if the layer is still ours: one that was deleted meanwhile is not known any more.
    /// `state` is told whether others may have written to the layer.
    fn end(&self, state: impl FnOnce(bool) -> State) {
        let mut layers = self.unpacks.layers();
        if let Some(mine) = layers.get_mut(&self.id)
            && let State::UnderWay { distrusted, .. } = mine
        {
            *mine = state(*distrusted);
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.end(|_| State::Half);
    }
}

#[cfg(test)]
mod tests {
    use layerd_store::{Key, LayerId, Usage};

    use super::{Found, Unpacks};
    use crate::ErrorKind;

    fn key() -> Key {
        Key::parse("key", "k").unwrap()
    }

    fn found(implied: &str) -> Found {
        Found {
            usage: Usage::default(),
            durable: true,
            stamp: None,
            digests: false,
            implied: vec![implied.as_bytes().to_vec()],
            whiteouts: Some(Vec::new()),
            top: false,
        }
    }

    fn kind<T: std::fmt::Debug>(result: Result<T, crate::Error>) -> ErrorKind {
        result.unwrap_err().kind()
    }

    #[test]
    fn one_at_a_time() {
        let (unpacks, id) = (Unpacks::default(), LayerId(1));
        let claim = unpacks.claim(id, &key()).unwrap();
        assert_eq!(kind(unpacks.claim(id, &key())), ErrorKind::Refused);
        assert_eq!(kind(unpacks.found(id, &key())), ErrorKind::Refused);
        unpacks.claim(LayerId(2), &key()).unwrap().undone();
        claim.done(found("a"));
        drop(claim);
        assert!(unpacks.found(id, &key()).unwrap().is_some());
        assert_eq!(unpacks.counts(), (1, 0));
    }

    #[test]
    fn half_a_layer_stays_half() {
        let (unpacks, id) = (Unpacks::default(), LayerId(1));
        drop(unpacks.claim(id, &key()).unwrap());
        assert_eq!(kind(unpacks.claim(id, &key())), ErrorKind::Refused);
        assert_eq!(kind(unpacks.found(id, &key())), ErrorKind::Refused);
        unpacks.forget(id);
        assert!(unpacks.found(id, &key()).unwrap().is_none());
        unpacks.claim(id, &key()).unwrap().undone();
        assert!(unpacks.found(id, &key()).unwrap().is_none());
    }

    #[test]
    fn who_removes_a_layer_ends_who_is_at_it() {
        let (unpacks, id) = (Unpacks::default(), LayerId(1));
        let claim = unpacks.claim(id, &key()).unwrap();
        unpacks.end(id);
        assert!(claim.is_cancelled());
        drop(claim);
        assert_eq!(kind(unpacks.found(id, &key())), ErrorKind::Refused);
        unpacks.forget(id);
        assert!(unpacks.found(id, &key()).unwrap().is_none());
    }

    #[test]
    fn a_layer_that_is_deleted_meanwhile_is_forgotten() {
        let (unpacks, id) = (Unpacks::default(), LayerId(1));
        let claim = unpacks.claim(id, &key()).unwrap();
        unpacks.forget(id);
        assert!(claim.is_cancelled());
        drop(claim);
        assert!(unpacks.found(id, &key()).unwrap().is_none());
    }

    #[test]
    fn a_second_layer_adds_to_what_is_known() {
        let (unpacks, id) = (Unpacks::default(), LayerId(1));
        unpacks.claim(id, &key()).unwrap().done(found("a"));
        unpacks.distrust(id);
        unpacks.claim(id, &key()).unwrap().done(found("b"));
        let found = unpacks.found(id, &key()).unwrap().unwrap();
        assert_eq!(found.implied, [b"a", b"b"]);
    }
}
