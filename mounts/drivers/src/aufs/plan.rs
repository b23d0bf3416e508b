//! From a stack to the mounts that make it. Pure.
//!
//! The first mount has as many branches as fit into the page of options that mount(2) takes, and
//! remounts append the others, as Docker's driver did. AUFS also takes a limited number of options a
//! call, and counts each branch as one. Numbers and options are those of aufs(5) and of Docker's driver;
//! there was no kernel to try them on.

use std::path::Path;

use layerd_mounts::{Error, Mount, Slot};

use crate::driver::Stack;

/// Branches of one mount, the writable one included (CONFIG_AUFS_BRANCH_MAX_127, the default).
const MOST_BRANCHES: usize = 127;
/// Branches that one call gives. AUFS keeps the options of a call in one page.
const MOST_AT_ONCE: usize = 64;
/// Place of the table of inode numbers, on a file system that AUFS takes for it.
const XINO: &str = "xino=/dev/shm/aufs.xino";

/// Where branches are, and how they are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    root: String,
    page: usize,
    /// Set if AUFS takes the option, with which a directory's mode is that of its topmost branch alone.
    pub(super) dirperm1: bool,
}

impl Layout {
    /// Branches below `root`, an absolute path without symlinks; a page of memory has `page` bytes.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] if mount options cannot carry the path.
    pub(super) fn new(root: &Path, page: usize, dirperm1: bool) -> Result<Self, Error> {
        let plain = |c: char| !matches!(c, ':' | ',' | '=' | '\\') && !c.is_control();
        let text = root
            .to_str()
            .filter(|path| path.len() > 1 && path.chars().all(plain));
        let root = text.ok_or_else(|| Error::Unsuitable {
            path: root.to_owned(),
            check: "path",
            problem: "mount options cannot carry it".to_owned(),
            advice: "choose an absolute path in UTF-8 that is not `/` and has no colon, comma, \
                     equals sign, backslash or control character"
                .to_owned(),
        })?;
        Ok(Self {
            root: root.to_owned(),
            page,
            dirperm1,
        })
    }

    /// Directory of a layer.
    pub(super) fn layer(&self, slot: Slot) -> String {
        format!("{}/{}/{slot}", self.root, super::LAYERS)
    }

    /// The mounts of `stack`.
    ///
    /// # Errors
    /// As [`Driver::plan`](crate::Driver::plan).
    pub(super) fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error> {
        if stack.ids.is_some() {
            return Err(Error::NotAStack {
                problem: "the driver maps no ids",
            });
        }
        let own = match stack.writable {
            true => Some(stack.writable_layer()?),
            false => stack.own,
        };
        match (own, stack.parents.as_slice(), stack.writable) {
            (None, [], _) => Err(Error::NotAStack {
                problem: "it has no layers",
            }),
            (Some(own), [], writable) => Ok(vec![self.bind(own, writable)]),
            (_, [parent], false) => Ok(vec![self.bind(*parent, false)]),
            (own, parents, writable) => self.union(own.filter(|_| writable), parents),
        }
    }

    fn bind(&self, slot: Slot, writable: bool) -> Mount {
        let access = if writable { "rw" } else { "ro" };
        Mount {
            kind: "bind".to_owned(),
            source: self.layer(slot),
            options: vec![access.to_owned(), "rbind".to_owned()],
        }
    }

    fn union(&self, own: Option<Slot>, parents: &[Slot]) -> Result<Vec<Mount>, Error> {
        let branches = parents.len() + usize::from(own.is_some());
        if branches > MOST_BRANCHES {
            return Err(Error::TooDeep {
                layers: parents.len(),
                limit: MOST_BRANCHES - usize::from(own.is_some()),
            });
        }
        let upper = own.map(|own| format!("{}=rw", self.layer(own)));
        let lowers = parents
            .iter()
            .map(|slot| format!("{}=ro+wh", self.layer(*slot)));
        let mut branches = upper.into_iter().chain(lowers).peekable();
        let mut mounts = Vec::new();
        while branches.peek().is_some() {
            let mut given = Vec::new();
            let mut bytes = self.rest(mounts.is_empty()).len();
            while let Some(branch) = branches.peek() {
                // With `append:` or a colon before it, and a comma.
                let more = branch.len() + "append:,".len();
                if given.len() == MOST_AT_ONCE || bytes + more >= self.page {
                    break;
                }
                bytes += more;
                given.extend(branches.next());
            }
            if given.is_empty() {
                return Err(Error::TooLong {
                    bytes: bytes + branches.peek().map_or(0, String::len),
                    limit: self.page - 1,
                    layers: parents.len(),
                });
            }
            mounts.push(self.mount(own.is_some(), mounts.is_empty(), &given));
        }
        Ok(mounts)
    }

    /// Options of the first mount beside its branches; of others none.
    fn rest(&self, is_first: bool) -> String {
        match (is_first, self.dirperm1) {
            (false, _) => String::new(),
            (true, false) => format!("br:,dio,{XINO}"),
            (true, true) => format!("br:,dio,{XINO},dirperm1"),
        }
    }

    fn mount(&self, writable: bool, is_first: bool, branches: &[String]) -> Mount {
        let mut options = Vec::new();
        if !writable {
            // A remount that does not say it would make the mount writable.
            options.push("ro".to_owned());
        }
        if is_first {
            options.push(format!("br:{}", branches.join(":")));
            options.extend(["dio".to_owned(), XINO.to_owned()]);
            options.extend(self.dirperm1.then(|| "dirperm1".to_owned()));
        } else {
            options.push("remount".to_owned());
            options.extend(branches.iter().map(|branch| format!("append:{branch}")));
        }
        Mount {
            kind: "aufs".to_owned(),
            source: "none".to_owned(),
            options,
        }
    }

    /// Which layer a mount shows on top, as [`Driver::top_of`](crate::Driver::top_of).
    pub(super) fn top_of(&self, mount: &Mount) -> Option<Slot> {
        let path = match mount.kind.as_str() {
            "bind" => mount.source.as_str(),
            "aufs" => {
                let mut options = mount.options.iter();
                let branches = options.find_map(|option| option.strip_prefix("br:"))?;
                branches.split('=').next()?
            }
            _ => return None,
        };
        let path = path.strip_prefix(&self.root)?.strip_prefix('/')?;
        path.strip_prefix(super::LAYERS)?
            .strip_prefix('/')?
            .parse()
            .ok()
    }
}
