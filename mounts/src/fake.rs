//! A [`Mounter`] whose mount table is in memory and that fails when told to. Tests only.
//!
//! Paths are looked up for real, so give it directories that are there; no root is needed. Nothing
//! shows through its mounts. Clones share one table, so that a test can throw an engine away and
//! open a new one on what is left.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use parking_lot::{Mutex, MutexGuard};

use crate::mounter::{
    Attached, BindOptions, DetachMode, Detached, Effective, Feature, Handle, Holder, Holders,
    Holds, Made, MountEntry, MountError, MountId, Mounter, NewSource, Position, PrivateRoot,
    Propagation, ReadOnly, Source, Symlinks, TmpfsOptions, Tree, Want, Without, check_create,
    create_source, open_existing, open_source, place_source, remove_made, resolve,
};
use crate::types::Mount;

mod hook;
mod table;

pub use hook::{Hook, HookCell};
use table::{Entry, Table};

/// A mounter in memory.
#[derive(Debug, Clone, Default)]
pub struct FakeMounter {
    table: Arc<Mutex<Table>>,
}

impl FakeMounter {
    /// Nothing mounted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the `nth` step from now on, counted from 1, fail once, before it does anything. Each
    /// call that opens, makes, mounts or unmounts is a step; those that only ask are not.
    pub fn fail_at(&self, nth: usize, errno: Errno) {
        let mut table = self.table();
        table.failure = Some((table.steps.len() + nth, errno));
    }

    /// As [`fail_at`](Self::fail_at), with a panic in place of an error, so that nothing is undone, as
    /// after a kill.
    pub fn crash_at(&self, nth: usize) {
        let mut table = self.table();
        table.crash = Some(table.steps.len() + nth);
    }

    /// Lets everything work again. Answers whether a failure was set and never reached.
    pub fn heal(&self) -> bool {
        let mut table = self.table();
        let steps = table.steps.len();
        let crash = table.crash.take();
        let failure = table.failure.take().map(|(at, _)| at);
        crash.or(failure).is_some_and(|at| at > steps)
    }

