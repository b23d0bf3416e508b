//! Commands to a tracer, and its answers.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Effect of a system call on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Makes a name or may make one: open with `O_CREAT` or `O_TRUNC`, mkdir, mknod, link, symlink.
    Create,
    /// Changes the content or size of a file.
    Write,
    /// Makes something durable: fsync, fdatasync, `sync_file_range`, syncfs, sync, msync.
    Sync,
    /// Renames.
    Rename,
    /// Takes a name away.
    Remove,
    /// Changes mode, owner, times or extended attributes.
    Attribute,
    /// Changes the mount table.
    Mount,
    /// Any ioctl on a file or directory that hands something to the kernel.
    Control,
    /// Opens what is there already. Changes nothing; counted only when asked for by name.
    Open,
    /// Reads a file or lists a directory. Changes nothing; counted only when asked for by name.
    Read,
}

impl Class {
    /// The classes that change state.
    pub const CHANGES: [Self; 8] = [
        Self::Create,
        Self::Write,
        Self::Sync,
        Self::Rename,
        Self::Remove,
        Self::Attribute,
        Self::Mount,
        Self::Control,
    ];
}

/// On which side of the chosen call the program dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// The call does not happen.
    Before,
    /// The call is done, but the program never learns of it.
    After,
}

/// Number of failures of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Times {
    /// The chosen one alone.
    Once,
    /// The chosen one and all counted ones after it.
    Onwards,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Action {
    Count,
    Kill { at: u64, moment: Moment },
    Fail { at: u64, errno: i32, times: Times },
}

/// Which calls are counted and what happens at one of them. Counting starts at 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub(crate) action: Action,
    pub(crate) classes: Vec<Class>,
    /// Names of calls; all of the classes if there are none.
    pub(crate) names: Vec<String>,
    pub(crate) within: Vec<PathBuf>,
}

impl Plan {
    /// Counts and lists the calls that change state.
    #[must_use]
    pub fn count() -> Self {
        Self::new(Action::Count)
    }

    /// Sends SIGKILL to every traced process at the `at`-th call.
    #[must_use]
    pub fn kill_at(at: u64, moment: Moment) -> Self {
        Self::new(Action::Kill { at, moment })
    }

    /// Lets the `at`-th call fail with `errno` (a positive number, such as `libc::ENOSPC`) without
    /// doing anything.
    #[must_use]
    pub fn fail_at(at: u64, errno: i32, times: Times) -> Self {
        Self::new(Action::Fail { at, errno, times })
    }

    fn new(action: Action) -> Self {
        Self {
            action,
            classes: Class::CHANGES.to_vec(),
            names: Vec::new(),
            within: Vec::new(),
        }
    }

    /// Counts these classes in place of [`Class::CHANGES`].
    #[must_use]
    pub fn of(mut self, classes: &[Class]) -> Self {
        self.classes = classes.to_vec();
        self
    }

    /// Counts only calls of this name, as in the manual, or of that of an earlier `named`.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// Counts only calls one of whose paths lies below `directory`, which must be absolute and
    /// free of symbolic links, or below that of an earlier `within`. A call that names no path
    /// (sync, msync, fsopen) is counted all the same.
    #[must_use]
    pub fn within(mut self, directory: impl AsRef<Path>) -> Self {
        self.within.push(directory.as_ref().to_path_buf());
        self
    }
}

/// One counted system call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Its place in the count, from 1.
    pub number: u64,
    /// Thread that made it.
    pub thread: i32,
    /// Name, as in the manual.
    pub name: String,
    /// Class.
    pub class: Class,
    /// The files it names, made absolute without following symbolic links.
    pub paths: Vec<PathBuf>,
    /// Its six argument registers.
    pub arguments: [u64; 6],
    /// Its result: negative numbers are errnos. None if it has not returned.
    pub result: Option<i64>,
}

/// End of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

/// Where a tracer stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Calls counted since the plan was armed.
    pub counted: u64,
    /// The call at which the plan struck first, if it did.
    pub fired: Option<Call>,
    /// End of the traced process; `None` while it runs.
    pub end: Option<End>,
    /// Error of the tracing itself; the counts mean nothing then.
    pub trouble: Option<String>,
}
