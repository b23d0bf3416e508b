//! The contract between the engine and what keeps layers on disk.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use layerd_mounts::{Error, IdMaps, Mount, Slot, Usage};

/// What a new layer starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Nothing; the top directory belongs to root.
    Empty,
    /// The layer below, whose top directory's owner, group and mode are taken over.
    On(Slot),
    /// As `On` or `Empty`, but the top directory belongs to these ids of the host.
    Owned {
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// What is to be mounted: a layer of its own, if any, over its parents, nearest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// The writable layer; for a view without parents its empty one; for other views none.
    pub own: Option<Slot>,
    /// Committed layers below, nearest parent first.
    pub parents: Vec<Slot>,
    /// Whether the result may be written.
    pub writable: bool,
    /// Mappings to hand to the client as mount options.
    pub ids: Option<IdMaps>,
}

/// Tells whether a layer's top directory is still the same, unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub(crate) inode: u64,
    pub(crate) changed: (i64, u32),
}

/// Where a slot was found on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Among the layers.
    Layer,
    /// Among the work directories.
    Work,
    /// In the trash: its deletion has begun.
    Trash,
}

/// One entry of a driver's directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A directory the driver could have made.
    Slot(Place, Slot),
    /// Anything else; reported, never touched.
    Stranger(PathBuf),
}

/// Keeps layers on disk. Every call blocks; every call may be repeated.
pub trait Driver: Send + Sync + fmt::Debug {
    /// Name as containerd's users know it, such as `overlayfs`.
    fn name(&self) -> &'static str;

    /// Makes the directories of a writable layer (or of a view without parents). Not durable
    /// before [`sync`](Driver::sync). A directory that is already there is an error: slots are
    /// never used twice.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing stays behind that [`retire`](Driver::retire) would not take away.
    /// `AlreadyExists` if a directory of the slot is there, which must not be retired: this call
    /// did not make it, and what it made is gone.
    fn create(&self, slot: Slot, base: Base, writable: bool) -> Result<(), Error>;

    /// As [`create`](Driver::create), of a writable layer that `create` made ahead with
    /// [`Base::Empty`] and that is durable already. Cost: two looks, unless its owner is not
    /// layerd's own.
    ///
    /// # Errors
    /// As for `create`; `NotFound` if there is no such layer.
    fn take_spare(&self, slot: Slot, base: Base, writable: bool) -> Result<(), Error>;

    /// Brings the content of a layer to the disk and measures it on the way. Durable only after the
    /// next [`sync`](Driver::sync). Cost: two looks at each file, or one where none holds anything,
    /// and the time to write what is dirty; no other files are waited for, except where there is no
    /// one [`journal`](Driver::journal), as by [`filled`](Driver::filled).
    ///
    /// # Errors
    /// [`Error::Lost`] if content could not be written: the kernel has dropped it, and a second
    /// try would wrongly succeed. [`Error::Io`] otherwise.
    fn settle(&self, slot: Slot) -> Result<Usage, Error>;

    /// Makes all that `create`, `settle`, `filled` and `retire` did to layers before this call
    /// durable. One wait for the disk, however many slots there are; none if nothing was done. Work
    /// directories may still be lost with the power: see [`ensure_work`](Driver::ensure_work).
    ///
    /// # Errors
    /// [`Error::Io`]: nothing may be assumed durable.
    fn sync(&self) -> Result<(), Error>;

    /// The file system, by its device number as in stat(2), that has one journal for everything: of
    /// which a later change of any file, once durable, makes durable all that
    /// [`sync`](Driver::sync) would. None where `sync` is needed.
    fn journal(&self) -> Option<u64>;

    /// Drops the work directory of a layer that will not be written any more. Nothing there is
    /// success.
    ///
    /// # Errors
    /// As for [`delete`](Driver::delete).
    fn seal(&self, slot: Slot) -> Result<(), Error>;

    /// Moves an entry of the driver's folders that is not layerd's, or not known any more, to
    /// `<root>/lost`, where nothing looks at it. Durable on return.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn set_aside(&self, found: &Found) -> Result<PathBuf, Error>;

