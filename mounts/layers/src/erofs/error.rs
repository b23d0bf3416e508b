//! Failures of writing and reading images.

use std::io;

/// A failure. Names are shown with bytes that are not printable ASCII escaped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Writing the image, or reading it, failed.
    #[error("{attempt} the image at byte {offset}")]
    Io {
        /// The attempted operation, such as "read".
        attempt: &'static str,
        /// Position in the image.
        offset: u64,
        /// The kernel's answer.
        #[source]
        cause: io::Error,
    },
    /// A name that no file can have.
    #[error("`{}` cannot be the name of a file: {problem}", name.escape_ascii())]
    BadName {
        /// The name, its first 255 bytes.
        name: Vec<u8>,
        /// The rule that it breaks.
        problem: &'static str,
    },
    /// A directory has this name already.
    #[error("the directory has an entry `{}` already", name.escape_ascii())]
    Exists {
        /// The name.
        name: Vec<u8>,
    },
    /// An operation on a node that is of another type.
    #[error("{attempt}: the file is {found}")]
    WrongType {
        /// The attempted operation, such as "add an entry".
        attempt: &'static str,
        /// Its type, such as "a symlink".
        found: &'static str,
    },
    /// An extended attribute that EROFS cannot store.
    #[error("the extended attribute `{}` cannot be stored: {problem}", name.escape_ascii())]
    Xattr {
        /// Its full name, the first 255 bytes.
        name: Vec<u8>,
        /// The rule that it breaks.
        problem: &'static str,
    },
    /// A number that does not fit in its field of the format, or passes a limit of the options.
    #[error("{field} {value} is beyond {limit}, the most that can be")]
    TooLarge {
        /// The field, such as "major device number".
        field: &'static str,
        /// The number.
        value: u64,
        /// The largest that fits.
        limit: u64,
    },
    /// The content of a file had another length than was announced.
    #[error("the content of a file has {found} bytes instead of {wanted}")]
    Length {
        /// The announced length.
        wanted: u64,
        /// Bytes that came; if that is more, those that came before the refusal.
        found: u64,
    },
    /// The image is damaged, or no image.
    #[error("bad image at byte {offset}: {problem}")]
    Corrupt {
        /// Position in the image.
        offset: u64,
        /// The fault.
        problem: &'static str,
    },
    /// The image has a feature of EROFS that is not read here, such as compression.
    #[error("the image uses {feature}, which is not supported")]
    Unsupported {
        /// The feature.
        feature: &'static str,
    },
    /// No entry of this name in the directory.
    #[error("there is no `{}` in the directory", name.escape_ascii())]
    Missing {
        /// The name.
        name: Vec<u8>,
    },
}

impl Error {
    pub(super) fn corrupt(offset: u64, problem: &'static str) -> Self {
        Self::Corrupt { offset, problem }
    }

    /// The kernel's answer as a number, as in errno(3), where there was one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { cause, .. } => cause.raw_os_error(),
            _ => None,
        }
    }
}
