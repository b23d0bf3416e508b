//! The seal of an image: a block behind it, which the kernel does not read, by which an image that was
//! truncated, altered or exchanged is told from the one that was written.
//!
//! ```text
//! 0   8  "layerdE1"
//! 8   8  number of the layer
//! 16  8  length of the image in bytes, without the seal
//! 24  8  inodes of the image, the root directory not counted
//! 32  4  owner, 36 4 group, 40 4 permission bits of the layer's top directory; 44 4 zero
//! 48  16 XXH3 (128 bits) of the image, block 0 last
//! 64  8  XXH3 (64 bits) of the 64 bytes before
//! ```
//!
//! Numbers are little-endian; the rest of the block is zero. Block 0 comes last because it is written
//! last, so that the digest is that of the bytes in the order of writing.

use std::io::{self, Read, Seek, SeekFrom, Write};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::error::Error;
use super::format::{BLOCK, BLOCK_LEN};
use super::reader::ReadAt;

const MAGIC: &[u8; 8] = b"layerdE1";

/// Bytes that the digest of the seal itself covers.
const COVERED: usize = 64;

/// Bytes read at once for a comparison.
const PIECE: usize = 256 << 10;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Facts about a sealed image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// Number of the layer that it is for.
    pub layer: u64,
    /// Length of the image in bytes, without the seal.
    pub length: u64,
    /// Inodes, the root directory of the image not counted.
    pub inodes: u64,
    /// Owner and group of the layer's top directory.
    pub owner: (u32, u32),
    /// Permission bits of the layer's top directory, with setuid, setgid and sticky.
    pub permissions: u16,
    digest: u128,
}

impl Seal {
    /// Bytes that the seal adds to an image.
    pub const LENGTH: u64 = BLOCK;

    /// Reads the seal of an image, which says nothing of its content. Cost: one read.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is none, or one of another layer or another length; [`Error::Io`].
    pub fn read(image: &(impl ReadAt + ?Sized), layer: u64) -> Result<Self, Error> {
        let length = image.length().map_err(|cause| failed(0, cause))?;
        let bad = |problem| Error::corrupt(length, problem);
        let at = length.checked_sub(BLOCK);
        let at = at.ok_or_else(|| bad("shorter than its seal"))?;
        let mut block = [0; BLOCK_LEN];
        let read = image.read_exact_at(&mut block, at);
        read.map_err(|cause| failed(at, cause))?;
        let seal = Self::decode(&block).ok_or_else(|| bad("it ends without its seal"))?;
        if seal.length.next_multiple_of(BLOCK) != at {
            return Err(bad("its seal is that of an image of another length"));
        }
        if seal.layer != layer {
            return Err(bad("it is the image of another layer"));
        }
        Ok(seal)
    }

