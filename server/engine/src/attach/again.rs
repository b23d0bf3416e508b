//! Mounting again what is recorded: after a restart of the machine, after a crash, after the mount was
//! taken away, and where the source of a bind is another one by now, or has other mounts below it.
//!
//! All that can be refused is refused before a mount goes. A mount that goes is kept until the call
//! has succeeded, and is put back if it fails. One that only goes because it stands inside another
//! is put back as it was, with what a tmpfs holds ([`aside`](super::aside)).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerd_mounts::mounter::{DetachMode, Propagation, Tree};
use layerd_spec::Kind;
use layerd_store::{AttachState, Attachment, MountedAt};
use tracing::{debug, warn};

use super::detach::inner_first;
use super::fill::Filling;
use super::mount::{MadeMount, as_recorded};
use super::options::propagation;
use super::source::MadeSource;
use super::target::lies_inside;
use super::{AttachmentEntry, Done, Wanted, parse};
use crate::events::Topic;
use crate::{Attachments, Error};

/// An attachment whose mount a call took away.
pub(super) struct Removed {
    attachment: Arc<Attachment>,
    /// The mount, out of sight; `None` if there was none.
    kept: Option<Tree>,
    /// Set if it showed its source, and was unmounted only with the mount that contained it.
    is_current: bool,
}

