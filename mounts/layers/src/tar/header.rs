//! One header block: fixed fields of text and numbers, and a sum of its bytes.

use crate::tar::BLOCK;

/// Where a field begins, and its length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field(pub(crate) usize, pub(crate) usize);

pub(crate) const NAME: Field = Field(0, 100);
pub(crate) const MODE: Field = Field(100, 8);
pub(crate) const UID: Field = Field(108, 8);
pub(crate) const GID: Field = Field(116, 8);
pub(crate) const SIZE: Field = Field(124, 12);
pub(crate) const MTIME: Field = Field(136, 12);
pub(crate) const SUM: Field = Field(148, 8);
pub(crate) const TYPE: usize = 156;
pub(crate) const LINK: Field = Field(157, 100);
pub(crate) const MAGIC: Field = Field(257, 8);
pub(crate) const MAJOR: Field = Field(329, 8);
pub(crate) const MINOR: Field = Field(337, 8);
pub(crate) const PREFIX: Field = Field(345, 155);
/// The shorter prefix of star's headers, and the time of last access behind it.
pub(crate) const STAR_PREFIX: Field = Field(345, 131);
pub(crate) const STAR_ATIME: Field = Field(476, 12);
/// Times of last access and of last change in GNU's headers, where ustar has the prefix.
pub(crate) const GNU_ATIME: Field = Field(345, 12);
pub(crate) const GNU_CTIME: Field = Field(357, 12);
/// Four pieces, offset and length of each, in a header of an old GNU sparse file.
pub(crate) const GNU_PIECES: Field = Field(386, 96);
pub(crate) const GNU_MORE: usize = 482;
pub(crate) const GNU_REAL_SIZE: Field = Field(483, 12);

/// The format of a header, by its magic numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Before any standard: neither prefix nor device numbers.
    V7,
    /// POSIX, with or without extended headers.
    Ustar,
    /// star's variant of ustar, with times.
    Star,
    /// GNU's, before it wrote extended headers.
    Gnu,
}

/// A header block.
#[derive(Debug, Clone)]
pub(crate) struct Header(pub(crate) [u8; BLOCK]);

