//! Paths as text. Cleaning is lexical, as Docker's is; symbolic links are followed when the path is
//! opened.

use std::fmt;
use std::path::Path;

use super::error::{Fault, Rule, control_character, quote, too_long};
use super::{Context, Dialect};

/// Longest path, in bytes: what the kernel takes, less the NUL.
const PATH_MAX: usize = 4095;

/// A place in the container: absolute, clean, and not the root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target(String);

/// A path on the host: absolute and clean.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPath(String);

/// A path below the root of a volume or an image: relative, clean, not empty, and without `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subpath(String);

macro_rules! text {
    ($type:ident) => {
        impl $type {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The same as a path.
            #[must_use]
            pub fn as_path(&self) -> &Path {
                Path::new(&self.0)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

text!(Target);
text!(HostPath);
text!(Subpath);

impl Target {
    /// Backslashes count as slashes when the root is looked for, in both dialects: Docker may
    /// get the same text. In Docker's dialect they also make a path absolute, which the runtime
    /// then reads as a name in the root.
    pub(super) fn parse(field: &str, raw: &str, dialect: Dialect) -> Result<Self, Fault> {
        check(field, raw)?;
        let slashes = raw.replace('\\', "/");
        if slashes.starts_with('/') && clean(&slashes) == "/" {
            return Err(is_root(field));
        }
        let absolute = match dialect {
            Dialect::Strict => raw.starts_with('/'),
            Dialect::Docker => slashes.starts_with('/'),
        };
        if !absolute {
            let detail = format!("{:?} does not begin with a slash", quote(raw));
            return Err(Fault::new(field, Rule::NotAbsolute, detail));
        }
        below_root(field, raw).map(Self)
    }

    /// Docker takes anything for the place of an anonymous `-v` volume, and the runtime looks for
    /// it from the container's root. The root itself fails when the container starts.
    pub(super) fn parse_anonymous(field: &str, raw: &str) -> Result<Self, Fault> {
        check(field, raw)?;
        if clean(&format!("/{}", raw.replace('\\', "/"))) == "/" {
            return Err(is_root(field));
        }
        below_root(field, raw).map(Self)
    }

    /// Number of components: 1 for `/data`.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.matches('/').count()
    }
}

impl HostPath {
    /// The rule that a text breaks for which [`new`](Self::new) answers `None`, as a predicate.
    pub const RULE: &str = "is not an absolute path of UTF-8, of at most 4095 bytes without NUL";

    /// Checks and cleans an absolute path; `None` if it is not absolute, holds a NUL or is longer
    /// than 4095 bytes.
    #[must_use]
    pub fn new(raw: &str) -> Option<Self> {
        Self::parse("", raw).ok()
    }

    pub(super) fn parse(field: &str, raw: &str) -> Result<Self, Fault> {
        check(field, raw)?;
        if raw.starts_with('/') {
            return Ok(Self(clean(raw)));
        }
        let detail = format!("{:?} does not begin with a slash", quote(raw));
        Err(Fault::new(field, Rule::NotAbsolute, detail))
    }
}

impl Subpath {
    /// `None` for one that names the root itself.
    pub(super) fn parse(field: &str, raw: &str) -> Result<Option<Self>, Fault> {
        check(field, raw)?;
        let cleaned = clean(raw);
        if cleaned.starts_with('/') || cleaned == ".." || cleaned.starts_with("../") {
            let detail = format!("{:?} does not lie below the root", quote(raw));
            let hint = "give a relative path that does not lead upwards";
            return Err(Fault::new(field, Rule::Escapes, detail).hint(hint));
        }
        Ok((cleaned != ".").then_some(Self(cleaned)))
    }
}

fn is_root(field: &str) -> Fault {
    Fault::new(field, Rule::IsRoot, "is the root of the container")
}

fn check(field: &str, raw: &str) -> Result<(), Fault> {
    if raw.len() > PATH_MAX {
        return Err(too_long(field, raw.len(), PATH_MAX));
    }
    match raw.find('\0') {
        Some(at) => Err(control_character(field, '\0', at)),
        None => Ok(()),
    }
}

/// A source that begins with a dot is a path from the base directory, whatever its type.
pub(super) fn from_base(field: &str, raw: &str, context: Context<'_>) -> Result<String, Fault> {
    if !raw.starts_with('.') {
        return Ok(raw.to_owned());
    }
    let Some(base) = context.base_dir else {
        let detail = format!("{:?} is relative, and it is not known to what", quote(raw));
        let hint = "give an absolute path";
        return Err(Fault::new(field, Rule::NoBase, detail).hint(hint));
    };
    check(field, raw)?;
    Ok(clean(&format!("{base}/{raw}")))
}

fn below_root(field: &str, raw: &str) -> Result<String, Fault> {
    let path = clean(&format!("/{raw}"));
    check(field, &path)?;
    Ok(path)
}

/// The shortest path that lexically means the same: no empty names, no `.`, and `..` only at the
/// start of a relative path. `.` if nothing is left.
pub(super) fn clean(raw: &str) -> String {
    let rooted = raw.starts_with('/');
    let mut names: Vec<&str> = Vec::new();
    for name in raw.split('/') {
        match name {
            "" | "." => {}
            ".." if names.last().is_some_and(|last| *last != "..") => {
                names.pop();
            }
            ".." if rooted => {}
            name => names.push(name),
        }
    }
    match (rooted, names.is_empty()) {
        (true, _) => format!("/{}", names.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => names.join("/"),
    }
}
