//! The keys of `--mount`: their names, the types they belong to, and what they say.

use std::collections::BTreeMap;

use super::super::error::{Fault, Rule, quote};
use super::super::model::{CreateSource, IdMap, Policy, Propagation, Relabel, TmpfsSize};
use super::super::path::from_base;
use super::super::{Dialect, value};
use super::{Draft, Item, Type};

/// A key and what it does.
pub(super) struct Key {
    /// The first name is the one that counts; the others mean the same.
    pub(super) names: &'static [&'static str],
    /// The type it belongs to, if only one has it.
    pub(super) family: Option<Type>,
    /// Allows it without a value.
    pub(super) bare: bool,
    /// Set if only our dialect has it.
    pub(super) ours: bool,
    pub(super) take: fn(&mut Draft<'_>, &Item<'_>) -> Result<(), Fault>,
}

type Take = fn(&mut Draft<'_>, &Item<'_>) -> Result<(), Fault>;

const fn key(names: &'static [&'static str], family: Option<Type>, take: Take) -> Key {
    Key {
        names,
        family,
        bare: false,
        ours: false,
        take,
    }
}

const fn ours(names: &'static [&'static str], family: Option<Type>, take: Take) -> Key {
    Key {
        ours: true,
        ..key(names, family, take)
    }
}

const fn bare(base: Key) -> Key {
    Key { bare: true, ..base }
}

pub(super) static KEYS: [Key; 25] = [
    key(&["type"], None, take_type),
    key(&["source", "src"], None, take_source),
    key(&["target", "dst", "destination"], None, |draft, item| {
        draft.target = item.text().to_owned();
        Ok(())
    }),
    bare(key(&["readonly", "ro"], None, |draft, item| {
        draft.read_only = Some(item.boolean()?);
        Ok(())
    })),
    key(&["consistency"], Some(Type::Bind), check_consistency),
    key(&["on-missing"], None, take_policy),
    ours(&["relabel"], None, take_relabel),
    key(&["bind-propagation"], Some(Type::Bind), take_propagation),
    key(&["bind-recursive"], Some(Type::Bind), take_recursion),
    bare(key(
        &["bind-nonrecursive"],
        Some(Type::Bind),
        refuse_removed,
    )),
    bare(key(&["bind-create-src"], Some(Type::Bind), take_create)),
    ours(&["bind-idmap"], Some(Type::Bind), take_idmap),
    bare(key(
        &["volume-nocopy"],
        Some(Type::Volume),
        |draft, item| {
            draft.nocopy = item.boolean()?;
            Ok(())
        },
    )),
    key(&["volume-subpath"], Some(Type::Volume), take_subpath),
    key(&["volume-label"], Some(Type::Volume), take_label),
    key(&["volume-driver"], Some(Type::Volume), |draft, item| {
        draft.create_with.driver = Some(item.text().to_owned());
        Ok(())
    }),
    key(&["volume-opt"], Some(Type::Volume), take_option),
    key(&["image-subpath"], Some(Type::Image), take_subpath),
    key(&["tmpfs-size"], Some(Type::Tmpfs), take_size),
    key(&["tmpfs-mode"], Some(Type::Tmpfs), take_mode),
    ours(&["uid", "tmpfs-uid"], Some(Type::Tmpfs), |draft, item| {
        let id = value::id(item.key, item.text(), item.context)?;
        draft.options.tmpfs.uid = Some(id);
        Ok(())
    }),
    ours(&["gid", "tmpfs-gid"], Some(Type::Tmpfs), |draft, item| {
        let id = value::id(item.key, item.text(), item.context)?;
        draft.options.tmpfs.gid = Some(id);
        Ok(())
    }),
    ours(&["tmpfs-inodes"], Some(Type::Tmpfs), |draft, item| {
        let count = value::count(item.key, item.text(), item.context)?;
        draft.options.tmpfs.inodes = Some(count);
        Ok(())
    }),
    bare(ours(&["tmpfs-exec"], Some(Type::Tmpfs), |draft, item| {
        draft.options.tmpfs.exec = item.boolean()?;
        Ok(())
    })),
    ours(&["tmpfs-opt"], Some(Type::Tmpfs), |draft, item| {
        draft.options.take_other(item.key, item.text())
    }),
];

/// Keys that may be given several times.
pub(super) const REPEATABLE: [&str; 3] = ["volume-label", "volume-opt", "tmpfs-opt"];

fn take_type(draft: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    let lower = item.text().to_lowercase();
    let known = Type::ALL.into_iter().find(|(name, _)| *name == lower);
    let (_, kind) = known.ok_or_else(|| item.bad("volume, bind, tmpfs or image"))?;
    draft.kind = kind;
    Ok(())
}

