//! Unpacks arbitrary bytes as a layer, and looks whether anything outside of the layer has changed.
//! The first byte of an input says how: 1 as it is, without setting the sums of headers right; 2 as
//! gzip, 4 as Zstandard, 6 as what it looks like; 8 deletions are executed; 16 upon another layer.

use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use layerd_layers::apply::{Compression, Limits, Options, Target, Whiteouts, apply};
use layerd_layers::copy::Markers;

use crate::mend::mend;

/// Bytes that a layer may have.
const MOST: u64 = 64 << 20;

/// Makes what lies around the layer, in an empty directory.
pub(crate) fn surround(place: &Path) {
    for dir in ["below/a/b", "below/d", "beside"] {
        fs::create_dir_all(place.join(dir)).expect("the directory is ours");
    }
    fs::write(place.join("beside/file"), "untouched").expect("as above");
    fs::write(place.join("below/f"), "untouched").expect("as above");
    symlink("../../beside", place.join("below/d/l")).expect("as above");
    fs::set_permissions(place.join("below/a"), Permissions::from_mode(0o2700)).expect("as above");
}

/// One input.
pub(crate) fn unpack(data: &[u8], place: &Path) {
    let Some((flags, stream)) = data.split_first() else {
        return;
    };
    let mut stream = stream.to_vec();
    if flags & 1 == 0 {
        mend(&mut stream);
    }
    let before = outside(place);
    let layer = place.join("layer");
    fs::create_dir(&layer).expect("the last one was deleted");
    unpack_into(&layer, place, *flags, &stream);
    fs::remove_dir_all(&layer).expect("nothing is mounted in it");
    assert_eq!(outside(place), before, "nothing outside has changed");
}

fn unpack_into(layer: &Path, place: &Path, flags: u8, stream: &[u8]) {
    let below = File::open(place.join("below")).expect("mount made it");
    let dir = File::open(layer).expect("it was just made");
    let lowers = [below.as_fd()];
    let target = Target {
        layer: dir.as_fd(),
        lowers: if flags & 16 == 0 { &[] } else { &lowers },
        whiteouts: match flags & 8 {
            0 => Whiteouts::Devices(Markers::Trusted),
            _ => Whiteouts::Delete,
        },
    };
    let options = Options {
        compression: match flags & 6 {
            2 => Compression::Gzip,
            4 => Compression::Zstd,
            6 => Compression::Detect,
            _ => Compression::None,
        },
        limits: Limits {
            most_bytes: MOST,
            most_entries: 4096,
            ..Limits::default()
        },
        ..Options::default()
    };
    if let Ok(applied) = apply(stream, &target, &options) {
        assert!(applied.size <= MOST, "limits hold");
        assert!(applied.inodes >= 1, "the top is one");
    }
}

/// Everything beside the layer, with what tells of any change.
fn outside(place: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let mut found = Vec::new();
    let mut todo = vec![place.join("below"), place.join("beside")];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).expect("it is there");
        if meta.is_dir() {
            let entries = fs::read_dir(&path).expect("root reads it");
            todo.extend(entries.map(|entry| entry.expect("root reads it").path()));
        }
        found.push((path, meta.size(), meta.ctime(), meta.ctime_nsec()));
    }
    let entries = fs::read_dir(place).expect("root reads it");
    found.extend(entries.map(|entry| (entry.expect("as above").path(), 0, 0, 0)));
    found.sort();
    found
}
