//! containerd's filter language over snapshots.
//!
//! A filter is a list of selectors separated by commas, all of which must hold; several filters
//! are alternatives. `name==x` and `name!=x` compare, `name~=x` searches for a regular
//! expression, a field alone asks whether it is there. What upstream accepts and refuses,
//! accidents included, is accepted and refused here, because clients were written against it.
//!
//! Regular expressions are those of the `regex` crate. They differ from upstream's in corners:
//! `\d`, `\s`, `\w` and `\b` know Unicode, `\Q` and octal escapes are unknown, `\u` is known, and
//! `[` inside a class nests.

mod lexer;
mod parser;
#[cfg(test)]
mod tests;

use regex::{Regex, RegexBuilder};

use parser::{Operator, RawSelector};

/// Bytes that all filters of one call may have together.
pub const MAX_BYTES: usize = 64 * 1024;
/// Filters in one call.
pub const MAX_FILTERS: usize = 1024;
/// Regular expressions in one call.
pub const MAX_PATTERNS: usize = 64;
/// Bytes one compiled regular expression may take.
const PATTERN_BYTES: usize = 1024 * 1024;
/// Characters of a refused filter that its error quotes.
const QUOTED_CHARS: usize = 120;

/// Field of a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// The snapshot's key or name.
    Name,
    /// The parent's name; empty for none.
    Parent,
    /// `active`, `view` or `committed`.
    Kind,
    /// The value of the label with this key.
    Label(String),
    /// Nothing a snapshot has.
    Unknown,
}

impl Field {
    /// Upstream looks at the first part only, except for labels, where the other parts joined by
    /// dots are the key.
    fn from_path(path: &[Vec<u8>]) -> Self {
        match path.split_first() {
            Some((first, rest)) => match first.as_slice() {
                b"name" => Self::Name,
                b"parent" => Self::Parent,
                b"kind" => Self::Kind,
                b"labels" => String::from_utf8(rest.join(&b'.')).map_or(Self::Unknown, Self::Label),
                _ => Self::Unknown,
            },
            None => Self::Unknown,
        }
    }
}

/// Something a filter can be asked about.
pub trait Fields {
    /// The field's value; `None` if it is not there. Name, parent and kind always are.
    fn field(&self, field: &Field) -> Option<&str>;
}

#[derive(Debug, Clone)]
enum Test {
    Present,
    Equal(Vec<u8>),
    Differs(Vec<u8>),
    /// `None` stands for an expression that is none, which matches nothing.
    Matches(Option<Regex>),
}

#[derive(Debug, Clone)]
struct Selector {
    field: Field,
    test: Test,
}

impl Selector {
    /// An absent field reads as empty, but never equals.
    fn holds(&self, subject: &dyn Fields) -> bool {
        let value = subject.field(&self.field);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.is_some_and(|value| value.as_bytes() == wanted),
            Test::Differs(other) => value.unwrap_or_default().as_bytes() != other,
            Test::Matches(None) => false,
            Test::Matches(Some(pattern)) => pattern.is_match(value.unwrap_or_default()),
        }
    }
}

/// The filters of one call, parsed.
#[derive(Debug, Clone)]
pub struct Filter {
    /// One of these must hold, each with all its selectors; one without selectors always does.
    alternatives: Vec<Vec<Selector>>,
}

impl Filter {
    /// Parses alternatives. An empty list matches everything, and so does an empty filter. A
    /// regular expression that does not parse is logged and matches nothing, as upstream.
    ///
    /// Costs time linear in the input, and a bounded compilation for each regular expression.
    ///
    /// # Errors
    /// [`BadFilter`] for the first filter that does not parse, or if all of them together pass
    /// [`MAX_BYTES`], [`MAX_FILTERS`] or [`MAX_PATTERNS`].
    pub fn parse_all(filters: &[String]) -> Result<Self, BadFilter> {
        check_size(filters)?;
        if filters.is_empty() {
            return Ok(Self {
                alternatives: vec![Vec::new()],
            });
        }
        let mut compiler = Compiler { patterns: 0 };
        let alternatives = filters
            .iter()
            .map(|filter| compiler.conjunction(filter))
            .collect::<Result<_, _>>()?;
        Ok(Self { alternatives })
    }

    /// True if any alternative matches. A regular expression costs time linear in the value.
    pub fn matches(&self, subject: &dyn Fields) -> bool {
        self.alternatives
            .iter()
            .any(|all| all.iter().all(|selector| selector.holds(subject)))
    }

