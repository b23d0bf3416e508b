//! A model of the mounts of AUFS: reads a plan as the kernel would, and shows what its branches show.
//! Tests only.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use layerd_mounts::Mount;

/// Paths with the content of files; `/` for a directory.
pub type Shown = BTreeMap<String, String>;

/// Bytes of options that a call takes.
const PAGE: usize = 4096;

/// Shows what planned mounts would show, made one after the other on one directory.
///
/// # Panics
/// If the kernel would refuse one.
#[must_use]
pub fn mounted(plan: &[Mount]) -> Shown {
    let mut shown = Shown::new();
    merge(&branches(plan), "", &mut shown);
    shown
}

/// The branches of planned mounts, topmost first.
///
/// # Panics
/// As [`mounted`].
#[must_use]
pub fn branches(plan: &[Mount]) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for (number, mount) in plan.iter().enumerate() {
        if mount.kind == "bind" {
            return vec![PathBuf::from(&mount.source)];
        }
        assert_eq!((&*mount.kind, &*mount.source), ("aufs", "none"));
        let flags = ["ro", "remount"];
        let data = mount.options.iter().map(String::as_str);
        let data: Vec<&str> = data.filter(|option| !flags.contains(option)).collect();
        assert!(data.join(",").len() < PAGE, "one page of options");
        let is_remount = mount.options.iter().any(|option| option == "remount");
        assert_eq!(is_remount, number > 0, "others are added to the first");
        for option in data {
            if let Some(list) = option.strip_prefix("br:") {
                assert!(!is_remount, "branches are appended");
                all.extend(list.split(':'));
            } else if let Some(branch) = option.strip_prefix("append:") {
                assert!(is_remount, "{option}");
                all.push(branch);
            } else {
                let known = ["dio", "dirperm1", "xino=/dev/shm/aufs.xino"];
                assert!(known.contains(&option), "{option}");
            }
        }
    }
    let paths = all.iter().enumerate().map(|(number, branch)| {
        let (path, access) = branch.split_once('=').expect("each branch says its access");
        let wanted: &[&str] = if number == 0 {
            &["rw", "ro+wh"]
        } else {
            &["ro+wh"]
        };
        assert!(wanted.contains(&access), "{branch}");
        PathBuf::from(path)
    });
    paths.collect()
}

fn merge(dirs: &[PathBuf], path: &str, shown: &mut Shown) {
    let mut merged: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let mut closed = BTreeSet::new();
    for dir in dirs {
        let (notes, names): (Vec<_>, Vec<_>) = names(dir)
            .into_iter()
            .partition(|name| name.starts_with(".wh."));
        for name in names {
            if closed.contains(&name) {
                continue;
            }
            let at = dir.join(&name);
            if at.is_dir() {
                if at.join(".wh..wh..opq").exists() {
                    closed.insert(name.clone());
                }
                merged.entry(name).or_default().push(at);
                continue;
            }
            closed.insert(name.clone());
            if let Entry::Vacant(place) = merged.entry(name) {
                place.insert(vec![at]);
            }
        }
        let deleted = notes.iter().filter(|note| !note.starts_with(".wh..wh."));
        closed.extend(deleted.map(|note| note[".wh.".len()..].to_owned()));
    }
    for (name, all) in merged {
        let path = format!("{path}{name}");
        if all[0].is_dir() {
            shown.insert(path.clone(), "/".to_owned());
            merge(&all, &format!("{path}/"), shown);
        } else {
            let content = fs::read_to_string(&all[0]).expect("a file of text");
            shown.insert(path, content);
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a branch can be read");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.expect("an entry").file_name();
        name.into_string().expect("names of text")
    };
    entries.map(name).collect()
}
