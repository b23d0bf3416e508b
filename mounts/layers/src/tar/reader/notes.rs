//! Records of extended headers, which override the header of the file that follows.

use rustix::fs::Timespec;

use crate::tar::acl;
use crate::tar::entry::{Entry, EntryKind};
use crate::tar::header::{self, Format, Header};
use crate::tar::pax;
use crate::tar::sparse::{self, MOST_PIECES, Pieces};

/// A record that only layerd writes: the entry is that of the top directory, and counts. Layers of
/// other programs have entries for it that were never meant for it: containerd passes over all.
pub(crate) const TOP: &[u8] = b"LAYERD.top";

/// The records that matter, the last of each.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<Timespec>,
    accessed: Option<Timespec>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) comment: Option<Vec<u8>>,
    sparse: Sparse,
    top: bool,
    /// Set to read as containerd reads a layer: without access lists in text.
    layer: bool,
}

/// The four ways in which GNU tar says where the content of a sparse file belongs.
#[derive(Debug, Clone, Default)]
struct Sparse {
    major: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    offsets: Vec<u64>,
    lengths: Vec<u64>,
    list: Option<Pieces>,
}

/// Where the map of a sparse file is.
pub(super) enum Where {
    /// It is not sparse.
    Nowhere,
    Here(Pieces),
    InContent,
}

type Problem = &'static str;

impl Notes {
    /// None yet, of a layer.
    pub(super) fn of_layer() -> Self {
        Self {
            layer: true,
            ..Self::default()
        }
    }

    /// These, and over them the records of one more header.
    pub(super) fn with(&self, data: &[u8]) -> Result<Self, Problem> {
        let mut notes = self.clone();
        for (key, value) in pax::parse(data).ok_or("a damaged extended header")? {
            notes.take(key, value)?;
        }
        Ok(notes)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        match key {
            b"path" => self.path = text(value),
            b"linkpath" => self.link = text(value),
            b"comment" => self.comment = text(value),
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" => self.modified = time(value)?,
            b"atime" => self.accessed = time(value)?,
            TOP => self.top = value == b"1",
            b"SCHILY.acl.access" => self.acl(b"system.posix_acl_access", value)?,
            b"SCHILY.acl.default" => self.acl(b"system.posix_acl_default", value)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattr(pax::unescape(name), value.to_vec());
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.take(key, value)?;
                }
            }
        }
        Ok(())
    }

    fn acl(&mut self, name: &[u8], text: &[u8]) -> Result<(), Problem> {
        if text.is_empty() || self.layer {
            return Ok(());
        }
        let value = acl::parse(text)
            .ok_or("an access list with names; made with --xattrs --xattrs-include=* and without --acls, it has numbers")?;
        self.xattr(name.to_vec(), value);
        Ok(())
    }

    fn xattr(&mut self, name: Vec<u8>, value: Vec<u8>) {
        match self.xattrs.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.xattrs.push((name, value)),
        }
    }

    /// True if all records may stand in a global header.
    pub(super) fn fit_all_files(&self) -> bool {
        self.path.is_none()
            && self.link.is_none()
            && self.size.is_none()
            && self.xattrs.is_empty()
            && self.sparse.is_unset()
    }

    /// Bytes of content in the archive.
    pub(super) fn stored(&self, header: &Header) -> Option<u64> {
        self.size.or_else(|| header.number(header::SIZE))
    }

    /// Length of a sparse file.
    pub(super) fn real_size(&self) -> Option<u64> {
        self.sparse.size.filter(|_| self.is_sparse())
    }

    /// True if the parts of a sparse file are known. Go's reader takes a file without parts
    /// for one that is not sparse.
    fn is_sparse(&self) -> bool {
        let sparse = &self.sparse;
        let listed = sparse.list.as_ref().is_some_and(|list| !list.is_empty());
        sparse.major.is_some() || listed || !sparse.offsets.is_empty() || !self.layer
    }

    /// Where the content belongs.
    pub(super) fn pieces(&self) -> Result<Where, Problem> {
        let sparse = &self.sparse;
        if !self.is_sparse() {
            return Ok(Where::Nowhere);
        }
        match (sparse.major, &sparse.list) {
            (Some(1), _) if sparse.size.is_some() => Ok(Where::InContent),
            (Some(1), _) => Err("a sparse file without its real size"),
            (Some(2..), _) => Err("a sparse file of a kind that is not known"),
            (_, Some(list)) => Ok(Where::Here(list.clone())),
            _ if sparse.offsets.len() != sparse.lengths.len() => Err("a bad map of a sparse file"),
            _ if sparse.offsets.is_empty() && sparse.size.is_none() => Ok(Where::Nowhere),
            _ => {
                let offsets = sparse.offsets.iter().copied();
                Ok(Where::Here(
                    offsets.zip(sparse.lengths.iter().copied()).collect(),
                ))
            }
        }
    }

    /// The file of `header`, with what these notes and the GNU long names say of it. Sizes are
    /// left to the reader.
    pub(super) fn entry(
        &self,
        header: &Header,
        (long_path, long_link): (Option<Vec<u8>>, Option<Vec<u8>>),
    ) -> Result<Entry, Problem> {
        // Where an archive has both, Go's reader goes by GNU's long names, others by pax.
        let (path, link) = match self.layer {
            true => (
                long_path.or_else(|| self.path.clone()),
                long_link.or_else(|| self.link.clone()),
            ),
            false => (
                self.path.clone().or(long_path),
                self.link.clone().or(long_link),
            ),
        };
        let name = self.sparse.name.clone().filter(|_| self.is_sparse());
        let path = name.or(path);
        let path = path.unwrap_or_else(|| header.name());
        let mtime = || header.signed(header::MTIME);
        let modified = match self.modified {
            Some(time) => time,
            None => whole_seconds(mtime().ok_or("a time that is no number")?),
        };
        let permissions = header
            .number(header::MODE)
            .ok_or("a mode that is no number")?;
        let kind = kind(header, &path, self.layer)?;
        Ok(Entry {
            kind,
            path,
            permissions: u32::try_from(permissions & 0o7777).unwrap_or_default(),
            uid: self
                .uid
                .or_else(|| header.number(header::UID))
                .ok_or("an owner that is no number")?,
            gid: self
                .gid
                .or_else(|| header.number(header::GID))
                .ok_or("a group that is no number")?,
            modified,
            accessed: self
                .accessed
                .or_else(|| header.accessed().map(whole_seconds)),
            size: 0,
            stored: 0,
            pieces: None,
            link: link.unwrap_or_else(|| header.text(header::LINK).to_vec()),
            number: device(header, kind)?,
            top: self.top,
            xattrs: self.xattrs.clone(),
        })
    }
}

