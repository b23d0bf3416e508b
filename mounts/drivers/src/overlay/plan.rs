//! From a stack to the mounts that make it. Pure.
//!
//! Clients read paths back out of the options (they write straight into `upperdir=`, and split
//! `lowerdir=` at colons) without undoing overlayfs's escapes. So nothing is escaped here: a root
//! whose path would need it is refused by [`Layout::new`].

use std::path::Path;

use layerd_layers::apply::IMAGE_TOP;
use layerd_mounts::overlay_options::{MAX_LOWERS, data, shorten};
use layerd_mounts::{Error, IdMap, Mount, Slot};

use super::images::MOUNT_POINTS;
use super::limited::{LIMITED, UPPER, WORK};
use crate::driver::Stack;

/// Where layers are and how they are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: String,
    options: Vec<String>,
    page: usize,
}

impl Layout {
    /// Layers below `root`, an absolute path without symlinks; overlay mounts get `options` last;
    /// a page of memory has `page` bytes.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] if mount options cannot carry the path, or if one of `options` is not
    /// a single option or would name a layer.
    pub fn new(root: &Path, options: Vec<String>, page: usize) -> Result<Self, Error> {
        let path = root.to_str().filter(|path| expressible(path));
        let Some(path) = path else {
            return Err(Error::Unsuitable {
                path: root.to_owned(),
                check: "path",
                problem: "mount options cannot carry it".to_owned(),
                advice: "choose an absolute path in UTF-8 that is not `/` and has no colon, \
                         comma, backslash or control character"
                    .to_owned(),
            });
        };
        if let Some(option) = options.iter().find(|option| !allowed(option)) {
            return Err(Error::Unsuitable {
                path: root.to_owned(),
                check: "mount options",
                problem: format!("`{option}` cannot be set"),
                advice: "give one overlay option to an entry, and none of lowerdir, upperdir, \
                         workdir, ro or rw"
                    .to_owned(),
            });
        }
        Ok(Self {
            root: path.to_owned(),
            options,
            page,
        })
    }

    /// The root, as it stands in the mounts.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// Directory of a layer that is no image.
    #[must_use]
    pub fn layer(&self, slot: Slot) -> String {
        match slot {
            Slot::EMPTY_LOWER => format!("{}/e", self.root),
            slot => format!("{}/l/{slot}", self.root),
        }
    }

    /// Directory of a committed layer.
    fn parent(&self, slot: Slot, is_image: &dyn Fn(Slot) -> bool) -> String {
        match is_image(slot) {
            true => format!("{}/{MOUNT_POINTS}/{slot}/{IMAGE_TOP}", self.root),
            false => self.layer(slot),
        }
    }

    /// Work directory of a writable layer.
    #[must_use]
    pub fn work(&self, slot: Slot) -> String {
        format!("{}/w/{slot}", self.root)
    }

    /// Upper and work directory of a writable layer.
    fn written(&self, slot: Slot, is_limited: bool) -> (String, String) {
        let limited = |name| format!("{}/{LIMITED}/{slot}/{name}", self.root);
        match is_limited {
            true => (limited(UPPER), limited(WORK)),
            false => (self.layer(slot), self.work(slot)),
        }
    }

    /// True if overlayfs keeps its attributes in `user.overlay.*` (`userxattr`).
    #[must_use]
    pub fn uses_user_attributes(&self) -> bool {
        self.options.iter().any(|option| option == "userxattr")
    }

    /// Options that every overlay mount gets.
    #[must_use]
    pub fn options(&self) -> &[String] {
        &self.options
    }

    /// The mounts of `stack`: as containerd's overlayfs snapshotter gives them. `is_image` says
    /// which of the parents are images, and `is_limited` if its own layer is held to a size.
    ///
    /// # Errors
    /// As [`Driver::plan`](crate::Driver::plan).
    pub fn plan(
        &self,
        stack: &Stack,
        is_image: &dyn Fn(Slot) -> bool,
        is_limited: bool,
    ) -> Result<Vec<Mount>, Error> {
        let maps = map_options(stack);
        let mount = match (stack.own, stack.parents.as_slice(), stack.writable) {
            (None, _, true) => {
                return Err(Error::NotAStack {
                    problem: "it is to be written but has no layer of its own",
                });
            }
            (None, [], false) => {
                return Err(Error::NotAStack {
                    problem: "it has no layers",
                });
            }
            (Some(own), [], writable) => bind(self.layer(own), maps, writable),
            (_, [parent], false) => bind(self.parent(*parent, is_image), maps, false),
            (own, parents, writable) => {
                let lowers = parents.iter().map(|slot| self.parent(*slot, is_image));
                let written = own
                    .filter(|_| writable)
                    .map(|own| self.written(own, is_limited));
                self.overlay(written, &lowers.collect::<Vec<_>>(), maps)?
            }
        };
        Ok(vec![mount])
    }

