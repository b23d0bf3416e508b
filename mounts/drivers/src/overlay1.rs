//! Layers as in the first generation of overlayfs, which took one lower directory: a committed layer
//! with a parent has a whole tree, made of hard links, that takes the place of all layers below.
//!
//! ```text
//! <root>/l/<slot>     a layer's changes; the upper directory while it is written
//! <root>/w/<slot>     its work directory; the tree in the making is tree/ in it
//! <root>/r/<slot>     the whole tree of a committed layer over others: names of the files of
//!                     l/<slot> and of its parent's tree, and directories of its own
//! ```
//!
//! A layer without a parent is its own whole tree. What is unpacked, compared, measured and filled from
//! are the changes, as with the driver overlay, on which this one stands; the whole trees are what is
//! mounted. They can be made again from the changes at any time, so that a missing one is no damage:
//! `make_mountable` makes it.
//!
//! No call writes to a file with several names: Apply and Commit write to `l/<slot>` before its files
//! have names in a tree, a layer that is committed is mounted as a lower directory or read-only, and a
//! tree is deleted name by name. A tree appears under its name by one rename, and never changes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use layerd_layers::copy::{self, copy_tree};
use layerd_layers::{Durable, Layering};
use layerd_mounts::folder::{FLAGS, Folder, c_name, move_over, rename_over};
use layerd_mounts::{Error, Mount, Slot, Usage, tree, user_namespace};
use nix::errno::Errno;
use nix::fcntl::openat;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{LinkatFlags, linkat, unlink};
use parking_lot::Mutex;

use crate::dirs::{prepare_root, tree_name};
use crate::driver::{
    Base, Content, Directories, Driver, Features, Found, Info, SlotKind, Stack, Survey, WorkDirs,
};
use crate::finding::Finding;
use crate::overlay::{Options, Overlay, probe};
use offline::{OfflineOverlay1, unknown_trees};

mod offline;

/// Folder of the whole trees.
pub(crate) const TREES: &str = "r";
/// Name of a tree in the making, in the work directory of its layer.
const MAKING: &str = "tree";
/// Those of the driver overlay, and the whole trees.
const FOLDERS: &[&str] = &["l", "w", "t", "e", "i", "x", "c", TREES];

/// Layers with whole trees below one root.
#[derive(Debug)]
pub struct Overlay1 {
    overlay: Overlay,
    trees: Folder,
    /// Held while a tree that is missing is made again.
    making: Mutex<()>,
    links: Finding,
}

impl Overlay1 {
    /// Opens `root`, as [`Overlay::open`] does. `mount_options` are those of the configuration.
    ///
    /// # Errors
    /// As there; also [`Error::Unsuitable`] for mount options with which changes depend on what is
    /// below, and if files can have one name only.
    pub fn open(root: &Path, mount_options: &[String]) -> Result<Self, Error> {
        let root = prepare_root(root)?;
        let options = options(&root, mount_options)?;
        let links = hard_links(&root)?;
        if links.refuses() {
            return Err(links.to_error(&root));
        }
        let opened = Self {
            trees: Folder::open(&root, c"r")?,
            overlay: Overlay::open(&root, &options)?,
            making: Mutex::new(()),
            links,
        };
        opened.discard_strays()?;
        Ok(opened)
    }

    /// Checks `root` as [`open`](Self::open) does, but goes on after a failure.
    ///
    /// # Errors
    /// As [`Overlay::check`].
    pub fn check(root: &Path, mount_options: &[String]) -> Result<Vec<Finding>, Error> {
        let root = prepare_root(root)?;
        let options = options(&root, mount_options)?;
        let mut findings = Overlay::check(&root, &options)?;
        findings.push(hard_links(&root)?);
        Ok(findings)
    }

    /// Layers of a root that no daemon serves.
    #[must_use]
    pub fn survey(root: &Path) -> impl Survey + use<> {
        OfflineOverlay1 {
            changes: Overlay::survey(root),
            root: root.to_owned(),
        }
    }

