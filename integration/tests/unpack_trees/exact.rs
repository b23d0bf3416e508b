//! Everything that can be seen of a tree, one text to a path.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use layerd_integration::tree::{hash, xattrs};

/// Seconds since 1970 after which a time means "when it was unpacked": members have earlier ones,
/// or one far later.
const NOW: std::ops::Range<i64> = 1_750_000_000..4_000_000_000;

/// Paths relative to the top, which is empty.
pub(crate) type Exact = BTreeMap<Vec<u8>, String>;

/// Reads the tree. Mounts below it are walked into.
pub(crate) fn read(top: &Path) -> Exact {
    let mut seen = Seen::default();
    seen.visit(top, &[]);
    seen.tree
}

/// The paths where two trees differ, and how.
pub(crate) fn differences(ours: &Exact, theirs: &Exact) -> Vec<String> {
    let mut paths: Vec<_> = ours.keys().chain(theirs.keys()).collect();
    paths.sort();
    paths.dedup();
    let differs = |path: &&Vec<u8>| !agree(ours.get(*path), theirs.get(*path));
    let nothing = String::from("nothing");
    let said = |path: &Vec<u8>| {
        let [ours, theirs] = [ours, theirs].map(|tree| tree.get(path).unwrap_or(&nothing));
        format!(
            "{}\n    ours   {ours}\n    theirs {theirs}",
            path.escape_ascii()
        )
    };
    paths.into_iter().filter(differs).map(said).collect()
}

/// True if two files are alike. Directories without a member have the time of their last change in
/// containerd's result, and that of the layer below in ours; and those with a member keep
/// the attributes of the one below that the member does not have, which in ours are gone, as in all
/// that write into an upper directory. A directory that replaces one with a member gets
/// that one's times there.
fn agree(ours: Option<&String>, theirs: Option<&String>) -> bool {
    let (Some(ours), Some(theirs)) = (ours, theirs) else {
        return ours == theirs;
    };
    if !ours.starts_with('4') {
        return ours == theirs;
    }
    let split = |text: &String| -> (Vec<String>, Vec<String>) {
        let mut words = text.split(' ').map(str::to_owned);
        let fixed = words.by_ref().take(TIME + 1).collect();
        (fixed, words.collect())
    };
    let ((ours, kept), (mut theirs, all)) = (split(ours), split(theirs));
    if [&ours, &theirs].iter().any(|text| text[TIME] == "now") {
        theirs[TIME].clone_from(&ours[TIME]);
    }
    ours == theirs && kept.iter().all(|word| all.contains(word))
}

/// Which word of a text is the time of modification.
const TIME: usize = 2;

#[derive(Default)]
struct Seen {
    tree: Exact,
    first: BTreeMap<(u64, u64), Vec<u8>>,
}

impl Seen {
    fn visit(&mut self, path: &Path, relative: &[u8]) {
        // overlayfs lists a whiteout in a directory that only one layer has, and then denies it.
        let Ok(meta) = std::fs::symlink_metadata(path) else {
            self.tree
                .insert(relative.to_vec(), "listed, but not there".into());
            return;
        };
        let text = self.text(path, relative, &meta);
        self.tree.insert(relative.to_vec(), text);
        if !meta.is_dir() {
            return;
        }
        let entries = std::fs::read_dir(path).expect("root reads every directory");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("as above").file_name())
            .collect();
        names.sort();
        for name in names {
            let below = [relative, name.as_bytes()].join(&b"/"[..relative.len().min(1)]);
            self.visit(&path.join(&name), &below);
        }
    }

    fn text(&mut self, path: &Path, relative: &[u8], meta: &Metadata) -> String {
        let whiteout = meta.file_type().is_char_device() && meta.rdev() == 0;
        let mut text = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
        if !whiteout {
            text += &format!(" {}", time(meta.mtime(), meta.mtime_nsec()));
        }
        // Following a symlink sets its access time.
        if !whiteout && !meta.is_dir() && !meta.is_symlink() {
            text += &format!(" read {}", time(meta.atime(), meta.atime_nsec()));
        }
        if meta.file_type().is_symlink() {
            let to = std::fs::read_link(path).expect("it is a link");
            text += &format!(" to {}", to.as_os_str().as_bytes().escape_ascii());
        } else if meta.is_file() {
            let bytes = std::fs::read(path).expect("root reads every file");
            text += &format!(" {} bytes {:x}", meta.len(), hash(&bytes));
        } else if !meta.is_dir() {
            text += &format!(" device {:x}", meta.rdev());
        }
        if !meta.is_dir() {
            let inode = (meta.dev(), meta.ino());
            let first = self.first.entry(inode).or_insert_with(|| relative.to_vec());
            text += &format!(" {} links, first {}", meta.nlink(), first.escape_ascii());
        }
        for (name, value) in xattrs(path) {
            text += &format!(" {name}={}", value.escape_ascii());
        }
        text
    }
}

fn time(seconds: i64, nanos: i64) -> String {
    if NOW.contains(&seconds) {
        return "now".into();
    }
    format!("{seconds}.{nanos:09}")
}
