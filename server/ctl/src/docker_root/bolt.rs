//! Values of a bucket of a bolt database, the format of Docker's `volumes/metadata.db`, read from memory.
//!
//! A database is made of pages. The first two say where the tree of buckets begins; the one with the higher
//! transaction counts. A page of a tree has keys with pages below it, or keys with values. A value can be a
//! bucket itself, whose tree begins at another page, or lies in the value.

/// Page sizes that are tried where the first page is damaged.
const SIZES: [usize; 5] = [4096, 8192, 16384, 32768, 65536];
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// Bytes before the elements of a page.
const HEADER: usize = 16;
const ELEMENT: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
/// Flag of a value that is a bucket.
const BUCKET: u32 = 0x01;
/// Bytes of a bucket's header in a value.
const BUCKET_HEADER: usize = 16;
/// Levels of a tree. One of this height has more entries than a disk can hold.
const DEPTH: usize = 32;

/// Keys with their values.
pub(crate) type Pairs<'d> = Vec<(&'d [u8], &'d [u8])>;

/// Keys and values of the bucket `name`; none if there is no such bucket. Buckets in it are left out.
///
/// # Errors
/// The fault of the database.
pub(crate) fn bucket<'d>(data: &'d [u8], name: &[u8]) -> Result<Option<Pairs<'d>>, &'static str> {
    let meta = SIZES
        .into_iter()
        .filter_map(|size| Meta::newest(data, size));
    let meta = meta.max_by_key(|meta| meta.transaction);
    let meta = meta.ok_or("has no valid first page")?;
    let mut reader = Reader {
        data,
        size: meta.size,
        left: data.len() / meta.size,
    };
    let mut found = Vec::new();
    let mut all = Vec::new();
    reader.tree(meta.root, 0, &mut all)?;
    let Some(entry) = all
        .iter()
        .find(|entry| entry.is_bucket && entry.key == name)
    else {
        return Ok(None);
    };
    let value = entry.value;
    match u64_at(value, 0).ok_or(SHORT)? {
        0 => reader.page(value.get(BUCKET_HEADER..).ok_or(SHORT)?, DEPTH, &mut found)?,
        root => reader.tree(root, 0, &mut found)?,
    }
    let pairs = found.iter().filter(|entry| !entry.is_bucket);
    Ok(Some(pairs.map(|entry| (entry.key, entry.value)).collect()))
}

const SHORT: &str = "ends in the middle of a page";

struct Meta {
    size: usize,
    root: u64,
    transaction: u64,
}

impl Meta {
    /// The newer of the first two pages.
    fn newest(data: &[u8], size: usize) -> Option<Self> {
        let pages = [data.get(..size), data.get(size..2 * size)];
        let metas = pages.into_iter().flatten().filter_map(Self::parse);
        let metas = metas.filter(|meta| meta.size == size);
        metas.max_by_key(|meta| meta.transaction)
    }

    fn parse(page: &[u8]) -> Option<Self> {
        let meta = page.get(HEADER..)?;
        if u32_at(meta, 0)? != MAGIC || u32_at(meta, 4)? != VERSION {
            return None;
        }
        if u64_at(meta, 56)? != checksum(meta.get(..56)?) {
            return None;
        }
        Some(Self {
            size: usize::try_from(u32_at(meta, 8)?).ok()?,
            root: u64_at(meta, 16)?,
            transaction: u64_at(meta, 48)?,
        })
    }
}

/// FNV-1a of 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    let begin = 0xcbf2_9ce4_8422_2325;
    bytes.iter().fold(begin, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

struct Entry<'d> {
    key: &'d [u8],
    value: &'d [u8],
    is_bucket: bool,
}

struct Reader<'d> {
    data: &'d [u8],
    size: usize,
    /// Pages that may still be visited: a tree has none twice.
    left: usize,
}

impl<'d> Reader<'d> {
    /// The entries below a page by its number.
    fn tree(
        &mut self,
        number: u64,
        depth: usize,
        into: &mut Vec<Entry<'d>>,
    ) -> Result<(), &'static str> {
        self.left = self.left.checked_sub(1).ok_or("has pages in a circle")?;
        let begin = usize::try_from(number)
            .ok()
            .and_then(|number| number.checked_mul(self.size));
        let page = begin.and_then(|begin| self.data.get(begin..));
        let page = page.ok_or("refers to a page behind its end")?;
        // Further pages may belong to it.
        let more = usize::try_from(u32_at(page, 12).ok_or(SHORT)?).unwrap_or(usize::MAX);
        let length = more
            .checked_add(1)
            .and_then(|pages| pages.checked_mul(self.size));
        let page = length.and_then(|length| page.get(..length)).ok_or(SHORT)?;
        self.page(page, depth, into)
    }

    fn page(
        &mut self,
        page: &'d [u8],
        depth: usize,
        into: &mut Vec<Entry<'d>>,
    ) -> Result<(), &'static str> {
        if depth > DEPTH {
            return Err("has too many levels");
        }
        let (flags, count) = (
            u16_at(page, 8).ok_or(SHORT)?,
            u16_at(page, 10).ok_or(SHORT)?,
        );
        for index in 0..usize::from(count) {
            let begin = HEADER + index * ELEMENT;
            let element = page.get(begin..begin + ELEMENT).ok_or(SHORT)?;
            match flags {
                LEAF => into.push(leaf(page, begin, element).ok_or(SHORT)?),
                BRANCH => self.tree(u64_at(element, 8).ok_or(SHORT)?, depth + 1, into)?,
                _ => return Err("has another page where one of a tree belongs"),
            }
        }
        Ok(())
    }
}

