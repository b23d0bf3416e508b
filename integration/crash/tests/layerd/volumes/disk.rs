//! Checks of the disk and the mount table.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use layerd_integration::scratch::mounts_below;

use super::state::{State, Vol};
use crate::Verdict;
use crate::content::Layer;
use crate::home::{REAP_LIMIT, names};

/// Requires that folders, links and mounts are those of `state` and no others. `undone` are keys
/// whose mounts may be gone already. `scratch` holds the root and every place.
pub(crate) fn check(scratch: &Path, root: &Path, state: &State, undone: &[String]) -> Verdict {
    folders(root, state)?;
    places(scratch, root, state, undone)
}

/// Repeats a look until it finds nothing wrong, for as long as the daemon may take to delete what an
/// interrupted call let go.
pub(crate) fn settled<T>(mut look: impl FnMut() -> Verdict<T>) -> Verdict<T> {
    let begun = Instant::now();
    loop {
        match look() {
            Err(_) if begun.elapsed() < REAP_LIMIT => thread::sleep(Duration::from_millis(5)),
            seen => return seen,
        }
    }
}

/// Requires that the folders of volumes, and the links to them, are those of `state`.
pub(crate) fn folders(root: &Path, state: &State) -> Verdict {
    let volumes = root.join("volumes");
    let ids = |vols: &mut dyn Iterator<Item = &Vol>| -> BTreeSet<String> {
        vols.filter_map(|vol| vol.id.clone()).collect()
    };
    let live = ids(&mut state.volumes.values());
    let mut found = names(&volumes);
    for own in [".staging", ".trash", "by-name"] {
        found.remove(own);
    }
    same("volumes on disk", &found, &live)?;
    for id in &found {
        let inside = names(&volumes.join(id));
        same(
            &format!("in the folder of volume {id}"),
            &inside,
            &["data".to_owned()].into(),
        )?;
    }
    same(
        "staged",
        &names(&volumes.join(".staging")),
        &BTreeSet::new(),
    )?;
    let trash = ids(&mut state.trash.values());
    same("in the trash", &names(&volumes.join(".trash")), &trash)?;
    links(&volumes.join("by-name"), state)
}

pub(crate) fn same(what: &str, found: &BTreeSet<String>, wanted: &BTreeSet<String>) -> Verdict {
    if found == wanted {
        Ok(())
    } else {
        Err(format!("{what}: {found:?}, should be {wanted:?}"))
    }
}

fn links(folder: &Path, state: &State) -> Verdict {
    let wanted = state.volumes.values();
    let wanted = wanted.map(|vol| {
        let target = format!("../{}/data", vol.id.as_deref().unwrap_or_default());
        format!("{} -> {target}", vol.name)
    });
    let found = names(folder).into_iter().map(|name| {
        let target = fs::read_link(folder.join(&name)).unwrap_or_default();
        format!("{name} -> {}", target.display())
    });
    same("links", &found.collect(), &wanted.collect())
}

/// Mounts are where attachments are known, once each, and show what they should.
fn places(scratch: &Path, root: &Path, state: &State, undone: &[String]) -> Verdict {
    let own = root.join("mnt");
    let ids = state.held.values().filter_map(|held| held.id.clone());
    let ids: BTreeSet<String> = ids.collect();
    let known = |path: &PathBuf| {
        let is_own = |id: &String| *path == own.join(id);
        ids.iter().any(is_own) || {
            let targets = state.held.values();
            targets
                .flat_map(|held| [&held.place, &held.target])
                .any(|place| *path == Path::new(place))
        }
    };
    let mut mounts = mounts_below(scratch);
    mounts.sort();
    if let Some(twice) = mounts.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("mounted twice: {}", twice[0].display()));
    }
    mounts.retain(|path| *path != own);
    if let Some(path) = mounts.iter().find(|path| !known(path)) {
        return Err(format!("no attachment knows the mount {}", path.display()));
    }
    if let Some(left) = names(&own).difference(&ids).next() {
        return Err(format!("no attachment knows the place {left}"));
    }
    for (key, held) in &state.held {
        if held.is_attached == Some(true) && !held.place.is_empty() {
            let is_there = mounts.contains(&PathBuf::from(&held.place));
            if is_there {
                shows(Path::new(&held.place), &held.what, state)?;
            } else if !undone.contains(key) {
                return Err(format!("{key} is attached, but not mounted"));
            }
        }
    }
    Ok(())
}

/// A mounted volume shows its content.
fn shows(place: &Path, what: &str, state: &State) -> Verdict {
    let mut words = what.split(' ');
    let source = (words.next() == Some("volume")).then(|| words.next());
    let vol = source.flatten().and_then(|name| state.volumes.get(name));
    let Some(Vol {
        content: Some(content),
        ..
    }) = vol
    else {
        return Ok(());
    };
    match Layer::try_read(place)?.difference(content) {
        None => Ok(()),
        Some(text) => Err(format!("the mount of {what} shows {text}")),
    }
}
