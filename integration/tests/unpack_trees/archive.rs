//! Archives as other programs write them: each member in the form of a program's choice.

use layerd_integration::image::tar::{BLOCK, octal, pad, record, seal, text};

/// Encoding of numbers, long names and holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// POSIX, with extended headers.
    Pax,
    /// GNU tar of old: long names as members, binary numbers, whole seconds.
    Gnu,
    /// POSIX of 1988: what it cannot say is said as pax does.
    Ustar,
}

/// Encoding of a sparse file in pax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Map {
    /// A list in the extended header.
    Header,
    /// Pairs of records.
    Records,
    /// Lines before the content.
    Content,
}

/// Parts of a sparse file that are stored, and its length.
#[derive(Debug, Clone)]
pub(crate) struct Sparse {
    pub(crate) pieces: Vec<(u64, u64)>,
    pub(crate) size: u64,
    pub(crate) map: Map,
}

/// A time: seconds and nanoseconds.
pub(crate) type Time = (i64, u32);

/// One member.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) flag: u8,
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) modified: Time,
    pub(crate) accessed: Option<Time>,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: Vec<(&'static str, Vec<u8>)>,
    pub(crate) sparse: Option<Sparse>,
}

impl Member {
    /// A member of that type with the attributes most members have.
    pub(crate) fn new(flag: u8, name: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.into(),
            flag,
            mode: if flag == b'5' { 0o755 } else { 0o644 },
            owner: (0, 0),
            modified: (1_600_000_000, 0),
            accessed: None,
            link: Vec::new(),
            device: (0, 0),
            content: Vec::new(),
            xattrs: Vec::new(),
            sparse: None,
        }
    }
}

/// The most that octal digits can say of an owner.
const OCTAL_OWNER: u64 = 0o7_777_777;

/// Adds a member to an archive.
pub(crate) fn add(out: &mut Vec<u8>, member: &Member, form: Form) {
    match form {
        Form::Gnu => gnu(out, member),
        Form::Pax | Form::Ustar => posix(out, member, form),
    }
}

/// A whole archive.
pub(crate) fn of(members: &[Member], form: Form) -> Vec<u8> {
    let mut out = Vec::new();
    members
        .iter()
        .for_each(|member| add(&mut out, member, form));
    end(&mut out);
    out
}

/// Adds the end mark.
pub(crate) fn end(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK, 0);
}

fn gnu(out: &mut Vec<u8>, member: &Member) {
    for (flag, text) in [(b'L', &member.name), (b'K', &member.link)] {
        if text.len() > 100 {
            let mut content = text.clone();
            content.push(0);
            let mut head = header(&Member::new(flag, "././@LongLink"), content.len());
            put(out, &mut head, &content);
        }
    }
    let mut head = header(member, member.content.len());
    head[257..265].copy_from_slice(b"ustar  \0");
    binary(&mut head[108..116], member.owner.0, OCTAL_OWNER);
    binary(&mut head[116..124], member.owner.1, OCTAL_OWNER);
    if let Some(sparse) = &member.sparse {
        head[156] = b'S';
        for (index, (offset, length)) in sparse.pieces.iter().take(4).enumerate() {
            let at = 386 + 24 * index;
            octal(&mut head[at..at + 12], *offset);
            octal(&mut head[at + 12..at + 24], *length);
        }
        octal(&mut head[483..495], sparse.size);
    }
    put(out, &mut head, &member.content);
}

fn posix(out: &mut Vec<u8>, member: &Member, form: Form) {
    let mut content = member.content.clone();
    let mut notes = notes(member, form);
    if let Some(sparse) = &member.sparse {
        map(&mut notes, &mut content, sparse, &member.name);
    }
    if !notes.is_empty() {
        let mut head = header(&Member::new(b'x', "notes"), notes.len());
        put(out, &mut head, &notes);
    }
    let mut head = header(member, content.len());
    if form == Form::Ustar
        && let Some((prefix, name)) = split(&member.name)
    {
        text(&mut head[..100], name);
        text(&mut head[345..500], prefix);
    }
    put(out, &mut head, &content);
}

