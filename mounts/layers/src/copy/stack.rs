//! A stack of layer directories, seen as overlayfs would show it.
//!
//! A name belongs to the topmost layer that has it. Directories of several layers are one, down
//! to the first layer that hides those below: by a whiteout (a character device 0:0), by anything
//! that is no directory, or because the directory is marked opaque. A single directory is not a
//! stack but a plain tree: markers mean nothing in it and are files and attributes like others.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::copy::{Markers, Note, is_there};
use crate::dir_stack::DirStack;
use crate::error::Error;
use crate::node::{self, Kind, Stat, Xattrs};

/// Directories that a stack keeps open, whatever its height, besides the current one of each
/// layer.
const OPEN_DIRECTORIES: usize = 192;
/// Symlinks that are followed on the way to one directory, as many as the kernel follows.
const MOST_LINKS: usize = 40;

#[derive(Debug)]
pub(crate) struct Stack {
    /// Topmost first. Those that take part at a depth have a trail of that depth.
    layers: Vec<Layer>,
    markers: Option<Markers>,
    /// Set to show attributes as a layer keeps them, and not as a mount does.
    is_raw: bool,
    depth: usize,
}

#[derive(Debug)]
struct Layer {
    dir_stack: DirStack,
    root: Stat,
}

/// A name in the current directory, and the number of the layer it belongs to.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: CString,
    pub(crate) layer: usize,
    pub(crate) is_dir: bool,
}

/// Result of a lookup.
enum Found {
    /// Entered.
    Directory,
    Nothing,
    /// Opened as a path only.
    Symlink(OwnedFd),
    Other(Kind),
}

impl Stack {
    /// The directory `subpath` in the stack `source`. `markers` counts only if there are several.
    pub(crate) fn open(
        source: &[BorrowedFd<'_>],
        subpath: &Path,
        markers: Markers,
    ) -> Result<Self, Error> {
        let keep = OPEN_DIRECTORIES / source.len().max(1);
        let roots = source.iter().map(|root| Layer::open(*root, keep));
        let mut stack = Self {
            layers: roots.collect::<Result<_, _>>()?,
            markers: (source.len() > 1).then_some(markers),
            is_raw: false,
            depth: 0,
        };
        stack.refuse_roots()?;
        stack.go_to(subpath)?;
        Ok(stack)
    }

    /// The whole of a stack of layers, of which there may be one or none.
    pub(crate) fn of_layers(source: &[BorrowedFd<'_>], markers: Markers) -> Result<Self, Error> {
        let mut stack = Self::open(source, Path::new(""), markers)?;
        stack.markers = Some(markers);
        stack.refuse_roots()?;
        Ok(stack)
    }

    /// The same, with attributes as one layer in place of the stack would keep them.
    pub(crate) fn raw(self, is_raw: bool) -> Self {
        Self { is_raw, ..self }
    }

    /// A whole tree, or none, in which nothing is a note of overlayfs.
    pub(crate) fn of_tree(tree: Option<BorrowedFd<'_>>) -> Result<Self, Error> {
        Self::open(tree.as_slice(), Path::new(""), Markers::Trusted)
    }

    /// Looks a name up in the current directory; `None` if no layer has it or it is deleted.
    pub(crate) fn look(&mut self, name: &CStr) -> Result<Option<(OwnedFd, Stat)>, Error> {
        let path = self.join(name);
        let (depth, markers) = (self.depth, self.markers);
        if is_note(markers, name) {
            return Ok(None);
        }
        for layer in self.taking_part(depth) {
            if let Some((open, stat)) = layer.find(name, &path)? {
                let hidden = markers.is_some_and(|markers| markers.is_whiteout(&stat));
                return Ok((!hidden).then_some((open, stat)));
            }
            if layer.deletes(markers, name, &path)? {
                break;
            }
        }
        Ok(None)
    }

    fn taking_part(&mut self, depth: usize) -> impl Iterator<Item = &mut Layer> {
        let layers = self.layers.iter_mut();
        layers.filter(move |layer| layer.dir_stack.depth() == depth)
    }

    fn refuse_roots(&self) -> Result<(), Error> {
        let Some(markers) = self.markers else {
            return Ok(());
        };
        for layer in &self.layers {
            let root = layer.dir_stack.root();
            marks(root, markers, Path::new(""))?;
        }
        Ok(())
    }

    /// Goes down to `subpath`. Symlinks on the way are followed as by a process whose root
    /// directory the stack is: an absolute target begins there, and `..` does not lead above it.
    fn go_to(&mut self, subpath: &Path) -> Result<(), Error> {
        let mut todo = names(subpath);
        if todo.iter().any(|name| name == "..") {
            let path = subpath.to_owned();
            return Err(Error::BadPath { path });
        }
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                self.leave();
                continue;
            }
            let bad = |_| Error::BadPath {
                path: subpath.to_owned(),
            };
            let name = CString::new(name.into_encoded_bytes()).map_err(bad)?;
            let path = self.join(&name);
            let found = match self.descend(&name)? {
                Found::Directory => continue,
                Found::Nothing => return Err(Error::Missing { path }),
                Found::Symlink(link) if links < MOST_LINKS => {
                    links += 1;
                    todo.extend(self.follow(&link, &path)?);
                    continue;
                }
                Found::Symlink(_) => "one symlink too many",
                Found::Other(kind) => kind.noun(),
            };
            return Err(Error::NotADirectory { path, found });
        }
        Ok(())
    }

