//! Steps of opening a store's folder.

use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::db::{Db, Opened};
use crate::error::Error;
use crate::export;
use crate::file;
use crate::folder::io_error;
use crate::lock::Lock;
use crate::space::Space;

/// Newest layout of the store's folder that this program knows.
const FORMAT: u32 = 1;

/// Opens the database, on a full disk with parts of the reserve.
pub(super) fn open_database(
    folder: &Path,
    fresh: bool,
    space: &mut Space,
) -> Result<Opened, Error> {
    let kept = space.kept();
    let mut opened = Db::open(folder, fresh);
    while opened.as_ref().is_err_and(Error::is_full) && space.lend() {
        opened = Db::open(folder, fresh);
    }
    space.take_back(kept);
    opened
}

/// True if a folder has records, in whatever state. A crash during the first creation leaves none, and
/// at most the number of its one commit.
pub(super) fn has_records(folder: &Path) -> Result<bool, Error> {
    let has_commits = Db::last_sequence(folder) > Db::FIRST_COMMIT;
    Ok(has_commits || Db::exists(folder) || !export::list(folder)?.is_empty())
}

/// Refuses records that are older than a whole export beside them. An export is written from durable
/// records, and a restored one gets a number above all others.
///
/// # Errors
/// [`Error::Damaged`], [`Error::Io`] if the folder cannot be read.
pub(super) fn refuse_lost_commits(folder: &Path, last: u64) -> Result<(), Error> {
    let Some((sequence, path)) = export::newer_whole(folder, last)? else {
        return Ok(());
    };
    let name = path.file_name().unwrap_or_default().display();
    Err(Error::Damaged {
        what: format!("it ends with commit {last}, and {name} has commit {sequence}"),
        path: folder.join("db"),
    })
}

/// Most ids by which the records may lag behind directories on disk. A higher number was not made by
/// layerd, and is not reached in the life of a disk.
const LAG_MAX: u64 = 1 << 32;

/// The first id above `ids_below` and all plausible ids on disk.
pub(super) fn above(ids_below: u64, ids_on_disk: &[u64]) -> u64 {
    let limit = ids_below.saturating_add(LAG_MAX);
    let plausible = ids_on_disk.iter().filter(|id| **id < limit);
    plausible.fold(ids_below, |below, id| below.max(id + 1))
}

pub(super) fn open_folder(folder: &Path) -> Result<Lock, Error> {
    let mut private = fs::DirBuilder::new();
    let made = private.recursive(true).mode(0o700).create(folder);
    made.map_err(io_error("create", folder))?;
    Lock::take(folder)
}

/// Checks the format file; `false` if there is none yet. [`Error::Damaged`] if the file holds no
/// known number: the records can be restored from an export.
pub(super) fn check_format(folder: &Path) -> Result<bool, Error> {
    let path = format_file(folder);
    let Some(found) = file::read(&path).map_err(io_error("read", &path))? else {
        return Ok(false);
    };
    let found = String::from_utf8_lossy(&found).trim().to_owned();
    match found.parse::<u32>() {
        Ok(FORMAT) => Ok(true),
        Ok(newer) if newer > FORMAT => Err(Error::Newer {
            path,
            found,
            known: FORMAT,
        }),
        _ => Err(Error::Damaged {
            what: format!(
                "{} says {found:?} where a format number stands",
                path.display()
            ),
            path: folder.to_owned(),
        }),
    }
}

pub(super) fn write_format(folder: &Path) -> Result<(), Error> {
    let path = format_file(folder);
    file::replace(&path, |mut file| writeln!(file, "{FORMAT}")).map_err(io_error("write", &path))
}

fn format_file(folder: &Path) -> PathBuf {
    folder.join("format")
}
