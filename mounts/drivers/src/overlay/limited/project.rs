//! Layers that are held to a size by the quota of a project.
//!
//! Directory and work directory of such a layer are where those of others are, and belong to the project
//! with all that is made in them. `c/<slot>` is a symlink whose text notes the project; it is made before
//! them. Commit copies nothing: once it is recorded, the limit and the note are taken away, and the files
//! keep the number of the project, which means nothing then.

use std::os::fd::AsFd as _;

use layerd_mounts::folder::FLAGS;
use layerd_mounts::limit::project::Project;
use layerd_mounts::limit::{Enforcement, Limit};
use layerd_mounts::{Error, Slot, Space};
use nix::errno::Errno;
use nix::fcntl::openat;
use nix::sys::stat::Mode;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{Form, LimitedLayers};
use crate::dirs::LayerDirs;

/// Inodes beside those of a container: the layer's directory, the work directory, and the one that
/// overlayfs makes in it.
const OWN_INODES: u64 = 3;

impl LimitedLayers {
    /// True if new layers are held by quotas.
    pub(in crate::overlay) fn are_projects(&self) -> bool {
        *self.enforcement() == Enforcement::Quota
    }

    fn project(&self, slot: Slot) -> Option<Project> {
        match self.known.read().get(&slot) {
            Some(Form::Project(project)) => Some(*project),
            _ => None,
        }
    }

    /// Takes a project for a new layer, whose directories are about to be made, and sets its limit.
    pub(in crate::overlay) fn take_project(&self, slot: Slot, limit: Limit) -> Result<(), Error> {
        let (name, folder) = (slot.to_string(), &self.folder);
        let taken = self
            .projects
            .take_noted(folder.fd.as_fd(), &name, limit, OWN_INODES);
        let project =
            taken.map_err(|cause| Error::io("set a quota for", &folder.path.join(&name), cause))?;
        self.known.write().insert(slot, Form::Project(project));
        Ok(())
    }

    /// Gives the directories of a new layer, which are empty, to its project.
    pub(in crate::overlay) fn give_project(
        &self,
        slot: Slot,
        dirs: &LayerDirs,
    ) -> Result<(), Error> {
        let Some(project) = self.project(slot) else {
            return Ok(());
        };
        let name = slot.to_string();
        [&dirs.layers, &dirs.work]
            .into_iter()
            .try_for_each(|folder| {
                let fail = |cause| Error::io("set the project of", &folder.path.join(&name), cause);
                let dir = openat(&folder.fd, name.as_str(), FLAGS, Mode::empty()).map_err(fail)?;
                project.give(dir.as_fd()).map_err(fail)
            })
    }

    /// Refuses a layer whose quota the kernel does not enforce any more.
    pub(in crate::overlay) fn check_enforced(&self, slot: Slot) -> Result<(), Error> {
        match self.project(slot) {
            Some(_) => self.projects.require(&format!("layer {slot}")),
            None => Ok(()),
        }
    }

    /// Room in a layer, as those see it who write to it; `None` if it has no limit. One that is deleted
    /// meanwhile has none.
    pub(in crate::overlay) fn space(
        &self,
        slot: Slot,
        dirs: &LayerDirs,
    ) -> Result<Option<Space>, Error> {
        if self.project(slot).is_none() {
            return self.space_in_image(slot);
        }
        match dirs.open_layer(slot) {
            Ok(layer) => {
                let disk = fstatvfs(layer).map(|disk| Some(Space::from(disk)));
                let path = || dirs.layers.path.join(slot.to_string());
                disk.map_err(|cause| Error::io("look at", &path(), cause))
            }
            Err(cause) if cause.errno() == Some(Errno::ENOENT as i32) => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    /// Takes the limit of a layer away. One that has none is success.
    pub(in crate::overlay) fn free(&self, slot: Slot) -> Result<(), Error> {
        let Some(project) = self.project(slot) else {
            return Ok(());
        };
        let (name, folder) = (slot.to_string(), &self.folder);
        let freed = self.projects.free(folder.fd.as_fd(), project);
        let path = || folder.path.join(&name);
        freed.map_err(|cause| Error::io("take the quota from", &path(), cause))?;
        match unlinkat(&folder.fd, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(cause) => return Err(Error::io("delete", &path(), cause)),
        }
        self.known.write().remove(&slot);
        Ok(())
    }
}
