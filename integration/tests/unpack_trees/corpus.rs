//! Random stacks of layers, with everything that layers are seen to hold and much that no program
//! writes on purpose. The same seed makes the same bytes.

use std::collections::{BTreeMap, BTreeSet};

use super::archive::{self, Form, Map, Member, Sparse};
use super::paths::{PLAIN, is_within, join, parent, plain};
use super::random::Random;

/// The archives of a stack, the base first.
pub(crate) fn stack(seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    let mut below = Below::default();
    let layers = 2 + random.below(5);
    (0..layers)
        .map(|_| Layer::new(&mut random, &mut below).write())
        .collect()
}

/// State of a path in a layer so far, as far as it limits the next entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    Directory,
    File,
    Link,
    Other,
    Gone,
}

/// State of paths in the lower layers.
#[derive(Default)]
pub(crate) struct Below {
    pub(crate) paths: Vec<Vec<u8>>,
    /// Where something was once that is no directory: containerd looks for the attributes of
    /// directories beyond it and fails.
    pub(crate) barred: BTreeSet<Vec<u8>>,
}

pub(crate) struct Layer<'a> {
    pub(crate) random: &'a mut Random,
    pub(crate) made: BTreeMap<Vec<u8>, Made>,
    /// Directories with members of their own. They stay: containerd sets their times at the end,
    /// whatever is there by then (see `accidents.rs`).
    lasting: BTreeSet<Vec<u8>>,
    pub(crate) below: &'a mut Below,
    /// Every directory has a member of its own.
    pub(crate) complete: bool,
    /// There may be opaque marks. Where they are executed, containerd also deletes what came with
    /// the layer if it lies in a directory without a member.
    opaque: bool,
    /// Something may lie elsewhere than its path says, where a deletion could meet it: containerd
    /// deletes in a mount also what came with the layer.
    linked: bool,
    form: Form,
    out: Vec<u8>,
}

const FRACTIONS: &[u32] = &[0, 0, 1, 123_456_789, 500_000_000, 999_999_999];

const XATTRS: &[&str] = &[
    "user.a",
    "user.b.c",
    "security.capability",
    "trusted.x",
    "user.ü",
];

/// A capability set of revision 2: `cap_net_raw+ep`.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

impl<'a> Layer<'a> {
    fn new(random: &'a mut Random, below: &'a mut Below) -> Self {
        let form = *random.pick(&[Form::Pax, Form::Pax, Form::Gnu, Form::Ustar]);
        let complete = random.one_in(2);
        Self {
            random,
            made: BTreeMap::new(),
            lasting: BTreeSet::new(),
            below,
            complete,
            opaque: complete,
            linked: false,
            form,
            out: Vec::new(),
        }
    }

    fn write(mut self) -> Vec<u8> {
        for _ in 0..3 + self.random.below(30) {
            self.member();
        }
        for (path, made) in self.made {
            if made != Made::Directory {
                self.below.barred.insert(path.clone());
            }
            if made != Made::Gone {
                self.below.paths.push(path);
            }
        }
        archive::end(&mut self.out);
        self.out
    }

    fn member(&mut self) {
        match self.random.below(100) {
            0..25 => self.directory(),
            25..50 => self.file(),
            50..60 => self.symlink(),
            60..68 => self.hard_link(),
            68..80 => self.whiteout(),
            80..86 => self.opaque(),
            86..92 => self.special(),
            92..95 => self.sparse(),
            95..98 => self.again(),
            _ => self.top(),
        }
    }

    fn directory(&mut self) {
        let path = self.path();
        if path.ends_with(b"by-link") {
            return;
        }
        let mut member = self.dressed(b'5', path);
        if self.random.one_in(2) {
            member.name.push(b'/');
        }
        self.add(member, Made::Directory);
    }

    fn file(&mut self) {
        let path = self.path();
        let mut member = self.dressed(b'0', path);
        let size = *self.random.pick(&[0, 1, 100, 511, 512, 513, 5000, 70_000]);
        member.content = self.bytes(size);
        if self.random.one_in(20) {
            // As v7 had it; with a slash at its end it is a directory.
            member.flag = 0;
        }
        self.add(member, Made::File);
    }