    /// Reads a symlink in the current directory, and goes to the root if its target is absolute.
    /// Answers the names of the target, last first.
    fn follow(&mut self, link: &OwnedFd, path: &Path) -> Result<Vec<OsString>, Error> {
        let target = rustix::fs::readlinkat(link, c"", Vec::new())
            .map_err(|cause| Error::io("read the symlink", path, cause))?;
        let target = Path::new(OsStr::from_bytes(target.as_bytes()));
        while target.is_absolute() && self.depth > 0 {
            self.leave();
        }
        Ok(names(target))
    }

    /// Goes down into a directory that was listed.
    pub(crate) fn enter(&mut self, name: &CStr) -> Result<(), Error> {
        match self.descend(name)? {
            Found::Directory => Ok(()),
            Found::Nothing | Found::Symlink(_) | Found::Other(_) => Err(Error::Changed {
                path: self.join(name),
            }),
        }
    }

    /// Goes up again.
    pub(crate) fn leave(&mut self) {
        for layer in self.layers.iter_mut() {
            if layer.dir_stack.depth() == self.depth {
                layer.dir_stack.leave();
            }
        }
        self.depth = self.depth.saturating_sub(1);
    }

    fn descend(&mut self, name: &CStr) -> Result<Found, Error> {
        let path = self.join(name);
        let mut found = Found::Nothing;
        let (depth, markers) = (self.depth, self.markers);
        if is_note(markers, name) {
            return Ok(found);
        }
        for layer in self.taking_part(depth) {
            let Some((open, stat)) = layer.find(name, &path)? else {
                if layer.deletes(markers, name, &path)? {
                    break;
                }
                continue;
            };
            if stat.kind() != Kind::Directory {
                let hidden = markers.is_some_and(|markers| markers.is_whiteout(&stat));
                if matches!(found, Found::Nothing) && !hidden {
                    found = match stat.kind() {
                        Kind::Symlink => Found::Symlink(open),
                        kind => Found::Other(kind),
                    };
                }
                break;
            }
            let opaque = match markers {
                Some(markers) => marks(open.as_fd(), markers, &path)?,
                None => false,
            };
            layer.dir_stack.enter(name, open, stat.identity());
            found = Found::Directory;
            if opaque {
                break;
            }
        }
        if matches!(found, Found::Directory) {
            self.depth += 1;
        }
        Ok(found)
    }

    /// The names of the current directory, directories last.
    pub(crate) fn list(&mut self) -> Result<Vec<Entry>, Error> {
        let path = self.path();
        let (depth, markers) = (self.depth, self.markers);
        let stacked = markers.is_some_and(|markers| !markers.has_names());
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        let taking_part = self.layers.iter_mut().enumerate();
        let taking_part = taking_part.filter(|(_, layer)| layer.dir_stack.depth() == depth);
        let several = taking_part.size_hint().1 > Some(1);
        for (number, layer) in taking_part {
            let mut deleted = Vec::new();
            for (name, kind) in layer.names(&path)? {
                match markers.map_or(Note::No, |markers| markers.note(&name)) {
                    Note::No => {}
                    Note::Own => continue,
                    Note::Deletes(name) => {
                        deleted.push(name);
                        continue;
                    }
                }
                if several && !seen.insert(name.clone()) {
                    continue;
                }
                if stacked && layer.is_whiteout(&name, kind, &path)? {
                    continue;
                }
                entries.push(Entry {
                    name,
                    layer: number,
                    is_dir: kind == FileType::Directory,
                });
            }
            seen.extend(deleted);
        }
        entries.sort_by_key(|entry| entry.is_dir);
        Ok(entries)
    }

    /// The file of an entry. `None` if it is gone by now.
    pub(crate) fn find(
        &mut self,
        entry: &Entry,
        path: &Path,
    ) -> Result<Option<(OwnedFd, Stat)>, Error> {
        self.layers[entry.layer].find(&entry.name, path)
    }

    /// Stat and attributes of the current directory: those of the topmost layer that has it.
    pub(crate) fn here(&mut self) -> Result<(Stat, Xattrs), Error> {
        let path = self.path();
        let depth = self.depth;
        let Some(layer) = self.taking_part(depth).next() else {
            return Err(Error::Missing { path });
        };
        let here = layer.dir_stack.here()?;
        let failed = |cause| Error::io("look at", &path, cause);
        let stat = node::stat(here).map_err(failed)?;
        let xattrs = node::xattrs(here).map_err(failed)?;
        Ok((stat, self.visible(xattrs, &path)?))
    }

