//! Mounts below a directory, compared between a bind and its source.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Attached, BindOptions, Handle, MountEntry, MountError, MountId, Propagation, table};

/// A mount below a directory: its path from there, and what it shows.
type Part = (PathBuf, (u32, u32), PathBuf);

/// See [`super::Mounter::is_current`].
pub(super) fn is_current(
    bind: &Attached,
    source: &Handle,
    options: &BindOptions,
) -> Result<bool, MountError> {
    if (source.device(), source.inode()) != (bind.device, bind.inode) {
        return Ok(false);
    }
    if !options.recursive {
        return Ok(true);
    }
    let Some(top) = table::by_id(bind.id)? else {
        return Ok(false);
    };
    let wanted = copied(source, options)?;
    let found = below(&top.target, table::all_below(bind.id)?);
    let parts = |entries: &[MountEntry], top: &Path| -> BTreeSet<Part> {
        entries
            .iter()
            .filter_map(|entry| part(entry, top))
            .collect()
    };
    let wanted = parts(&wanted, &source.real_path()?);
    let all = parts(&found, &top.target);
    // What was mounted inside later is not part of the bind.
    let later: BTreeSet<MountId> = table::later(&found, bind).map(|entry| entry.id).collect();
    let mut along = found;
    along.retain(|entry| !later.contains(&entry.id));
    Ok(wanted.is_subset(&all) && parts(&along, &top.target).is_subset(&wanted))
}

/// Paths, from the source, of the mounts that a bind is to leave out.
pub(super) fn left_out(source: &Handle, options: &BindOptions) -> Result<Vec<PathBuf>, MountError> {
    if !prunes(options) {
        return Ok(Vec::new());
    }
    let top = source.real_path()?;
    let all = table::all_below(source.mount_id()?)?;
    let out = below(&top, all).into_iter();
    let out = out.filter(|entry| options.without.contains(&entry.id));
    let inner = out.filter_map(|entry| Some(entry.target.strip_prefix(&top).ok()?.to_owned()));
    Ok(inner.collect())
}

/// Submounts that a recursive bind of `source` copies.
pub(super) fn copied(
    source: &Handle,
    options: &BindOptions,
) -> Result<Vec<MountEntry>, MountError> {
    let all = table::all_below(source.mount_id()?)?;
    let all = below(&source.real_path()?, all);
    let left_out: BTreeSet<MountId> = all
        .iter()
        .filter(|entry| {
            entry.unbindable || (prunes(options) && options.without.contains(&entry.id))
        })
        .map(|entry| entry.id)
        .collect();
    let is_out = |entry: &MountEntry| {
        let mut at = Some(entry);
        while let Some(mount) = at {
            if left_out.contains(&mount.id) {
                return true;
            }
            at = all
                .iter()
                .find(|above| above.id == mount.parent && above.id != mount.id);
        }
        false
    };
    Ok(all.iter().filter(|entry| !is_out(entry)).cloned().collect())
}

/// True if submounts are left out: unmounts that propagate between bind and source would reach both.
fn prunes(options: &BindOptions) -> bool {
    options.recursive && options.propagation == Propagation::Private && !options.without.is_empty()
}

fn below(top: &Path, mut entries: Vec<MountEntry>) -> Vec<MountEntry> {
    entries.retain(|entry| entry.target != top && entry.target.starts_with(top));
    entries
}

fn part(entry: &MountEntry, top: &Path) -> Option<Part> {
    let inner = entry.target.strip_prefix(top).ok()?;
    Some((inner.to_owned(), entry.device, entry.root.clone()))
}