    /// Steps taken so far, by what each attempted, as errors name it.
    #[must_use]
    pub fn steps(&self) -> Vec<&'static str> {
        self.table().steps.clone()
    }

    /// All that is mounted, oldest first.
    #[must_use]
    pub fn mounts(&self) -> Vec<MountEntry> {
        let table = self.table();
        table.mounts.values().map(|e| e.mount.clone()).collect()
    }

    /// Marks a mount as used by a process, or as unused.
    pub fn set_busy(&self, id: MountId, busy: bool) {
        if let Some(entry) = self.table().mounts.get_mut(&id) {
            entry.busy = busy;
        }
    }

    /// Pretends that the mounts of all sources are shared, or no longer.
    pub fn set_shared(&self, shared: bool) {
        self.table().shared = shared;
    }

    /// Mounts something that is not layerd's. Answers its number.
    pub fn add_foreign_mount(&self, target: &Path) -> MountId {
        let device = (0, 999);
        let target = target.to_owned();
        self.table()
            .add(target, Path::new("/"), device, (device, 2), false)
    }

    /// Takes a mount away behind layerd's back.
    pub fn lose(&self, id: MountId) {
        self.table().mounts.remove(&id);
    }

    /// Takes all mounts away, and begins to number anew, as a restart of the machine does.
    pub fn reboot(&self) {
        let mut table = self.table();
        table.mounts.clear();
        table.numbers = 0;
    }

    fn step(&self, attempt: &'static str, path: &Path) -> Result<(), MountError> {
        let mut table = self.table();
        table.steps.push(attempt);
        if table.crash == Some(table.steps.len()) {
            drop(table);
            // Not by `panic!`, which would print where each of many was.
            std::panic::resume_unwind(Box::new("told to crash"));
        }
        match table.failure {
            Some((at, errno)) if at == table.steps.len() => {
                Err(MountError::io(attempt, path, errno))
            }
            _ => Ok(()),
        }
    }

    /// A tree that shows nothing of the host.
    fn made_up(&self, shown: &str, read_only: bool) -> Result<Tree, MountError> {
        let top = open_source(Path::new("/"), Symlinks::Follow)?;
        let read_only = match read_only {
            true => Effective::Recursive,
            false => Effective::Writable,
        };
        self.tree(&top, Path::new(shown), Propagation::Private, read_only)
    }

    fn tree(
        &self,
        top: &Handle,
        shown: &Path,
        propagation: Propagation,
        read_only: Effective,
    ) -> Result<Tree, MountError> {
        let id = self.table().number();
        Ok(Tree {
            fd: held(top)?,
            shown: shown.to_owned(),
            propagation,
            read_only,
            attached: Attached {
                id,
                last_id: id,
                device: top.device(),
                inode: top.inode(),
            },
            without: Vec::new(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }
}

fn busy(path: &Path) -> MountError {
    let holder = Holder {
        pid: 1,
        command: "fake".to_owned(),
        holds: Holds::WorkingDirectory,
    };
    MountError::Busy {
        path: path.to_owned(),
        holders: Holders {
            found: vec![holder],
            ..Holders::default()
        },
    }
}

/// The path as the table has it: that of the parent is real, the last part stays.
fn place(target: &Path) -> Result<PathBuf, MountError> {
    let bad = || MountError::BadPath {
        path: target.to_owned(),
        problem: "cannot be a mount point",
    };
    let parent = target.parent().ok_or_else(bad)?;
    let name = target.file_name().ok_or_else(bad)?;
    Ok(open_source(parent, Symlinks::Follow)?
        .real_path()?
        .join(name))
}

fn held(handle: &Handle) -> Result<OwnedFd, MountError> {
    let copy = handle.as_fd().try_clone_to_owned();
    copy.map_err(|cause| MountError::io("hold", handle.path(), cause))
}

impl Mounter for FakeMounter {
    fn open_source(&self, path: &Path, symlinks: Symlinks) -> Result<Handle, MountError> {
        self.step("open", path)?;
        open_source(path, symlinks)
    }

    fn open_existing(&self, path: &Path, symlinks: Symlinks) -> Result<(Handle, bool), MountError> {
        self.step("open", path)?;
        open_existing(path, symlinks)
    }

    fn create_source(&self, path: &Path, new: &NewSource) -> Result<Source, MountError> {
        self.step("create", path)?;
        create_source(path, new)
    }

    fn check_create(&self, path: &Path, new: &NewSource) -> Result<Handle, MountError> {
        check_create(path, new)
    }

    fn place_source(&self, staged: &Path, path: &Path) -> Result<bool, MountError> {
        self.step("move", path)?;
        place_source(staged, path)
    }

    fn remove_made(&self, made: &[Made]) -> Result<(), MountError> {
        self.step("remove", Path::new(""))?;
        remove_made(made)
    }

    fn resolve(&self, root: &Handle, subpath: &Path, want: Want) -> Result<Handle, MountError> {
        self.step("open", &root.path().join(subpath))?;
        resolve(root, subpath, want)
    }

    fn check_propagation(&self, source: &Handle, wanted: Propagation) -> Result<(), MountError> {
        if wanted == Propagation::Private || self.table().shared {
            return Ok(());
        }
        Err(MountError::NotShared {
            path: source.path().to_owned(),
            mount: PathBuf::from("/"),
            actual: "private",
            wanted: "slave or shared",
            needed: "shared",
        })
    }

    fn bind(&self, source: &Handle, options: &BindOptions) -> Result<Tree, MountError> {
        self.step("bind", source.path())?;
        self.check_propagation(source, options.propagation)?;
        let private = options.propagation == Propagation::Private;
        let read_only = match options.read_only {
            ReadOnly::Writable => Effective::Writable,
            ReadOnly::Top if options.recursive || !private => Effective::Top,
            ReadOnly::Top => Effective::Recursive,
            ReadOnly::RecursiveIfPossible if private => Effective::Recursive,
            ReadOnly::RecursiveIfPossible => Effective::Top,
            ReadOnly::RecursiveRequired if private => Effective::Recursive,
            ReadOnly::RecursiveRequired => {
                return Err(MountError::Unsupported {
                    what: "recursive read-only with slave or shared propagation",
                    path: source.path().to_owned(),
                    advice: "use private propagation",
                    cause: None,
                });
            }
        };
        self.tree(source, &source.real_path()?, options.propagation, read_only)
    }

    fn is_current(
        &self,
        bind: &Attached,
        source: &Handle,
        _options: &BindOptions,
    ) -> Result<bool, MountError> {
        Ok((source.device(), source.inode()) == (bind.device, bind.inode))
    }

    fn tmpfs(&self, options: &TmpfsOptions) -> Result<Tree, MountError> {
        self.step("make a", Path::new("tmpfs"))?;
        self.made_up("tmpfs", options.read_only)
    }

    fn view(&self, plan: &[Mount]) -> Result<Tree, MountError> {
        self.step("make an", Path::new("overlay"))?;
        let upper = |option: &String| option.starts_with("upperdir=");
        match plan {
            [one] if !one.options.iter().any(upper) => self.made_up("overlay", true),
            _ => Err(MountError::Unsupported {
                what: "a read-only view",
                path: PathBuf::from("overlay"),
                advice: "the plan must be one bind, or one overlay without an upper directory",
                cause: None,
            }),
        }
    }

    fn attach(&self, tree: Tree, target: &Handle) -> Result<Attached, MountError> {
        self.step("mount on", target.path())?;
        let path = target.path().to_owned();
        let top = Handle::new(tree.fd, &tree.shown)?;
        match (top.is_dir(), target.is_dir()) {
            (true, false) => return Err(MountError::NotADirectory { path }),
            (false, true) => return Err(MountError::IsADirectory { path }),
            _ => {}
        }
        let place = target.real_path()?;
        let (device, inode) = (top.device(), top.inode());
        let mut table = self.table();
        let id = tree.attached.id;
        table.put(id, place, &tree.shown, device, (device, inode), false);
        Ok(tree.attached)
    }

    fn detach(
        &self,
        target: &Path,
        expected: &Attached,
        mode: DetachMode,
    ) -> Result<Detached, MountError> {
        self.step("unmount", target)?;
        let place = match place(target) {
            Err(MountError::Missing { .. }) => target.to_owned(),
            other => other?,
        };
        let mut table = self.table();
        let used = table.mounts.get(&expected.id).is_some_and(|e| e.busy);
        if used && mode == DetachMode::Normal {
            return Err(busy(target));
        }
        table.take(&place, expected)
    }

    fn keep(
        &self,
        target: &Path,
        expected: &Attached,
        propagation: Propagation,
    ) -> Result<Option<Tree>, MountError> {
        self.step("bind", target)?;
        let standing = self.table().mounts.get(&expected.id).cloned();
        let Some(standing) = standing else {
            return Ok(None);
        };
        let shown = standing.mount.root;
        let top = open_source(&shown, Symlinks::Follow)?;
        let tree = self.tree(&top, &shown, propagation, Effective::Writable)?;
        Ok(Some(tree))
    }

    fn mounts_below(&self, root: &Path) -> Result<Vec<MountEntry>, MountError> {
        let root = open_source(root, Symlinks::Follow)?.real_path()?;
        let mut found = self.mounts();
        found.retain(|mount| mount.target != root && mount.target.starts_with(&root));
        Ok(found)
    }

    fn position(&self, found: &Handle) -> Result<Position, MountError> {
        Ok(Position {
            device: found.device(),
            path: found.real_path()?,
            shown: PathBuf::from("/"),
            mount: found.mount_id()?,
        })
    }

    fn are_mounted(&self, expected: &[(&Path, Attached)]) -> Result<Vec<bool>, MountError> {
        let table = self.table();
        let stands = |(_, one): &(&Path, Attached)| table.mounts.contains_key(&one.id);
        Ok(expected.iter().map(stands).collect())
    }

    fn is_on_top(&self, target: &Path, mount: MountId) -> Result<bool, MountError> {
        Ok(self.table().under(target) == Some(mount))
    }

    fn holders(
        &self,
        directory: &Handle,
        known: &[MountId],
        _limit: Duration,
    ) -> Result<Holders, MountError> {
        let path = directory.real_path()?;
        let mut found = self.mounts();
        found.retain(|mount| mount.root.starts_with(&path) && !known.contains(&mount.id));
        let holder = |mount: MountEntry| Holder {
            pid: std::process::id(),
            command: "fake".to_owned(),
            holds: Holds::Mount {
                target: mount.target,
                namespace: 0,
            },
        };
        Ok(Holders {
            found: found.into_iter().map(holder).collect(),
            ..Holders::default()
        })
    }

    fn private_root(&self, path: &Path) -> Result<PrivateRoot, MountError> {
        self.step("bind", path)?;
        let handle = open_source(path, Symlinks::Follow)?;
        let place = handle.real_path()?;
        let below = !self.mounts_below(path)?.is_empty();
        let mut table = self.table();
        let bound = |entry: &Entry| entry.self_bind && entry.mount.target == place;
        if table.mounts.values().any(bound) {
            return Ok(PrivateRoot::Already);
        }
        if below {
            return Ok(PrivateRoot::InUse);
        }
        let (device, inode) = (handle.device(), handle.inode());
        table.add(place.clone(), &place, device, (device, inode), true);
        Ok(PrivateRoot::Made)
    }

    fn release_private_root(&self, path: &Path) -> Result<Detached, MountError> {
        self.step("unmount", path)?;
        let place = open_source(path, Symlinks::Follow)?.real_path()?;
        let below = !self.mounts_below(path)?.is_empty();
        let mut table = self.table();
        let bound = |entry: &&Entry| entry.self_bind && entry.mount.target == place;
        let Some(id) = table.mounts.values().find(bound).map(|e| e.mount.id) else {
            return Ok(Detached::AlreadyGone);
        };
        if below {
            return Err(busy(path));
        }
        table.mounts.remove(&id);
        Ok(Detached::Now)
    }

    fn features(&self) -> Vec<Feature> {
        vec![Feature {
            name: "memory",
            since: "0.0",
            without: Without::Nothing,
            trouble: None,
        }]
    }
}

#[cfg(test)]
mod tests;