fn take_source(draft: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    draft.source = from_base(item.key, item.text(), item.context)?;
    Ok(())
}

/// Without effect on Linux; Docker does not even look.
fn check_consistency(_: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    let known = ["consistent", "cached", "delegated", "default"];
    let lower = item.text().to_lowercase();
    if item.context.is_strict() && !known.contains(&lower.as_str()) {
        return Err(item.bad("consistent, cached, delegated or default"));
    }
    Ok(())
}

fn take_policy(draft: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    draft.policy = Some(match item.text() {
        "create" => Policy::Create,
        "fail" => Policy::Fail,
        _ => return Err(item.bad("create or fail")),
    });
    Ok(())
}

fn take_relabel(draft: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    draft.relabel = Some(match item.text() {
        "shared" => Relabel::Shared,
        "private" => Relabel::Private,
        _ => return Err(item.bad("shared or private")),
    });
    Ok(())
}

fn take_propagation(draft: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    let known = Propagation::from_word(&item.text().to_lowercase());
    let names = Propagation::ALL.map(Propagation::as_str).join(", ");
    draft.propagation = Some(known.ok_or_else(|| item.bad(&format!("one of {names}")))?);
    Ok(())
}

fn take_recursion(draft: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    match item.text() {
        "enabled" => {}
        "disabled" => draft.recursion.disabled = true,
        "writable" => draft.recursion.writable = true,
        "readonly" => draft.recursion.read_only = true,
        _ => return Err(item.bad("enabled, disabled, writable or readonly")),
    }
    Ok(())
}

fn refuse_removed(_: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    let detail = "was removed";
    let hint = "write bind-recursive=disabled";
    Err(Fault::new(item.key, Rule::Removed, detail).hint(hint))
}

fn take_create(draft: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    let create = match (item.context.dialect, item.value) {
        (Dialect::Strict, Some("dir")) => CreateSource::Directory,
        (Dialect::Strict, Some("file")) => CreateSource::File,
        (_, Some("0" | "false")) => CreateSource::None,
        (_, None | Some("1" | "true")) => CreateSource::Directory,
        (Dialect::Strict, _) => return Err(item.bad("dir, file, true, 1, false or 0")),
        (Dialect::Docker, _) => return Err(item.bad("true, 1, false or 0")),
    };
    draft.create = Some(create);
    Ok(())
}

fn take_idmap(draft: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    draft.idmap = Some(match item.text().split_once(':') {
        None if item.text() == "userns" => IdMap::UserNamespace,
        None if item.text() == "match-user" => IdMap::MatchUser(None),
        Some(("match-user", user)) if !user.is_empty() => IdMap::MatchUser(Some(user.to_owned())),
        _ => return Err(item.bad("userns, match-user or match-user:USER")),
    });
    Ok(())
}

fn take_subpath(draft: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    draft.subpath = Some((item.key.to_owned(), item.text().to_owned()));
    Ok(())
}

fn take_label(draft: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    let (name, value) = item.text().split_once('=').unwrap_or((item.text(), ""));
    enter(&mut draft.create_with.labels, name, value, item)
}

fn take_option(draft: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    let pair = item.text().split_once('=');
    if pair.is_none() && item.context.is_strict() {
        return Err(item.bad("NAME=VALUE"));
    }
    let (name, value) = pair.unwrap_or((item.text(), ""));
    enter(&mut draft.create_with.options, name, value, item)
}

/// Docker ignores a pair without a name, and takes the last of two.
fn enter(
    map: &mut BTreeMap<String, String>,
    name: &str,
    value: &str,
    item: &Item<'_>,
) -> Result<(), Fault> {
    if item.context.is_strict() && name.is_empty() {
        return Err(item.bad("NAME=VALUE: the name is empty"));
    }
    if item.context.is_strict() && map.contains_key(name) {
        let detail = format!("{:?} was given before", quote(name));
        return Err(Fault::new(item.key, Rule::Repeated, detail));
    }
    if !name.is_empty() {
        map.insert(name.to_owned(), value.to_owned());
    }
    Ok(())
}

fn take_size(draft: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    let size: Option<TmpfsSize> = value::long_size(item.key, item.text(), item.context)?;
    draft.options.tmpfs.size = size;
    Ok(())
}

/// Docker takes 0 for not said.
fn take_mode(draft: &mut Draft<'_>, item: &Item<'_>) -> Result<(), Fault> {
    let mode = value::mode(item.key, item.text(), item.context)?;
    let said = item.context.is_strict() || mode != 0;
    draft.options.tmpfs.mode = said.then_some(mode);
    Ok(())
}