impl Attachments {
    /// Takes away the mounts of a call that are to be made anew, and those of it that stand inside,
    /// innermost first. Nothing was changed if it fails.
    pub(super) fn unmount_stale(&self, wanted: &[Wanted<'_>]) -> Result<Vec<Removed>, Error> {
        let view = self.root.store.records();
        let (mut stale, mut current) = (Vec::new(), Vec::new());
        for one in wanted {
            let Some(there) = view.volumes().attachment(one.key()) else {
                continue;
            };
            if self.is_as_asked(&one.spec, there)? {
                current.push(there.clone());
                continue;
            }
            self.check_again(one, there, wanted)?;
            stale.push(there.clone());
        }
        let outer: Vec<_> = stale.iter().filter_map(|one| mount_point(one)).collect();
        let outer = || outer.iter().map(PathBuf::as_path);
        current.retain(|one| mount_point(one).is_some_and(|path| lies_inside(&path, outer())));
        let current: Vec<_> = current.iter().map(|one| one.id).collect();
        let inside = wanted
            .iter()
            .filter_map(|one| view.volumes().attachment(one.key()));
        stale.extend(inside.filter(|one| current.contains(&one.id)).cloned());
        inner_first(&mut stale);
        let mut removed = Vec::new();
        for one in stale {
            let is_current = current.contains(&one.id);
            match self.remove_kept(&one) {
                Ok(kept) => removed.push(Removed {
                    attachment: one,
                    kept,
                    is_current,
                }),
                Err(cause) => {
                    self.put_back(removed);
                    return Err(cause);
                }
            }
        }
        Ok(removed)
    }

    /// Refuses what would keep a recorded attachment from being mounted anew.
    fn check_again(
        &self,
        one: &Wanted<'_>,
        there: &Attachment,
        wanted: &[Wanted<'_>],
    ) -> Result<(), Error> {
        let is_dir = self.check_held(&one.spec, there)?;
        self.check_label(&one.spec, one.request.selinux_label.as_deref())?;
        self.check_place(one, wanted, Some(there), is_dir)
    }

    /// Takes a mount away, and keeps it out of sight.
    fn remove_kept(&self, attachment: &Attachment) -> Result<Option<Tree>, Error> {
        let mount = attachment.mount.as_ref();
        let Some(mount) = mount.filter(|mount| mount.boot == self.boot) else {
            self.clear_place(attachment)?;
            return Ok(None);
        };
        let kind = parse(&attachment.spec)?.kind;
        let propagation = match &kind {
            Kind::Bind(bind) => propagation(bind.propagation),
            Kind::Volume(_) | Kind::Image(_) | Kind::Tmpfs(_) => Propagation::Private,
        };
        let target = Path::new(&mount.target);
        let kept = self
            .mounter
            .keep(target, &as_recorded(mount), propagation)?;
        let is_aside = matches!(kind, Kind::Tmpfs(_)) && self.set_aside(attachment, mount)?;
        let unmounted = self.unmount_again(&kind, attachment);
        if unmounted.is_err() && is_aside {
            self.clear_aside(attachment);
        }
        unmounted?;
        Ok(kept)
    }

    /// Takes away a mount that is to be made anew, but nothing that was set aside for that.
    fn unmount_again(&self, kind: &Kind, attachment: &Attachment) -> Result<(), Error> {
        match kind {
            Kind::Tmpfs(_) => self.unmount_recorded(attachment, DetachMode::Normal),
            Kind::Bind(_) | Kind::Volume(_) | Kind::Image(_) => self.clear_place(attachment),
        }
    }

    /// Puts back, after a failed call, the mounts that it took away; those that it made in their place
    /// go.
    pub(super) fn put_back(&self, mut removed: Vec<Removed>) {
        // What cannot go stays, and stays recorded.
        removed.retain_mut(|one| {
            let gone = self.remove_anew(one);
            gone.inspect_err(|cause| not_put_back(&one.attachment, cause))
                .is_ok()
        });
        for one in removed.iter_mut().rev() {
            match self.put_back_one(&one.attachment, &mut one.kept) {
                Ok(Some(_)) => self.clear_aside(&one.attachment),
                Ok(None) => self.wait_on(&one.attachment),
                Err(cause) => not_put_back(&one.attachment, &cause),
            }
        }
    }

    /// Takes away what stands by now for an attachment whose mount was taken away before.
    fn remove_anew(&self, one: &mut Removed) -> Result<(), Error> {
        let view = self.root.store.records();
        let Some(now) = view.volumes().attachment(&one.attachment.key) else {
            return Ok(());
        };
        match one.is_current && one.kept.is_none() {
            true => one.kept = self.remove_kept(now)?,
            false => self.unmount_again(&parse(&now.spec)?.kind, now)?,
        }
        Ok(())
    }

    /// Puts a mount that was kept where it stood, and records its new number; `None` if none was kept.
    /// It stays kept if its place is not there.
    fn put_back_one(
        &self,
        attachment: &Attachment,
        kept: &mut Option<Tree>,
    ) -> Result<Option<Arc<Attachment>>, Error> {
        let (Some(tree), Some(mount)) = (kept.as_ref(), &attachment.mount) else {
            return Ok(None);
        };
        let at = MountedAt {
            unique_id: tree.attached().id,
            last_id: tree.attached().last_id,
            ..mount.clone()
        };
        let target = self.open_place(attachment, &at.target, tree)?;
        let mount = Some(at.clone());
        let back = self
            .root
            .store
            .set_attached(attachment.id, attachment.state, mount)?;
        if let Some(tree) = kept.take() {
            self.put_in_place(MadeMount { tree, target, at })?;
        }
        Ok(Some(back))
    }

    /// Finds or makes the mount of a recorded attachment. `removed` is what the call took away.
    pub(super) fn attach_recorded(
        &self,
        wanted: &Wanted<'_>,
        there: Arc<Attachment>,
        removed: &mut [Removed],
    ) -> Result<Done, Error> {
        self.check_image(&self.root.store.records(), there.layer)?;
        let is_new = there.state == AttachState::Preparing;
        let mut made = MadeSource::recorded(&there);
        let taken = removed
            .iter_mut()
            .find(|one| one.is_current && one.attachment.id == there.id);
        let back = taken.map(|one| self.put_back_one(&one.attachment, &mut one.kept));
        let entry = if let Some(back) = back.transpose()?.flatten() {
            self.attachment_entry(back, true)?
        } else if self.is_as_asked(&wanted.spec, &there)? {
            self.ready_path(&wanted.spec, &there, &mut made)?;
            self.attachment_entry(there, true)?
        } else {
            self.unmount_again(&wanted.spec.kind, &there)?;
            self.attach_again(wanted, &there, &mut made)?
        };
        self.clear_aside(&entry.attachment);
        Ok(Done {
            entry,
            is_new,
            made,
        })
    }

    /// Mounts again what is recorded and whose mount is gone, at a place where nothing stands. What
    /// was acknowledged goes on to hold what it holds, also if this fails; what was not goes then,
    /// with all that was `made` for it.
    fn attach_again(
        &self,
        wanted: &Wanted<'_>,
        there: &Attachment,
        made: &mut MadeSource,
    ) -> Result<AttachmentEntry, Error> {
        self.ready_source(&wanted.spec, there.id, made)?;
        let mut filling = Filling::None;
        let finished = self.finish(wanted, there, &mut filling);
        let finished = finished.inspect_err(|_| match there.state {
            AttachState::Preparing => self.forget_intent(there, made, filling == Filling::Done),
            AttachState::Attached | AttachState::Waiting => {
                self.wait_on(there);
                self.take_back_paths(made, Some(there.id));
            }
        })?;
        self.attached(wanted, finished, filling, false)
    }

    /// Undoes what interrupted calls left of the attachments of a call that failed. They were
    /// acknowledged to no caller.
    pub(super) fn forget_interrupted(&self, wanted: &[Wanted<'_>]) {
        let view = self.root.store.records();
        for one in wanted {
            let Some(there) = view.volumes().attachment(one.key()) else {
                continue;
            };
            if there.state == AttachState::Preparing {
                self.forget_intent(there, &MadeSource::recorded(there), false);
            }
        }
    }

    /// Tells of an attachment that came to stand, and describes it.
    pub(super) fn attached(
        &self,
        wanted: &Wanted<'_>,
        attachment: Arc<Attachment>,
        filling: Filling,
        created: bool,
    ) -> Result<AttachmentEntry, Error> {
        self.root
            .events
            .tell(Topic::Attachment, "attached", attachment.key.as_str());
        debug!(key = attachment.key.as_str(), owner = %attachment.owner, "attached");
        let entry = self.attachment_entry(attachment, true)?;
        let notes = filling.note(entry.volume.as_ref());
        Ok(AttachmentEntry {
            created,
            filled: filling == Filling::Done,
            notes: notes
                .into_iter()
                .chain(self.label_note(&wanted.spec))
                .collect(),
            ..entry
        })
    }

    /// Puts a record back as it was before mounting again failed.
    fn wait_on(&self, there: &Attachment) {
        let back = self
            .root
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

fn not_put_back(attachment: &Attachment, cause: &Error) {
    let error = cause as &dyn std::error::Error;
    let key = attachment.key.as_str();
    warn!(error, key, "put back the mount of an attachment");
}

/// Where an attachment is mounted.
fn mount_point(attachment: &Attachment) -> Option<PathBuf> {
    let mount = attachment.mount.as_ref();
    mount.map(|mount| PathBuf::from(&mount.target))
}
