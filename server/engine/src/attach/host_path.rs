//! Files and directories of the host that a bind asks for and that are missing.
//!
//! No crash leaves one that no record names. In this order: the record of the attachment gets the names
//! under which it is made, `.layerd-<id>` and what is below, in the directory where the first name is
//! missing; it is made; the record gets its inodes; it gets its name in one step, and never in place of
//! another. Two durable writes more than an attachment whose source is there. To make it in place and
//! record it then, or to record it before by name alone, would not do: a crash between would leave what
//! nothing knows, or what could belong to another program.

use std::path::{Path, PathBuf};

use layerd_mounts::mounter::{Made as MadePath, MountError, NewSource, Symlinks};
use layerd_spec::{Kind, Made};
use layerd_store::{Attachment, AttachmentId};
use tracing::{info, warn};

use super::options::new_source;
use super::source::MadeSource;
use crate::{Attachments, Error};

/// The missing part of a path.
struct Missing {
    /// Its first name.
    first: PathBuf,
    /// The names below that.
    rest: Vec<PathBuf>,
    /// The name in place of the first while it is made.
    staged: PathBuf,
}

impl Missing {
    /// Names while it is made, outermost first.
    fn staged_names(&self) -> Vec<MadePath> {
        let name = |path: PathBuf| MadePath {
            path,
            device: (0, 0),
            inode: 0,
        };
        let mut names = vec![name(self.staged.clone())];
        names.extend(self.rest.iter().map(|rest| name(self.staged.join(rest))));
        names
    }

    /// Directories and the file that were made under staged names, by their final names.
    fn in_place(&self, made: &[MadePath]) -> Vec<MadePath> {
        let names = std::iter::once(self.first.clone());
        let names = names.chain(self.rest.iter().map(|rest| self.first.join(rest)));
        let placed = |(path, made): (PathBuf, &MadePath)| MadePath {
            path,
            ..made.clone()
        };
        names.zip(made).map(placed).collect()
    }
}

impl Attachments {
    /// Makes a source of the host for an attachment whose record is there, unless it is there by now.
    /// `made` says what the attachment had made for it, and what it has then.
    ///
    /// # Errors
    /// As `create_source` of the mounter; nothing that was made stays.
    pub(super) fn make_host_path(
        &self,
        id: AttachmentId,
        path: &Path,
        kind: Made,
        made: &mut MadeSource,
    ) -> Result<(), Error> {
        /// Others may make the same meanwhile.
        const TRIES: usize = 8;
        let new = new_source(kind);
        let before = made.paths.len();
        for _ in 0..TRIES {
            let Some(missing) = self.missing(id, path, &new)? else {
                return Ok(());
            };
            let names = missing.staged_names();
            let placed = self.make_missing(id, &missing, &new, made);
            if let Ok(true) = placed {
                info!(path = %path.display(), "made the source of a bind mount");
                return Ok(());
            }
            made.paths.truncate(before);
            self.remove_paths(&names);
            placed?;
        }
        Err(Error::from(MountError::Raced {
            path: path.to_owned(),
        }))
    }

    fn missing(
        &self,
        id: AttachmentId,
        path: &Path,
        new: &NewSource,
    ) -> Result<Option<Missing>, Error> {
        let above = self.mounter.check_create(path, new)?;
        let inside = path.strip_prefix(above.path()).unwrap_or(Path::new(""));
        let mut names = inside.components();
        let Some(first) = names.next() else {
            return Ok(None);
        };
        let rest = names.scan(PathBuf::new(), |below, name| {
            below.push(name);
            Some(below.clone())
        });
        Ok(Some(Missing {
            first: above.path().join(first),
            rest: rest.collect(),
            staged: above.path().join(format!(".layerd-{id}")),
        }))
    }

    /// Answers whether it got its name.
    fn make_missing(
        &self,
        id: AttachmentId,
        missing: &Missing,
        new: &NewSource,
        made: &mut MadeSource,
    ) -> Result<bool, Error> {
        let (names, before) = (missing.staged_names(), made.paths.len());
        made.paths.extend(names.iter().cloned());
        self.root.store.set_made(id, made.to_record())?;
        let path = names.last().map_or(&missing.staged, |name| &name.path);
        let source = self.mounter.create_source(path, new)?;
        if source.made.len() != names.len() {
            // An interrupted call, or another process, had made a part.
            return Ok(false);
        }
        made.paths.truncate(before);
        made.paths.extend(missing.in_place(&source.made));
        let placed = made.paths.len();
        made.paths.extend(names);
        self.root.store.set_made(id, made.to_record())?;
        drop(source);
        let is_placed = self.mounter.place_source(&missing.staged, &missing.first)?;
        made.paths.truncate(placed);
        Ok(is_placed)
    }

    /// Removes what an interrupted call left under names of layerd's own.
    pub(super) fn drop_staged(&self, made: &mut MadeSource) {
        let (staged, placed) = made.paths.drain(..).partition(|path| path.inode == 0);
        made.paths = placed;
        self.remove_paths(&staged);
    }

    /// Removes directories and files of the host that were made for an attachment whose mount is gone
    /// and whose record is there: those of a call that was acknowledged to none, unless another
    /// attachment binds them or they hold something.
    pub(super) fn take_back_paths(&self, made: &MadeSource, own: Option<AttachmentId>) {
        let held = made.paths.iter().rposition(|path| self.is_bound(path, own));
        let free = held.map_or(0, |held| held + 1);
        self.remove_paths(&made.paths[free..]);
    }

    fn remove_paths(&self, paths: &[MadePath]) {
        if paths.is_empty() {
            return;
        }
        if let Err(cause) = self.mounter.remove_made(paths) {
            let error = &cause as &dyn std::error::Error;
            warn!(error, "remove what a failed call made on the host");
        }
    }

    /// True for a directory or file of the host that is the source of an attachment other than `own`,
    /// or lies above one.
    fn is_bound(&self, made: &MadePath, own: Option<AttachmentId>) -> bool {
        let records = self.root.store.records();
        let all = records.volumes().attachments();
        let mut others = all.filter(|one| Some(one.id) != own);
        others.any(|one: &std::sync::Arc<Attachment>| {
            match super::parse(&one.spec).map(|spec| spec.kind) {
                Ok(Kind::Bind(bind)) => {
                    let path = bind.source.as_path();
                    let found = self.mounter.open_source(path, Symlinks::Follow);
                    let lineage = found.and_then(|found| found.lineage()).unwrap_or_default();
                    path.starts_with(&made.path) || lineage.contains(&(made.device, made.inode))
                }
                _ => false,
            }
        })
    }
}
