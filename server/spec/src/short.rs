//! `-v [SOURCE:]DESTINATION[:WORD,…]`: what begins with a slash, or with a dot, is a path of the
//! host, anything else the name of a volume. Whether something of that name exists is not asked.

use super::error::{Fault, Rule, quote};
use super::model::{
    Bind, CreateSource, CreateWith, Kind, MountSpec, OnMissing, Origin, Policy, Propagation,
    ReadOnly, Relabel, Volume, volume_name,
};
use super::path::{HostPath, Target, from_base};
use super::set::Source;
use super::{Context, Dialect};

pub(super) fn parse(text: &str, context: Context<'_>) -> Result<Source, Fault> {
    let sections = match context.dialect {
        Dialect::Strict => strict_sections(text)?,
        Dialect::Docker => docker_sections(text)?,
    };
    match sections {
        Sections::Target(target) => anonymous(target, context),
        Sections::Pair(source, target) => named(source, target, None, context),
        Sections::All(source, target, mode) => named(source, target, Some(mode), context),
    }
}

enum Sections<'a> {
    Target(&'a str),
    Pair(&'a str, &'a str),
    All(&'a str, &'a str, &'a str),
}

fn strict_sections(text: &str) -> Result<Sections<'_>, Fault> {
    let parts: Vec<&str> = text.splitn(4, ':').collect();
    let names = ["source", "target", "mode"];
    for (part, name) in parts.iter().zip(names) {
        let name = if parts.len() == 1 { "target" } else { name };
        if part.is_empty() {
            return Err(Fault::new(name, Rule::Empty, "must not be empty"));
        }
    }
    match parts[..] {
        [target] => Ok(Sections::Target(target)),
        [_, words] if Mode::parse(words, Dialect::Strict).is_ok() => Err(lone_mode(words)),
        [source, target] => Ok(Sections::Pair(source, target)),
        [source, target, mode] => Ok(Sections::All(source, target, mode)),
        _ => Err(too_many_colons()),
    }
}

/// Docker cuts twice. Its client takes one letter and a colon for a drive of Windows and looks
/// for empty sections; the daemon cuts the same text at every colon.
fn docker_sections(text: &str) -> Result<Sections<'_>, Fault> {
    if text.is_empty() {
        return Err(Fault::new("target", Rule::Empty, "must not be empty"));
    }
    let sections = drive_aware(text);
    if text.len() <= 2 || (sections == [text.len()]) {
        return Ok(Sections::Target(text));
    }
    if sections.contains(&0) {
        let detail = "a section between colons is empty";
        return Err(Fault::new("", Rule::Empty, detail));
    }
    let parts: Vec<&str> = text.splitn(4, ':').collect();
    match parts[..] {
        _ if sections.len() > 3 => Err(too_many_colons()),
        [_, words] if Mode::parse(words, Dialect::Docker).is_ok() => Err(lone_mode(words)),
        [source, target] => Ok(Sections::Pair(source, target)),
        [source, target, mode] => Ok(Sections::All(source, target, mode)),
        _ => Err(too_many_colons()),
    }
}

/// Lengths of the sections as Docker's client sees them.
fn drive_aware(text: &str) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut section = String::new();
    for character in text.chars() {
        let is_letter = |text: &str| {
            let mut chars = text.chars();
            chars.next().is_some_and(char::is_alphabetic) && chars.next().is_none()
        };
        if character == ':' && !is_letter(&section) {
            lengths.push(section.len());
            section.clear();
        } else {
            section.push(character);
        }
    }
    lengths.push(section.len());
    lengths
}

fn lone_mode(words: &str) -> Fault {
    let detail = format!("{:?} is a mode, and there is no destination", quote(words));
    let hint = "write SOURCE:DESTINATION:MODE; an anonymous volume takes no mode";
    Fault::new("target", Rule::Syntax, detail).hint(hint)
}

fn too_many_colons() -> Fault {
    let hint = "paths that hold a colon can only be given to --mount";
    Fault::new("", Rule::Syntax, "has too many colons").hint(hint)
}

fn anonymous(target: &str, context: Context<'_>) -> Result<Source, Fault> {
    let target = match context.dialect {
        Dialect::Strict => Target::parse("target", target, context.dialect)?,
        Dialect::Docker => Target::parse_anonymous("target", target)?,
    };
    Ok(Source::Anonymous(MountSpec {
        kind: Kind::Volume(Volume {
            name: None,
            subpath: None,
            copy_up: true,
            create_with: CreateWith::default(),
        }),
        target,
        read_only: ReadOnly::Rw,
        on_missing: OnMissing {
            policy: Policy::Create,
            origin: Origin::Dialect,
        },
        relabel: None,
    }))
}

