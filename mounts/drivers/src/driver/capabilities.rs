//! Capabilities of storage drivers, which the engine asks for before it uses them.

use std::os::fd::OwnedFd;

use layerd_layers::Layering;
use layerd_mounts::limit::Enforcement;
use layerd_mounts::{Error, Slot, Space, Usage};

use super::{Base, ImageCounts, ImageFile, Stamp};
#[cfg(doc)]
use super::{Driver, SlotKind, Survey};

/// Layers made ahead by [`Driver::create`] with [`Base::deferred`], and made durable.
pub trait LayerPool {
    /// Turns such a layer into the one that `create` would have made. Cost: two looks, unless its
    /// owner is not layerd's own.
    ///
    /// # Errors
    /// As for `create`; `NotFound` if there is no such layer.
    fn take(&self, slot: Slot, base: &Base) -> Result<(), Error>;
}

/// Layers that are directories.
pub trait Directories {
    /// Content of a layer's directory.
    fn layering(&self) -> Layering;

    /// Takes note that a writable layer was written through [`Survey::open_layer`] and that the
    /// content of its files is on the disk, so that the next [`Driver::sync`] makes the rest durable.
    /// Where there is no [`Driver::shared_journal_device`], all of it is durable on return, and other
    /// programs' files on the file system are waited for.
    ///
    /// # Errors
    /// [`Error::Io`]: nothing may be assumed durable.
    fn filled(&self) -> Result<(), Error>;

    /// State of a layer by which a later write of others is noticed: `None` if it was mounted to be
    /// written before, as far as that leaves a trace. Cost: two looks.
    ///
    /// # Errors
    /// [`Error::Io`], `NotFound` if there is no such layer.
    fn stamp(&self, slot: Slot) -> Result<Option<Stamp>, Error>;
}

/// Layers that are images, which [`Driver::make_mountable`] mounts, beside layers that are directories.
///
/// A writable layer becomes an image when its archive is unpacked: its directory stays empty beside
/// the image until [`Driver::freeze`] deletes it. [`Survey::open_layer`] shows the content of
/// the image from [`finish_image`](Self::finish_image) on, and mounts it for that.
pub trait Images {
    /// True if an archive for this layer is to become an image: the configuration and the kernel say
    /// so, and nothing was written to the layer, nor was it ever mounted to be written. Cost: a few
    /// looks.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn is_due(&self, slot: Slot) -> Result<bool, Error>;

    /// Begins the image of a layer. One that was begun before is given up.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn create_image(&self, slot: Slot) -> Result<ImageFile, Error>;

    /// Makes a written image the content of its layer, and measures it: `Usage` without the
    /// directory beside it. With `durable` the content of the image is on the disk on return, and the
    /// next [`Driver::sync`] makes the rest durable, as for [`Directories::filled`].
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::BadImage`] if no image was written: the layer is what it was.
    fn finish_image(&self, slot: Slot, file: ImageFile, durable: bool) -> Result<Usage, Error>;

    /// True if the layer is an image. Reads memory only.
    fn is_image(&self, slot: Slot) -> bool;

    /// Counts images and mounts. Reads memory only.
    fn counts(&self) -> ImageCounts;

    /// Opens the image of a layer to read it, beside [`Survey::open_layer`]; `None` for a layer that
    /// is no image. It stays readable when the layer is removed.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::BadImage`] if it is gone.
    fn open_image(&self, slot: Slot) -> Result<Option<OwnedFd>, Error>;

    /// Turns the image of a writable layer into files in its directory, so that clients may write
    /// to it; a layer without an image stays as it is. Costs a copy of the layer.
    ///
    /// # Errors
    /// As for [`Driver::make_mountable`]; [`Error::WrittenBeside`] if the directory holds something.
    /// The image stays then.
    fn expand(&self, slot: Slot) -> Result<(), Error>;
}

/// Writable layers that are held to a limit ([`Base::limit`]) by the kernel: those who write past it
/// alone get ENOSPC, and statfs(2) in a mount of them shows it. The limit ends with
/// [`Driver::freeze`], which copies the layer; [`WorkDirs::remove`] then deletes what enforced it.
pub trait Limits {
    /// Way in which limits of new layers are enforced. Looked for once.
    fn enforcement(&self) -> &Enforcement;

    /// True if a layer is held to a limit, or was until Commit and what enforced it is not deleted yet.
    /// Reads memory only.
    fn is_limited(&self, slot: Slot) -> bool;

    /// Room in a layer that is held to a limit, as those see it who write to it; `None` for any other, and
    /// while nothing can be written to it because its file system is not mounted: nothing is mounted for a
    /// look. Costs a few system calls, whatever the layer holds.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn space(&self, slot: Slot) -> Result<Option<Space>, Error>;

    /// Number of such layers. Reads memory only.
    fn count(&self) -> usize;
}

/// Directories in [`SlotKind::Work`].
pub trait WorkDirs {
    /// Makes it anew if it is missing, as after a power cut. One that is there stays as it is. Not
    /// durable.
    ///
    /// # Errors
    /// [`Error::Io`]; `NotFound` if the layer itself is missing.
    fn restore(&self, slot: Slot) -> Result<(), Error>;

    /// Drops it. Nothing there is success.
    ///
    /// # Errors
    /// As for [`Driver::delete`].
    fn remove(&self, slot: Slot) -> Result<(), Error>;
}
