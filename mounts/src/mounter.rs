//! Mounts and unmounts volumes, binds, tmpfs and image views.
//!
//! Everything goes by descriptor: a path is resolved once, the file found is held open
//! ([`Handle`]), cloned into a detached mount ([`Tree`]), and only then attached to its mount point
//! ([`Attached`]). Between check and mount there is no path that another process could exchange.
//! A mount is unmounted by its id, not by its path: other mounts on the same path stay.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::types::Mount;

mod container;
mod detached;
mod error;
mod features;
mod holder;
mod holders;
mod idmap;
mod kernel;
mod layout;
mod made;
mod overlay;
mod path;
mod reserved;
mod root;
mod table;
mod types;
mod unmount;

#[cfg(any(test, feature = "fake"))]
pub mod contract;

pub use container::{MountNamespace, is_mount_point, oci_tree};
pub use detached::KernelMounter;
pub use error::MountError;
pub use features::{Feature, UNIQUE_IDS, Without};
pub use holder::{Holder, Holders, Holds, MountId};
#[cfg(any(test, feature = "fake"))]
pub(crate) use made::{create_source, place_source, remove_made};
#[cfg(any(test, feature = "fake"))]
pub(crate) use path::{check_create, open_existing, open_source, resolve};
pub use reserved::Reserved;
pub use types::{
    Attached, BindOptions, DetachMode, Detached, Effective, Handle, Identity, Made, MountEntry,
    NewSource, Position, PrivateRoot, Propagation, ReadOnly, Source, Symlinks, TmpfsOptions, Tree,
    Want,
};

/// Makes and takes away mounts. Every call blocks; sources on a hung network file system may block
/// it for ever, so give each such volume a thread of its own. Needs CAP_SYS_ADMIN for everything
/// that mounts. Nothing is durable but what [`create_source`](Mounter::create_source) made, and
/// that only once its parent was synced.
pub trait Mounter: Send + Sync + fmt::Debug {
    /// Opens an existing file or directory of the host. The path must be absolute; `..` goes where
    /// it goes.
    ///
    /// # Errors
    /// [`MountError::Missing`], [`MountError::NotADirectory`] for a file where a directory is
    /// needed, [`MountError::Symlink`] with [`Symlinks::Refuse`] or for a link of procfs,
    /// [`MountError::BadPath`], [`MountError::Raced`], else [`MountError::Io`].
    fn open_source(&self, path: &Path, symlinks: Symlinks) -> Result<Handle, MountError>;

    /// Opens the longest part of a path that is there; `true` if that is all of it.
    ///
    /// # Errors
    /// As `open_source`, but for [`MountError::Missing`]; [`MountError::Dangling`].
    fn open_existing(&self, path: &Path, symlinks: Symlinks) -> Result<(Handle, bool), MountError>;

    /// As `open_source`, but makes missing directories and the file, parents included. Symlinks in
    /// existing parts of the path are followed as `new` says; in the new parts none is, also if another
    /// process plants one meanwhile.
    ///
    /// # Errors
    /// As `open_source`; [`MountError::Dangling`], [`MountError::Closed`]. Nothing that was made
    /// stays.
    fn create_source(&self, path: &Path, new: &NewSource) -> Result<Source, MountError>;

    /// Opens the directory in which `create_source` would begin to make what is missing, after all
    /// checks that it can be made; changes nothing. What is there whole is opened itself.
    ///
    /// # Errors
    /// As for `create_source`, but for those of a full disk and of a race.
    fn check_create(&self, path: &Path, new: &NewSource) -> Result<Handle, MountError>;

    /// Gives what was made as `staged` the name `path` in the same directory, whole and at once; false
    /// if the name is taken. On a file system that only renames over others, such as NFS, the name is
    /// taken first, empty.
    ///
    /// # Errors
    /// As `open_source` for the directory, else [`MountError::Io`].
    fn place_source(&self, staged: &Path, path: &Path) -> Result<bool, MountError>;

    /// Removes what `create_source` made, the last first, as long as it is the very thing that was
    /// made and empty; the first that is not ends it, without an error. One with the inode 0 is a
    /// name of layerd's own, and goes whatever has it.
    ///
    /// # Errors
    /// As `open_source`.
    fn remove_made(&self, made: &[Made]) -> Result<(), MountError>;

    /// Opens `subpath` below `root`, relative, without ever leaving `root` and through no symlink.
    /// An empty one is `root` itself. Mounts below `root` are entered.
    ///
    /// # Errors
    /// [`MountError::Escape`], [`MountError::Symlink`], [`MountError::Missing`],
    /// [`MountError::NotADirectory`], [`MountError::IsADirectory`], each naming the component;
    /// [`MountError::Raced`] if renames go on all the time; else [`MountError::Io`].
    fn resolve(&self, root: &Handle, subpath: &Path, want: Want) -> Result<Handle, MountError>;

    /// Clones the mount that `source` lies on, so that `source` is its top.
    ///
    /// # Errors
    /// [`MountError::NotShared`] for a propagation that the source's mount does not allow,
    /// [`MountError::Unsupported`] for id mappings that the file system cannot do and for a
    /// recursive read-only mode that was required and cannot be kept; else [`MountError::Io`].
    fn bind(&self, source: &Handle, options: &BindOptions) -> Result<Tree, MountError>;

    /// Checks that the mount of `source` allows the propagation `wanted` for a bind of it, also by
    /// another process.
    ///
    /// # Errors
    /// [`MountError::NotShared`]; else [`MountError::Io`].
    fn check_propagation(&self, source: &Handle, wanted: Propagation) -> Result<(), MountError>;