    fn symlink(&mut self) {
        let path = self.path();
        let mut member = self.dressed(b'2', path);
        let other = self.any_path();
        member.link = match self.random.below(8) {
            0 => [b"/", &other[..]].concat(),
            1 => [b"../", &other[..]].concat(),
            2 => b"../../../../../../etc".to_vec(),
            3 => b"/".to_vec(),
            4 => b".".to_vec(),
            5 => vec![b'l'; 150],
            _ => self.random.pick(PLAIN).to_vec(),
        };
        self.add(member, Made::Link);
    }

    /// Of this layer's files mostly; of one below it is an error.
    fn hard_link(&mut self) {
        let of = |wanted: &[Made]| -> Vec<Vec<u8>> {
            let fits = |(_, made): &(&Vec<u8>, &Made)| wanted.contains(made);
            let fitting = self.made.iter().filter(fits);
            fitting.map(|(path, _)| path.clone()).collect()
        };
        let mut targets = of(&[Made::File, Made::File, Made::Other, Made::Link]);
        if self.random.one_in(60) {
            targets.clone_from(&self.below.paths);
        }
        if targets.is_empty() {
            return self.file();
        }
        let target = self.random.pick(&targets).clone();
        let path = self.path();
        if target.starts_with(&path) && !self.random.one_in(30) {
            return;
        }
        let mut member = self.dressed(b'1', path);
        member.link = self.spelled(&target);
        let made = self.made.get(&target).copied().unwrap_or(Made::File);
        self.add(member, made);
    }

    fn whiteout(&mut self) {
        let path = if self.random.one_in(3) || self.below.paths.is_empty() {
            self.path()
        } else {
            self.random.pick(&self.below.paths).clone()
        };
        let there = self
            .made
            .range(path.clone()..)
            .next()
            .is_some_and(|(other, made)| {
                other.starts_with(&path) && (*made != Made::Gone || other == &path)
            });
        // A deletion of what the same layer made is an error where devices stand for deletions.
        if there || self.linked || !self.is_directory(parent(&path)) {
            return;
        }
        let name = &path[parent(&path).len()..];
        let name = name.strip_prefix(b"/").unwrap_or(name);
        if self.complete {
            self.add_parents(&path);
        }
        let marker = join(parent(&path), &[b".wh.", name].concat());
        let member = self.dressed(b'0', marker);
        archive::add(&mut self.out, &member, self.form);
        self.made.insert(path.clone(), Made::Gone);
        self.imply_parents(path);
    }

    fn opaque(&mut self) {
        if !self.opaque {
            return;
        }
        let path = if self.random.one_in(2) || self.below.paths.is_empty() {
            self.parent_path()
        } else {
            self.random.pick(&self.below.paths).clone()
        };
        if self.linked || !self.is_directory(&path) {
            return;
        }
        if self.complete {
            self.add_parents(&join(&path, b"x"));
        }
        let member = self.dressed(b'0', join(&path, b".wh..wh..opq"));
        archive::add(&mut self.out, &member, self.form);
        self.imply_parents(join(&path, b"x"));
    }

    /// True unless this layer or a lower one had something else than a directory there.
    fn is_directory(&self, path: &[u8]) -> bool {
        let is_made = path.is_empty() || self.made.get(path) == Some(&Made::Directory);
        let is_known = is_made || !self.below.barred.contains(path);
        self.can_hold(path) && is_known && !self.passes_link(path)
    }

    fn special(&mut self) {
        let path = self.path();
        let flag = *self.random.pick(b"346");
        let mut member = self.dressed(flag, path);
        member.device =
            *self
                .random
                .pick(&[(1, 3), (0, 1), (7, 0), (259, 70_000), (4095, 1 << 19)]);
        self.add(member, Made::Other);
    }

