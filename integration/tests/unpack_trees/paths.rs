//! Which paths the members of a made-up layer have, and how they are spelled.

use super::corpus::{Layer, Made};

pub(crate) const PLAIN: &[&[u8]] = &[b"a", b"b", b"c", b"d", b"e"];

const ODD: &[&[u8]] = &[
    b".hidden",
    b"..x",
    b"x..",
    b"...",
    b".wh",
    b"wh.",
    b"with space",
    b"new\nline",
    b"-dash",
    b"*",
    b"\\",
    b"\xc3\xbc",
    b"\xff\xfe",
    b"tab\t",
    b"%41",
    b"a:b",
    b"=",
    b"~",
];

impl Layer<'_> {
    /// A path to make something at, whose directory can be.
    pub(crate) fn path(&mut self) -> Vec<u8> {
        let parent = self.parent_path();
        if self.passes_link(&parent) {
            let parent = if self.complete { &[] } else { &parent[..] };
            return join(parent, b"by-link");
        }
        join(&parent, &self.name())
    }

    pub(crate) fn passes_link(&self, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends = ends.map(|(at, _)| at).chain([path.len()]);
        let made = |end: usize| self.made.get(&path[..end]);
        ends.map(made).any(|made| made == Some(&Made::Link))
    }

    pub(crate) fn parent_path(&mut self) -> Vec<u8> {
        for _ in 0..8 {
            let path = match self.random.below(10) {
                0..2 => Vec::new(),
                2..5 => self.of_made(Made::Directory),
                5 if !self.complete => self.of_made(Made::Link),
                6..8 if !self.below.paths.is_empty() => self.random.pick(&self.below.paths).clone(),
                _ => self.any_path(),
            };
            if self.can_hold(&path) || self.random.one_in(150) {
                return path;
            }
        }
        Vec::new()
    }

    /// True unless a path above it is known to be no directory.
    pub(crate) fn can_hold(&self, path: &[u8]) -> bool {
        let mut end = path.len();
        loop {
            let made = self.made.get(&path[..end]);
            if matches!(made, Some(Made::File | Made::Other | Made::Gone)) {
                return false;
            }
            match path[..end].iter().rposition(|byte| *byte == b'/') {
                Some(at) => end = at,
                None => return true,
            }
            if self.below.barred.contains(&path[..end]) && !self.made.contains_key(path) {
                return false;
            }
        }
    }

    pub(crate) fn of_made(&mut self, wanted: Made) -> Vec<u8> {
        let fits = |(_, made): &(&Vec<u8>, &Made)| **made == wanted;
        let paths: Vec<_> = self
            .made
            .iter()
            .filter(fits)
            .map(|(path, _)| path.clone())
            .collect();
        if paths.is_empty() {
            return Vec::new();
        }
        self.random.pick(&paths).clone()
    }

    pub(crate) fn any_path(&mut self) -> Vec<u8> {
        let depth = 1 + self.random.below(3);
        (0..depth).fold(Vec::new(), |path, _| {
            let name: &[u8] = self.random.pick::<&[u8]>(PLAIN);
            join(&path, name)
        })
    }

    fn name(&mut self) -> Vec<u8> {
        match self.random.below(20) {
            0..3 => self.random.pick(ODD).to_vec(),
            3 => vec![b'n'; *self.random.pick(&[99, 100, 101, 156, 200, 255])],
            _ => self.random.pick(PLAIN).to_vec(),
        }
    }

    /// The same path as other programs may write it.
    pub(crate) fn spelled(&mut self, path: &[u8]) -> Vec<u8> {
        match self.random.below(16) {
            0..4 => [b"./", path].concat(),
            4 => [b"/", path].concat(),
            5 => [b"../", path].concat(),
            6 => [b"x/../", path].concat(),
            7 => [b".//", path].concat(),
            _ => path.to_vec(),
        }
    }
}

pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        name.to_vec()
    } else {
        [parent, b"/", name].concat()
    }
}

pub(crate) fn is_within(path: &[u8], top: &[u8]) -> bool {
    path.strip_prefix(top)
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

pub(crate) fn parent(path: &[u8]) -> &[u8] {
    let at = path.iter().rposition(|byte| *byte == b'/');
    &path[..at.unwrap_or(0)]
}

/// The path without what [`Layer::spelled`] added.
pub(crate) fn plain(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}
