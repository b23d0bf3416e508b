//! Unpacks a layer of an image into an EROFS image, by the rules of `extract.rs`.
//!
//! The tree is built in memory, and content goes to the image as it comes; so no name is looked up
//! in a file system but in the layers below. An image differs from the directory that
//! [`apply()`](super::apply()) fills in this:
//!
//! - Access times are not kept, and directories that are only implied, and whiteouts that only
//!   the layers below ask for, have the first moment of 1970 for their time.
//! - A file inherits no access list from its directory: it has what its entry says.
//! - Extended attributes and device numbers that EROFS cannot store are refused where a file system
//!   would take them.

use std::collections::HashMap;
use std::io::{Read, Seek, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use xxhash_rust::xxh3::Xxh3;

use crate::apply::attributes::refused;
use crate::apply::below::Below;
use crate::apply::extract::shown;
use crate::apply::names::{self, Name};
use crate::apply::queue::Chunk;
use crate::apply::run;
use crate::apply::shared::Shared;
use crate::apply::stream::Plain;
use crate::apply::{Applied, Options, Whiteouts};
use crate::copy::Markers;
use crate::dir_stack;
use crate::erofs::{self, Attributes, FileType, Node, Special, Writer};
use crate::error::Error;
use crate::tar::{Entry, EntryKind, Reader};
use dirs::Dir;

mod attributes;
mod dirs;
mod whiteouts;

/// Name of the layer's top directory in the root directory of its image. The tree lies one level down
/// so that a mount point where nothing is mounted cannot be taken for an empty layer.
pub const TOP: &str = "f";

/// Destination of the image of a layer.
#[derive(Debug)]
pub struct ImageTarget<'a, W> {
    /// The image, which must be empty.
    pub out: W,
    /// The layers below, nearest first. They are only read.
    pub lowers: &'a [BorrowedFd<'a>],
    /// Handling of deletions. Where they are executed, nothing is below, and nothing is to be done.
    pub whiteouts: Whiteouts,
    /// Attributes of the layer's top directory, as far as the archive does not say them.
    pub top: Attributes,
    /// Options of the image; its memory is limited here.
    pub image: erofs::Options,
}

/// Unpacks the blob that `source` yields into an image, and answers its file, which is as durable as
/// the caller makes it: `options.durable` and `options.workers` mean nothing here. The layer's top
/// directory is [`TOP`] in the root directory of the image. `bytes` of the result is the length of
/// the image.
///
/// Takes four threads, of which three are busy, and memory for each entry
/// ([`erofs::Options::most_memory`] bounds it), besides what [`apply()`](super::apply()) takes for buffers.
///
/// # Errors
/// As [`apply()`](super::apply()); [`Error::Image`] for what EROFS cannot store, for a tree that takes too
/// much memory, and when writing `target.out` fails. What was written then is of no use.
pub fn apply_image<W: Write + Seek + Send>(
    source: impl Read + Send,
    target: ImageTarget<'_, W>,
    options: &Options<'_>,
) -> Result<(Applied, W), Error> {
    let shared = Shared::new();
    let build = || {
        shared.guarded(|| {
            let mut builder = Builder::new(target, options, &shared)?;
            builder.run()?;
            builder.finish()
        })
    };
    let ((diff_id, size), (mut applied, out)) = run::pipeline(source, options, &shared, build)?;
    (applied.diff_id, applied.size) = (diff_id, size);
    Ok((applied, out))
}

/// The tree of a layer while its archive is read.
struct Builder<'a, W> {
    reader: Reader<Plain<'a>>,
    writer: Writer<W>,
    below: Below<'a>,
    /// Where deletions are noted; `None` where they are executed.
    markers: Option<Markers>,
    top: Node,
    dirs: HashMap<Node, Dir>,
    /// The parent of the last entry, by the text of its path.
    last: (Vec<u8>, Node),
    entries: u64,
    has_top: bool,
    whiteouts: Option<Vec<Vec<u8>>>,
    listed: usize,
    options: &'a Options<'a>,
}

impl<'a, W: Write + Seek> Builder<'a, W> {
    fn new(
        target: ImageTarget<'a, W>,
        options: &'a Options<'a>,
        shared: &'a Shared,
    ) -> Result<Self, Error> {
        let begin = || {
            let mut writer = Writer::new(target.out, target.image)?;
            let top = writer.directory(Writer::<W>::ROOT, TOP.as_bytes(), &target.top)?;
            Ok((writer, top))
        };
        let (writer, top) = begin().map_err(|cause| failed(b"", cause))?;
        let markers = match target.whiteouts {
            Whiteouts::Devices(markers) => Some(markers),
            Whiteouts::Delete => None,
        };
        Ok(Self {
            reader: Reader::of_layer(Plain::new(shared)),
            writer,
            below: Below::new(target.lowers, markers.unwrap_or_default()),
            markers,
            top,
            dirs: HashMap::from([(top, Dir::new(top, b"", false))]),
            last: (Vec::new(), top),
            entries: 0,
            has_top: false,
            whiteouts: Some(Vec::new()),
            listed: 0,
            options,
        })
    }

