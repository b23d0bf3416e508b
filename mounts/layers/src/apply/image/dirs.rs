//! Directories of the layer, and the way to that of an entry; see `dirs.rs` and `dirs/resolve.rs` of the
//! directory form, whose rules these are.

use std::io::{Seek, Write};
use std::rc::Rc;

use rustix::io::Errno;

use super::{Builder, as_path, attributes, failed};
use crate::apply::below::{Merged, Seen};
use crate::apply::dirs::MOST_LINKS;
use crate::apply::implied;
use crate::apply::names::{c_name, clean};
use crate::erofs::{Attributes, FileType, Node};
use crate::error::{Bound, Error};

/// Facts about a directory of the layer.
#[derive(Debug)]
pub(super) struct Dir {
    parent: Node,
    name: Box<[u8]>,
    pub(super) opaque: bool,
    pub(super) has_whiteouts: bool,
    /// Set if the archive has no entry for it and no lower layer has it.
    pub(super) implied: bool,
    /// The layers below that are one with it, once that was asked for.
    merged: Option<Merged>,
}

impl Dir {
    pub(super) fn new(parent: Node, name: &[u8], implied: bool) -> Self {
        Self {
            parent,
            name: name.into(),
            opaque: false,
            has_whiteouts: false,
            implied,
            merged: None,
        }
    }
}

/// Where a name leads.
enum Step {
    Into(Node),
    Follow(Vec<u8>),
    Nowhere,
}

