//! Undoing attachments, those that stand inside others first.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use layerd_store::{AttachState, Attachment, Key, Owner};
use tracing::{debug, warn};

use super::source::MadeSource;
use super::{Done, depth};
use crate::events::Topic;
use crate::{Attachments, Error};

impl Attachments {
    /// Keys of an owner, in the order of their creation, then those of its calls that attach just now. Reads
    /// memory only.
    #[must_use]
    pub fn keys_of(&self, owner: &Owner) -> Vec<Key> {
        // Before the records: a call that ends meanwhile is in one of both.
        let coming = self.under_way.of(owner);
        let view = self.root.store.records();
        let recorded = view.volumes().attachments();
        let recorded = recorded.filter(|one| one.owner == *owner);
        let mut keys: Vec<_> = recorded.map(|one| one.key.clone()).collect();
        for key in coming {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    /// Undoes attachments, those that stand inside others first; those that do not exist are passed
    /// over. Answers the keys of those that did, in the order asked for. Waits for calls that attach them.
    ///
    /// # Errors
    /// `Refused` if a mount is in use, naming who uses it; what was undone before stays undone.
    pub fn detach(&self, keys: &[Key], lazy: bool) -> Result<Vec<Key>, Error> {
        for key in keys {
            drop(self.locks.lock(key));
        }
        let view = self.root.store.records();
        let found = keys.iter().filter_map(|key| view.volumes().attachment(key));
        let mut found: Vec<_> = found.cloned().collect();
        inner_first(&mut found);
        let mut detached = BTreeSet::new();
        for attachment in &found {
            if self.detach_one(attachment, lazy)? {
                detached.insert(&attachment.key);
            }
        }
        let mut answer = keys.to_vec();
        answer.retain(|key| detached.remove(key));
        Ok(answer)
    }

    /// Undoes this attachment and no later one of its key. Answers whether it was there.
    pub(super) fn detach_one(&self, attachment: &Attachment, lazy: bool) -> Result<bool, Error> {
        let _guard = self.locks.lock(&attachment.key);
        // It may have been mounted anew, or have gone, since it was looked up.
        let view = self.root.store.records();
        let now = view.volumes().attachment(&attachment.key);
        let Some(now) = now.filter(|now| now.id == attachment.id) else {
            return Ok(false);
        };
        let made = match now.state {
            // It was acknowledged to none.
            AttachState::Preparing => MadeSource::recorded(now),
            AttachState::Attached | AttachState::Waiting => MadeSource::default(),
        };
        self.detach_held(now, &made, lazy)?;
        Ok(true)
    }

    /// As [`detach_one`](Self::detach_one), with the paths of the host that were `made` for it; the
    /// caller has the turn of the key.
    pub(super) fn detach_held(
        &self,
        attachment: &Attachment,
        made: &MadeSource,
        lazy: bool,
    ) -> Result<(), Error> {
        self.clear_place_as(attachment, lazy)?;
        self.drop_staged(&mut MadeSource::recorded(attachment));
        self.take_back_paths(made, Some(attachment.id));
        self.root.store.detach(attachment.id)?;
        self.root
            .events
            .tell(Topic::Attachment, "detached", attachment.key.as_str());
        debug!(key = attachment.key.as_str(), owner = %attachment.owner, "detached");
        Ok(())
    }

    /// Has a record name again what was `made` for it: the next call about it takes back what is left, should
    /// this one be interrupted.
    fn revoke(&self, attachment: &Attachment, made: &MadeSource) {
        if !made.is_some() {
            return;
        }
        let store = &self.root.store;
        if let Err(cause) = store.revoke_attached(attachment.id, made.to_record()) {
            warn!(
                error = &cause as &dyn std::error::Error,
                key = attachment.key.as_str(),
                "record what an attachment is undone with"
            );
        }
    }

    /// Undoes what a failed call attached itself, last first, and what it made for that. The caller has the turns of the keys,
    /// so no other one was told of these attachments.
    pub(super) fn undo(&self, done: &[Done]) {
        for one in done.iter().rev().filter(|one| one.is_new) {
            let attachment = &one.entry.attachment;
            self.revoke(attachment, &one.made);
            match self.detach_held(attachment, &one.made, false) {
                Ok(()) => self.take_back_volume(&one.made, one.entry.filled),
                Err(cause) => warn!(
                    error = &cause as &dyn std::error::Error,
                    key = attachment.key.as_str(),
                    "undo an attachment"
                ),
            }
        }
    }
}

/// Sorts so that a mount comes before the one it stands on: a mount point lies deeper than those it
/// lies in, and of two at one place the younger one is on top.
pub(super) fn inner_first(attachments: &mut [Arc<Attachment>]) {
    attachments.sort_by_key(|one| {
        let mount = one.mount.as_ref();
        let target = mount.map(|mount| mount.target.as_str());
        let target = target.or(one.target.as_deref()).map(Path::new);
        Reverse((target.map_or(0, depth), mount.map(|mount| mount.unique_id)))
    });
}