    /// Directory of a layer's changes.
    #[must_use]
    pub fn layer_path(&self, slot: Slot) -> PathBuf {
        self.overlay.layer_path(slot)
    }

    /// Directory of the whole tree of the first of these layers, nearest parent first, as it stands in
    /// the mounts.
    fn tree(&self, layers: &[Slot]) -> Option<String> {
        let top = layers.first()?;
        Some(match layers.len() {
            1 => self.overlay.layout.layer(*top),
            _ => format!("{}/{TREES}/{top}", self.overlay.layout.root()),
        })
    }

    fn open_tree(&self, layers: &[Slot]) -> Result<OwnedFd, Error> {
        match layers {
            [] => Err(NO_LAYERS),
            [only] => self.overlay.open_layer(*only),
            [top, ..] => {
                let name = top.to_string();
                let opened = openat(&self.trees.fd, name.as_str(), FLAGS, Mode::empty());
                opened.map_err(|cause| {
                    Error::io("open directory", &self.trees.path.join(name), cause)
                })
            }
        }
    }

    /// Makes the trees of these layers, nearest parent first, that are missing.
    fn complete(&self, layers: &[Slot]) -> Result<(), Error> {
        if self.is_complete(layers)? {
            return Ok(());
        }
        let _guard = self.making.lock();
        let mut missing = 0;
        while !self.is_complete(&layers[missing..])? {
            missing += 1;
        }
        for first in (0..missing).rev() {
            let slot = layers[first];
            tracing::warn!(%slot, "the whole tree of a layer is missing and is made again");
            self.make(slot, &layers[first + 1..])?;
            self.overlay.dirs.remove_work(slot)?;
        }
        Ok(())
    }

    fn is_complete(&self, layers: &[Slot]) -> Result<bool, Error> {
        match layers {
            [] | [_] => Ok(true),
            [top, ..] => self.trees.has(&top.to_string()),
        }
    }

    /// Makes the whole tree of a layer over `parents`, whose own are there, in place of one that is
    /// there.
    fn make(&self, slot: Slot, parents: &[Slot]) -> Result<(), Error> {
        self.overlay.restore(slot)?;
        let (name, dirs) = (slot.to_string(), &self.overlay.dirs);
        let path = dirs.work.path.join(&name);
        let opened = openat(&dirs.work.fd, name.as_str(), FLAGS, Mode::empty());
        let fd = opened.map_err(|cause| Error::io("open directory", &path, cause))?;
        let work = Folder { fd, path };
        self.unmake(&work)?;
        // Of a commit that came to nothing, after which the layer may have been written to.
        if rename_over(&self.trees, &name, &work, MAKING)? {
            self.unmake(&work)?;
        }
        let made = self
            .link(slot, parents, &work)
            .and_then(|()| dirs.barrier.made())
            .and_then(|()| move_over(&dirs.barrier, &work, MAKING, &self.trees, &name));
        if made.is_err() {
            // Its inodes may be what was wanting.
            let _ = self.unmake(&work);
        }
        made?;
        dirs.barrier.filled()
    }

    fn link(&self, slot: Slot, parents: &[Slot], work: &Folder) -> Result<(), Error> {
        let path = work.path.join(MAKING);
        let made = mkdirat(&work.fd, MAKING, Mode::S_IRWXU);
        made.map_err(|cause| Error::io("create directory", &path, cause))?;
        let to = openat(&work.fd, MAKING, FLAGS, Mode::empty());
        let to = to.map_err(|cause| Error::io("open directory", &path, cause))?;
        let (own, below) = (self.overlay.open_layer(slot)?, self.open_tree(parents)?);
        let options = copy::Options {
            durable: Durable::Content,
            markers: match self.overlay.layering() {
                Layering::Diff(markers) => markers,
                Layering::Full => copy::Markers::default(),
            },
            links: true,
            ..copy::Options::default()
        };
        let linked = copy_tree(
            &[own.as_fd(), below.as_fd()],
            Path::new(""),
            to.as_fd(),
            &options,
        );
        linked.map(drop).map_err(|cause| match cause {
            layerd_layers::Error::Io {
                path: file, cause, ..
            } => Error::io("link", &path.join(file), cause),
            cause => Error::io("make a whole tree", &path, io::Error::other(cause)),
        })
    }