    /// Compares all of an image with its seal. Cost: one reading of the image. `keep_going` is
    /// told the bytes of each piece; false ends the comparison, and the answer is `None`.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Error::Corrupt`] if the content is not what was sealed.
    pub fn check(
        image: &(impl ReadAt + ?Sized),
        layer: u64,
        keep_going: &dyn Fn(u64) -> bool,
    ) -> Result<Option<Self>, Error> {
        let seal = Self::read(image, layer)?;
        let mut hash = Xxh3::new();
        let mut buffer = vec![0; PIECE];
        let mut feed = |from: u64, to: u64| {
            let mut at = from;
            while at < to {
                let most = (to - at).min(PIECE as u64);
                let piece = &mut buffer[..usize::try_from(most).unwrap_or(PIECE)];
                let read = image.read_exact_at(piece, at);
                read.map_err(|cause| failed(at, cause))?;
                hash.update(piece);
                at += most;
                if !keep_going(most) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let first = BLOCK.min(seal.length);
        if !(feed(first, seal.length)? && feed(0, first)?) {
            return Ok(None);
        }
        if hash.digest128() != seal.digest {
            return Err(Error::corrupt(0, "it does not hold what was written"));
        }
        Ok(Some(seal))
    }

    fn decode(block: &[u8; BLOCK_LEN]) -> Option<Self> {
        let eight = |at: usize| block[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let four = |at: usize| block[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        let is_sealed = block.starts_with(MAGIC) && eight(COVERED)? == xxh3_64(&block[..COVERED]);
        let rest_is_zero = block[COVERED + 8..].iter().all(|byte| *byte == 0);
        if !is_sealed || !rest_is_zero {
            return None;
        }
        Some(Self {
            layer: eight(8)?,
            length: eight(16)?,
            inodes: eight(24)?,
            owner: (four(32)?, four(36)?),
            permissions: u16::try_from(four(40)?).ok()?,
            digest: u128::from_le_bytes(block[48..64].try_into().ok()?),
        })
    }

    fn encode(&self) -> [u8; BLOCK_LEN] {
        let mut block = [0; BLOCK_LEN];
        block[..8].copy_from_slice(MAGIC);
        block[8..16].copy_from_slice(&self.layer.to_le_bytes());
        block[16..24].copy_from_slice(&self.length.to_le_bytes());
        block[24..32].copy_from_slice(&self.inodes.to_le_bytes());
        block[32..36].copy_from_slice(&self.owner.0.to_le_bytes());
        block[36..40].copy_from_slice(&self.owner.1.to_le_bytes());
        block[40..44].copy_from_slice(&u32::from(self.permissions).to_le_bytes());
        block[48..64].copy_from_slice(&self.digest.to_le_bytes());
        let own = xxh3_64(&block[..COVERED]);
        block[COVERED..COVERED + 8].copy_from_slice(&own.to_le_bytes());
        block
    }
}

/// Output of a [`Writer`](super::Writer) that is digested on the way, to be sealed at the end.
pub struct Sealing<W> {
    out: W,
    hash: Xxh3,
    /// Position of the next byte.
    at: u64,
    /// End of what is digested, from block 1 on.
    end: u64,
    first: Vec<u8>,
}

impl<W> std::fmt::Debug for Sealing<W> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("Sealing");
        shown.field("at", &self.at).field("end", &self.end);
        shown.finish_non_exhaustive()
    }
}

impl<W: Read + Write + Seek + ReadAt> Sealing<W> {
    /// Begins at the start of `out`, which must be empty.
    pub fn new(out: W) -> Self {
        Self {
            out,
            hash: Xxh3::new(),
            at: 0,
            end: BLOCK,
            first: Vec::new(),
        }
    }

    /// The file.
    pub fn get_ref(&self) -> &W {
        &self.out
    }

    /// Seals the finished image of a layer whose top directory is `top` in the root directory. Gives
    /// the file back.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if no image was written, [`Error::Missing`] if it has no such directory;
    /// [`Error::Io`].
    pub fn seal(mut self, layer: u64, top: &[u8]) -> Result<(Seal, W), Error> {
        self.first.resize(BLOCK_LEN, 0);
        self.hash.update(&self.first);
        let image = super::Image::open(&self.out)?;
        let found = image.lookup(&image.root()?, top)?;
        let found = found.ok_or_else(|| Error::Missing { name: top.to_vec() })?;
        let seal = Seal {
            layer,
            length: self.end,
            inodes: image.inodes().saturating_sub(1),
            owner: (found.uid, found.gid),
            permissions: found.permissions,
            digest: self.hash.digest128(),
        };
        let at = self.end.next_multiple_of(BLOCK);
        let mut write = || {
            self.out.seek(SeekFrom::Start(at))?;
            self.out.write_all(&seal.encode())?;
            self.out.flush()
        };
        write().map_err(|cause| failed(at, cause))?;
        Ok((seal, self.out))
    }
}

impl<W> Sealing<W> {
    fn digest(&mut self, written: &[u8]) -> io::Result<()> {
        if self.at < BLOCK {
            self.first.extend_from_slice(written);
            let is_block = self.at + written.len() as u64 <= BLOCK;
            return if is_block {
                Ok(())
            } else {
                Err(out_of_order())
            };
        }
        if self.at < self.end {
            return Err(out_of_order());
        }
        let mut hole = self.at - self.end;
        while hole > 0 {
            let most = hole.min(ZEROS.len() as u64);
            let zeros = usize::try_from(most).unwrap_or(ZEROS.len());
            self.hash.update(&ZEROS[..zeros]);
            hole -= most;
        }
        self.hash.update(written);
        self.end = self.at + written.len() as u64;
        Ok(())
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.out.write(data)?;
        self.digest(&data[..count])?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Seek> Seek for Sealing<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.out.seek(to)?;
        Ok(self.at)
    }
}

fn out_of_order() -> io::Error {
    io::Error::other("an image is written front to back, and block 0 last")
}

fn failed(offset: u64, cause: io::Error) -> Error {
    let attempt = "read";
    Error::Io {
        attempt,
        offset,
        cause,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, SeekFrom, Write as _};

    use super::*;
    use crate::erofs::{Attributes, Options, Writer};

    impl ReadAt for Cursor<Vec<u8>> {
        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            self.get_ref().as_slice().read_exact_at(buffer, offset)
        }

        fn length(&self) -> io::Result<u64> {
            Ok(self.get_ref().len() as u64)
        }
    }

    const LAYER: u64 = 77;

    /// A sealed image with some content and a hole of the image file.
    fn sealed() -> (Seal, Vec<u8>) {
        let out = Sealing::new(Cursor::new(Vec::new()));
        let mut writer = Writer::new(out, Options::default()).unwrap();
        let given = Attributes {
            permissions: 0o1750,
            uid: 7,
            gid: 70_000,
            ..Attributes::default()
        };
        let root = Writer::<Sealing<Cursor<Vec<u8>>>>::ROOT;
        let top = writer.directory(root, b"f", &given).unwrap();
        let size = 3 << 20;
        let file = writer.file(top, b"file", &Attributes::default(), size);
        let mut file = file.unwrap();
        for piece in [&[1; 5000][..], &[0; (3 << 20) - 10_000], &[2; 5000]] {
            file.write(piece).unwrap();
        }
        file.finish().unwrap();
        let (out, summary) = writer.finish().unwrap();
        let (seal, out) = out.seal(LAYER, b"f").unwrap();
        assert_eq!(seal.length, summary.bytes);
        (seal, out.into_inner())
    }

    fn check(image: &[u8]) -> Result<Option<Seal>, Error> {
        Seal::check(image, LAYER, &|_| true)
    }

    #[test]
    fn a_sealed_image_says_what_it_is() {
        let (seal, image) = sealed();
        assert_eq!(Seal::read(&image[..], LAYER).unwrap(), seal);
        assert_eq!(check(&image).unwrap(), Some(seal));
        let shown = (seal.owner, seal.permissions, seal.inodes);
        assert_eq!(shown, ((7, 70_000), 0o1750, 2));
        assert_eq!(image.len() as u64, seal.length + Seal::LENGTH);
        assert_eq!(Seal::check(&image[..], LAYER, &|_| false).unwrap(), None);
    }

    #[test]
    fn any_other_image_is_refused() {
        let (_, image) = sealed();
        Seal::read(&image[..], LAYER + 1).unwrap_err();
        let end = image.len();
        for length in [0, 100, 4096, end - 4096, end - 1] {
            check(&image[..length]).unwrap_err();
        }
        check(&[&image[..], &[0; 4096]].concat()).unwrap_err();
        for at in [
            0,
            1024,
            4095,
            4096,
            9000,
            end / 2,
            end - 4097,
            end - 4096,
            end - 4040,
            end - 1,
        ] {
            let mut altered = image.clone();
            altered[at] ^= 0x40;
            check(&altered).unwrap_err();
        }
    }

    #[test]
    fn writes_out_of_order_are_refused() {
        let mut out = Sealing::new(Cursor::new(Vec::new()));
        out.seek(SeekFrom::Start(4096)).unwrap();
        out.write_all(&[1; 8192]).unwrap();
        out.seek(SeekFrom::Start(8192)).unwrap();
        out.write_all(b"again").unwrap_err();
    }
}
