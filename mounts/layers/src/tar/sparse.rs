//! Which parts of a sparse file an archive holds.

use crate::tar::header::{Field, GNU_PIECES, Header, number};
use crate::tar::pax::decimal;

/// Parts that one file may have; 16 bytes of memory each.
pub(crate) const MOST_PIECES: usize = 1 << 20;

/// Offset and length of each part that is no hole.
pub(crate) type Pieces = Vec<(u64, u64)>;

/// The parts in an old GNU header.
pub(crate) fn of_header(header: &Header) -> Option<Pieces> {
    table(header.field(GNU_PIECES))
}

/// The parts in a block that continues one, and whether another such block follows.
pub(crate) fn of_extension(block: &Header) -> Option<(Pieces, bool)> {
    Some((table(block.field(Field(0, 504)))?, block.0[504] != 0))
}

fn table(bytes: &[u8]) -> Option<Pieces> {
    let mut pieces = Vec::new();
    for piece in bytes.chunks_exact(24) {
        if piece[0] == 0 {
            break;
        }
        let part = |field| u64::try_from(number(field)?).ok();
        pieces.push((part(&piece[..12])?, part(&piece[12..])?));
    }
    Some(pieces)
}

/// The parts in a list `offset,length,offset,length`.
pub(crate) fn of_list(list: &[u8]) -> Option<Pieces> {
    if list.is_empty() {
        return Some(Vec::new());
    }
    let numbers = list.split(|byte| *byte == b',').map(decimal);
    let numbers = numbers
        .take(2 * MOST_PIECES + 1)
        .collect::<Option<Vec<_>>>()?;
    if numbers.len() > 2 * MOST_PIECES || numbers.len() % 2 != 0 {
        return None;
    }
    Some(
        numbers
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect(),
    )
}

/// True if the parts are in order, do not overlap, lie within the file, and are `stored` bytes.
pub(crate) fn is_sound(pieces: &[(u64, u64)], size: u64, stored: u64) -> bool {
    let mut at = 0;
    let mut total: u64 = 0;
    for (offset, length) in pieces {
        let end = offset.checked_add(*length);
        match end {
            Some(end) if *offset >= at && end <= size => at = end,
            _ => return false,
        }
        total += length; // at most `size`, because they do not overlap
    }
    total == stored && i64::try_from(size).is_ok()
}

#[cfg(test)]
mod tests {
    use super::{is_sound, of_list};

    #[test]
    fn unsound_maps_are_refused() {
        assert!(is_sound(&[(0, 5), (10, 5), (20, 0)], 20, 10));
        assert!(is_sound(&[], 1 << 40, 0));
        assert!(!is_sound(&[(0, 5), (4, 5)], 20, 10), "overlap");
        assert!(!is_sound(&[(10, 5), (0, 5)], 20, 10), "order");
        assert!(!is_sound(&[(10, 11)], 20, 11), "beyond the end");
        assert!(!is_sound(&[(u64::MAX, 2)], u64::MAX, 2), "overflow");
        assert!(!is_sound(&[(0, 5)], 20, 6), "stored");
        assert!(!is_sound(&[], u64::MAX, 0), "longer than files can be");
    }

    #[test]
    fn lists_have_pairs() {
        assert_eq!(of_list(b"0,5,10,5"), Some(vec![(0, 5), (10, 5)]));
        assert_eq!(of_list(b""), Some(vec![]));
        for bad in [&b"1"[..], b"1,2,3", b"1,,2", b"a,b", b"1,-2"] {
            assert_eq!(of_list(bad), None);
        }
    }
}