    /// Deletes a tree in the making.
    fn unmake(&self, work: &Folder) -> Result<(), Error> {
        let barrier = &self.overlay.dirs.barrier;
        tree::delete(
            work.fd.as_fd(),
            &c_name(MAKING),
            &work.path,
            barrier,
            &|| true,
        )
    }

    /// Moves a tree to the trash.
    fn discard_tree(&self, slot: Slot) -> Result<(), Error> {
        let (name, in_trash) = (slot.to_string(), tree_name(slot));
        let dirs = &self.overlay.dirs;
        if !self.trees.has(&name)? {
            return Ok(());
        }
        // Of a removal that was interrupted, and of which the layer was taken back.
        let (trash, barrier) = (&dirs.trash, &dirs.barrier);
        tree::delete(
            trash.fd.as_fd(),
            &c_name(&in_trash),
            &trash.path,
            barrier,
            &|| true,
        )?;
        move_over(barrier, &self.trees, &name, trash, &in_trash)?;
        barrier.note();
        Ok(())
    }

    /// Moves trees to the trash whose layer a removal took away while they were made.
    fn discard_strays(&self) -> Result<(), Error> {
        let mut found = Vec::new();
        unknown_trees(&self.trees, &self.overlay.dirs.layers.path, &mut found)?;
        for entry in found {
            let Found::UnknownEntry(path) = entry else {
                continue;
            };
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(slot) = name.and_then(|name| name.parse().ok()) {
                self.discard_tree(slot)?;
            }
        }
        Ok(())
    }
}

const NO_LAYERS: Error = Error::NotAStack {
    problem: "it has no layers",
};

impl Survey for Overlay1 {
    fn folders(&self) -> &'static [&'static str] {
        FOLDERS
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        let mut found = self.overlay.list()?;
        unknown_trees(&self.trees, &self.overlay.dirs.layers.path, &mut found)?;
        Ok(found)
    }

    fn needs_work(&self, base: &Base) -> bool {
        self.overlay.needs_work(base)
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        self.overlay.is_unused(slot)
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        self.overlay.is_empty(slot)
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.overlay.open_layer(slot)
    }
}

impl Driver for Overlay1 {
    fn name(&self) -> &'static str {
        "overlay1"
    }

    fn info(&self) -> Info {
        let mut info = self.overlay.info();
        let (name, value) = (self.links.name.to_owned(), self.links.detail.clone());
        info.facts.push((name, value));
        info
    }

    /// Clients map the ids of the one lower directory.
    fn features(&self) -> Features {
        Features {
            deferred_parents: false,
            id_mapping: true,
        }
    }

    fn create(&self, slot: Slot, base: &Base) -> Result<(), Error> {
        if base.content == Content::Deferred {
            return Err(Error::NotAStack {
                problem: "one lower directory is its parent's whole tree, which is not known",
            });
        }
        self.overlay.create(slot, base)
    }

    fn write_back(&self, slot: Slot) -> Result<Usage, Error> {
        self.overlay.write_back(slot)
    }

    fn freeze(&self, stack: &Stack) -> Result<(), Error> {
        let slot = stack.writable_layer()?;
        if stack.parents.is_empty() {
            return Ok(());
        }
        self.complete(&stack.parents)?;
        self.make(slot, &stack.parents)
    }

    fn make_mountable(&self, stack: &Stack) -> Result<(), Error> {
        self.complete(&stack.parents)
    }

    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error> {
        let layout = &self.overlay.layout;
        layout.plan_on_tree(stack, self.tree(&stack.parents))
    }

    fn top_of(&self, mount: &Mount) -> Option<Slot> {
        let layout = &self.overlay.layout;
        let tree = (mount.kind == "bind").then(|| mount.source.strip_prefix(layout.root()));
        let name = tree.flatten().and_then(|below| below.strip_prefix("/r/"));
        match name {
            Some(name) => name.parse().ok(),
            None => layout.top_of(mount),
        }
    }

    fn has(&self, slot: Slot) -> Result<bool, Error> {
        self.overlay.has(slot)
    }

    fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        self.overlay.usage(slot, keep_going)
    }

    fn discard(&self, slot: Slot) -> Result<(), Error> {
        self.discard_tree(slot)?;
        self.overlay.discard(slot)
    }

    fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        self.overlay.delete(slot, keep_going)
    }

    fn sync(&self) -> Result<(), Error> {
        self.overlay.sync()
    }

    fn move_to_lost_found(&self, found: &Found) -> Result<PathBuf, Error> {
        if let Found::Slot(SlotKind::Layer, slot) = found
            && self.trees.has(&slot.to_string())?
        {
            let tree = self.trees.path.join(slot.to_string());
            self.overlay
                .move_to_lost_found(&Found::UnknownEntry(tree))?;
        }
        self.overlay.move_to_lost_found(found)
    }

    fn directories(&self) -> Option<&dyn Directories> {
        self.overlay.directories()
    }

    fn work_dirs(&self) -> Option<&dyn WorkDirs> {
        self.overlay.work_dirs()
    }

    fn shared_journal_device(&self) -> Option<u64> {
        self.overlay.shared_journal_device()
    }
}

