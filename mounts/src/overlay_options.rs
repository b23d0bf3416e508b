//! The options text of overlay mounts, and what mount(2) makes of it. Pure.

use std::path::PathBuf;

/// Lower layers that overlayfs stacks in one mount.
pub const MAX_LOWERS: usize = 500;

/// Room that containerd leaves below a page before it shortens the options.
const RESERVE: usize = 512;

/// Shortens overlay options that are near the size of a page: the lower directories become
/// relative to the directory they share, which is returned as well. containerd does the same at
/// the same length, so what fits here fits there.
#[must_use]
pub fn shorten(options: &[String], page: usize) -> (Option<PathBuf>, Vec<String>) {
    let total: usize = options.iter().map(String::len).sum();
    if total + RESERVE < page {
        return (None, options.to_vec());
    }
    match relative_lowers(options) {
        Some((shared, options)) => (Some(shared), options),
        None => (None, options.to_vec()),
    }
}

/// Data of mount(2): the options that are neither flags nor meant for the client.
#[must_use]
pub fn data(options: &[String]) -> String {
    let kept: Vec<&str> = options
        .iter()
        .map(String::as_str)
        .filter(|option| !option.starts_with("uidmap=") && !option.starts_with("gidmap="))
        .collect();
    kept.join(",")
}

fn relative_lowers(options: &[String]) -> Option<(PathBuf, Vec<String>)> {
    let at = options.iter().position(|o| o.starts_with("lowerdir="))?;
    let lowers: Vec<&str> = options[at]["lowerdir=".len()..].split(':').collect();
    let shared = shared_parent(&lowers)?;
    let relative: Vec<&str> = lowers
        .iter()
        .map(|lower| &lower[shared.len() + 1..])
        .collect();
    let mut shorter = options.to_vec();
    shorter[at] = format!("lowerdir={}", relative.join(":"));
    Some((PathBuf::from(shared), shorter))
}

/// The directory that holds all of two or more paths, without a slash at its end; `None` if that
/// is the root directory.
fn shared_parent<'a>(paths: &[&'a str]) -> Option<&'a str> {
    let [first, rest @ ..] = paths else {
        return None;
    };
    if rest.is_empty() {
        return None;
    }
    let same = rest.iter().fold(first.len(), |shortest, path| {
        let equal = first.bytes().zip(path.bytes());
        shortest.min(equal.take_while(|(a, b)| a == b).count())
    });
    let end = first.as_bytes()[..same].iter().rposition(|b| *b == b'/')?;
    (end > 0).then(|| &first[..end])
}