impl<W: Write + Seek> Builder<'_, W> {
    /// Makes a directory.
    pub(super) fn make_directory(
        &mut self,
        parent: Node,
        name: &[u8],
        given: &Attributes,
        implied: bool,
    ) -> Result<Node, Error> {
        let limit = self.options.limits.most_directories;
        if self.dirs.len() as u64 >= limit {
            let bound = Bound::Directories;
            return Err(Error::Beyond { bound, limit });
        }
        let made = self.writer.directory(parent, name, given);
        let node = made.map_err(|cause| failed(&self.join(parent, name), cause))?;
        self.dirs.insert(node, Dir::new(parent, name, implied));
        Ok(node)
    }

    /// A directory and those on its way, the top last.
    fn way_up(&self, dir: Node) -> impl Iterator<Item = (Node, &Dir)> {
        let first = self.dirs.get(&dir).map(|state| (dir, state));
        std::iter::successors(first, |(node, state)| {
            let parent = (*node != self.top).then_some(state.parent)?;
            self.dirs.get(&parent).map(|state| (parent, state))
        })
    }

    /// The path of a directory from the top of the layer.
    pub(super) fn path(&self, dir: Node) -> Vec<u8> {
        let names: Vec<_> = self.way_up(dir).map(|(_, state)| &*state.name).collect();
        let names: Vec<_> = names.into_iter().rev().skip(1).collect();
        names.join(&b'/')
    }

    /// The path of a name in a directory.
    pub(super) fn join(&self, dir: Node, name: &[u8]) -> Vec<u8> {
        let mut path = self.path(dir);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// True if it or a directory above it is opaque.
    pub(super) fn is_hidden(&self, dir: Node) -> bool {
        self.way_up(dir).any(|(_, state)| state.opaque)
    }

    /// True if neither it nor a directory above it was removed.
    pub(super) fn is_there(&self, dir: Node) -> bool {
        self.way_up(dir).all(|(node, state)| {
            node == self.top || self.writer.lookup(state.parent, &state.name) == Some(node)
        })
    }

    /// Paths of the directories that only something in them asked for, parents first.
    pub(super) fn implied(&self) -> Vec<Vec<u8>> {
        let mut found: Vec<Node> = self
            .dirs
            .iter()
            .filter(|(node, state)| state.implied && self.is_there(**node))
            .map(|(node, _)| *node)
            .collect();
        found.sort_unstable(); // in the order of their making
        found.into_iter().map(|node| self.path(node)).collect()
    }

    /// Finds the directory of these names. What is missing is made if `make` says so; else the
    /// answer is `None`.
    pub(super) fn resolve(&mut self, names: &[&[u8]], make: bool) -> Result<Option<Node>, Error> {
        let mut todo: Vec<Vec<u8>> = names.iter().rev().map(|name| name.to_vec()).collect();
        let (mut at, mut links) = (self.top, 0);
        while let Some(name) = todo.pop() {
            at = match self.step(at, &name, make)? {
                Step::Into(node) => node,
                Step::Nowhere => return Ok(None),
                Step::Follow(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        let path = self.join(at, &name);
                        return Err(Error::io("resolve", as_path(&path), Errno::LOOP));
                    }
                    let mut path = Vec::new();
                    if !target.starts_with(b"/") {
                        path = self.path(at);
                        path.push(b'/');
                    }
                    path.extend_from_slice(&target);
                    todo.extend(clean(&path).into_iter().rev().map(<[u8]>::to_vec));
                    self.top
                }
            };
        }
        Ok(Some(at))
    }

    fn step(&mut self, at: Node, name: &[u8], make: bool) -> Result<Step, Error> {
        let Some(node) = self.writer.lookup(at, name) else {
            return match self.look_below(at, name)? {
                Seen::Link(target) => Ok(Step::Follow(target.into_bytes())),
                below if make => self.imply(at, name, below, false),
                _ => Ok(Step::Nowhere),
            };
        };
        match self.writer.kind(node) {
            FileType::Directory => Ok(Step::Into(node)),
            FileType::Symlink => {
                let target = self.writer.short_target(node).filter(|it| !it.is_empty());
                target
                    .map(|target| Step::Follow(target.to_vec()))
                    .ok_or_else(|| {
                        let path = self.join(at, name);
                        Error::io("resolve", as_path(&path), Errno::NAMETOOLONG)
                    })
            }
            _ if self.is_whiteout(node) && make => {
                self.remove(at, name)?;
                self.imply(at, name, Seen::Nothing, true)
            }
            _ if self.is_whiteout(node) => Ok(Step::Nowhere),
            _ => {
                let path = as_path(&self.join(at, name)).to_owned();
                let found = "no directory";
                Err(Error::NotADirectory { path, found })
            }
        }
    }

    /// Makes a directory that has no entry: that which is below, or another one if the layer
    /// deletes it.
    fn imply(&mut self, parent: Node, name: &[u8], below: Seen, anew: bool) -> Result<Step, Error> {
        self.count()?;
        let path = self.join(parent, name);
        let (given, is_below) = match below {
            Seen::Directory(model, _) => {
                let found = implied::attributes(&model, as_path(&path))?;
                (attributes::of_pending(found, FileType::Directory), true)
            }
            _ => {
                let given = Attributes {
                    permissions: 0o755,
                    gid: self.new_gid(parent),
                    ..Attributes::default()
                };
                (given, false)
            }
        };
        let node = self.make_directory(parent, name, &given, !is_below)?;
        if anew {
            self.hide(node)?;
        }
        Ok(Step::Into(node))
    }

    /// Group of a file that is made in a directory by root, as the kernel gives it.
    pub(super) fn new_gid(&self, dir: Node) -> u32 {
        let dir = self.writer.attributes(dir);
        if dir.permissions & 0o2000 == 0 {
            0
        } else {
            dir.gid
        }
    }

    /// Looks a name up in the lower layers, regardless of this layer.
    pub(super) fn look_below(&mut self, dir: Node, name: &[u8]) -> Result<Seen, Error> {
        let merged = self.merged(dir)?;
        if merged.is_empty() {
            return Ok(Seen::Nothing);
        }
        c_name(name)?; // the kernel would see another name
        let path = self.join(dir, name);
        self.below.look(&merged, as_path(&path))
    }

    /// The layers below that a directory is one with.
    fn merged(&mut self, dir: Node) -> Result<Merged, Error> {
        if !self.below.is_known() || self.is_hidden(dir) {
            return Ok(Rc::new([]));
        }
        let mut unknown = Vec::new();
        let mut merged = self.below.root();
        for (node, state) in self.way_up(dir) {
            match &state.merged {
                Some(known) => {
                    merged = Rc::clone(known);
                    break;
                }
                None if node == self.top => break,
                None => unknown.push(node),
            }
        }
        for node in unknown.into_iter().rev() {
            if !merged.is_empty() {
                merged = match self.below.look(&merged, as_path(&self.path(node)))? {
                    Seen::Directory(_, merged) => merged,
                    Seen::Nothing | Seen::Link(_) | Seen::Other => Rc::new([]),
                };
            }
            if let Some(state) = self.dirs.get_mut(&node) {
                state.merged = Some(Rc::clone(&merged));
            }
        }
        Ok(merged)
    }
}
