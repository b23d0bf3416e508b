//! The grammar of `-v`, `--mount` and `--tmpfs`: from the words of a command line to a
//! [`MountSpec`], the one form in which engine and daemon see a mount.
//!
//! Pure: nothing here looks at a disk, a database or a clock. Whether something that is missing
//! gets created is data in the specification, never a property of how the flag was spelled;
//! [`decide()`] says what follows from it once the caller knows whether the source exists.
//!
//! Two dialects. [`Dialect::Strict`] is ours: `-v` creates what is missing, `--mount` does not,
//! and whatever is ambiguous is refused. [`Dialect::Docker`] takes, normalises and refuses what
//! Docker 29 does, accidents included; what Docker 28 answers where the two differ is in
//! `corpus.toml`, which is replayed against a real Docker. Where Docker's answer depends on
//! chance (two tmpfs at one place, spelled differently) or comes only when the container starts,
//! both dialects refuse here.

mod csv;
mod decide;
mod error;
mod format;
mod long;
mod model;
mod path;
mod set;
mod short;
#[cfg(test)]
mod tests;
mod tmpfs;
mod value;

pub use decide::{Decision, Made, Refusal, decide};
pub use error::{BadSpec, Flag, Rule};
pub use model::{
    Bind, CreateSource, CreateWith, IdMap, Image, ImageReference, Kind, MountSpec, OnMissing,
    Origin, Policy, Propagation, ReadOnly, Relabel, Tmpfs, TmpfsSize, Volume,
};
pub use path::{HostPath, Subpath, Target};

use error::Fault;
use set::{Source, Written};

/// Bytes of a size above 0, such as `67108864`, `64m`, `1.5g` or `10GiB`; `None` for anything else.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    value::strict_bytes(text)
}

/// Longest flag, in bytes.
pub const FLAG_MAX: usize = 64 * 1024;
/// Most flags of one request, all kinds together.
pub const FLAGS_MAX: usize = 1024;

/// Which rules apply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Ours: `-v` creates a missing volume or host directory, `--mount` fails for both.
    #[default]
    Strict,
    /// Docker's: `--mount type=volume` creates too.
    Docker,
}

/// The mount flags of one container, as they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParseRequest {
    /// Which rules apply.
    pub dialect: Dialect,
    /// Values of `-v` (`--volume`).
    pub volume_flags: Vec<String>,
    /// Values of `--mount`.
    pub mount_flags: Vec<String>,
    /// Values of `--tmpfs`.
    pub tmpfs_flags: Vec<String>,
    /// Base of host paths that begin with a dot: the caller's working directory. Without it such a path
    /// is refused.
    pub base_dir: Option<HostPath>,
}

/// Context of a request for the parsers of single flags.
#[derive(Debug, Clone, Copy)]
struct Context<'a> {
    dialect: Dialect,
    base_dir: Option<&'a HostPath>,
}

impl Context<'_> {
    fn is_strict(self) -> bool {
        self.dialect == Dialect::Strict
    }
}

/// Parses the flags of one container: parents before children, else in the order `-v`, `--mount`,
/// `--tmpfs`, each in the order given. Byte-identical `-v` flags count once.
///
/// Looks at nothing outside the request. Costs time and memory linear in its size, which is at
/// most [`FLAGS_MAX`] times [`FLAG_MAX`].
///
/// # Errors
/// [`BadSpec`] for the first flag that breaks a rule, or whose destination another one has.
pub fn parse(request: &ParseRequest) -> Result<Vec<MountSpec>, BadSpec> {
    let context = Context {
        dialect: request.dialect,
        base_dir: request.base_dir.as_ref(),
    };
    let mut written = Vec::new();
    for (number, (flag, index, text)) in flags(request).enumerate() {
        let place = |fault: Fault| fault.at(flag, index, text);
        if number >= FLAGS_MAX {
            return Err(place(error::too_many()));
        }
        check_text(flag, text, context).map_err(place)?;
        let source = parse_flag(flag, text, context).map_err(place)?;
        written.push(Written {
            flag,
            index,
            text,
            source,
        });
    }
    set::assemble(written, request.dialect)
}

/// All flags, with their kind and their place among those of that kind.
fn flags(request: &ParseRequest) -> impl Iterator<Item = (Flag, usize, &str)> {
    let kinds = [
        (Flag::Volume, &request.volume_flags),
        (Flag::Mount, &request.mount_flags),
        (Flag::Tmpfs, &request.tmpfs_flags),
    ];
    kinds.into_iter().flat_map(|(flag, texts)| {
        let numbered = texts.iter().enumerate();
        numbered.map(move |(index, text)| (flag, index, text.as_str()))
    })
}

/// No system call takes a NUL. Other control characters are legal in paths, but hardly intended, and
/// they falsify lists and logs: our dialect takes them in quotes only.
fn check_text(flag: Flag, text: &str, context: Context<'_>) -> Result<(), Fault> {
    if text.len() > FLAG_MAX {
        return Err(error::too_long("", text.len(), FLAG_MAX));
    }
    let has_quotes = flag == Flag::Mount;
    let refused = |c: char| c == '\0' || (context.is_strict() && !has_quotes && c.is_control());
    match text.char_indices().find(|&(_, c)| refused(c)) {
        Some((at, c)) => Err(error::control_character("", c, at)),
        None => Ok(()),
    }
}

fn parse_flag(flag: Flag, text: &str, context: Context<'_>) -> Result<Source, Fault> {
    match flag {
        Flag::Volume => short::parse(text, context),
        Flag::Mount => long::parse(text, context).map(Source::Mount),
        Flag::Tmpfs => tmpfs::parse(text, context).map(Source::Tmpfs),
    }
}