impl Sparse {
    fn is_unset(&self) -> bool {
        self.major.is_none()
            && self.name.is_none()
            && self.size.is_none()
            && self.offsets.is_empty()
            && self.lengths.is_empty()
            && self.list.is_none()
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        match key {
            b"major" => self.major = number(value)?,
            b"name" => self.name = text(value),
            b"realsize" | b"size" => self.size = number(value)?,
            b"offset" => self.offsets.extend(number(value)?),
            b"numbytes" => self.lengths.extend(number(value)?),
            b"map" => self.list = Some(sparse::of_list(value).ok_or("a bad map of a sparse file")?),
            _ => {}
        }
        if self.offsets.len() > MOST_PIECES || self.lengths.len() > MOST_PIECES {
            return Err("a map of a sparse file that is too large");
        }
        Ok(())
    }
}

/// An empty value takes back what a header before said, as for all records.
fn text(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

fn whole_seconds(seconds: i64) -> Timespec {
    Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    }
}

/// As [`text`].
fn number(value: &[u8]) -> Result<Option<u64>, Problem> {
    if value.is_empty() {
        return Ok(None);
    }
    pax::decimal(value).map(Some).ok_or("a number that is none")
}

fn time(value: &[u8]) -> Result<Option<Timespec>, Problem> {
    if value.is_empty() {
        return Ok(None);
    }
    pax::time(value).map(Some).ok_or("a time that is none")
}

fn kind(header: &Header, path: &[u8], layer: bool) -> Result<EntryKind, Problem> {
    match header.kind() {
        // Before ustar a directory was a file whose name ends in a slash.
        0 if path.ends_with(b"/") => Ok(EntryKind::Directory),
        b'0' if path.ends_with(b"/") && !layer => Ok(EntryKind::Directory),
        0 | b'0' | b'7' | b'S' => Ok(EntryKind::File),
        b'1' => Ok(EntryKind::HardLink),
        b'2' => Ok(EntryKind::Symlink),
        b'3' => Ok(EntryKind::Character),
        b'4' => Ok(EntryKind::Block),
        b'5' => Ok(EntryKind::Directory),
        b'6' => Ok(EntryKind::Fifo),
        b'M' => Err("a file that began in another volume"),
        b'D' => Err("an incremental archive"),
        _ => Err("a file of a type that is not known"),
    }
}

fn device(header: &Header, kind: EntryKind) -> Result<(u32, u32), Problem> {
    let has_number = matches!(kind, EntryKind::Character | EntryKind::Block);
    if !has_number || header.format() == Format::V7 {
        return Ok((0, 0));
    }
    let part = |field| u32::try_from(header.number(field)?).ok();
    let number = part(header::MAJOR).zip(part(header::MINOR));
    number.ok_or("a device number that is none")
}
