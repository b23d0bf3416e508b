//! Deletions, as overlayfs notes them.

use std::io::{Seek, Write};

use super::{Builder, attributes, failed};
use crate::apply::below::Seen;
use crate::apply::extract::MOST_LISTED;
use crate::copy::Markers;
use crate::erofs::{Attributes, FileType, Node, Special};
use crate::error::Error;
use crate::tar::Entry;

const WHITEOUT: Special = Special::Character(0, 0);

impl<W: Write + Seek> Builder<'_, W> {
    /// Has a directory hide all that is below it.
    pub(super) fn hide(&mut self, dir: Node) -> Result<(), Error> {
        let Some(mark) = self.markers.and_then(Markers::opaque) else {
            return Ok(()); // nothing is below
        };
        let mark = mark.to_bytes();
        let mut given = self.writer.attributes(dir);
        given.xattrs.retain(|(name, _)| name != mark);
        given.xattrs.push((mark.to_vec(), b"y".to_vec()));
        let set = self.writer.set(dir, &given);
        set.map_err(|cause| failed(&self.path(dir), cause))?;
        if let Some(state) = self.dirs.get_mut(&dir) {
            state.opaque = true;
        }
        Ok(())
    }

    /// True if a file says that what is below is deleted.
    pub(super) fn is_whiteout(&self, node: Node) -> bool {
        self.markers.is_some() && self.writer.is_whiteout(node)
    }

    pub(super) fn whiteout(
        &mut self,
        dir: Node,
        hidden: &[u8],
        entry: &Entry,
    ) -> Result<(), Error> {
        // Where deletions are executed, all there is came with this layer.
        if self.markers.is_none() || !self.shows_below(dir, hidden)? {
            return Ok(());
        }
        // What the layer brings is not what it deletes: only what is below is hidden.
        if let Some(old) = self.writer.lookup(dir, hidden) {
            return match self.writer.kind(old) {
                FileType::Directory => self.hide(old),
                _ => Ok(()),
            };
        }
        let given = Attributes {
            permissions: 0,
            xattrs: Vec::new(),
            ..attributes::of_entry(entry, FileType::Character)?
        };
        self.make_whiteout(dir, hidden, &given)?;
        let path = self.join(dir, hidden);
        self.listed += path.len() + size_of::<Vec<u8>>();
        match &mut self.whiteouts {
            Some(list) if self.listed <= MOST_LISTED => list.push(path),
            _ => self.whiteouts = None,
        }
        Ok(())
    }

    fn make_whiteout(&mut self, dir: Node, name: &[u8], given: &Attributes) -> Result<(), Error> {
        let made = self.writer.special(dir, name, given, WHITEOUT);
        made.map_err(|cause| failed(&self.join(dir, name), cause))?;
        if let Some(state) = self.dirs.get_mut(&dir) {
            state.has_whiteouts = true;
        }
        Ok(())
    }

    /// True if a lower layer would show this name, if this layer had nothing there.
    fn shows_below(&mut self, dir: Node, name: &[u8]) -> Result<bool, Error> {
        if !self.below.is_known() {
            return Ok(!self.is_hidden(dir));
        }
        let seen = self.look_below(dir, name)?;
        Ok(!matches!(seen, Seen::Nothing))
    }

    /// Takes the whiteouts away that were made in a directory before it, or one on its way, was
    /// marked as opaque.
    pub(super) fn revoke_hidden(&mut self) -> Result<(), Error> {
        let suspects: Vec<Node> = self
            .dirs
            .iter()
            .filter(|(node, state)| {
                state.has_whiteouts && self.is_hidden(**node) && self.is_there(**node)
            })
            .map(|(node, _)| *node)
            .collect();
        for dir in suspects {
            let whiteouts: Vec<_> = self
                .writer
                .entries(dir)
                .filter(|(_, node)| self.is_whiteout(*node))
                .map(|(name, _)| name.to_vec())
                .collect();
            for name in whiteouts {
                let removed = self.writer.remove(dir, &name);
                removed.map_err(|cause| failed(&self.join(dir, &name), cause))?;
            }
        }
        Ok(())
    }

    /// Hides all that is below the layer, name by name: overlayfs merges root directories whatever
    /// their marks.
    pub(super) fn hide_all(&mut self) -> Result<(), Error> {
        let given = Attributes {
            gid: self.new_gid(self.top),
            ..Attributes::default()
        };
        for name in self.below.names()? {
            let name = name.to_bytes();
            match self.writer.lookup(self.top, name) {
                Some(node) if self.writer.kind(node) == FileType::Directory => self.hide(node)?,
                Some(_) => {}
                None => self.make_whiteout(self.top, name, &given)?,
            }
        }
        Ok(())
    }
}