    fn run(&mut self) -> Result<(), Error> {
        while let Some(entry) = self.reader.next_entry()? {
            if self.options.progress.cancelled() {
                return Err(Error::Stopped);
            }
            self.count()?;
            self.entry(&entry)?;
            self.options.progress.advanced(1, 0);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(Applied, W), Error> {
        self.revoke_hidden()?;
        if self.dirs.get(&self.top).is_some_and(|top| top.opaque) {
            self.hide_all()?;
        }
        let implied = self.implied();
        self.reader.into_input().drain();
        let (out, summary) = self.writer.finish().map_err(|cause| failed(b"", cause))?;
        let applied = Applied {
            bytes: summary.bytes,
            inodes: summary.inodes - 1, // the root directory is not the layer's
            implied,
            whiteouts: self.whiteouts,
            top: self.has_top,
            ..Applied::default()
        };
        Ok((applied, out))
    }

    fn count(&mut self) -> Result<(), Error> {
        self.entries += 1;
        self.options.limits.check_entries(self.entries)
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), Error> {
        let parts = names::clean(&entry.path);
        let path = parts.join(&b'/');
        let Some((name, parents)) = parts.split_last() else {
            return self.set_top(entry);
        };
        dir_stack::check_path_length(&path)?;
        let dir = self.parent(&path[..path.len() - name.len()], parents)?;
        match names::meaning(name) {
            Name::Plain => {}
            Name::Opaque => return self.hide(dir),
            Name::Whiteout(hidden) => return self.whiteout(dir, hidden, entry),
            Name::Bad => return Err(refused(&path, "a whiteout of nothing that could be")),
        }
        match entry.kind {
            EntryKind::Directory => self.directory(dir, name, entry),
            EntryKind::File => self.file(dir, name, entry),
            EntryKind::HardLink => self.hard_link(dir, name, &path, entry),
            EntryKind::Symlink => self.symlink(dir, name, entry),
            EntryKind::Character => {
                let special = Special::Character(entry.number.0, entry.number.1);
                self.special(dir, name, entry, FileType::Character, special)
            }
            EntryKind::Block => {
                let special = Special::Block(entry.number.0, entry.number.1);
                self.special(dir, name, entry, FileType::Block, special)
            }
            EntryKind::Fifo => self.special(dir, name, entry, FileType::Fifo, Special::Fifo),
        }
    }

    /// The root of the layer: entries for it count only in layers that layerd made.
    fn set_top(&mut self, entry: &Entry) -> Result<(), Error> {
        if !entry.top || entry.kind != EntryKind::Directory {
            return Ok(());
        }
        self.has_top = true;
        let given = attributes::of_entry(entry, FileType::Directory)?;
        self.set_directory(self.top, given)
    }

    /// The directory that an entry goes to. Usually that of the entry before.
    fn parent(&mut self, text: &[u8], names: &[&[u8]]) -> Result<Node, Error> {
        if self.last.0 == text {
            return Ok(self.last.1);
        }
        let found = self.resolve(names, true)?;
        let node = found.unwrap_or(self.top); // what is missing was made
        self.last = (text.to_vec(), node);
        Ok(node)
    }

    fn directory(&mut self, dir: Node, name: &[u8], entry: &Entry) -> Result<(), Error> {
        let given = attributes::of_entry(entry, FileType::Directory)?;
        let old = self.writer.lookup(dir, name);
        if let Some(old) = old {
            if self.writer.kind(old) == FileType::Directory {
                return self.set_directory(old, given);
            }
            self.remove(dir, name)?;
        }
        let node = self.make_directory(dir, name, &given, false)?;
        // What was there before hid what is below, and so does what takes its place.
        if old.is_some() {
            self.hide(node)
        } else {
            Ok(())
        }
    }

    /// Gives a directory that is there what its entry says; it keeps other attributes.
    fn set_directory(&mut self, node: Node, given: Attributes) -> Result<(), Error> {
        let old = self.writer.attributes(node);
        let merged = attributes::merge(old.xattrs, given);
        if let Some(dir) = self.dirs.get_mut(&node) {
            dir.implied = false;
        }
        self.set(node, &merged)
    }

    fn set(&mut self, node: Node, given: &Attributes) -> Result<(), Error> {
        let set = self.writer.set(node, given);
        set.map_err(|cause| failed(&self.path(node), cause))
    }

    fn file(&mut self, dir: Node, name: &[u8], entry: &Entry) -> Result<(), Error> {
        let given = attributes::of_entry(entry, FileType::Regular)?;
        self.replace(dir, name)?;
        let path = self.join(dir, name);
        let failed = |cause| failed(&path, cause);
        let mut out = self
            .writer
            .file(dir, name, &given, entry.size)
            .map_err(failed)?;
        let digests = self.options.digests;
        let mut sum = (digests.is_some() && entry.pieces.is_none()).then(Xxh3::new);
        let whole = [(0, entry.size)];
        let mut at = 0;
        for (offset, length) in entry.pieces.as_deref().unwrap_or(&whole) {
            out.hole(offset - at).map_err(failed)?; // they are in order
            let mut left = *length;
            while left > 0 {
                let chunk = next_chunk(&mut self.reader, left)?;
                if let Some(sum) = &mut sum {
                    sum.update(&chunk);
                }
                out.write(&chunk).map_err(failed)?;
                left -= chunk.len() as u64;
            }
            at = offset + length;
        }
        out.hole(entry.size - at).map_err(failed)?;
        out.finish().map_err(failed)?;
        if let Some(digests) = digests {
            digests.file(&path, entry.size, sum.map(|sum| sum.digest128()));
        }
        Ok(())
    }

    fn symlink(&mut self, dir: Node, name: &[u8], entry: &Entry) -> Result<(), Error> {
        let given = attributes::of_entry(entry, FileType::Symlink)?;
        self.replace(dir, name)?;
        let made = self.writer.symlink(dir, name, &given, &entry.link);
        made.map_err(|cause| failed(&self.join(dir, name), cause))?;
        Ok(())
    }

    fn special(
        &mut self,
        dir: Node,
        name: &[u8],
        entry: &Entry,
        kind: FileType,
        special: Special,
    ) -> Result<(), Error> {
        let given = attributes::of_entry(entry, kind)?;
        self.replace(dir, name)?;
        let made = self.writer.special(dir, name, &given, special);
        made.map_err(|cause| failed(&self.join(dir, name), cause))?;
        Ok(())
    }

    fn hard_link(
        &mut self,
        dir: Node,
        name: &[u8],
        path: &[u8],
        entry: &Entry,
    ) -> Result<(), Error> {
        let missing = || refused(path, "a hard link to a file that this layer does not have");
        let parts = names::clean(&entry.link);
        let (target, parents) = parts.split_last().ok_or_else(missing)?;
        let from = self.resolve(parents, false)?.ok_or_else(missing)?;
        self.writer.lookup(from, target).ok_or_else(missing)?;
        self.replace(dir, name)?;
        // It may have been what was replaced, or in it.
        let node = self.writer.lookup(from, target).ok_or_else(missing)?;
        if self.is_whiteout(node) {
            return Err(missing()); // it is deleted
        }
        let linked = self.writer.link(dir, name, node);
        linked.map_err(|cause| failed(path, cause))?;
        if let Some(digests) = self.options.digests {
            digests.link(&self.join(dir, name), &self.join(from, target));
        }
        let given = attributes::of_entry(entry, self.writer.kind(node))?;
        let mut old = self.writer.attributes(node).xattrs;
        // chown(2) takes them, also where the owner is the same.
        old.retain(|(name, _)| name != b"security.capability");
        let set = self.writer.set(node, &attributes::merge(old, given));
        set.map_err(|cause| failed(path, cause))
    }

    /// Deletes what has a name, with all below, if there is any.
    fn replace(&mut self, dir: Node, name: &[u8]) -> Result<(), Error> {
        match self.writer.lookup(dir, name) {
            Some(_) => self.remove(dir, name),
            None => Ok(()),
        }
    }

    fn remove(&mut self, dir: Node, name: &[u8]) -> Result<(), Error> {
        let path = self.join(dir, name);
        if let Some(digests) = self.options.digests {
            digests.gone(&path);
        }
        self.last = (Vec::new(), self.top); // it may have led through here
        let removed = self.writer.remove(dir, name);
        removed.map_err(|cause| failed(&path, cause))
    }
}

/// The next piece of the current file's content, which is not over; never empty.
fn next_chunk(reader: &mut Reader<Plain<'_>>, most: u64) -> Result<Chunk, Error> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let taken = reader.take_with(|plain, left| {
        let chunk = plain.next(left.min(most));
        let length = chunk.as_deref().map_or(0, <[u8]>::len);
        Ok((chunk, length))
    })?;
    let offset = reader.offset();
    taken.ok_or(Error::Truncated { offset })
}

fn failed(path: &[u8], cause: erofs::Error) -> Error {
    let path = shown(&path[..path.len().min(dir_stack::LONGEST_PATH)]);
    let path = crate::error::shown(&path);
    Error::Image { path, cause }
}

fn as_path(path: &[u8]) -> &std::path::Path {
    std::path::Path::new(std::ffi::OsStr::from_bytes(path))
}
