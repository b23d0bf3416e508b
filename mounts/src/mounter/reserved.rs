//! Paths of the host that are the daemon's own: its data root, and what holds that or its socket.
//!
//! Two comparisons, since a bind mount gives a directory a second path. Upwards from what was found,
//! by `..`, device and inode: that finds the data root in whatever mount tree it is. And by the place
//! in the file system, as the mount table tells it: that finds a part of the data root that is bound
//! elsewhere, above which the data root does not come. The folders of the data root count by
//! themselves, as a disk of its own can be mounted on one.
//!
//! Not reserved is what was given out: the content of a volume that is bound elsewhere, and what
//! attachments have mounted.

use std::path::{Component, Path};

use super::{Handle, Identity, MountError, MountId, Mounter, Position, Symlinks};
use crate::Slot;

/// Folders of the data root on which a disk can be mounted.
const FOLDERS: [&str; 15] = [
    "meta", "l", "w", "t", "e", "i", "x", "g", "r", "z", "aufs", "m", "lost", "volumes", "mnt",
];

/// The daemon's own paths.
#[derive(Debug, Clone, Copy)]
pub struct Reserved<'a> {
    /// Looks at the host.
    pub mounter: &'a dyn Mounter,
    /// The data root.
    pub root: &'a Path,
    /// The socket that the daemon is called on.
    pub socket: Option<&'a Path>,
}

impl Reserved<'_> {
    /// The rule that a mount on `target` would break, to be read after its path; `None` if it breaks
    /// none. `is_given_out` says of a mount whether it was made for an attachment. Cost: a few looks
    /// for each directory above the target and the data root.
    ///
    /// # Errors
    /// As for [`Mounter::open_source`], about the data root.
    pub fn rule_broken(
        &self,
        target: &Handle,
        is_given_out: &dyn Fn(MountId) -> bool,
    ) -> Result<Option<String>, MountError> {
        let lineage = target.lineage()?;
        let [at, above @ ..] = &lineage[..] else {
            return Ok(None);
        };
        if above.is_empty() {
            return Ok(Some("is the root directory of the host".to_owned()));
        }
        let shown = self.root.display();
        if self.holds(target, &lineage, is_given_out)? {
            return Ok(Some(format!("lies in layerd's data directory {shown}")));
        }
        self.hidden_by(*at)
    }

    /// The rule that a mount on a directory or file would break, or breaks that stands there: what it
    /// hides or shows of the daemon's. To be read after its path.
    ///
    /// # Errors
    /// As for [`rule_broken`](Self::rule_broken).
    pub fn hidden_by(&self, at: Identity) -> Result<Option<String>, MountError> {
        if self.open_root()?.lineage()?.contains(&at) {
            let rule = format!(
                "holds layerd's data directory {}, which a mount would hide",
                self.root.display()
            );
            return Ok(Some(rule));
        }
        if let Some(socket) = self.socket
            && let Ok((found, _)) = self.mounter.open_existing(socket, Symlinks::Follow)
            && found.lineage()?.contains(&at)
        {
            let socket = socket.display();
            let rule = format!("holds layerd's socket {socket}, which a mount would hide");
            return Ok(Some(rule));
        }
        Ok(None)
    }

    /// True if a file is the data root or lies in it, by whatever path it was reached.
    ///
    /// # Errors
    /// As for [`rule_broken`](Self::rule_broken).
    pub fn has(
        &self,
        found: &Handle,
        is_given_out: &dyn Fn(MountId) -> bool,
    ) -> Result<bool, MountError> {
        self.holds(found, &found.lineage()?, is_given_out)
    }

    fn holds(
        &self,
        found: &Handle,
        lineage: &[Identity],
        is_given_out: &dyn Fn(MountId) -> bool,
    ) -> Result<bool, MountError> {
        let root = self.open_root()?;
        if lineage.contains(&(root.device(), root.inode())) {
            return Ok(true);
        }
        let at = self.mounter.position(found)?;
        if is_given_out(at.mount) {
            return Ok(false);
        }
        let top = self.mounter.position(&root)?;
        if is_part(&at, &top, Path::new("")) {
            return Ok(true);
        }
        for name in FOLDERS {
            let folder = match self
                .mounter
                .open_source(&self.root.join(name), Symlinks::Refuse)
            {
                Err(MountError::Missing { .. }) => continue,
                folder => self.mounter.position(&folder?)?,
            };
            if folder.mount != top.mount && is_part(&at, &folder, Path::new(name)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn open_root(&self) -> Result<Handle, MountError> {
        self.mounter.open_source(self.root, Symlinks::Follow)
    }
}

/// True if a file lies in `own`, which is `name` in the data root, and is not the content of a
/// volume that was bound by itself.
fn is_part(at: &Position, own: &Position, name: &Path) -> bool {
    let inner = |path: &Path| {
        path.strip_prefix(&own.path)
            .ok()
            .map(|path| name.join(path))
    };
    at.device == own.device
        && inner(&at.path).is_some()
        && !inner(&at.shown).is_some_and(|shown| is_volume_content(&shown))
}

/// `volumes/<slot>/data`, or what is in it.
fn is_volume_content(path: &Path) -> bool {
    let mut names = path.components().filter_map(|component| match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    names.next() == Some("volumes")
        && names
            .next()
            .is_some_and(|name| name.parse::<Slot>().is_ok())
        && names.next() == Some("data")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(device: u32, path: &str, shown: &str) -> Position {
        Position {
            device: (device, 0),
            path: path.into(),
            shown: shown.into(),
            mount: 1,
        }
    }

    #[test]
    fn parts_are_told_by_their_place_in_the_file_system() {
        let root = position(1, "/srv/layerd", "/");
        let is_own = |at: &Position| is_part(at, &root, Path::new(""));
        assert!(is_own(&position(1, "/srv/layerd/l/1", "/srv/layerd/l/1")));
        assert!(is_own(&position(1, "/srv/layerd", "/srv")));
        assert!(!is_own(&position(1, "/srv/layerd2", "/")));
        assert!(!is_own(&position(2, "/srv/layerd/l", "/")));
        let content = |shown: &str| is_own(&position(1, "/srv/layerd/volumes/a1/data/x", shown));
        assert!(!content("/srv/layerd/volumes/a1/data"));
        assert!(!content("/srv/layerd/volumes/a1/data/x"));
        assert!(content("/srv/layerd/volumes/a1"), "with what is beside it");
        assert!(content("/srv"));
        let trash = "/srv/layerd/volumes/.trash/a1/data";
        assert!(is_own(&position(1, trash, trash)));
    }

    #[test]
    fn a_folder_can_be_a_disk_of_its_own() {
        let volumes = position(2, "/", "/");
        let is_own = |path: &str| is_part(&position(2, path, path), &volumes, Path::new("volumes"));
        assert!(is_own("/") && is_own("/.trash"));
        assert!(!is_own("/a1/data"));
    }
}