fn notes(member: &Member, form: Form) -> Vec<u8> {
    let mut out = Vec::new();
    let mut note = |key: &str, value: &[u8]| record(&mut out, key, value);
    if member.name.len() > 100 && !(form == Form::Ustar && split(&member.name).is_some()) {
        note("path", &member.name);
    }
    if member.link.len() > 100 {
        note("linkpath", &member.link);
    }
    for (key, owner) in [("uid", member.owner.0), ("gid", member.owner.1)] {
        if owner > OCTAL_OWNER {
            note(key, owner.to_string().as_bytes());
        }
    }
    if member.modified.1 != 0 || member.modified.0 < 0 {
        note("mtime", time(member.modified).as_bytes());
    }
    if let Some(accessed) = member.accessed {
        note("atime", time(accessed).as_bytes());
    }
    for (name, value) in &member.xattrs {
        note(&format!("SCHILY.xattr.{name}"), value);
    }
    out
}

fn map(notes: &mut Vec<u8>, content: &mut Vec<u8>, sparse: &Sparse, name: &[u8]) {
    let size = sparse.size.to_string();
    let numbers = || {
        sparse
            .pieces
            .iter()
            .flat_map(|(offset, length)| [*offset, *length])
    };
    let count = sparse.pieces.len().to_string();
    match sparse.map {
        Map::Header => {
            let list: Vec<String> = numbers().map(|number| number.to_string()).collect();
            record(notes, "GNU.sparse.size", size.as_bytes());
            record(notes, "GNU.sparse.numblocks", count.as_bytes());
            record(notes, "GNU.sparse.map", list.join(",").as_bytes());
        }
        Map::Records => {
            record(notes, "GNU.sparse.size", size.as_bytes());
            record(notes, "GNU.sparse.numblocks", count.as_bytes());
            for (index, number) in numbers().enumerate() {
                let key = ["GNU.sparse.offset", "GNU.sparse.numbytes"][index % 2];
                record(notes, key, number.to_string().as_bytes());
            }
        }
        Map::Content => {
            for (key, value) in [("major", "1"), ("minor", "0"), ("realsize", &size)] {
                record(notes, &format!("GNU.sparse.{key}"), value.as_bytes());
            }
            record(notes, "GNU.sparse.name", name);
            let lines = numbers().map(|number| format!("{number}\n"));
            let mut head: Vec<u8> = format!("{count}\n").into_bytes();
            head.extend(lines.flat_map(String::into_bytes));
            head.resize(head.len().next_multiple_of(BLOCK), 0);
            content.splice(..0, head);
        }
    }
}

fn header(member: &Member, size: usize) -> [u8; BLOCK] {
    let mut head = [0; BLOCK];
    text(&mut head[..100], &member.name);
    octal(&mut head[100..108], u64::from(member.mode));
    octal(&mut head[108..116], member.owner.0.min(OCTAL_OWNER));
    octal(&mut head[116..124], member.owner.1.min(OCTAL_OWNER));
    octal(&mut head[124..136], size as u64);
    octal(
        &mut head[136..148],
        member.modified.0.try_into().unwrap_or(0),
    );
    head[156] = member.flag;
    text(&mut head[157..257], &member.link);
    head[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut head[329..337], u64::from(member.device.0));
    octal(&mut head[337..345], u64::from(member.device.1));
    head
}

/// Seals a header and adds it with its content.
fn put(out: &mut Vec<u8>, head: &mut [u8; BLOCK], content: &[u8]) {
    seal(head);
    out.extend_from_slice(head);
    pad(out, content);
}

/// Writes a number beyond octal digits in binary, after a byte with its highest bit set.
fn binary(field: &mut [u8], value: u64, most: u64) {
    if value > most {
        field.fill(0);
        let at = field.len() - 8;
        field[at..].copy_from_slice(&value.to_be_bytes());
        field[0] |= 0x80;
    }
}

/// A prefix and a name that fit into ustar's two fields.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return None;
    }
    let fits = |at: &usize| path[*at] == b'/' && *at <= 155 && path.len() - at - 1 <= 100;
    let at = (1..path.len() - 1).find(fits)?;
    Some((&path[..at], &path[at + 1..]))
}

fn time((seconds, nanos): Time) -> String {
    if seconds >= 0 || nanos == 0 {
        return format!("{seconds}.{nanos:09}");
    }
    // The fraction of a negative time counts away from zero.
    format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos)
}
