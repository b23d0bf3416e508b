//! Model of applying a layer to a tree, by the OCI image specification. It shares no code with the
//! unpackers under test.

use std::collections::{BTreeMap, BTreeSet};

use nix::sys::stat::makedev;

use super::{Entry, Kind};
use crate::tree::{Content, Node, Tree, hash};

/// The tree of no layers: its top directory.
pub(super) fn bare() -> Tree {
    Tree(BTreeMap::from([(String::new(), directory())]))
}

/// Applies one layer.
///
/// # Panics
/// If a hard link names nothing.
pub fn apply(tree: &mut Tree, layer: &[Entry]) {
    let mut fresh = BTreeSet::new();
    for entry in layer {
        let (parent, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
        if name == ".wh..wh..opq" {
            clear(tree, parent, &fresh);
        } else if let Some(gone) = name.strip_prefix(".wh.") {
            delete(tree, &join(parent, gone));
        } else {
            add_parents(tree, parent);
            put(tree, entry);
            fresh.insert(entry.path.clone());
        }
    }
}

fn put(tree: &mut Tree, entry: &Entry) {
    let node = match &entry.kind {
        Kind::HardLink(target) => tree.0[target].clone(),
        _ => new_node(entry),
    };
    let kept = tree.0.get(&entry.path).map(|old| &old.content);
    let both = (kept, &node.content);
    if !matches!(both, (Some(Content::Directory), Content::Directory)) {
        delete(tree, &entry.path);
    }
    tree.0.insert(entry.path.clone(), node);
    name_links(tree);
}

fn new_node(entry: &Entry) -> Node {
    let content = match &entry.kind {
        Kind::File(bytes) => Content::File {
            size: bytes.len() as u64,
            hash: hash(bytes),
            first: entry.path.clone(),
        },
        Kind::Symlink(target) => Content::Symlink(target.into()),
        Kind::Character(major, minor) => {
            Content::Character(makedev((*major).into(), (*minor).into()))
        }
        Kind::Block(major, minor) => Content::Block(makedev((*major).into(), (*minor).into())),
        Kind::Pipe => Content::Pipe,
        Kind::Directory | Kind::HardLink(_) => Content::Directory,
    };
    Node {
        content,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        xattrs: entry.xattrs.iter().cloned().collect(),
    }
}

fn directory() -> Node {
    new_node(&Entry::directory(""))
}

fn add_parents(tree: &mut Tree, path: &str) {
    for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
        tree.0.entry(path[..end].into()).or_insert_with(directory);
    }
}

fn delete(tree: &mut Tree, path: &str) {
    let below = format!("{path}/");
    tree.0
        .retain(|name, _| name != path && !name.starts_with(&below));
    name_links(tree);
}

/// An opaque directory keeps what this layer put into it.
fn clear(tree: &mut Tree, path: &str, fresh: &BTreeSet<String>) {
    let below = format!("{path}/");
    let keeps = |name: &String| {
        fresh
            .iter()
            .any(|new| new == name || new.starts_with(&format!("{name}/")))
    };
    tree.0
        .retain(|name, _| !name.starts_with(&below) || keeps(name));
    name_links(tree);
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.into()
    } else {
        format!("{parent}/{name}")
    }
}

/// After a change the first name of an inode may be another one.
fn name_links(tree: &mut Tree) {
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    for (path, node) in &mut tree.0 {
        if let Content::File { first: group, .. } = &mut node.content {
            let name = first.entry(group.clone()).or_insert_with(|| path.clone());
            group.clone_from(name);
        }
    }
}
