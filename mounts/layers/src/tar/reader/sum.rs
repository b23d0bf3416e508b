//! The checksum that an archive of layerd's has at its end.

use std::io::Read;

use sha2::Sha256;

use crate::error::Error;
use crate::tar::header::Header;
use crate::tar::hex;
use crate::tar::reader::{LARGEST_NOTES, Reader};

/// The comment at the start of an archive that has a checksum at its end.
pub(crate) const MARK: &str = "layerd archive 1";
const ANY_MARK: &[u8] = b"layerd archive ";

/// Prefix of the comment at the end of such an archive; the SHA-256 of all bytes before
/// its header follows, in hexadecimal.
pub(crate) const SUM: &str = "layerd sha256 ";

/// State of the checksum of the whole archive.
pub(super) enum Sum {
    /// No header was read yet.
    Unknown(Sha256),
    /// The archive promises none.
    None,
    /// It will come.
    Promised(Sha256),
    /// It came, and was right.
    Right,
}

impl<R: Read> Reader<R> {
    pub(super) fn global(
        &mut self,
        header: &Header,
        at: u64,
        before: Option<Sha256>,
    ) -> Result<(), Error> {
        let bad = |problem| Error::Malformed {
            offset: at,
            problem,
        };
        let data = self.metadata(header, at, LARGEST_NOTES)?;
        let notes = self.defaults.with(&data).map_err(bad)?;
        if !notes.fit_all_files() {
            return Err(bad("a global header with what belongs to one file"));
        }
        let comment = notes.comment.as_deref().unwrap_or_default();
        match std::mem::replace(&mut self.sum, Sum::None) {
            Sum::Unknown(sum) if comment == MARK.as_bytes() => self.sum = Sum::Promised(sum),
            Sum::Unknown(_) if comment.starts_with(ANY_MARK) => {
                return Err(bad("made by a later version of layerd"));
            }
            Sum::Promised(sum) => match comment.strip_prefix(SUM.as_bytes()) {
                None => self.sum = Sum::Promised(sum),
                Some(said) if before.is_some_and(|sum| hex(sum).as_bytes() == said) => {
                    self.sum = Sum::Right;
                }
                Some(_) => {
                    let problem = "its checksum is wrong";
                    return Err(Error::Damaged { problem });
                }
            },
            Sum::Unknown(_) | Sum::None => {}
            Sum::Right => self.sum = Sum::Right,
        }
        self.defaults = notes;
        self.defaults.comment = None;
        Ok(())
    }

    pub(super) fn sum_so_far(&self) -> Option<Sha256> {
        match &self.sum {
            Sum::Promised(sum) => Some(sum.clone()),
            _ => None,
        }
    }

    /// The first header was of a file: no checksum will come.
    pub(super) fn no_mark(&mut self) {
        if let Sum::Unknown(_) = self.sum {
            self.sum = Sum::None;
        }
    }
}
