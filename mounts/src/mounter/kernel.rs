//! The [`Mounter`] of the real kernel.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountAttrFlags, MoveMountFlags, move_mount};

use super::detached::{
    KernelMounter, check_kinds, check_propagation, clone, effective, last_id, new_tree, refused,
    restrict, set_propagation, shift, tmpfs, tmpfs_words, with_last_id,
};
use super::idmap::UserNamespace;
use super::{
    Attached, BindOptions, DetachMode, Detached, Feature, Handle, Holders, Made, MountEntry,
    MountError, MountId, Mounter, NewSource, Position, PrivateRoot, Propagation, Source, Symlinks,
    TmpfsOptions, Tree, Want, features, holders, layout, made, overlay, path, root, table, unmount,
};
use crate::types::Mount;

impl Mounter for KernelMounter {
    fn open_source(&self, path: &Path, symlinks: Symlinks) -> Result<Handle, MountError> {
        path::open_source(path, symlinks)
    }

    fn open_existing(&self, path: &Path, symlinks: Symlinks) -> Result<(Handle, bool), MountError> {
        path::open_existing(path, symlinks)
    }

    fn create_source(&self, path: &Path, new: &NewSource) -> Result<Source, MountError> {
        made::create_source(path, new)
    }

    fn check_create(&self, path: &Path, new: &NewSource) -> Result<Handle, MountError> {
        path::check_create(path, new)
    }

    fn place_source(&self, staged: &Path, path: &Path) -> Result<bool, MountError> {
        made::place_source(staged, path)
    }

    fn remove_made(&self, made: &[Made]) -> Result<(), MountError> {
        made::remove_made(made)
    }

    fn resolve(&self, root: &Handle, subpath: &Path, want: Want) -> Result<Handle, MountError> {
        path::resolve(root, subpath, want)
    }

    fn bind(&self, source: &Handle, options: &BindOptions) -> Result<Tree, MountError> {
        check_propagation(source, options.propagation)?;
        let without = layout::left_out(source, options)?;
        let tree = clone(source, options.recursive)?;
        let last_id = if options.recursive {
            last_id(&tree, source, options)?
        } else {
            0
        };
        let whole = restrict(tree.as_fd(), source.path(), options)?;
        if let Some(ids) = &options.ids {
            let namespace = UserNamespace::new(ids, source.path())?;
            shift(tree.as_fd(), source.path(), options.recursive, &namespace)?;
        }
        let read_only = effective(tree.as_fd(), source.path(), whole)?;
        let tree = new_tree(tree, source.path(), options.propagation, read_only)?;
        Ok(Tree {
            without,
            ..with_last_id(tree, last_id)
        })
    }

    fn check_propagation(&self, source: &Handle, wanted: Propagation) -> Result<(), MountError> {
        check_propagation(source, wanted)
    }

    fn is_current(
        &self,
        bind: &Attached,
        source: &Handle,
        options: &BindOptions,
    ) -> Result<bool, MountError> {
        layout::is_current(bind, source, options)
    }

    fn tmpfs(&self, options: &TmpfsOptions) -> Result<Tree, MountError> {
        let flags = [
            (options.read_only, MountAttrFlags::MOUNT_ATTR_RDONLY),
            (options.nosuid, MountAttrFlags::MOUNT_ATTR_NOSUID),
            (options.nodev, MountAttrFlags::MOUNT_ATTR_NODEV),
            (options.noexec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        ];
        let flags = flags.iter().filter(|(wanted, _)| *wanted);
        let flags = flags.fold(MountAttrFlags::empty(), |all, (_, flag)| all | *flag);
        tmpfs(&tmpfs_words(options), flags)
    }

    fn view(&self, plan: &[Mount]) -> Result<Tree, MountError> {
        overlay::view(self, plan)
    }

    fn attach(&self, tree: Tree, target: &Handle) -> Result<Attached, MountError> {
        check_kinds(&tree, target)?;
        let moved = move_mount(
            tree.fd.as_fd(),
            c"",
            target.as_fd(),
            c"",
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
        );
        moved.map_err(|cause| refused(target, cause))?;
        let placed = set_propagation(&tree, target.path()).and_then(|()| unmount::prune(&tree));
        placed.inspect_err(|_| unmount::undo(tree.fd.as_fd(), target.path()))?;
        Ok(tree.attached)
    }

    fn detach(
        &self,
        target: &Path,
        expected: &Attached,
        mode: DetachMode,
    ) -> Result<Detached, MountError> {
        unmount::detach(target, expected, mode)
    }

    fn keep(
        &self,
        target: &Path,
        expected: &Attached,
        propagation: Propagation,
    ) -> Result<Option<Tree>, MountError> {
        let Some(top) = unmount::topmost(target, expected.id)? else {
            return Ok(None);
        };
        let tree = clone(&top, true)?;
        let options = BindOptions {
            recursive: true,
            propagation,
            ..BindOptions::default()
        };
        let last_id = last_id(&tree, &top, &options)?;
        let read_only = effective(tree.as_fd(), target, false)?;
        let tree = new_tree(tree, target, propagation, read_only)?;
        Ok(Some(with_last_id(tree, last_id)))
    }

    fn mounts_below(&self, root: &Path) -> Result<Vec<MountEntry>, MountError> {
        table::below(root)
    }

    fn position(&self, found: &Handle) -> Result<Position, MountError> {
        table::position(found)
    }

    fn are_mounted(&self, expected: &[(&Path, Attached)]) -> Result<Vec<bool>, MountError> {
        table::are_mounted(expected)
    }

    fn is_on_top(&self, target: &Path, mount: MountId) -> Result<bool, MountError> {
        match path::open_source(target, Symlinks::Refuse) {
            Err(MountError::Missing { .. } | MountError::NotADirectory { .. }) => Ok(false),
            found => Ok(found?.mount_id()? == mount),
        }
    }

    fn holders(
        &self,
        directory: &Handle,
        known: &[MountId],
        limit: Duration,
    ) -> Result<Holders, MountError> {
        holders::mounts_of(directory, known, limit)
    }

    fn private_root(&self, path: &Path) -> Result<PrivateRoot, MountError> {
        root::make(self, path)
    }

    fn release_private_root(&self, path: &Path) -> Result<Detached, MountError> {
        root::release(path)
    }

    fn features(&self) -> Vec<Feature> {
        features::probe(self)
    }
}
