//! A tmpfs that goes because it stands inside a mount that is made anew: what it holds exists nowhere
//! else. Until it is put back it also stands at a mount point of layerd's own, so that the next call
//! about it finds its content after a crash.

use std::path::Path;

use layerd_mounts::mounter::{DetachMode, Propagation, Symlinks, Tree};
use layerd_spec::Kind;
use layerd_store::{Attachment, MountedAt};
use tracing::warn;

use super::mount::as_recorded;
use super::parse;
use crate::{Attachments, Error};

impl Attachments {
    /// Lets the mount of a tmpfs stand at the attachment's own mount point as well, unless one stands
    /// there with the same content. Answers whether it stands there by this call.
    pub(super) fn set_aside(
        &self,
        attachment: &Attachment,
        mount: &MountedAt,
    ) -> Result<bool, Error> {
        let mount_point = self.own_mount_point(attachment);
        if self.standing_on(&mount_point)?.is_some() {
            return Ok(false);
        }
        let target = Path::new(&mount.target);
        let kept = self
            .mounter
            .keep(target, &as_recorded(mount), Propagation::Private)?;
        let Some(tree) = kept else {
            return Ok(false);
        };
        self.private_folder()?;
        self.make_own_mount_point(&mount_point, true)?;
        let own = self.mounter.open_source(&mount_point, Symlinks::Refuse)?;
        self.mounter.attach(tree, &own)?;
        Ok(true)
    }

    /// The tmpfs that an interrupted call set aside, to be put at its target.
    pub(super) fn take_aside(&self, attachment: &Attachment) -> Result<Option<Tree>, Error> {
        let mount_point = self.own_mount_point(attachment);
        match self.standing_on(&mount_point)? {
            None => Ok(None),
            Some(top) => Ok(self
                .mounter
                .keep(&mount_point, &top, Propagation::Private)?),
        }
    }

    /// Takes away what was set aside of a tmpfs whose mount stands again. What stays is taken away by
    /// the next call or with the attachment.
    pub(super) fn clear_aside(&self, attachment: &Attachment) {
        let is_tmpfs =
            parse(&attachment.spec).is_ok_and(|spec| matches!(spec.kind, Kind::Tmpfs(_)));
        if !is_tmpfs {
            return;
        }
        let mount_point = self.own_mount_point(attachment);
        let cleared = self
            .clear_own_mount_point(&mount_point, DetachMode::Normal)
            .and_then(|()| self.remove_place(attachment));
        if let Err(cause) = cleared {
            let error = &cause as &dyn std::error::Error;
            warn!(
                error,
                key = attachment.key.as_str(),
                "take away a tmpfs that was set aside"
            );
        }
    }
}
