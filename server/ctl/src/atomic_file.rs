//! Replacement of small files that belong to others: after a crash either the old or the new
//! content is there.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use tempfile::Builder;

/// Mode of a file that was not there, whatever the umask: other programs read it.
const NEW_FILE: u32 = 0o644;

/// Puts `content` at `path`, durable on return. Mode and owner of an existing file stay, and a
/// symlink is followed, not replaced; a dangling one is an error. Missing parents are made. Costs
/// two waits for the disk.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let (path, old) = match fs::symlink_metadata(path) {
        Ok(_) => {
            let real = fs::canonicalize(path)?;
            let old = fs::metadata(&real)?;
            (real, Some(old))
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => (path.to_owned(), None),
        Err(cause) => return Err(cause),
    };
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push("."); // and no `*.toml`
    let mut temporary = Builder::new()
        .prefix(&name)
        .suffix(".tmp")
        .tempfile_in(dir)?;
    write_like(temporary.as_file_mut(), content, old.as_ref())?;
    temporary.persist(&path)?;
    File::open(dir)?.sync_all()
}

/// With owner and mode of `old`; until it has them others cannot read it.
fn write_like(file: &mut File, content: &[u8], old: Option<&Metadata>) -> io::Result<()> {
    file.write_all(content)?;
    if let Some(old) = old {
        fchown(&*file, Some(old.uid()), Some(old.gid()))?;
    }
    let mode = old.map_or(NEW_FILE, |old| old.mode() & 0o7777);
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn mode_and_symlink_of_an_old_file_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("real", &link).unwrap();
        replace(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_new_file_can_be_read_by_others_and_a_dangling_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("conf.d/new");
        replace(&new, b"x").unwrap();
        assert_eq!(fs::metadata(&new).unwrap().mode() & 0o7777, NEW_FILE);
        let dangling = dir.path().join("dangling");
        symlink("nowhere", &dangling).unwrap();
        replace(&dangling, b"x").unwrap_err();
        assert!(!dir.path().join("nowhere").exists());
    }

    #[test]
    fn a_failed_replacement_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layerd.toml");
        fs::create_dir(&path).unwrap(); // a rename cannot replace it
        replace(&path, b"one").unwrap_err();
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_one_left_is_no_hindrance_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let left = dir
            .path()
            .join(format!("config.json.{}.tmp", std::process::id()));
        fs::write(&left, "theirs").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_to_string(&left).unwrap(), "theirs");
    }
}
