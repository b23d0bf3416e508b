//! `--tmpfs DESTINATION[:OPTION,…]`, where the options are those of mount(8).

use std::collections::{BTreeMap, BTreeSet};

use super::error::{Fault, Rule, bad_value};
use super::model::{Kind, MountSpec, OnMissing, Origin, Policy, ReadOnly, Tmpfs};
use super::path::Target;
use super::{Context, value};

/// Words that stand alone: of what kind they are, and whether they state the default. Of each
/// kind the last one counts.
const WORDS: [(&str, &str, bool); 21] = [
    ("suid", "suid", false),
    ("nosuid", "suid", true),
    ("dev", "dev", false),
    ("nodev", "dev", true),
    ("sync", "sync", false),
    ("async", "sync", true),
    ("dirsync", "dirsync", false),
    ("mand", "mand", false),
    ("nomand", "mand", true),
    ("atime", "atime", true),
    ("noatime", "atime", false),
    ("diratime", "diratime", true),
    ("nodiratime", "diratime", false),
    ("relatime", "relatime", true),
    ("norelatime", "relatime", false),
    ("strictatime", "strictatime", false),
    ("nostrictatime", "strictatime", true),
    ("exec", "exec", false),
    ("noexec", "exec", true),
    ("ro", "access", false),
    ("rw", "access", true),
];

/// Words for how mounts made later on it spread; `rprivate` is the default.
const PROPAGATION: [&str; 8] = [
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
];

const POLICIES: [&str; 5] = ["default", "prefer", "bind", "interleave", "local"];

pub(super) fn parse(text: &str, context: Context<'_>) -> Result<MountSpec, Fault> {
    let (target, list) = match text.split_once(':') {
        Some((target, list)) => (target, Some(list)),
        None => (text, None),
    };
    let target = Target::parse("target", target, context.dialect)?;
    let mut options = Options::new(context);
    match list {
        Some("") if context.is_strict() => {
            return Err(Fault::new(
                "options",
                Rule::Empty,
                "nothing follows the colon",
            ));
        }
        None | Some("") => {}
        Some(list) => list
            .split(',')
            .try_for_each(|option| options.take(option))?,
    }
    let read_only = options.read_only;
    Ok(spec(options.finish(), target, read_only))
}

pub(super) fn spec(tmpfs: Tmpfs, target: Target, read_only: bool) -> MountSpec {
    MountSpec {
        kind: Kind::Tmpfs(tmpfs),
        target,
        read_only: if read_only {
            ReadOnly::RoRecursiveIfPossible
        } else {
            ReadOnly::Rw
        },
        on_missing: OnMissing {
            policy: Policy::Create,
            origin: Origin::Dialect,
        },
        relabel: None,
    }
}

/// Mount options, as they come in.
pub(super) struct Options<'a> {
    context: Context<'a>,
    pub(super) tmpfs: Tmpfs,
    read_only: bool,
    /// Options without a field of their own, by kind.
    more: BTreeMap<&'static str, String>,
    seen: BTreeSet<&'static str>,
}

impl<'a> Options<'a> {
    pub(super) fn new(context: Context<'a>) -> Self {
        Self {
            context,
            tmpfs: Tmpfs::default(),
            read_only: false,
            more: BTreeMap::new(),
            seen: BTreeSet::new(),
        }
    }

    pub(super) fn finish(self) -> Tmpfs {
        let mut more: Vec<String> = self.more.into_values().collect();
        more.sort_unstable();
        Tmpfs { more, ..self.tmpfs }
    }

    fn take(&mut self, option: &str) -> Result<(), Fault> {
        match option.split_once('=') {
            Some((key, value)) => self.pair(key, value),
            None => self.word(option),
        }
    }

    /// One for which `--mount` has no key.
    pub(super) fn take_other(&mut self, field: &str, option: &str) -> Result<(), Fault> {
        let own = [
            "size",
            "mode",
            "uid",
            "gid",
            "nr_inodes",
            "exec",
            "noexec",
            "ro",
            "rw",
        ];
        let name = option.split('=').next().unwrap_or_default();
        if own.contains(&name) {
            let allowed = "an option that has no key of its own";
            return Err(bad_value(field, option, allowed));
        }
        self.take(option)
    }

    fn pair(&mut self, key: &str, value: &str) -> Result<(), Fault> {
        let context = self.context;
        match key {
            "size" => {
                self.once("size", key)?;
                self.tmpfs.size = Some(value::kernel_size(key, value, context)?);
            }
            "mode" => {
                self.once("mode", key)?;
                self.tmpfs.mode = Some(value::mode(key, value, context)?);
            }
            "uid" => {
                self.once("uid", key)?;
                self.tmpfs.uid = Some(value::id(key, value, context)?);
            }
            "gid" => {
                self.once("gid", key)?;
                self.tmpfs.gid = Some(value::id(key, value, context)?);
            }
            "nr_inodes" => {
                self.once("nr_inodes", key)?;
                self.tmpfs.inodes = Some(value::count(key, value, context)?);
            }
            "nr_blocks" => {
                let blocks = value::count(key, value, context)?;
                self.keep("nr_blocks", key, format!("nr_blocks={blocks}"))?;
            }
            "mpol" => {
                let policy = value.split(['=', ':']).next().unwrap_or_default();
                if !POLICIES.contains(&policy) {
                    return Err(bad_value(key, value, "a policy for memory"));
                }
                self.keep("mpol", key, format!("mpol={value}"))?;
            }
            _ => return Err(unknown(key)),
        }
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), Fault> {
        let known = WORDS.into_iter().find(|(known, ..)| *known == word);
        match known {
            Some((_, kind @ "exec", _)) => {
                self.once(kind, word)?;
                self.tmpfs.exec = word == "exec";
            }
            Some((_, kind @ "access", _)) => {
                self.once(kind, word)?;
                self.read_only = word == "ro";
            }
            Some((_, kind, true)) => {
                self.once(kind, word)?;
                self.more.remove(kind);
            }
            Some((_, kind, false)) => self.keep(kind, word, word.to_owned())?,
            None => return self.other_word(word),
        }
        Ok(())
    }

    fn other_word(&mut self, word: &str) -> Result<(), Fault> {
        match word {
            "" => Err(Fault::new("options", Rule::Empty, "an option is empty")),
            "size" | "mode" | "uid" | "gid" | "nr_inodes" | "nr_blocks" | "mpol" => {
                Err(Fault::new(word, Rule::NeedsValue, "needs a value"))
            }
            "defaults" if !self.context.is_strict() => Ok(()),
            "rprivate" => {
                self.once("propagation", word)?;
                self.more.remove("propagation");
                Ok(())
            }
            _ if PROPAGATION.contains(&word) => self.keep("propagation", word, word.to_owned()),
            _ => Err(unknown(word)),
        }
    }

    fn keep(&mut self, kind: &'static str, word: &str, text: String) -> Result<(), Fault> {
        self.once(kind, word)?;
        self.more.insert(kind, text);
        Ok(())
    }

    /// Of two options of a kind Docker takes the last.
    fn once(&mut self, kind: &'static str, word: &str) -> Result<(), Fault> {
        if self.seen.insert(kind) || !self.context.is_strict() {
            return Ok(());
        }
        let detail = "an option of this kind was given before";
        Err(Fault::new(word, Rule::Repeated, detail))
    }
}

fn unknown(option: &str) -> Fault {
    let detail = "is no option of a tmpfs";
    Fault::new(option, Rule::UnknownKey, detail)
}