    fn sparse(&mut self) {
        if self.form == Form::Gnu {
            // containerd refuses the old form.
            return self.file();
        }
        let path = self.path();
        let mut member = self.dressed(b'0', path);
        let pieces = match self.random.below(4) {
            0 => vec![(0, 0)],
            1 => vec![(0, 512), (4096, 1000)],
            2 => vec![(65_536, 512), (131_072, 0)],
            _ => vec![(0, 1), (10_000, 4096), (100_000, 3)],
        };
        let stored = pieces.iter().map(|(_, length)| *length).sum::<u64>();
        member.content = self.bytes(usize::try_from(stored).expect("a few pages"));
        let end = pieces.last().map_or(0, |(offset, length)| offset + length);
        let size = end + *self.random.pick(&[0, 1, 8192, 1 << 20]);
        let map = *self.random.pick(&[Map::Header, Map::Records, Map::Content]);
        member.sparse = Some(Sparse { pieces, size, map });
        self.add(member, Made::File);
    }

    /// A path that is there becomes something else, or the same once more.
    fn again(&mut self) {
        let paths: Vec<_> = self.made.keys().cloned().collect();
        if paths.is_empty() {
            return self.directory();
        }
        let path = self.random.pick(&paths).clone();
        let (flag, made) = *self.random.pick(&[
            (b'5', Made::Directory),
            (b'0', Made::File),
            (b'6', Made::Other),
        ]);
        let member = self.dressed(flag, path);
        self.add(member, made);
    }

    fn top(&mut self) {
        let name = *self.random.pick(&[&b"./"[..], b".", b"/", b"..", b"a/.."]);
        let member = self.dressed(b'5', name.to_vec());
        archive::add(&mut self.out, &member, self.form);
    }

    fn add(&mut self, member: Member, made: Made) {
        let path = plain(&member.name);
        if path.is_empty() {
            return;
        }
        if made == Made::Directory {
            self.lasting.insert(path.clone());
        } else if self.lasts(&path) {
            return;
        }
        if self.complete {
            self.add_parents(&path);
        }
        archive::add(&mut self.out, &member, self.form);
        if made != Made::Directory {
            let inside = [&path[..], b"/"].concat();
            self.made.retain(|other, _| !other.starts_with(&inside));
        }
        self.linked |= self.passes_link(&path) || !self.is_directory(parent(&path));
        self.made.insert(path.clone(), made);
        self.imply_parents(path);
    }

    fn imply_parents(&mut self, mut path: Vec<u8>) {
        while let Some(at) = path.iter().rposition(|byte| *byte == b'/') {
            path.truncate(at);
            self.made.entry(path.clone()).or_insert(Made::Directory);
        }
    }

    fn add_parents(&mut self, path: &[u8]) {
        let parent = parent(path);
        if !parent.is_empty() && !self.made.contains_key(parent) {
            let member = self.dressed(b'5', parent.to_vec());
            self.add(member, Made::Directory);
        }
    }

    fn lasts(&self, path: &[u8]) -> bool {
        self.lasting.iter().any(|other| is_within(other, path))
    }

    fn dressed(&mut self, flag: u8, path: Vec<u8>) -> Member {
        let name = self.spelled(&path);
        let mut member = Member::new(flag, name);
        member.mode = *self
            .random
            .pick(&[0o755, 0o644, 0o4755, 0o2770, 0o1775, 0, 0o7775]);
        let owners = [0, 0, 1, 1000, 65_534, 2_097_151, 2_097_152, 4_000_000_000];
        member.owner = (*self.random.pick(&owners), *self.random.pick(&owners));
        let fraction = *self.random.pick(FRACTIONS);
        let seconds = *self
            .random
            .pick(&[0, 1, 1_600_000_000, 1_234_567_890, 4_294_967_296]);
        member.modified = (seconds, fraction);
        if self.form == Form::Gnu {
            member.modified.1 = 0;
            return member;
        }
        if self.random.one_in(6) {
            member.accessed = Some((*self.random.pick(&[1, 1_700_000_000]), fraction));
        }
        if self.random.one_in(5) {
            let name = *self.random.pick(XATTRS);
            let length = *self.random.pick(&[0, 1, 40, 300]);
            let value = match name {
                "security.capability" => CAPABILITY.to_vec(),
                _ => self.bytes(length),
            };
            // The kernel takes this one on regular files only, as everybody writes it.
            if name != "security.capability" || matches!(flag, b'0') {
                member.xattrs.push((name, value));
            }
        }
        member
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let first = self.random.next().to_le_bytes()[0];
        (0..=255).cycle().skip(first.into()).take(length).collect()
    }
}
