//! `--mount KEY=VALUE,…`: one record of comma-separated values.

mod build;
mod keys;

use std::collections::HashSet;

use super::error::{Fault, Rule, bad_value};
use super::model::{CreateSource, CreateWith, IdMap, MountSpec, Policy, Propagation, Relabel};
use super::{Context, csv, tmpfs, value};
use keys::{KEYS, Key, REPEATABLE};

pub(super) fn parse(text: &str, context: Context<'_>) -> Result<MountSpec, Fault> {
    let mut draft = Draft::new(context);
    for field in csv::record(text, context)? {
        draft.field(&field)?;
    }
    draft.check_families()?;
    draft.build()
}

/// The types of mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Volume,
    Bind,
    Tmpfs,
    Image,
}

impl Type {
    const ALL: [(&'static str, Self); 4] = [
        ("volume", Self::Volume),
        ("bind", Self::Bind),
        ("tmpfs", Self::Tmpfs),
        ("image", Self::Image),
    ];

    fn name(self) -> &'static str {
        let found = Self::ALL.into_iter().find(|(_, one)| *one == self);
        found.map_or("", |(name, _)| name)
    }
}

/// One field, cut at its first equals sign.
struct Item<'a> {
    /// As it was written.
    key: &'a str,
    value: Option<&'a str>,
    context: Context<'a>,
}

impl<'a> Item<'a> {
    fn text(&self) -> &'a str {
        self.value.unwrap_or_default()
    }

    fn boolean(&self) -> Result<bool, Fault> {
        value::boolean(self.key, self.value)
    }

    fn bad(&self, allowed: &str) -> Fault {
        bad_value(self.key, self.text(), allowed)
    }

    fn cut(field: &'a csv::Field, context: Context<'a>) -> Result<Self, Fault> {
        let (key, value) = match field.text.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field.text.as_str(), None),
        };
        let spaced = |field: &str, what: &str| {
            let detail = format!("white space around {what}");
            Fault::new(field, Rule::WhiteSpace, detail)
        };
        if key.trim() != key {
            return Err(spaced(key.trim(), "a key"));
        }
        if key.is_empty() {
            return Err(Fault::new("", Rule::Empty, "a field has no key"));
        }
        // A quoted field in our dialect keeps its spaces.
        let meant = context.is_strict() && field.quoted;
        let blank = |value: &str| value.is_empty() || (!meant && value.trim().is_empty());
        if value.is_some_and(blank) {
            return Err(Fault::new(key, Rule::Empty, "the value is empty"));
        }
        if value.is_some_and(|value| value.trim() != value) && !meant {
            let fault = spaced(key, "the value");
            return Err(fault.hint("in our dialect a quoted field keeps its spaces"));
        }
        Ok(Self {
            key,
            value,
            context,
        })
    }
}

/// Values of the fields so far.
struct Draft<'a> {
    context: Context<'a>,
    kind: Type,
    source: String,
    target: String,
    read_only: Option<bool>,
    policy: Option<Policy>,
    relabel: Option<Relabel>,
    propagation: Option<Propagation>,
    recursion: Recursion,
    create: Option<CreateSource>,
    idmap: Option<IdMap>,
    nocopy: bool,
    /// Of a volume or an image: the key as written, and the path.
    subpath: Option<(String, String)>,
    create_with: CreateWith,
    options: tmpfs::Options<'a>,
    /// Keys of one type of mount only, as they were written.
    families: Vec<(Type, String)>,
    seen: HashSet<&'static str>,
}

/// `bind-recursive`. In Docker's dialect the words add up.
#[derive(Debug, Default)]
struct Recursion {
    disabled: bool,
    writable: bool,
    read_only: bool,
}

impl<'a> Draft<'a> {
    fn new(context: Context<'a>) -> Self {
        Self {
            context,
            kind: Type::Volume,
            source: String::new(),
            target: String::new(),
            read_only: None,
            policy: None,
            relabel: None,
            propagation: None,
            recursion: Recursion::default(),
            create: None,
            idmap: None,
            nocopy: false,
            subpath: None,
            create_with: CreateWith::default(),
            options: tmpfs::Options::new(context),
            families: Vec::new(),
            seen: HashSet::new(),
        }
    }

    fn field(&mut self, field: &csv::Field) -> Result<(), Fault> {
        let item = Item::cut(field, self.context)?;
        let lower = item.key.to_lowercase();
        let known = KEYS
            .iter()
            .find(|key| key.names.contains(&lower.as_str()))
            .filter(|key| self.context.is_strict() || !key.ours);
        let Some(key) = known else {
            return Err(unknown(&item));
        };
        if item.value.is_none() && !key.bare {
            let detail = format!("needs a value: {lower}=…");
            return Err(Fault::new(item.key, Rule::NeedsValue, detail));
        }
        self.note(key, &item)?;
        (key.take)(self, &item)
    }

    /// Remembers the key, to refuse repeats and keys of another type.
    fn note(&mut self, key: &Key, item: &Item<'_>) -> Result<(), Fault> {
        let name = key.names[0];
        let new = self.seen.insert(name) || REPEATABLE.contains(&name);
        if !new && self.context.is_strict() {
            let detail = "was given before, under this name or another";
            return Err(Fault::new(item.key, Rule::Repeated, detail));
        }
        // What Docker does not look at, and what it takes for not said.
        let unseen = match name {
            "consistency" => true,
            "bind-recursive" => item.value == Some("enabled"),
            _ => false,
        };
        match key.family {
            Some(family) if self.context.is_strict() || !unseen => {
                self.families.push((family, item.key.to_owned()));
            }
            _ => {}
        }
        Ok(())
    }

    fn check_families(&self) -> Result<(), Fault> {
        let other = self
            .families
            .iter()
            .find(|(family, _)| *family != self.kind);
        let Some((family, key)) = other else {
            return Ok(());
        };
        let detail = format!(
            "belongs to type={}, and this is type={}",
            family.name(),
            self.kind.name()
        );
        Err(Fault::new(key, Rule::OtherType, detail))
    }
}

fn unknown(item: &Item<'_>) -> Fault {
    let fault = match item.value {
        Some(_) => Fault::new(item.key, Rule::UnknownKey, "is no key of a mount"),
        None => Fault::new(item.key, Rule::NeedsValue, "must be KEY=VALUE"),
    };
    let instead = match item.key {
        "nocopy" => "volume-nocopy",
        "z" => "relabel=shared, in our dialect",
        "Z" => "relabel=private, in our dialect",
        "rw" => "readonly=false",
        "subpath" => "volume-subpath or image-subpath",
        "size" | "mode" => "tmpfs-size or tmpfs-mode",
        _ => return fault,
    };
    fault.hint(format!("write {instead}"))
}