    /// The mounts of `stack` with one directory, `tree`, in place of its parents; `None` if it has
    /// none.
    ///
    /// # Errors
    /// As [`Driver::plan`](crate::Driver::plan).
    pub(crate) fn plan_on_tree(
        &self,
        stack: &Stack,
        tree: Option<String>,
    ) -> Result<Vec<Mount>, Error> {
        let own = match stack.writable {
            true => Some(stack.writable_layer()?),
            false => stack.own,
        };
        let maps = map_options(stack);
        let mount = match (own, tree, stack.writable) {
            (Some(own), Some(tree), true) => {
                self.overlay(Some(self.written(own, false)), &[tree], maps)?
            }
            (_, Some(tree), _) => bind(tree, maps, false),
            (Some(own), None, writable) => bind(self.layer(own), maps, writable),
            (None, None, _) => {
                return Err(Error::NotAStack {
                    problem: "it has no layers",
                });
            }
        };
        Ok(vec![mount])
    }

    /// Which layer a mount shows on top, as [`Driver::top_of`](crate::Driver::top_of).
    #[must_use]
    pub fn top_of(&self, mount: &Mount) -> Option<Slot> {
        let path = match mount.kind.as_str() {
            "bind" => mount.source.as_str(),
            "overlay" => {
                let value = |name| mount.options.iter().find_map(|o| o.strip_prefix(name));
                match (value("upperdir="), value("lowerdir=")) {
                    (Some(upper), _) => upper,
                    (None, lowers) => lowers?.split(':').next()?,
                }
            }
            _ => return None,
        };
        let path = path.strip_prefix(&self.root)?.strip_prefix('/')?;
        let name = match path.split_once('/')? {
            ("l", name) => name,
            (LIMITED, below) => below.strip_suffix(UPPER)?.strip_suffix('/')?,
            (MOUNT_POINTS, below) => below.strip_suffix(IMAGE_TOP)?.strip_suffix('/')?,
            _ => return None,
        };
        name.parse().ok()
    }

    fn overlay(
        &self,
        written: Option<(String, String)>,
        lowers: &[String],
        mut options: Vec<String>,
    ) -> Result<Mount, Error> {
        if lowers.len() > MAX_LOWERS {
            return Err(Error::TooDeep {
                layers: lowers.len(),
                limit: MAX_LOWERS,
            });
        }
        if let Some((upper, work)) = written {
            options.push(format!("workdir={work}"));
            options.push(format!("upperdir={upper}"));
        }
        options.push(format!("lowerdir={}", lowers.join(":")));
        options.extend(self.options.iter().cloned());
        self.check_length(&options, lowers.len())?;
        Ok(Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options,
        })
    }

    /// The kernel copies one page, ends it with a NUL and drops the rest without a word.
    fn check_length(&self, options: &[String], layers: usize) -> Result<(), Error> {
        let limit = self.page - 1;
        let (_, shortest) = shorten(options, self.page);
        let bytes = data(&shortest).len();
        if bytes > limit {
            return Err(Error::TooLong {
                bytes,
                limit,
                layers,
            });
        }
        Ok(())
    }
}

fn bind(source: String, mut options: Vec<String>, writable: bool) -> Mount {
    let access = if writable { "rw" } else { "ro" };
    options.extend([access.to_owned(), "rbind".to_owned()]);
    Mount {
        kind: "bind".to_owned(),
        source,
        options,
    }
}

fn map_options(stack: &Stack) -> Vec<String> {
    let Some(ids) = &stack.ids else {
        return Vec::new();
    };
    [("uidmap", &ids.uid), ("gidmap", &ids.gid)]
        .into_iter()
        .filter(|(_, ranges)| !ranges.is_empty())
        .map(|(name, ranges)| format!("{name}={}", join(ranges)))
        .collect()
}

fn join(ranges: &[IdMap]) -> String {
    let ranges: Vec<String> = ranges.iter().map(IdMap::to_string).collect();
    ranges.join(",")
}

fn expressible(path: &str) -> bool {
    let plain = |c: char| !matches!(c, ':' | ',' | '\\') && !c.is_control();
    path.len() > 1 && path.starts_with('/') && !path.ends_with('/') && path.chars().all(plain)
}

fn allowed(option: &str) -> bool {
    let name = option.split_once('=').map_or(option, |(name, _)| name);
    let ours = [
        "lowerdir", "upperdir", "workdir", "ro", "rw", "uidmap", "gidmap",
    ];
    let lowers = ["lowerdir+", "datadir+", "upperdir+"];
    let printable = |c: char| c.is_ascii_graphic() && c != ',' && c != '\\';
    !name.is_empty()
        && !ours.contains(&name)
        && !lowers.contains(&name)
        && option.chars().all(printable)
}

#[cfg(test)]
mod tests;
