//! Errors of flags: the flag, its field, the violated rule, and the allowed values.

use std::fmt;

/// Characters of a flag or a value that an error quotes.
const QUOTED_CHARS: usize = 120;

/// The kinds of flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flag {
    /// `-v`, `--volume`.
    Volume,
    /// `--mount`.
    Mount,
    /// `--tmpfs`.
    Tmpfs,
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Volume => "-v",
            Self::Mount => "--mount",
            Self::Tmpfs => "--tmpfs",
        })
    }
}

/// The rules a flag can break. Their codes are stable: programs may look at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// More flags than a request may have.
    TooMany,
    /// Longer than allowed.
    TooLong,
    /// A character that is not allowed anywhere.
    ControlCharacter,
    /// The flag's parts cannot be told apart.
    Syntax,
    /// A part or value that must not be empty is.
    Empty,
    /// A required field is not there.
    Missing,
    /// White space around a key or value.
    WhiteSpace,
    /// A key that no type of mount has.
    UnknownKey,
    /// A key or option that existed once.
    Removed,
    /// A key that must stand with a value stands alone.
    NeedsValue,
    /// A value outside what the key takes.
    BadValue,
    /// A key or word of a kind that was given before.
    Repeated,
    /// A key or word of another type of mount.
    OtherType,
    /// Two things that cannot both be, or one without what it needs.
    Conflict,
    /// A path that must begin with a slash does not.
    NotAbsolute,
    /// A destination that is the container's root.
    IsRoot,
    /// A path that leads out of what it is relative to.
    Escapes,
    /// A relative host path, in a request that does not say relative to what.
    NoBase,
    /// Not the name of a volume.
    BadName,
    /// A destination that another flag has.
    Duplicate,
}

impl Rule {
    /// A word in kebab case.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::TooMany => "too-many",
            Self::TooLong => "too-long",
            Self::ControlCharacter => "control-character",
            Self::Syntax => "syntax",
            Self::Empty => "empty",
            Self::Missing => "missing",
            Self::WhiteSpace => "white-space",
            Self::UnknownKey => "unknown-key",
            Self::Removed => "removed",
            Self::NeedsValue => "needs-value",
            Self::BadValue => "bad-value",
            Self::Repeated => "repeated",
            Self::OtherType => "other-type",
            Self::Conflict => "conflict",
            Self::NotAbsolute => "not-absolute",
            Self::IsRoot => "is-root",
            Self::Escapes => "escapes",
            Self::NoBase => "no-base",
            Self::BadName => "bad-name",
            Self::Duplicate => "duplicate",
        }
    }
}

/// A flag that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSpec {
    /// Kind of the flag.
    pub flag: Flag,
    /// Its place among the flags of that kind, from 0.
    pub index: usize,
    /// The flag as it was written, cut after 120 characters.
    pub text: String,
    /// The part at fault: `source`, `target`, `mode`, or the key or word as it was written; empty
    /// where it is the flag as a whole.
    pub field: String,
    /// The violated rule.
    pub rule: Rule,
    /// The same for people: what is wrong, and what is allowed.
    pub detail: String,
    /// Suggestion of a similar valid value.
    pub hint: Option<String>,
}

impl fmt::Display for BadSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: ", self.flag, self.text)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.detail)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for BadSpec {}

/// A [`BadSpec`] that does not know its flag yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    field: String,
    rule: Rule,
    detail: String,
    hint: Option<String>,
}

impl Fault {
    pub(super) fn new(field: &str, rule: Rule, detail: impl Into<String>) -> Self {
        Self {
            field: quote(field),
            rule,
            detail: detail.into(),
            hint: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn at(self, flag: Flag, index: usize, text: &str) -> BadSpec {
        BadSpec {
            flag,
            index,
            text: quote(text),
            field: self.field,
            rule: self.rule,
            detail: self.detail,
            hint: self.hint,
        }
    }
}

/// As much of a text as an error repeats.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

pub(super) fn too_many() -> Fault {
    let detail = format!("is one more than the {} flags allowed", super::FLAGS_MAX);
    Fault::new("", Rule::TooMany, detail)
}

pub(super) fn too_long(field: &str, bytes: usize, most: usize) -> Fault {
    let detail = format!("is {bytes} bytes long, at most {most} are allowed");
    Fault::new(field, Rule::TooLong, detail)
}

pub(super) fn control_character(field: &str, character: char, at: usize) -> Fault {
    let detail = format!("holds the control character {character:?} at offset {at}");
    Fault::new(field, Rule::ControlCharacter, detail)
}

/// `value` of `field` is none of what `allowed` describes.
pub(super) fn bad_value(field: &str, value: &str, allowed: &str) -> Fault {
    let detail = format!("{:?} is not {allowed}", quote(value));
    Fault::new(field, Rule::BadValue, detail)
}
