//! Images that become directories: clients that map ids by mounts need files that are theirs.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use layerd_layers::Durable;
use layerd_layers::copy::{self, copy_tree};
use layerd_mounts::folder::{FLAGS, c_name, move_over, rename_over};
use layerd_mounts::{Error, Slot, tree};
use nix::errno::Errno;
use nix::fcntl::openat;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{LayerImages, below, unlink};
use crate::dirs::{LAYER_MODE, LayerDirs, holds_nothing};

impl LayerImages {
    /// Turns an image into a directory. A crash leaves one or the other; see `recover.rs`.
    pub(in crate::overlay) fn expand(&self, slot: Slot, dirs: &LayerDirs) -> Result<(), Error> {
        if !self.has(slot) {
            return Ok(());
        }
        let _lock = self.lock(slot);
        if !self.has(slot) {
            return Ok(()); // another call was faster
        }
        self.mount(slot)?;
        if !holds_nothing(&dirs.layers, slot)? {
            let path = dirs.layers.path.join(slot.to_string());
            return Err(Error::WrittenBeside { path });
        }
        let source = openat(&self.points.fd, below(slot).as_str(), FLAGS, Mode::empty());
        let source = source.map_err(|cause| Error::io("open", &self.point(slot), cause))?;
        let image = self.open_file(slot)?;
        let (copy, whole) = (format!("{slot}.dir"), format!("{slot}.whole"));
        self.copy(&source, &image, &copy, dirs)?;
        dirs.barrier.filled()?;
        rename_over(&self.images, &copy, &self.images, &whole)?;
        drop((source, image));
        self.unmount(slot)?;
        self.put_whole(slot, dirs)?;
        self.set_known(slot, false);
        dirs.barrier.filled()
    }

    /// Copies a layer to a new directory of this name beside the images.
    fn copy(
        &self,
        source: &OwnedFd,
        image: &File,
        name: &str,
        dirs: &LayerDirs,
    ) -> Result<(), Error> {
        let path = self.images.path.join(name);
        tree::delete(
            self.images.fd.as_fd(),
            &c_name(name),
            &self.images.path,
            &dirs.barrier,
            &|| true,
        )?;
        let made = mkdirat(&self.images.fd, name, LAYER_MODE);
        made.map_err(|cause| Error::io("create directory", &path, cause))?;
        let to = openat(&self.images.fd, name, FLAGS, Mode::empty());
        let to = to.map_err(|cause| Error::io("open directory", &path, cause))?;
        let options = copy::Options {
            durable: Durable::Content,
            images: &[Some(image.as_fd())],
            ..copy::Options::default()
        };
        let copied = copy_tree(&[source.as_fd()], Path::new(""), to.as_fd(), &options);
        match copied {
            Ok(_) => Ok(()),
            Err(layerd_layers::Error::Io {
                path: file, cause, ..
            }) => Err(Error::io("copy to", &path.join(file), cause)),
            Err(cause) => Err(Error::io("copy to", &path, std::io::Error::other(cause))),
        }
    }

    /// Gives the files of a layer, which are all there, its name, and deletes its image. Until the name is
    /// on the disk, the image stays under another one: where no journal keeps the two folders of a move in
    /// order, a power cut may leave the directory in neither.
    pub(super) fn put_whole(&self, slot: Slot, dirs: &LayerDirs) -> Result<(), Error> {
        let name = slot.to_string();
        let (whole, old) = (format!("{slot}.whole"), format!("{slot}.old"));
        let there = unlinkat(&dirs.layers.fd, name.as_str(), UnlinkatFlags::RemoveDir);
        if !matches!(there, Ok(()) | Err(Errno::ENOENT)) {
            let path = dirs.layers.path.join(name);
            return Err(Error::WrittenBeside { path });
        }
        // One of the two names is on the disk at every moment.
        dirs.barrier.made()?;
        rename_over(&self.images, &name, &self.images, &old)?;
        let moved = dirs
            .barrier
            .made()
            .and_then(|()| move_over(&dirs.barrier, &self.images, &whole, &dirs.layers, &name));
        if moved.is_err() {
            // The first error is the one to tell.
            let _ = rename_over(&self.images, &old, &self.images, &name);
        }
        moved?;
        unlink(&self.images, &old)?;
        dirs.barrier.note();
        Ok(())
    }

    /// Decides between an image and the directory that was put in its place when a crash came.
    pub(super) fn recover_old(&self, slot: Slot, dirs: &LayerDirs) -> Result<(), Error> {
        let (name, old) = (slot.to_string(), format!("{slot}.old"));
        let is_there = dirs.layers.has(&name)? && !holds_nothing(&dirs.layers, slot)?;
        if !is_there && !self.images.has(&name)? {
            rename_over(&self.images, &old, &self.images, &name)?;
            self.set_known(slot, true);
        }
        unlink(&self.images, &old)
    }
}
