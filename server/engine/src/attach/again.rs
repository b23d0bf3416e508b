//! Mounting again what is recorded: after a restart of the machine, after a crash, after the mount was
//! taken away, and where the source of a bind is another one by now, or has other mounts below it.

use std::path::PathBuf;
use std::sync::Arc;

use layerd_store::{AttachState, Attachment};
use tracing::{debug, warn};

use super::detach::inner_first;
use super::fill::Filling;
use super::target::lies_inside;
use super::{AttachmentEntry, Wanted};
use crate::events::Topic;
use crate::{Engine, Error};

impl Engine {
    /// Takes away the mounts of a call that are to be made anew, and those of it that stand inside,
    /// innermost first. Nothing was changed if a source cannot be had.
    pub(super) fn unmount_stale(&self, wanted: &[Wanted<'_>]) -> Result<(), Error> {
        let view = self.store.records();
        let (mut stale, mut current) = (Vec::new(), Vec::new());
        for one in wanted {
            let Some(there) = view.volumes().attachment(one.key()) else {
                continue;
            };
            if self.is_as_asked(&one.spec, there)? {
                current.push(there.clone());
                continue;
            }
            self.check_held(&one.spec, there)?;
            stale.push(there.clone());
        }
        let outer: Vec<_> = stale.iter().filter_map(|one| mount_point(one)).collect();
        let outer = || outer.iter().map(PathBuf::as_path);
        current.retain(|one| mount_point(one).is_some_and(|path| lies_inside(&path, outer())));
        stale.extend(current);
        inner_first(&mut stale);
        stale.iter().try_for_each(|one| self.clear_place(one))
    }

    /// Mounts again what is recorded and whose mount is gone, at a place where nothing stands. What
    /// was acknowledged goes on to hold what it holds, also if this fails.
    pub(super) fn attach_again(
        &self,
        wanted: &Wanted<'_>,
        there: &Attachment,
    ) -> Result<AttachmentEntry, Error> {
        let made = self.ready_source(&wanted.spec)?;
        let mut filling = Filling::None;
        if there.state == AttachState::Preparing {
            let finished = self.finish(wanted, there, &mut filling);
            let finished = finished.inspect_err(|_| {
                self.forget_intent(there);
                self.take_back(&made, false);
            })?;
            return self.attached(finished, filling, false);
        }
        let finished = self.finish(wanted, there, &mut filling);
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
        let entry = self.attachment_entry(attachment, true)?;
        let notes = filling.note(entry.volume.as_ref());
        Ok(AttachmentEntry {
            created,
            filled: filling == Filling::Done,
            notes: notes
                .into_iter()
                .chain(self.label_note(&entry.spec))
                .collect(),
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

/// Where an attachment is mounted.
fn mount_point(attachment: &Attachment) -> Option<PathBuf> {
    let mount = attachment.mount.as_ref();
    mount.map(|mount| PathBuf::from(&mount.target))
}
