//! Where layerd may be told to mount.
//!
//! Not on the root directory, nor on the data root or one above it, nor on what holds the socket:
//! the mount would hide layerd's own files from it. Nor inside the data root, by whatever path, as a
//! bind mount of it can be a peer: see [`Reserved`].

use std::path::{Path, PathBuf};

use layerd_mounts::mounter::{Handle, MountId, Reserved, Symlinks};
use layerd_spec::{HostPath, Kind, MountSpec};
use layerd_store::{Attachment, BadInput};

use super::mount::as_recorded;
use crate::{AttachError, Attachments, Error};

impl Attachments {
    /// Checks a target, which must be there, for attachment `own`, or a new one. Symlinks in it are
    /// refused. Where the mount of `own` stands, it is left aside: it is to be replaced.
    ///
    /// # Errors
    /// `Invalid` naming the rule it breaks, `Refused` if something is mounted there, or below it for
    /// another attachment, `Missing`.
    pub(super) fn check_target(
        &self,
        spec: &MountSpec,
        path: &Path,
        own: Option<&Attachment>,
    ) -> Result<(), Error> {
        let target = self.mounter.open_source(path, Symlinks::Refuse)?;
        if own.is_some_and(|own| self.is_mount_of(own, &target)) {
            return Ok(());
        }
        let rule = self.rule_broken(spec, &target)?;
        drop(target);
        if let Some(rule) = rule {
            let rule = format!("{:?} {rule}", path.display());
            return Err(BadInput::new("target_path", rule).into());
        }
        self.refuse_occupied(path)?;
        self.refuse_to_hide(path, own)
    }

    /// The daemon's own paths.
    pub(super) fn reserved(&self) -> Reserved<'_> {
        Reserved {
            mounter: self.mounter.as_ref(),
            root: &self.root.path,
            socket: self.root.options.socket.as_deref(),
        }
    }

    /// True for the mount of an attachment. A submount that came along was checked by nothing, and may
    /// show the data root.
    pub(super) fn is_given_out(&self, id: MountId) -> bool {
        let records = self.root.store.records();
        let mut mounts = records
            .volumes()
            .attachments()
            .filter_map(|one| one.mount.as_ref());
        mounts.any(|mount| {
            let is_it = mount.unique_id == id;
            let stands = || {
                let target = Path::new(&mount.target);
                self.mounter.is_mounted(target, &as_recorded(mount))
            };
            is_it && mount.boot == self.boot && stands().unwrap_or(false)
        })
    }

    /// The rule that a target breaks.
    fn rule_broken(&self, spec: &MountSpec, target: &Handle) -> Result<Option<String>, Error> {
        let broken = self
            .reserved()
            .rule_broken(target, &|id| self.is_given_out(id))?;
        if broken.is_some() {
            return Ok(broken);
        }
        if let Kind::Bind(bind) = &spec.kind
            && !bind.propagation.is_private()
            && let Ok(source) = self.identity(bind.source.as_path())
            && target
                .lineage()?
                .iter()
                .skip(1)
                .any(|above| *above == source)
        {
            return Ok(Some(format!(
                "lies in the source {}, and with {} propagation the mount would receive itself; \
                 use private propagation",
                bind.source,
                bind.propagation.as_str()
            )));
        }
        Ok(None)
    }

    /// True if a target was reached through the mount of an attachment.
    fn is_mount_of(&self, attachment: &Attachment, target: &Handle) -> bool {
        let mount = attachment.mount.as_ref();
        mount.is_some_and(|mount| {
            let seen = (target.device(), target.inode());
            mount.boot == self.boot
                && target.mount_id().is_ok_and(|id| id == mount.unique_id)
                && seen == (mount.device, mount.inode)
        })
    }

    /// Refuses a target above a mount that stands for another attachment.
    fn refuse_to_hide(&self, path: &Path, own: Option<&Attachment>) -> Result<(), Error> {
        let view = self.root.store.records();
        let own = own.map(|own| own.id);
        for other in view.volumes().attachments() {
            let Some(mount) = other.mount.as_ref().filter(|_| Some(other.id) != own) else {
                continue;
            };
            let inner = Path::new(&mount.target);
            if mount.boot == self.boot
                && inner != path
                && inner.starts_with(path)
                && self.mounter.is_mounted(inner, &as_recorded(mount))?
            {
                return Err(Error::Attach(AttachError::WouldHide {
                    path: path.to_owned(),
                    inner: inner.to_owned(),
                    key: other.key.clone(),
                }));
            }
        }
        Ok(())
    }
}

/// The shortest form of a target. As no symlink in a target is followed, it leads to the same place.
pub(super) fn clean(target: &Path) -> Result<PathBuf, Error> {
    let text = target.to_str().and_then(HostPath::new);
    let text = text.ok_or_else(|| {
        let shown: String = target.to_string_lossy().chars().take(256).collect();
        BadInput::new("target_path", format!("{shown:?} {}", HostPath::RULE))
    })?;
    Ok(text.as_path().to_owned())
}

/// True if a path lies strictly inside one of `outer`.
pub(super) fn lies_inside<'p>(path: &Path, mut outer: impl Iterator<Item = &'p Path>) -> bool {
    outer.any(|outer| path != outer && path.starts_with(outer))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{clean, lies_inside};

    #[test]
    fn inside_is_below_by_whole_names_and_not_the_same() {
        let inside = |path: &str, outer: &[&str]| {
            lies_inside(Path::new(path), outer.iter().map(|&outer| Path::new(outer)))
        };
        assert!(inside("/a/b", &["/a"]));
        assert!(inside("/a/b/c", &["/x", "/a"]));
        assert!(!inside("/a", &["/a"]));
        assert!(!inside("/a", &["/a/b", "/x"]));
        assert!(!inside("/ab", &["/a"]));
        assert!(!inside("/a/b", &[]));
        assert!(inside("/a/b", &["/a/b", "/a"]), "inside of another one");
    }

    #[test]
    fn targets_are_absolute_and_cleaned() {
        let cleaned = clean(Path::new("/a//b/./c/")).unwrap();
        assert_eq!(cleaned, PathBuf::from("/a/b/c"));
        let refused = clean(Path::new("a/b")).unwrap_err().to_string();
        assert!(
            refused.contains("\"a/b\" is not an absolute path"),
            "{refused}"
        );
    }
}
