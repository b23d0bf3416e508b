//! From a stack to the mounts that make it. Pure.
//!
//! Clients read paths back out of the options (they write straight into `upperdir=`, and split
//! `lowerdir=` at colons) without undoing overlayfs's escapes. So nothing is escaped here: a root
//! whose path would need it is refused by [`Layout::new`].

use std::path::{Path, PathBuf};

use crate::driver::{IdMap, Mount, Stack};
use crate::error::Error;
use crate::slot::Slot;

/// Lower layers that overlayfs stacks in one mount.
pub const MAX_LOWERS: usize = 500;

/// Room that containerd leaves below a page before it shortens the options.
const RESERVE: usize = 512;

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

    /// Directory of a layer.
    #[must_use]
    pub fn layer(&self, slot: Slot) -> String {
        match slot {
            Slot::FLOOR => format!("{}/e", self.root),
            slot => format!("{}/l/{slot}", self.root),
        }
    }

    /// Work directory of a writable layer.
    #[must_use]
    pub fn work(&self, slot: Slot) -> String {
        format!("{}/w/{slot}", self.root)
    }

    /// Options that every overlay mount gets.
    #[must_use]
    pub fn options(&self) -> &[String] {
        &self.options
    }

    /// The mounts of `stack`: as containerd's overlayfs snapshotter gives them.
    ///
    /// # Errors
    /// As [`Driver::plan`](crate::Driver::plan).
    pub fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error> {
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
            (Some(own), [], writable) => self.bind(own, maps, writable),
            (_, [parent], false) => self.bind(*parent, maps, false),
            (Some(own), parents, true) => self.overlay(Some(own), parents, maps)?,
            (_, parents, false) => self.overlay(None, parents, maps)?,
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
        let name = path.strip_prefix(&self.root)?.strip_prefix("/l/")?;
        name.parse().ok()
    }

    fn bind(&self, slot: Slot, mut options: Vec<String>, writable: bool) -> Mount {
        let access = if writable { "rw" } else { "ro" };
        options.extend([access.to_owned(), "rbind".to_owned()]);
        Mount {
            kind: "bind".to_owned(),
            source: self.layer(slot),
            options,
        }
    }

    fn overlay(
        &self,
        own: Option<Slot>,
        parents: &[Slot],
        mut options: Vec<String>,
    ) -> Result<Mount, Error> {
        if parents.len() > MAX_LOWERS {
            return Err(Error::TooDeep {
                layers: parents.len(),
                limit: MAX_LOWERS,
            });
        }
        if let Some(own) = own {
            options.push(format!("workdir={}", self.work(own)));
            options.push(format!("upperdir={}", self.layer(own)));
        }
        let lowers: Vec<String> = parents.iter().map(|slot| self.layer(*slot)).collect();
        options.push(format!("lowerdir={}", lowers.join(":")));
        options.extend(self.options.iter().cloned());
        self.check_length(&options, parents.len())?;
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

/// Shortens overlay options that are near the size of a page: the lower directories become
/// relative to the directory they share, which is returned as well. containerd does the same at
/// the same length, so what fits here fits there.
#[must_use]
pub fn shorten(options: &[String], page: usize) -> (Option<PathBuf>, Vec<String>) {
    let total: usize = options.iter().map(String::len).sum();
    if total + RESERVE < page {
        return (None, options.to_vec());
    }
    match relative_lowers(options) {
        Some((shared, options)) => (Some(shared), options),
        None => (None, options.to_vec()),
    }
}

/// What mount(2) gets as its data: the options that neither are flags nor meant for the client.
#[must_use]
pub fn data(options: &[String]) -> String {
    let kept: Vec<&str> = options
        .iter()
        .map(String::as_str)
        .filter(|option| !option.starts_with("uidmap=") && !option.starts_with("gidmap="))
        .collect();
    kept.join(",")
}

fn relative_lowers(options: &[String]) -> Option<(PathBuf, Vec<String>)> {
    let at = options.iter().position(|o| o.starts_with("lowerdir="))?;
    let lowers: Vec<&str> = options[at]["lowerdir=".len()..].split(':').collect();
    let shared = shared_parent(&lowers)?;
    let relative: Vec<&str> = lowers
        .iter()
        .map(|lower| &lower[shared.len() + 1..])
        .collect();
    let mut shorter = options.to_vec();
    shorter[at] = format!("lowerdir={}", relative.join(":"));
    Some((PathBuf::from(shared), shorter))
}

/// The directory that holds all of two or more paths, without a slash at its end; `None` if that
/// is the root directory.
fn shared_parent<'a>(paths: &[&'a str]) -> Option<&'a str> {
    let [first, rest @ ..] = paths else {
        return None;
    };
    if rest.is_empty() {
        return None;
    }
    let same = rest.iter().fold(first.len(), |shortest, path| {
        let equal = first.bytes().zip(path.bytes());
        shortest.min(equal.take_while(|(a, b)| a == b).count())
    });
    let end = first.as_bytes()[..same].iter().rposition(|b| *b == b'/')?;
    (end > 0).then(|| &first[..end])
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