    /// The attributes of a file of the stack, as a mount would show them, or as a layer keeps them.
    pub(crate) fn xattrs(&self, file: BorrowedFd<'_>, path: &Path) -> Result<Xattrs, Error> {
        let failed = |cause| Error::io("read the attributes of", path, cause);
        let xattrs = node::xattrs(file).map_err(failed)?;
        self.visible(xattrs, path)
    }

    fn visible(&self, xattrs: Xattrs, path: &Path) -> Result<Xattrs, Error> {
        match self.markers {
            Some(markers) if self.is_raw => markers.keep(xattrs, path),
            Some(markers) if !xattrs.is_empty() => markers.strip(xattrs, path),
            _ => Ok(xattrs),
        }
    }

    /// The path of `name` in the current directory, as the layers have it.
    pub(crate) fn join(&self, name: &CStr) -> PathBuf {
        self.path().join(OsStr::from_bytes(name.to_bytes()))
    }

    fn path(&self) -> PathBuf {
        let deepest = self
            .layers
            .iter()
            .max_by_key(|layer| layer.dir_stack.depth());
        deepest.map_or_else(PathBuf::new, |layer| layer.dir_stack.path())
    }
}

impl Layer {
    fn open(root: BorrowedFd<'_>, keep: usize) -> Result<Self, Error> {
        let failed = |cause| Error::io("open", Path::new(""), cause);
        let root = root.try_clone_to_owned().map_err(|cause| Error::Io {
            attempt: "open".into(),
            path: PathBuf::from("."),
            cause,
        })?;
        let stat = node::stat(root.as_fd()).map_err(failed)?;
        let dir_stack = DirStack::new(root, keep);
        Ok(Self {
            dir_stack,
            root: stat,
        })
    }

    fn find(&mut self, name: &CStr, path: &Path) -> Result<Option<(OwnedFd, Stat)>, Error> {
        let here = self.dir_stack.here()?;
        let (found, stat) = match node::find(here, name) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(|cause| Error::io("look at", path, cause))?,
        };
        if stat.same_mount(&self.root) {
            return Ok(Some((found, stat)));
        }
        Err(Error::MountPoint {
            path: path.to_owned(),
        })
    }

    /// True if the layer has a note of its own name that what has this name below is deleted.
    fn deletes(
        &mut self,
        markers: Option<Markers>,
        name: &CStr,
        path: &Path,
    ) -> Result<bool, Error> {
        let Some(note) = markers.and_then(|markers| markers.deletion(name)) else {
            return Ok(false);
        };
        let found = is_there(self.dir_stack.here()?, &note);
        found.map_err(|cause| Error::io("look at", path, cause))
    }

    fn names(&mut self, path: &Path) -> Result<Vec<(CString, FileType)>, Error> {
        let failed = |cause| Error::io("read directory", path, cause);
        let here = self.dir_stack.here()?;
        let mut names = Vec::new();
        for entry in node::read_dir(here).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push((name.to_owned(), entry.file_type()));
            }
        }
        Ok(names)
    }

    fn is_whiteout(&mut self, name: &CStr, kind: FileType, dir: &Path) -> Result<bool, Error> {
        if !matches!(kind, FileType::CharacterDevice | FileType::Unknown) {
            return Ok(false);
        }
        let found = self.find(name, dir)?;
        Ok(found.is_some_and(|(_, stat)| stat.is_whiteout()))
    }
}

/// True if a name is a note, which no file has.
fn is_note(markers: Option<Markers>, name: &CStr) -> bool {
    markers.is_some_and(|markers| markers.note(name) != Note::No)
}

/// The names in a path, last first; `..` among them.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    });
    names.rev().collect()
}

/// True if a directory is opaque. [`Error::Feature`] for attributes of redirect_dir, metacopy or
/// similar features.
pub(crate) fn marks(dir: BorrowedFd<'_>, markers: Markers, path: &Path) -> Result<bool, Error> {
    let (Some(redirect), Some(opaque)) = (markers.redirect(), markers.opaque()) else {
        let opaque = markers.is_opaque(dir);
        return opaque.map_err(|cause| Error::io("look in", path, cause));
    };
    let proc = node::proc_path(dir);
    let failed = |cause| Error::io("read the attributes of", path, cause);
    let value = |name| node::xattr(&proc, name).map_err(failed);
    let refused = |feature| {
        let path = crate::error::shown(path);
        Err(Error::Feature { path, feature })
    };
    if value(redirect)?.is_some() {
        return refused("redirect_dir");
    }
    match value(opaque)?.as_deref() {
        Some(b"y") => Ok(true),
        Some(b"x") => refused("whiteouts as attributes"),
        _ => Ok(false),
    }
}