fn named(
    source: &str,
    target: &str,
    words: Option<&str>,
    context: Context<'_>,
) -> Result<Source, Fault> {
    let mode = words.map_or(Ok(Mode::default()), |words| {
        Mode::parse(words, context.dialect)
    })?;
    let target = Target::parse("target", target, context.dialect)?;
    let source = from_base("source", source, context)?;
    let on_missing = OnMissing {
        policy: mode.policy.unwrap_or(Policy::Create),
        origin: mode.policy.map_or(Origin::Dialect, |_| Origin::Explicit),
    };
    let is_path = source.starts_with('/');
    let kind = if is_path {
        mode.bind(&source, on_missing.policy).map(Kind::Bind)?
    } else {
        mode.volume(&source).map(Kind::Volume)?
    };
    // Docker shares a volume's label where nothing else is said, and only there.
    let bare_volume = context.dialect == Dialect::Docker && !is_path && words.is_none();
    Ok(Source::Named(MountSpec {
        kind,
        target,
        read_only: mode.read_only(),
        on_missing,
        relabel: mode
            .relabel
            .or(bare_volume.then_some(Relabel::SharedByDialect)),
    }))
}

/// The words behind the second colon: at most one of each kind.
#[derive(Debug, Default)]
struct Mode {
    access: Option<bool>,
    relabel: Option<Relabel>,
    propagation: Option<Propagation>,
    nocopy: Option<()>,
    consistency: Option<()>,
    policy: Option<Policy>,
}

impl Mode {
    fn parse(words: &str, dialect: Dialect) -> Result<Self, Fault> {
        let mut mode = Self::default();
        for word in words.split(',') {
            mode.take(word, dialect)?;
        }
        Ok(mode)
    }

    fn take(&mut self, word: &str, dialect: Dialect) -> Result<(), Fault> {
        match word {
            "rw" => once(&mut self.access, true, word),
            "ro" => once(&mut self.access, false, word),
            "z" => once(&mut self.relabel, Relabel::Shared, word),
            "Z" => once(&mut self.relabel, Relabel::Private, word),
            "nocopy" => once(&mut self.nocopy, (), word),
            "consistent" | "cached" | "delegated" => once(&mut self.consistency, (), word),
            "create" => once(&mut self.policy, Policy::Create, word),
            "nocreate" => once(&mut self.policy, Policy::Fail, word),
            _ => match Propagation::from_word(word) {
                Some(propagation) => once(&mut self.propagation, propagation, word),
                None => Err(unknown_word(word, dialect)),
            },
        }
    }

    fn read_only(&self) -> ReadOnly {
        match self.access {
            Some(false) => ReadOnly::RoRecursiveIfPossible,
            Some(true) | None => ReadOnly::Rw,
        }
    }

    fn bind(&self, source: &str, policy: Policy) -> Result<Bind, Fault> {
        if self.nocopy.is_some() {
            return Err(other_type("nocopy", "volumes", "host path"));
        }
        Ok(Bind {
            source: HostPath::parse("source", source)?,
            propagation: self.propagation.unwrap_or_default(),
            recursive: true,
            create: match policy {
                Policy::Create => CreateSource::Directory,
                Policy::Fail => CreateSource::None,
            },
            idmap: None,
        })
    }

    fn volume(&self, source: &str) -> Result<Volume, Fault> {
        let name = volume_name("source", source)?;
        if let Some(propagation) = self.propagation {
            return Err(other_type(propagation.as_str(), "host paths", "volume"));
        }
        Ok(Volume {
            name: Some(name),
            subpath: None,
            copy_up: self.nocopy.is_none(),
            create_with: CreateWith::default(),
        })
    }
}

fn once<T>(place: &mut Option<T>, value: T, word: &str) -> Result<(), Fault> {
    if place.replace(value).is_none() {
        return Ok(());
    }
    let detail = format!("{word} is a word of a kind that was given before");
    Err(Fault::new("mode", Rule::Repeated, detail))
}

fn unknown_word(word: &str, dialect: Dialect) -> Fault {
    let detail = format!("{:?} is no word of a mode", quote(word));
    let fault = Fault::new("mode", Rule::BadValue, detail);
    match dialect {
        _ if word.starts_with('/') => fault.hint("a destination with a colon needs --mount"),
        Dialect::Strict | Dialect::Docker => fault.hint(
            "known are ro, rw, z, Z, nocopy, create, nocreate, private, rprivate, shared, \
             rshared, slave, rslave, consistent, cached and delegated",
        ),
    }
}

fn other_type(word: &str, of: &str, not: &str) -> Fault {
    let detail = format!("{word} is a word for {of}, and the source is a {not}");
    Fault::new("mode", Rule::OtherType, detail)
}
