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
/// Four pieces, offset and length of each, in a header of an old GNU sparse file.
pub(crate) const GNU_PIECES: Field = Field(386, 96);
pub(crate) const GNU_MORE: usize = 482;
pub(crate) const GNU_REAL_SIZE: Field = Field(483, 12);

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

    /// Whether the prefix field belongs to the name.
    pub(crate) fn is_ustar(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
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

    /// Whether the sum of the bytes is what the header says, counted as unsigned bytes, or as
    /// signed ones, as some old programs did.
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

/// A number in octal text, between blanks, or in binary where the first bit is set.
pub(crate) fn number(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        return binary(field);
    }
    let text = field.iter().skip_while(|byte| **byte == b' ');
    let text = text.take_while(|byte| !matches!(**byte, b' ' | 0));
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
    use super::{Header, SIZE, number};

    #[test]
    fn reads_numbers_of_all_kinds() {
        let table: &[(&[u8], Option<i128>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"  644 \0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
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