impl Header {
    /// An empty one in the ustar format.
    pub(crate) fn new(kind: u8) -> Self {
        let mut header = Self([0; BLOCK]);
        header.0[TYPE] = kind;
        header.put(MAGIC, b"ustar\x0000");
        header
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    pub(crate) fn kind(&self) -> u8 {
        self.0[TYPE]
    }

    pub(crate) fn format(&self) -> Format {
        match &self.0[257..265] {
            [b'u', b's', b't', b'a', b'r', 0, ..] if &self.0[508..] == b"tar\0" => Format::Star,
            [b'u', b's', b't', b'a', b'r', 0, ..] => Format::Ustar,
            b"ustar  \0" => Format::Gnu,
            _ => Format::V7,
        }
    }

    /// The name, with the prefix where the format has one.
    pub(crate) fn name(&self) -> Vec<u8> {
        let name = self.text(NAME);
        let prefix = match self.format() {
            Format::V7 => b"",
            Format::Ustar => self.text(PREFIX),
            Format::Star => self.text(STAR_PREFIX),
            Format::Gnu => self.stray_prefix().unwrap_or_default(),
        };
        match prefix {
            b"" => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        }
    }

    /// Time of last access in seconds since 1970, where the format has a field for it and the
    /// field holds a time.
    pub(crate) fn accessed(&self) -> Option<i64> {
        let field = match self.format() {
            Format::V7 | Format::Ustar => return None,
            Format::Star => STAR_ATIME,
            Format::Gnu if self.stray_prefix().is_some() => return None,
            Format::Gnu => GNU_ATIME,
        };
        let is_set = self.0[field.0] != 0;
        self.signed(field).filter(|_| is_set)
    }

    /// The prefix that Go's archive/tar before 1.8 wrote into GNU headers, over the two times. It
    /// shows in times that are no numbers.
    fn stray_prefix(&self) -> Option<&[u8]> {
        let is_time = |field: Field| self.0[field.0] == 0 || self.signed(field).is_some();
        let prefix = self.text(PREFIX);
        (!(is_time(GNU_ATIME) && is_time(GNU_CTIME)) && prefix.is_ascii()).then_some(prefix)
    }

    pub(crate) fn field(&self, field: Field) -> &[u8] {
        &self.0[field.0..field.0 + field.1]
    }

    /// A field up to its first NUL.
    pub(crate) fn text(&self, field: Field) -> &[u8] {
        let field = self.field(field);
        let end = field.iter().position(|byte| *byte == 0);
        &field[..end.unwrap_or(field.len())]
    }

    /// A number that must not be negative; `None` if it is, or is none.
    pub(crate) fn number(&self, field: Field) -> Option<u64> {
        u64::try_from(number(self.field(field))?).ok()
    }

    /// A number that may be negative.
    pub(crate) fn signed(&self, field: Field) -> Option<i64> {
        i64::try_from(number(self.field(field))?).ok()
    }

    /// True if the checksum matches, over unsigned bytes, or over signed ones, as some old programs
    /// compute it.
    pub(crate) fn sum_matches(&self) -> bool {
        let Some(said) = self.signed(SUM) else {
            return false;
        };
        let bytes = || {
            self.0.iter().enumerate().map(|(at, byte)| match at {
                148..156 => b' ',
                _ => *byte,
            })
        };
        let unsigned: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        said == unsigned || said == signed
    }

    /// Sets a text, cut off where the field ends.
    pub(crate) fn put(&mut self, field: Field, text: &[u8]) {
        let length = text.len().min(field.1);
        self.0[field.0..field.0 + length].copy_from_slice(&text[..length]);
    }

    /// Sets a number in octal; false, and zero, if the field is too short for it.
    pub(crate) fn put_number(&mut self, field: Field, number: u64) -> bool {
        let digits = field.1 - 1;
        let fits = number >> (3 * digits) == 0;
        let number = if fits { number } else { 0 };
        self.put(field, format!("{number:0digits$o}").as_bytes());
        fits
    }

    /// The finished block.
    pub(crate) fn sealed(mut self) -> [u8; BLOCK] {
        self.put(SUM, b"        ");
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.put(SUM, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// A number in octal text, between blanks and NULs, or in binary where the first bit is set. What
/// follows a NUL behind the digits does not count.
pub(crate) fn number(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        return binary(field);
    }
    let is_filler = |byte: &u8| matches!(*byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_filler(byte));
    let Some(start) = start else {
        return Some(0);
    };
    let end = field.iter().rposition(|byte| !is_filler(byte))?;
    let text = field[start..=end].iter().take_while(|byte| **byte != 0);
    let mut value: i128 = 0;
    for byte in text {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value = value.checked_mul(8)?.checked_add(digit.into())?;
    }
    Some(value)
}

fn binary(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    // Two's complement, but for the first bit; the second one is the sign.
    let mut value: i128 = if first & 0x40 != 0 {
        i128::from(first) - 0x100
    } else {
        i128::from(first & 0x3f)
    };
    for byte in field.get(1..)? {
        value = value.checked_mul(256)?.checked_add(i128::from(*byte))?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::{GNU_ATIME, GNU_CTIME, Header, MAGIC, NAME, PREFIX, SIZE, number};

    #[test]
    fn reads_numbers_of_all_kinds() {
        let table: &[(&[u8], Option<i128>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"  644 \0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"\x001750\0\0\0", Some(0o1750)),
            (b"\0\0 644 \0", Some(0o644)),
            (b"644\0junk", Some(0o644)),
            (b"64 4\0\0\0\0", None),
            (b"77777777", Some(0o77_777_777)),
            (b"0000648\0", None),
            (b"-1\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\x01\x00", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\x00", Some(-256)),
            (b"", None),
        ];
        for (field, expected) in table {
            assert_eq!(number(field), *expected, "{field:?}");
        }
    }

    fn gnu(prefix: &[u8]) -> Header {
        let mut header = Header::new(b'0');
        header.put(MAGIC, b"ustar  \0");
        header.put(NAME, b"file");
        header.put(PREFIX, prefix);
        header
    }

    #[test]
    fn gnu_headers_have_times_or_a_stray_prefix() {
        let strays: [&[u8]; 4] = [b"some/prefix/dir", b"a", b"17", b"0000000000/12345678"];
        let names = strays.map(|prefix| gnu(prefix).name());
        let wanted: [&[u8]; 4] = [
            b"some/prefix/dir/file",
            b"a/file",
            b"file", // it could be a time
            b"0000000000/12345678/file",
        ];
        assert_eq!(names, wanted);
        assert_eq!(gnu("é".as_bytes()).name(), b"file");
        assert_eq!(gnu(b"").accessed(), None);
        let mut timed = gnu(b"");
        timed.put_number(GNU_ATIME, 1_500_000_000);
        timed.put_number(GNU_CTIME, 1_600_000_000);
        assert_eq!(
            (timed.name(), timed.accessed()),
            (b"file".to_vec(), Some(1_500_000_000))
        );
        assert_eq!(gnu(b"some/prefix/dir").accessed(), None);
    }

    #[test]
    fn stars_prefix_ends_before_its_times() {
        let mut header = Header::new(b'0');
        header.put(NAME, b"file");
        header.put(PREFIX, &[b'p'; 131]);
        header.0[476..488].copy_from_slice(b"00000000017\0");
        assert_eq!(header.accessed(), None);
        header.0[508..].copy_from_slice(b"tar\0");
        let wanted = [&[b'p'; 131][..], b"/file"].concat();
        assert_eq!((header.name(), header.accessed()), (wanted, Some(0o17)));
    }

    #[test]
    fn seals_what_it_checks() {
        let mut header = Header::new(b'0');
        assert!(header.put_number(SIZE, 0o77_777_777_777));
        assert!(!header.clone().put_number(SIZE, 0o100_000_000_000));
        let mut sealed = Header(header.sealed());
        assert!(sealed.sum_matches());
        assert_eq!(sealed.number(SIZE), Some(0o77_777_777_777));
        sealed.0[0] ^= 1;
        assert!(!sealed.sum_matches());
    }
}
