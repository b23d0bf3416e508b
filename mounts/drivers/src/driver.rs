//! The contract between the engine and a storage driver.
//!
//! A driver has a core that every engine call rests on ([`Driver`]), and capabilities that the engine
//! asks for before it uses them: a capability that a driver lacks is answered with `None`, and the
//! engine goes another way or refuses the call. What needs no running driver is in [`Survey`].

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use layerd_mounts::limit::Limit;
use layerd_mounts::{Error, IdMaps, Mount, Slot, Usage};

pub use crate::image_file::ImageFile;
pub use capabilities::{Directories, Images, LayerPool, Limits, WorkDirs};

mod capabilities;

/// Content that a new layer starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// None, and nothing will lie below.
    Empty,
    /// None yet: the parent becomes known when the layer is committed. Only for drivers with
    /// [`Features::deferred_parents`], and for layers made ahead.
    Deferred,
    /// Everything that this committed layer shows.
    Of(Slot),
}

/// Ids of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Start of a new layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Its initial content.
    pub content: Content,
    /// Owner of the top directory; `None` for that of the content, or else layerd's own.
    pub owner: Option<Owner>,
    /// Set for a writable layer, unset for a view.
    pub writable: bool,
    /// Most that the layer can hold. Only for writable layers on others, and for drivers with
    /// [`Driver::limits`] that enforce limits.
    pub limit: Option<Limit>,
}

impl Base {
    /// A writable layer with nothing below.
    #[must_use]
    pub fn empty() -> Self {
        Self::of(Content::Empty)
    }

    /// A writable layer whose parent is not known yet.
    #[must_use]
    pub fn deferred() -> Self {
        Self::of(Content::Deferred)
    }

    /// A writable layer that starts as `parent`.
    #[must_use]
    pub fn on(parent: Slot) -> Self {
        Self::of(Content::Of(parent))
    }

    /// The same, not to be written.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.writable = false;
        self
    }

    /// The same, held to a limit.
    #[must_use]
    pub fn limited(mut self, limit: Option<Limit>) -> Self {
        self.limit = limit;
        self
    }

    /// The same, with a top directory that belongs to these ids of the host.
    #[must_use]
    pub fn owned(mut self, uid: u32, gid: u32) -> Self {
        self.owner = Some(Owner { uid, gid });
        self
    }

    fn of(content: Content) -> Self {
        Self {
            content,
            owner: None,
            writable: true,
            limit: None,
        }
    }
}

/// A layer of its own, if any, over its parents, nearest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// The writable layer; for a view without parents its empty one; for other views none.
    pub own: Option<Slot>,
    /// Committed layers below, nearest parent first.
    pub parents: Vec<Slot>,
    /// Set if the mount is writable.
    pub writable: bool,
    /// Mappings to hand to the client as mount options.
    pub ids: Option<IdMaps>,
    /// Limit of a layer of its own that is not made yet; of others the driver knows it.
    pub limit: Option<Limit>,
}

impl Stack {
    /// The writable layer.
    ///
    /// # Errors
    /// [`Error::NotAStack`] if there is none.
    pub(crate) fn writable_layer(&self) -> Result<Slot, Error> {
        let problem = "it is to be written but has no layer of its own";
        let own = self.own.filter(|_| self.writable);
        own.ok_or(Error::NotAStack { problem })
    }

    /// The layer that is shown by drivers whose layers hold everything: its own, or the nearest parent.
    ///
    /// # Errors
    /// [`Error::NotAStack`] if there is none, or ids are to be mapped.
    pub(crate) fn shown(&self) -> Result<Slot, Error> {
        let refused = |problem| Error::NotAStack { problem };
        if self.ids.is_some() {
            return Err(refused("the driver maps no ids"));
        }
        if self.writable {
            return self.writable_layer();
        }
        let shown = self.own.or_else(|| self.parents.first().copied());
        shown.ok_or(refused("it has no layers"))
    }

    /// Option of a mount by its access: `rw` or `ro`.
    pub(crate) fn access(&self) -> &'static str {
        match self.writable {
            true => "rw",
            false => "ro",
        }
    }
}

/// State of a layer's top directory; equal as long as nothing is made, renamed or removed in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub(crate) inode: u64,
    pub(crate) changed: (i64, u32),
}

/// Folder of a driver in which something of a slot was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotKind {
    /// Among the layers.
    Layer,
    /// Beside the layers: what is kept only while a layer is made or written, such as overlayfs's
    /// work directory.
    Work,
    /// In the trash: its deletion has begun.
    Trash,
}

