//! Binds of host paths: which are taken, what comes along, and whether a mount still shows its source.
//!
//! A bind inside the data root is refused, by whatever path (see [`Reserved`]): what layerd keeps there
//! is given out by the name of a volume or snapshot, which also holds it. The socket is the
//! exception. A bind of a directory above
//! the data root takes none of layerd's own mounts along: the private folder is unbindable, and what
//! layerd mounted elsewhere is named to be left out.

use std::fs;
use std::path::{Path, PathBuf};

#[cfg(doc)]
use layerd_mounts::mounter::Reserved;
use layerd_mounts::mounter::{
    Attached, BindOptions, Handle, Identity, MountError, MountId, Symlinks,
};
use layerd_spec::{Bind, Kind, MountSpec};
use layerd_store::{Attachment, BadInput};

use super::mount::as_recorded;
use super::options::{propagation, read_only};
use super::source::MadeSource;
use crate::{AttachError, Attachments, Error};

impl Attachments {
    /// Makes sure of what a runtime binds by its path: it is there, or made, and may be bound. Adds to
    /// `made` what was made.
    pub(super) fn ready_path(
        &self,
        spec: &MountSpec,
        attachment: &Attachment,
        made: &mut MadeSource,
    ) -> Result<(), Error> {
        match (&attachment.mount, &spec.kind) {
            (Some(_), _) => Ok(()),
            (None, Kind::Volume(_)) => self.source(spec, attachment.volume).map(drop),
            (None, Kind::Bind(_) | Kind::Image(_) | Kind::Tmpfs(_)) => {
                self.ready_source(spec, attachment.id, made)?;
                if made.is_some() {
                    // It is the attachment's from now on, as of one that was made anew.
                    self.root
                        .store
                        .set_made(attachment.id, layerd_store::MadeSource::default())?;
                }
                Ok(())
            }
        }
    }

    /// Checks that what an attachment shows can be mounted anew, before the old mount goes. Answers
    /// whether that is a directory.
    pub(super) fn check_held(
        &self,
        spec: &MountSpec,
        attachment: &Attachment,
    ) -> Result<bool, Error> {
        match (&spec.kind, attachment.layer) {
            (Kind::Bind(_), _) => Ok(self.look_at(spec, None)?.is_dir),
            (Kind::Image(image), Some(layer)) => self.look_at_layer(image, layer),
            _ => {
                let source = self.source(spec, attachment.volume)?;
                Ok(source.is_none_or(|source| source.is_dir()))
            }
        }
    }

    /// True if a mount equals a new mount of its source.
    pub(super) fn is_current(
        &self,
        spec: &MountSpec,
        attachment: &Attachment,
        mount: &Attached,
    ) -> Result<bool, Error> {
        let source = match self.source(spec, attachment.volume) {
            Ok(Some(source)) => source,
            Ok(None) => return Ok(true),
            Err(Error::Attach(AttachError::Mount(
                MountError::Missing { .. } | MountError::NotADirectory { .. },
            ))) => {
                return Ok(false);
            }
            Err(cause) => return Err(cause),
        };
        let options = match &spec.kind {
            Kind::Bind(bind) => self.bind_options(spec, bind),
            Kind::Volume(_) | Kind::Image(_) | Kind::Tmpfs(_) => BindOptions::default(),
        };
        Ok(self.mounter.is_current(mount, &source, &options)?)
    }

    /// Options of a bind, without its id mappings.
    pub(super) fn bind_options(&self, spec: &MountSpec, bind: &Bind) -> BindOptions {
        let without = match bind.propagation.is_private() && bind.recursive {
            true => self.own_mounts_below(bind.source.as_path()),
            false => Vec::new(),
        };
        BindOptions {
            recursive: bind.recursive,
            read_only: read_only(spec.read_only),
            propagation: propagation(bind.propagation),
            without,
            ..BindOptions::default()
        }
    }

    /// The mounts that stand below a path for attachments.
    fn own_mounts_below(&self, path: &Path) -> Vec<MountId> {
        let Ok(real) = fs::canonicalize(path) else {
            return Vec::new();
        };
        let view = self.root.store.records();
        let all = view.volumes().attachments();
        let mounts = all.filter_map(|one| one.mount.as_ref());
        let below: Vec<_> = mounts
            .filter(|mount| mount.boot == self.boot && Path::new(&mount.target).starts_with(&real))
            .map(|mount| (Path::new(&mount.target), as_recorded(mount)))
            .collect();
        // A mount with a reused id is not layerd's.
        let stands = self.mounter.are_mounted(&below).unwrap_or_default();
        let below = below.iter().zip(stands).filter(|(_, stands)| *stands);
        below.map(|((_, mount), _)| mount.id).collect()
    }

    /// The path without symlinks of a directory above the data root; `None` if `path` leads to
    /// another one.
    pub(super) fn above_root(&self, path: &Path) -> Option<PathBuf> {
        let root = fs::canonicalize(&self.root.path).ok()?;
        let path = fs::canonicalize(path).ok()?;
        root.starts_with(&path).then_some(path)
    }

    /// Refuses the data root and what lies in it, by whatever path it was reached.
    pub(super) fn refuse_own(&self, source: &Handle, path: &Path) -> Result<(), Error> {
        let seen = (source.device(), source.inode());
        let is_socket = || {
            let socket = self.root.options.socket.as_deref();
            socket.is_some_and(|socket| self.identity(socket).is_ok_and(|socket| socket == seen))
        };
        let is_given_out = |id| self.is_given_out(id);
        if !self.reserved().has(source, &is_given_out)? || is_socket() {
            return Ok(());
        }
        let rule = format!(
            "{:?} lies in layerd's data directory {}; what layerd keeps is mounted by its name: a \
             volume with `-v NAME:PATH`, a snapshot with `type=image`",
            path.display(),
            self.root.path.display()
        );
        Err(BadInput::new("source", rule).into())
    }

    /// Device and inode of what a path leads to.
    pub(super) fn identity(&self, path: &Path) -> Result<Identity, Error> {
        let found = self.mounter.open_source(path, Symlinks::Follow)?;
        Ok((found.device(), found.inode()))
    }
}