    /// True if an existing bind equals a new bind of `source`: the same file or directory and, for a
    /// recursive one, the same submounts. Costs one query for each submount of both.
    ///
    /// # Errors
    /// [`MountError::Io`].
    fn is_current(
        &self,
        bind: &Attached,
        source: &Handle,
        options: &BindOptions,
    ) -> Result<bool, MountError>;

    /// Makes an empty tmpfs.
    ///
    /// # Errors
    /// [`MountError::Io`], with what the kernel said.
    fn tmpfs(&self, options: &TmpfsOptions) -> Result<Tree, MountError>;

    /// Makes a read-only view of a stack of layers from the plan of a storage driver: one
    /// overlay, or one bind. It is read-only whatever the plan says.
    ///
    /// # Errors
    /// [`MountError::Unsupported`] for a plan of another shape, else [`MountError::Io`].
    fn view(&self, plan: &[Mount]) -> Result<Tree, MountError>;

    /// Puts a tree on `target`, a directory for a directory, a file for a file, on top of what may
    /// be mounted there. Open the target with [`open_source`](Mounter::open_source) or
    /// [`resolve`](Mounter::resolve).
    ///
    /// # Errors
    /// [`MountError::NotADirectory`] or [`MountError::IsADirectory`] if the kinds differ,
    /// [`MountError::Missing`] if the target was deleted, else [`MountError::Io`]. Nothing stays
    /// mounted.
    fn attach(&self, tree: Tree, target: &Handle) -> Result<Attached, MountError>;

    /// Takes away `expected` from `target`, and what is mounted below it if it came along or came
    /// by propagation. The last component of `target` may not be a symlink. Anything else that
    /// stands there, on top of it or inside stays. A mount with others below it is made private
    /// first, and stays so if it turns out to be busy. Cost: most of it is the kernel's wait for
    /// other processors, a fraction of a millisecond each mount.
    ///
    /// # Errors
    /// [`MountError::Busy`] with those who hold it, as far as a search of half a second shows, or
    /// with the mount inside; [`MountError::Elsewhere`] if it is mounted, but not to be seen at
    /// `target`; else [`MountError::Io`].
    fn detach(
        &self,
        target: &Path,
        expected: &Attached,
        mode: DetachMode,
    ) -> Result<Detached, MountError>;

    /// Clones the mount `expected`, with all that stands on it, as long as it is the topmost on
    /// `target`, so that it can be put back after [`detach`](Mounter::detach): the same files with
    /// the same attributes and peers, under another number. `None` if it is not to be seen there.
    ///
    /// # Errors
    /// [`MountError::Io`].
    fn keep(
        &self,
        target: &Path,
        expected: &Attached,
        propagation: Propagation,
    ) -> Result<Option<Tree>, MountError>;

    /// Lists the mounts strictly below a directory, parents before children. Cost: one look at
    /// each mount of the file system that holds the directory.
    ///
    /// # Errors
    /// [`MountError::Io`].
    fn mounts_below(&self, root: &Path) -> Result<Vec<MountEntry>, MountError>;

    /// Where something is in its file system, whatever path led to it.
    ///
    /// # Errors
    /// [`MountError::Io`].
    fn position(&self, found: &Handle) -> Result<Position, MountError>;

    /// True if a mount that was attached to `target` is in this mount namespace. One with a unique id
    /// may have been moved.
    ///
    /// # Errors
    /// [`MountError::Io`].
    fn is_mounted(&self, target: &Path, expected: &Attached) -> Result<bool, MountError> {
        Ok(self.are_mounted(&[(target, *expected)])?.contains(&true))
    }

    /// As [`is_mounted`](Mounter::is_mounted), for each of many. Cost: one look at each, or where
    /// numbers are used again one at the mount table and one at each.
    ///
    /// # Errors
    /// [`MountError::Io`].
    fn are_mounted(&self, expected: &[(&Path, Attached)]) -> Result<Vec<bool>, MountError>;

    /// True if a path leads to a mount: no other one hides it, on top of it or above its path.
    ///
    /// # Errors
    /// As for [`open_source`](Mounter::open_source), but for a path that is not there.
    fn is_on_top(&self, target: &Path, mount: MountId) -> Result<bool, MountError>;

    /// Finds the mounts of a directory, or of what is in it, in all mount namespaces that a process
    /// of `/proc` is in. Mounts of this namespace numbered in `known` are left out, and so is the
    /// mount that `directory` itself was reached through. A namespace that was cloned while
    /// something was attached has copies of it, which count. Stops after `limit`.
    ///
    /// # Errors
    /// [`MountError::Io`].
    fn holders(
        &self,
        directory: &Handle,
        known: &[MountId],
        limit: Duration,
    ) -> Result<Holders, MountError>;

    /// Binds a directory on itself and makes it unbindable, so that mounts below it are cheap, stay
    /// in this mount namespace (and those cloned from it later), and come along in no recursive
    /// bind of a directory above. May be repeated.
    ///
    /// # Errors
    /// [`MountError::Io`] and as for [`open_source`](Mounter::open_source).
    fn private_root(&self, path: &Path) -> Result<PrivateRoot, MountError>;

    /// Undoes [`private_root`](Mounter::private_root).
    ///
    /// # Errors
    /// [`MountError::Busy`] while something is mounted below or in use; else [`MountError::Io`].
    fn release_private_root(&self, path: &Path) -> Result<Detached, MountError>;

    /// Features of this kernel, tried anew at each call. Costs milliseconds.
    fn features(&self) -> Vec<Feature>;
}

#[cfg(test)]
mod tests;