/// One entry of a driver's folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Something the driver could have made.
    Slot(SlotKind, Slot),
    /// Anything else; reported, never touched.
    UnknownEntry(PathBuf),
}

/// Facts about a running driver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// Type of the file system that holds the layers, such as `ext4`; empty if not known.
    pub backing_filesystem: String,
    /// Name and value of each further fact, for people, in order of display.
    pub facts: Vec<(String, String)>,
}

/// Properties that need no code of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// A layer may be made and filled before its parent is known ([`Content::Deferred`]).
    pub deferred_parents: bool,
    /// [`Stack::ids`] become options of the planned mount.
    pub id_mapping: bool,
}

/// Layers of one root, looked at without changing anything: by a running driver, and by tools while
/// none runs. A root without the driver's folders holds nothing.
pub trait Survey: Send + Sync + fmt::Debug {
    /// Names of the driver's folders below the root, all of mode 0700.
    fn folders(&self) -> &'static [&'static str];

    /// Lists what is on disk, in no order, each place of a slot once. Cost: one read of each of
    /// the driver's own directories; layers are not entered.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn list(&self) -> Result<Vec<Found>, Error>;

    /// True if a layer with this base has an entry in [`SlotKind::Work`] until it is committed.
    fn needs_work(&self, base: &Base) -> bool {
        let _ = base;
        false
    }

    /// True if no client ever wrote to a layer or mounted it writable; also if there is none.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn is_unused(&self, slot: Slot) -> Result<bool, Error>;

    /// As [`is_unused`](Self::is_unused), and nothing of it is left in the trash either.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn is_empty(&self, slot: Slot) -> Result<bool, Error>;

    /// Opens the top directory of a layer: to read it, or to fill one that has never been mounted
    /// (see [`Directories::filled`]). Of drivers with [`Driver::directories`].
    ///
    /// # Errors
    /// [`Error::Io`], `NotFound` if there is no such layer; `Unsupported` if layers are no
    /// directories.
    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error>;

    /// Compares the image of a layer with its seal; `None` for a layer that is none. Cost: one reading of
    /// the image. `keep_going` is told the bytes of each piece.
    ///
    /// # Errors
    /// [`Error::Io`], `NotFound` if the image is gone; [`Error::Stopped`] when `keep_going` answers
    /// false.
    fn check_image(
        &self,
        slot: Slot,
        keep_going: &dyn Fn(u64) -> bool,
    ) -> Result<Option<CheckedImage>, Error> {
        let _ = (slot, keep_going);
        Ok(None)
    }
}

/// Numbers of images and of their mounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImageCounts {
    /// Images, without those in the trash.
    pub images: usize,
    /// Those of them that are mounted, as far as the driver mounted and unmounted them.
    pub mounted: usize,
    /// Those of the mounted ones that take a loop device.
    pub loop_devices: usize,
}

/// Result of a comparison of an image with its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedImage {
    /// Its length in bytes.
    pub bytes: u64,
    /// Inodes of the layer; 0 if that cannot be told.
    pub inodes: u64,
    /// The fault, if it is not what was written.
    pub problem: Option<String>,
}

/// Keeps layers on disk. Every call blocks; every call may be repeated.
pub trait Driver: Survey {
    /// Name as users know it, such as `overlayfs`.
    fn name(&self) -> &'static str;

    /// Facts about the driver, its file system and the options in use.
    fn info(&self) -> Info;

    /// Properties of the driver.
    fn features(&self) -> Features {
        Features::default()
    }

    /// Makes a layer. Not durable before [`sync`](Self::sync). A slot that is there already is an
    /// error: slots are never used twice. Cost: two directories, or with
    /// [`Layering::Full`](crate::Layering::Full) a copy of the content.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing stays behind that [`discard`](Self::discard) would not take away.
    /// `AlreadyExists` if something of the slot is there, which must not be discarded: this call
    /// did not make it, and what it made is gone. `NotFound` if the content is missing.
    fn create(&self, slot: Slot, base: &Base) -> Result<(), Error>;

    /// Brings the content of a layer to the disk and measures it on the way. Durable only after the
    /// next [`sync`](Self::sync). Cost: two looks at each file, or one where none holds anything,
    /// and the time to write what is dirty; no other files are waited for, except where there is no
    /// [`shared_journal_device`](Self::shared_journal_device).
    ///
    /// # Errors
    /// [`Error::Lost`] if content could not be written: the kernel has dropped it, and a second
    /// try would wrongly succeed. [`Error::Io`] otherwise.
    fn write_back(&self, slot: Slot) -> Result<Usage, Error>;