fn leaf<'d>(page: &'d [u8], begin: usize, element: &[u8]) -> Option<Entry<'d>> {
    let number = |offset| usize::try_from(u32_at(element, offset)?).ok();
    let key = begin.checked_add(number(4)?)?;
    let value = key.checked_add(number(8)?)?;
    let end = value.checked_add(number(12)?)?;
    Some(Entry {
        key: page.get(key..value)?,
        value: page.get(value..end)?,
        is_bucket: u32_at(element, 0)? & BUCKET != 0,
    })
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..offset + 2)?;
    bytes.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset + 8)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::{Meta, bucket, checksum};

    const SIZE: usize = 4096;

    fn page(flags: u16, elements: &[(u32, &[u8], &[u8])]) -> Vec<u8> {
        let mut page = vec![0; SIZE];
        page[8..10].copy_from_slice(&flags.to_le_bytes());
        page[10..12].copy_from_slice(&u16::try_from(elements.len()).unwrap().to_le_bytes());
        let mut at = 16 + 16 * elements.len();
        for (index, (first, key, value)) in elements.iter().enumerate() {
            let begin = 16 + 16 * index;
            let numbers = [at - begin, key.len(), value.len()].map(|number| number as u64);
            let numbers = [u64::from(*first), numbers[0], numbers[1], numbers[2]];
            let numbers = numbers.map(|number| u32::try_from(number).unwrap());
            for (place, number) in numbers.into_iter().enumerate() {
                let place = begin + 4 * place;
                page[place..place + 4].copy_from_slice(&number.to_le_bytes());
            }
            page[at..at + key.len()].copy_from_slice(key);
            at += key.len();
            page[at..at + value.len()].copy_from_slice(value);
            at += value.len();
        }
        page
    }

    fn meta(root: u64, transaction: u64) -> Vec<u8> {
        let mut page = vec![0; SIZE];
        page[16..20].copy_from_slice(&super::MAGIC.to_le_bytes());
        page[20..24].copy_from_slice(&2_u32.to_le_bytes());
        page[24..28].copy_from_slice(&4096_u32.to_le_bytes());
        page[32..40].copy_from_slice(&root.to_le_bytes());
        page[64..72].copy_from_slice(&transaction.to_le_bytes());
        let sum = checksum(&page[16..72]);
        page[72..80].copy_from_slice(&sum.to_le_bytes());
        page
    }

    /// A branch page with these pages below it.
    fn branch(below: &[u64]) -> Vec<u8> {
        let mut page = page(1, &vec![(0, &b""[..], &b""[..]); below.len()]);
        for (index, number) in below.iter().enumerate() {
            let begin = 16 + 16 * index + 8;
            page[begin..begin + 8].copy_from_slice(&number.to_le_bytes());
        }
        page
    }

    fn in_page(root: u64) -> Vec<u8> {
        [&root.to_le_bytes()[..], &[0; 8]].concat()
    }

    #[test]
    fn a_bucket_is_read_from_a_page_a_tree_and_a_value() {
        let inline = [in_page(0), page(2, &[(0, b"k", b"v")])].concat();
        // Without what is empty, to fit.
        let inline = &inline[..16 + 16 + 16 + 2];
        let buckets = page(
            2,
            &[
                (1, b"inline", inline),
                (1, b"tree", &in_page(3)),
                (0, b"plain", b"x"),
            ],
        );
        let data = [
            meta(9, 1),
            meta(2, 2),
            buckets,
            branch(&[4, 5]),
            page(2, &[(0, b"a", b"1")]),
            page(2, &[(0, b"b", b"2"), (1, b"c", &in_page(0))]),
        ]
        .concat();
        assert_eq!(
            bucket(&data, b"inline").unwrap().unwrap(),
            [(&b"k"[..], &b"v"[..])]
        );
        let tree = bucket(&data, b"tree").unwrap().unwrap();
        assert_eq!(tree, [(&b"a"[..], &b"1"[..]), (&b"b"[..], &b"2"[..])]);
        assert_eq!(bucket(&data, b"plain").unwrap(), None);
        assert_eq!(bucket(&data, b"none").unwrap(), None);
    }

    #[test]
    fn damage_is_an_error() {
        let whole = |buckets| [meta(2, 1), meta(2, 1), buckets, branch(&[3])].concat();
        let circle = whole(page(2, &[(1, b"b", &in_page(3))]));
        assert_eq!(bucket(&circle, b"b"), Err("has pages in a circle"));
        let behind = whole(page(2, &[(1, b"b", &in_page(u64::MAX))]));
        assert_eq!(
            bucket(&behind, b"b"),
            Err("refers to a page behind its end")
        );
        let other = whole(page(2, &[(1, b"b", &in_page(0))]));
        assert_eq!(bucket(&other, b"b"), Err(super::SHORT));
        assert_eq!(
            bucket(&whole(page(4, &[(0, b"", b"")])), b"b"),
            Err("has another page where one of a tree belongs")
        );
        assert_eq!(bucket(b"", b"b"), Err("has no valid first page"));
        let mut broken = meta(2, 1);
        broken[40] ^= 1;
        assert!(Meta::parse(&broken).is_none());
        // Any byte: an error or an answer, and an end.
        for at in (0..circle.len()).step_by(7) {
            let mut changed = circle.clone();
            changed[at] ^= 0xff;
            drop(bucket(&changed, b"b"));
        }
    }
}