    /// Makes the work directory of a writable layer anew if it is missing, as after a power cut.
    /// One that is there stays as it is. Not durable.
    ///
    /// # Errors
    /// [`Error::Io`]; `NotFound` if the layer itself is missing.
    fn ensure_work(&self, slot: Slot) -> Result<(), Error>;

    /// Lists the mounts of a stack. Does no I/O.
    ///
    /// # Errors
    /// [`Error::TooLong`] or [`Error::TooDeep`] if the kernel could not take it;
    /// [`Error::NotAStack`] if there is nothing to mount or nothing to write to.
    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error>;

    /// Whether the layer is in its place, whole: its deletion has not begun.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn has(&self, slot: Slot) -> Result<bool, Error>;

    /// Whether nothing was ever written to a layer in its place, and nothing was mounted to write to
    /// it: neither its directory nor its work directory holds anything, or there is none.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn is_unused(&self, slot: Slot) -> Result<bool, Error>;

    /// Moves a layer and its work directory into the trash, by rename, to be deleted: there is no
    /// way back. Absent ones are passed over, so that a repeated call succeeds and a half-retired
    /// slot is completed. Something that is mounted from the layer stays mounted. Durable after
    /// [`sync`](Driver::sync).
    ///
    /// # Errors
    /// [`Error::Io`].
    fn retire(&self, slot: Slot) -> Result<(), Error>;

    /// Deletes a slot from the trash: by directory descriptor, never across a mount, never
    /// through a symlink. Cost: one unlink a file. `keep_going` is asked between files and ends
    /// the work early with [`Error::Stopped`] when it answers false; a later call goes on. A slot
    /// that is not in the trash is deleted already. Not durable: after a power cut some of it may
    /// be back in the trash.
    ///
    /// # Errors
    /// [`Error::Busy`] if something is mounted inside, else [`Error::Io`] with the first failure;
    /// both after everything that could be deleted is.
    fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error>;

    /// Measures a layer by walking it, one stat a file; files that vanish meanwhile are passed
    /// over. Each inode counts once.
    ///
    /// # Errors
    /// [`Error::Io`], `NotFound` if there is no such layer; [`Error::Stopped`] as for `delete`.
    fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error>;

    /// Reads from a mount, as [`plan`](Driver::plan) writes them, which layer it shows on top: the
    /// writable one, or the nearest parent. Text only; whether the mount is what is planned for
    /// that layer is for the caller to compare.
    fn top_of(&self, mount: &Mount) -> Option<Slot>;

    /// Takes note that a writable layer was written through [`open_layer`](Driver::open_layer) and
    /// that the content of its files is on the disk, so that the next [`sync`](Driver::sync) makes
    /// the rest durable. Where the file system has no one [`journal`](Driver::journal), all of it is
    /// durable on return, and other programs' files on the file system are waited for.
    ///
    /// # Errors
    /// [`Error::Io`]: nothing may be assumed durable.
    fn filled(&self) -> Result<(), Error>;

    /// Answers what tells whether others have written a layer: `None` if overlayfs ever had it
    /// mounted to be written, else a stamp that a later call repeats while nothing is made, renamed
    /// or removed in the top directory. Cost: two looks.
    ///
    /// # Errors
    /// [`Error::Io`], `NotFound` if there is no such layer.
    fn stamp(&self, slot: Slot) -> Result<Option<Stamp>, Error>;

    /// Opens the top directory of a layer, to read it, or to fill one that nobody has mounted
    /// (see [`filled`](Driver::filled)).
    ///
    /// # Errors
    /// [`Error::Io`].
    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error>;

    /// Lists what is on disk, in no order, each place of a slot once. Cost: one read of each of
    /// the driver's own directories; layers are not entered.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn list(&self) -> Result<Vec<Found>, Error>;

    /// Facts for people: file system, kernel features and options in use.
    fn describe(&self) -> Vec<(String, String)>;
}
