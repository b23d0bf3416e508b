//! Settings of the driver, and the file systems that devices can hold.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{fmt, io};

/// File system on each device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FileSystem {
    /// With a small journal.
    #[default]
    Ext4,
    /// With reflink.
    Xfs,
}

impl FileSystem {
    /// All of them, the default first.
    pub const ALL: [Self; 2] = [Self::Ext4, Self::Xfs];

    /// Name for the kernel, and in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Least bytes of a device: mkfs.xfs takes no less; ext4 needs room for its journal.
    #[must_use]
    pub fn min_bytes(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Xfs => 300 << 20,
        }
    }

    /// Options of a mount, besides `rw` or `ro`. A read-only mount writes nothing, not even a journal:
    /// what is committed was unmounted before. Blocks that are freed in a writable one go back to the
    /// pool. All devices have the identity of the base, which xfs has to be told.
    pub(super) fn options(self, access: Access) -> &'static [&'static str] {
        match (self, access) {
            (Self::Ext4, Access::Write) => &["discard", "noinit_itable"],
            (Self::Ext4, Access::Read) => &["noload"],
            (Self::Xfs, Access::Write) => &["discard", "nouuid"],
            (Self::Xfs, Access::Read) => &["norecovery", "nouuid"],
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
        }
    }

    /// Looks whether its mkfs is there, and runs.
    pub(super) fn look(self) -> io::Result<()> {
        run(self.program(), &[OsStr::new("-V")])
    }

    /// Makes an empty file system on a device, which reads as zeros.
    pub(super) fn make(self, device: &Path) -> io::Result<()> {
        let words: &[&str] = match self {
            // No blocks of root's, and a journal that each layer that is written can have of its own.
            Self::Ext4 => &[
                "-q",
                "-F",
                "-m",
                "0",
                "-I",
                "256",
                "-e",
                "remount-ro",
                "-J",
                "size=8",
                "-E",
                "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
            ],
            Self::Xfs => &["-q", "-f", "-K"],
        };
        let mut arguments: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        arguments.push(device.as_os_str());
        run(self.program(), &arguments)
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Use that is made of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Write,
    Read,
}

/// Settings of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Name of the pool in /dev/mapper; empty if none is named.
    pub pool: String,
    /// File system of a root that is made now.
    pub file_system: FileSystem,
    /// Bytes of each device of a root that is made now.
    pub base_bytes: u64,
    /// Share of the pool's data and metadata, in percent, that no new layer may take.
    pub keep_free_percent: u64,
}

impl Options {
    /// Most bytes of a device.
    pub const MAX_BYTES: u64 = 16 << 40;
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pool: String::new(),
            file_system: FileSystem::default(),
            base_bytes: 10 << 30,
            keep_free_percent: 10,
        }
    }
}

/// Runs a program to its end; an error has what it says.
fn run(program: &str, arguments: &[&OsStr]) -> io::Result<()> {
    let mut command = Command::new(program);
    let ended = command.args(arguments).stdin(Stdio::null()).output();
    let ended =
        ended.map_err(|cause| io::Error::new(cause.kind(), format!("{program}: {cause}")))?;
    if ended.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&ended.stderr);
    let text = text.trim().replace('\n', "; ");
    Err(io::Error::other(format!("{program}: {text}")))
}