    /// Finishes the writable layer of a stack, before its record is committed. Its content does not
    /// change afterwards, as far as the driver can prevent that: directories cannot be taken from a
    /// client that has them mounted. Not durable before [`sync`](Self::sync). A call whose record came
    /// to nothing is repeated, after which all that was written in between counts. Cost: a few calls;
    /// of a driver that makes whole trees now, a call or two for each file of the image.
    ///
    /// # Errors
    /// [`Error::Io`]; the layer stays writable. [`Error::NotAStack`] if it has none.
    fn freeze(&self, stack: &Stack) -> Result<(), Error> {
        let _ = stack;
        Ok(())
    }

    /// Makes what a planned mount refers to mountable, after the record of a new layer is durable and
    /// before its mounts are answered, each time: devices are activated, images mounted, or turned into
    /// directories where clients map ids and cannot do that with images. Undone by
    /// [`discard`](Self::discard). Cost: a look for each image that is mounted already; one reading of
    /// each that is not, once a boot; one copy of each that becomes a directory.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::BadImage`] for the first image that is not what was written.
    fn make_mountable(&self, stack: &Stack) -> Result<(), Error> {
        let _ = stack;
        Ok(())
    }

    /// Lists the mounts of a stack. Does no I/O; the same stack always gives the same mounts.
    ///
    /// # Errors
    /// [`Error::TooLong`] or [`Error::TooDeep`] if the kernel could not take it;
    /// [`Error::NotAStack`] if there is nothing to mount or nothing to write to, or if it asks for a
    /// feature that the driver lacks.
    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error>;

    /// Reads from a mount, as [`plan`](Self::plan) writes them, which layer it shows on top: the
    /// writable one, or the nearest parent. Text only; whether the mount is what is planned for
    /// that layer is for the caller to compare.
    fn top_of(&self, mount: &Mount) -> Option<Slot>;

    /// True if the layer exists and its deletion has not begun.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn has(&self, slot: Slot) -> Result<bool, Error>;

    /// Measures a layer by walking it, one stat a file; files that vanish meanwhile are passed
    /// over. Each inode counts once. With [`Layering::Full`](crate::Layering::Full) the content it started
    /// from counts too.
    ///
    /// # Errors
    /// [`Error::Io`], `NotFound` if there is no such layer; [`Error::Stopped`] as for `delete`.
    fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error>;

    /// First step of a removal: moves a layer into the trash, to be deleted; there is no way back.
    /// Absent parts are passed over, so that a repeated call succeeds and an interrupted one is
    /// completed. Something that is mounted from the layer stays mounted. Durable after
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`Error::Io`].
    fn discard(&self, slot: Slot) -> Result<(), Error>;

    /// Second step: deletes a slot from the trash, never across a mount, never through a symlink.
    /// Cost: one unlink a file. `keep_going` is asked between files and ends the work early with
    /// [`Error::Stopped`] when it answers false; a later call goes on. A slot that is not in the
    /// trash is deleted already. Not durable: after a power cut some of it may be back in the trash.
    ///
    /// # Errors
    /// [`Error::Busy`] if something is mounted inside, else [`Error::Io`] with the first failure;
    /// both after everything that could be deleted is.
    fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error>;

    /// Makes all that was done to layers before this call durable. One wait for the disk, however
    /// many slots there are; none if nothing was done. What is kept in [`SlotKind::Work`] may still be
    /// lost with the power: see [`WorkDirs::restore`].
    ///
    /// # Errors
    /// [`Error::Io`]: nothing may be assumed durable.
    fn sync(&self) -> Result<(), Error>;

    /// Moves an entry of the driver's folders that is not layerd's, or not known any more, to
    /// `<root>/lost`, where nothing looks at it. Durable on return.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn move_to_lost_found(&self, found: &Found) -> Result<PathBuf, Error>;

    /// Capability: layers made ahead.
    fn pool(&self) -> Option<&dyn LayerPool> {
        None
    }

    /// Capability: directories that one may open.
    fn directories(&self) -> Option<&dyn Directories> {
        None
    }

    /// Capability: layers as images.
    fn images(&self) -> Option<&dyn Images> {
        None
    }

    /// Capability: something beside a layer, kept only while it is made or written.
    fn work_dirs(&self) -> Option<&dyn WorkDirs> {
        None
    }

    /// Capability: writable layers that are held to a size.
    fn limits(&self) -> Option<&dyn Limits> {
        None
    }

    /// Capability: the file system, by its device number as in stat(2), that has one journal for
    /// everything: of which a later change of any file, once durable, makes durable all that
    /// [`sync`](Self::sync) would. `None` where `sync` is needed.
    fn shared_journal_device(&self) -> Option<u64> {
        None
    }
}