/// Mount options with which a layer's changes are whole by themselves: a renamed directory is made anew,
/// and a file that is copied up has its content.
fn options(root: &Path, configured: &[String]) -> Result<Options, Error> {
    // The parameters tell which options there are.
    probe::load_module();
    let mut mount_options = configured.to_vec();
    // With `userxattr` the kernel has both off, and refuses to be told so.
    let is_off = user_namespace::current().is_some()
        || configured.iter().any(|option| option == "userxattr");
    for name in ["redirect_dir", "metacopy"] {
        let of_name = |option: &&String| option.split('=').next() == Some(name);
        match configured.iter().find(of_name) {
            Some(option) if option.ends_with("=off") => {}
            Some(option) => {
                return Err(Error::Unsuitable {
                    path: root.to_owned(),
                    check: "mount options",
                    problem: format!("`{option}` makes a layer depend on those below by path"),
                    advice: format!("remove it, or set `{name}=off`, or `driver = \"overlay\"`"),
                });
            }
            None if !is_off
                && Path::new("/sys/module/overlay/parameters")
                    .join(name)
                    .exists() =>
            {
                mount_options.push(format!("{name}=off"));
            }
            None => {}
        }
    }
    Ok(Options {
        mount_options,
        ..Options::default()
    })
}

/// Tries to give a file a second name.
fn hard_links(root: &Path) -> Result<Finding, Error> {
    const NAME: &str = "hard links";
    let [one, two] = ["", ".link"].map(|end| {
        let name = format!(".layerd-check.{}{end}", std::process::id());
        root.join(name)
    });
    let forget = || {
        let _ = (unlink(&one), unlink(&two));
    };
    forget();
    let made = std::fs::File::create_new(&one);
    let tried = match made {
        Ok(_) => linkat(
            nix::fcntl::AT_FDCWD,
            &one,
            nix::fcntl::AT_FDCWD,
            &two,
            LinkatFlags::empty(),
        ),
        Err(cause) => Err(Errno::from_raw(cause.raw_os_error().unwrap_or_default())),
    };
    forget();
    Ok(match tried {
        Ok(()) => Finding::good(NAME, "made and deleted"),
        // It says nothing of links, and removals must go on.
        Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS) => {
            Finding::good(NAME, "not tried: the disk is full or read-only")
        }
        Err(cause) => Finding::bad(
            NAME,
            format!("cannot be made: {}", cause.desc()),
            "use ext4, xfs or btrfs",
        ),
    })
}

#[cfg(test)]
mod tests;