    /// The value `field` must have in whatever matches, if the filter says so with `==` and has
    /// no alternatives. It lets a caller use an index instead of looking at everything:
    /// containerd's only filter, for a layer that is already there, fixes the parent and the
    /// label `containerd.io/snapshot.ref`.
    #[must_use]
    pub fn required(&self, field: &Field) -> Option<&str> {
        let [all] = self.alternatives.as_slice() else {
            return None;
        };
        all.iter().find_map(|selector| match &selector.test {
            Test::Equal(value) if selector.field == *field => std::str::from_utf8(value).ok(),
            _ => None,
        })
    }
}

/// Turns what was parsed into what can be asked.
struct Compiler {
    patterns: usize,
}

impl Compiler {
    fn conjunction(&mut self, filter: &str) -> Result<Vec<Selector>, BadFilter> {
        if filter.is_empty() {
            return Ok(Vec::new());
        }
        parser::parse(filter)
            .map_err(|fault| BadFilter::Syntax {
                filter: quote(filter),
                at: fault.at,
                found: fault.found,
                allowed: fault.allowed,
            })?
            .into_iter()
            .map(|raw| self.selector(raw))
            .collect()
    }

    fn selector(&mut self, raw: RawSelector) -> Result<Selector, BadFilter> {
        let test = match raw.operator {
            Operator::Present => Test::Present,
            Operator::Equal => Test::Equal(raw.value),
            Operator::Differs => Test::Differs(raw.value),
            Operator::Matches => Test::Matches(self.pattern(raw.value)?),
        };
        Ok(Selector {
            field: Field::from_path(&raw.path),
            test,
        })
    }

    fn pattern(&mut self, value: Vec<u8>) -> Result<Option<Regex>, BadFilter> {
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS {
            return Err(BadFilter::TooManyPatterns);
        }
        let source = String::from_utf8_lossy(&value);
        if matches!(source, std::borrow::Cow::Owned(_)) {
            tracing::warn!(pattern = %source.escape_debug(), "pattern is not UTF-8 and matches nothing");
            return Ok(None);
        }
        compile(&source)
    }
}

fn compile(source: &str) -> Result<Option<Regex>, BadFilter> {
    let built = RegexBuilder::new(source)
        .size_limit(PATTERN_BYTES)
        .dfa_size_limit(PATTERN_BYTES)
        .build();
    match built {
        Ok(pattern) => Ok(Some(pattern)),
        Err(regex::Error::CompiledTooBig(_)) => Err(BadFilter::PatternTooBig {
            pattern: quote(source),
        }),
        Err(cause) => {
            let pattern = quote(source);
            tracing::warn!(%pattern, %cause, "pattern does not parse and matches nothing");
            Ok(None)
        }
    }
}

fn check_size(filters: &[String]) -> Result<(), BadFilter> {
    if filters.len() > MAX_FILTERS {
        return Err(BadFilter::TooMany {
            count: filters.len(),
        });
    }
    let bytes = filters.iter().map(String::len).sum();
    if bytes > MAX_BYTES {
        return Err(BadFilter::TooLong { bytes });
    }
    Ok(())
}

/// The start of a client's text, safe to print.
fn quote(text: &str) -> String {
    let start: String = text.chars().take(QUOTED_CHARS).collect();
    let more = if start.len() < text.len() { "..." } else { "" };
    format!("\"{}{more}\"", start.escape_debug())
}

/// Why filters were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    /// A filter does not follow the grammar.
    #[error("filter {filter}: at byte {at}: found {found}, allowed is {allowed}")]
    Syntax {
        /// The filter, or its start, quoted.
        filter: String,
        /// Where, in bytes from the start of the filter.
        at: usize,
        /// The found token.
        found: String,
        /// The allowed tokens.
        allowed: &'static str,
    },
    /// The filters are too long together.
    #[error("filters have {bytes} bytes, allowed are {MAX_BYTES} in one call")]
    TooLong {
        /// Bytes of all filters.
        bytes: usize,
    },
    /// There are too many filters.
    #[error("{count} filters, allowed are {MAX_FILTERS} in one call")]
    TooMany {
        /// Number of filters.
        count: usize,
    },
    /// There are too many regular expressions.
    #[error("more than {MAX_PATTERNS} regular expressions in the filters of one call")]
    TooManyPatterns,
    /// A regular expression would take too much memory.
    #[error("regular expression {pattern} needs more than {PATTERN_BYTES} bytes")]
    PatternTooBig {
        /// The expression, or its start, quoted.
        pattern: String,
    },
}
