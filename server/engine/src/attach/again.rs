//! Mounting again what is recorded: after a restart of the machine, after a crash, or after somebody
//! took the mount away.

use std::sync::Arc;

use layerd_store::{AttachState, Attachment};
use tracing::{debug, warn};

use super::fill::Filling;
use super::{AttachmentEntry, Wanted};
use crate::events::Topic;
use crate::{Engine, Error};

impl Engine {
    /// Mounts again what is recorded and whose mount is gone, at a place where nothing stands. What
    /// was acknowledged goes on to hold what it holds, also if this fails.
    pub(super) fn attach_again(
        &self,
        wanted: &Wanted<'_>,
        there: &Attachment,
    ) -> Result<AttachmentEntry, Error> {
        if let Some(target) = &wanted.target {
            self.refuse_occupied(target)?;
        }
        let mut filling = Filling::None;
        if there.state == AttachState::Preparing {
            let finished = self.finish(wanted, there, &mut filling);
            let finished = finished.inspect_err(|_| self.forget_intent(there))?;
            return self.attached(finished, filling, false);
        }
        let intent = self
            .store
            .set_attached(there.id, AttachState::Waiting, None)?;
        let finished = self.finish(wanted, &intent, &mut filling);
        let finished = finished.inspect_err(|_| self.wait_on(there))?;
        self.attached(finished, filling, false)
    }

    /// Tells of an attachment that came to stand, and describes it.
    pub(super) fn attached(
        &self,
        attachment: Arc<Attachment>,
        filling: Filling,
        created: bool,
    ) -> Result<AttachmentEntry, Error> {
        self.events
            .tell(Topic::Attachment, "attached", attachment.key.as_str());
        debug!(key = attachment.key.as_str(), owner = %attachment.owner, "attached");
        let entry = self.attachment_entry(attachment, &|_| true)?;
        let notes = filling.note(entry.volume.as_ref());
        Ok(AttachmentEntry {
            created,
            filled: filling == Filling::Done,
            notes: notes.into_iter().collect(),
            ..entry
        })
    }

    /// Puts a record back as it was before mounting again failed.
    fn wait_on(&self, there: &Attachment) {
        let back = self
            .store
            .set_attached(there.id, there.state, there.mount.clone());
        if let Err(cause) = back {
            warn!(
                error = &cause as &dyn std::error::Error,
                key = there.key.as_str(),
                "go on waiting for a mount"
            );
        }
    }
}
