//! From single mounts to the mounts of a container: who yields to whom, and in which order.

use std::collections::{HashMap, HashSet};

use super::Dialect;
use super::error::{BadSpec, Fault, Flag, Rule};
use super::model::{Kind, MountSpec};
use super::path::Target;

/// A flag and what it says.
#[derive(Debug)]
pub(super) struct Written<'a> {
    pub(super) flag: Flag,
    pub(super) index: usize,
    pub(super) text: &'a str,
    pub(super) source: Source,
}

/// Kinds of flags, by precedence in Docker.
#[derive(Debug)]
pub(super) enum Source {
    /// `-v DESTINATION`: in Docker as good as a VOLUME of the image, and yields to everything.
    Anonymous(MountSpec),
    /// `-v SOURCE:DESTINATION`.
    Named(MountSpec),
    /// `--mount`: yields to a tmpfs in Docker.
    Mount(MountSpec),
    /// `--tmpfs`.
    Tmpfs(MountSpec),
}

impl Source {
    fn spec(&self) -> &MountSpec {
        let (Self::Anonymous(spec) | Self::Named(spec) | Self::Mount(spec) | Self::Tmpfs(spec)) =
            self;
        spec
    }

    fn into_spec(self) -> MountSpec {
        let (Self::Anonymous(spec) | Self::Named(spec) | Self::Mount(spec) | Self::Tmpfs(spec)) =
            self;
        spec
    }
}

pub(super) fn assemble(
    mut written: Vec<Written<'_>>,
    dialect: Dialect,
) -> Result<Vec<MountSpec>, BadSpec> {
    let mut texts = HashSet::new();
    written.retain(|one| one.flag != Flag::Volume || texts.insert(one.text));
    if dialect == Dialect::Docker {
        repeat_tmpfs(&mut written);
        yield_to_tmpfs(&mut written);
        yield_anonymous(&mut written);
    }
    refuse_duplicates(&written)?;
    let mut specs: Vec<MountSpec> = written
        .into_iter()
        .map(|one| one.source.into_spec())
        .collect();
    specs.sort_by_key(|spec| spec.target.depth());
    Ok(specs)
}

/// Of several `--tmpfs` with one spelling of the destination the last one counts.
fn repeat_tmpfs(written: &mut Vec<Written<'_>>) {
    let last: HashMap<&str, usize> = written
        .iter()
        .filter(|one| one.flag == Flag::Tmpfs)
        .map(|one| (tmpfs_key(one), one.index))
        .collect();
    written.retain(|one| one.flag != Flag::Tmpfs || last[tmpfs_key(one)] == one.index);
}

/// The container sees the tmpfs of the flag, unless the other one is a tmpfs as well: then it
/// gets both. Docker compares with the destination as it was written.
fn yield_to_tmpfs(written: &mut Vec<Written<'_>>) {
    let covered: HashSet<String> = written
        .iter()
        .filter(|one| one.flag == Flag::Tmpfs)
        .map(|one| tmpfs_key(one).to_owned())
        .collect();
    let yields = |spec: &MountSpec| {
        let is_tmpfs = matches!(spec.kind, Kind::Tmpfs(_));
        !is_tmpfs && covered.contains(spec.target.as_str())
    };
    written.retain(|one| !matches!(&one.source, Source::Mount(spec) if yields(spec)));
}

fn tmpfs_key<'a>(one: &Written<'a>) -> &'a str {
    one.text.split(':').next().unwrap_or_default()
}

fn yield_anonymous(written: &mut Vec<Written<'_>>) {
    let is_anonymous = |one: &Written<'_>| matches!(one.source, Source::Anonymous(_));
    let mut taken: HashSet<Target> = written
        .iter()
        .filter(|one| !is_anonymous(one))
        .map(|one| one.source.spec().target.clone())
        .collect();
    written.retain(|one| !is_anonymous(one) || taken.insert(one.source.spec().target.clone()));
}

fn refuse_duplicates(written: &[Written<'_>]) -> Result<(), BadSpec> {
    let mut owners: HashMap<&Target, &Written<'_>> = HashMap::new();
    for one in written {
        let target = &one.source.spec().target;
        if let Some(first) = owners.insert(target, one) {
            let (flag, number) = (first.flag, first.index + 1);
            let detail = format!("{target} is the destination of {flag} number {number} too");
            let fault = Fault::new("target", Rule::Duplicate, detail);
            return Err(fault.at(one.flag, one.index, one.text));
        }
    }
    Ok(())
}
