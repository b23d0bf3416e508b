//! Small files that are replaced whole: after a crash or a power cut the old or the new one is there.
//!
//! A name may stand for anything when it is to be written: where there is no journal, a power cut may
//! leave it with what had its inode before, such as a symlink, which must not be followed, or a FIFO,
//! which must not be waited for. So no name is opened to be written that was not made for it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Deletes a name, whatever it stands for; a symlink is not followed. Answers whether it was there. Not
/// durable.
///
/// # Errors
/// Those of unlink(2), and of rmdir(2) for a directory that holds something.
pub fn remove(path: &Path) -> io::Result<bool> {
    let removed = fs::remove_file(path).or_else(|cause| match cause.kind() {
        io::ErrorKind::IsADirectory => fs::remove_dir(path),
        _ => Err(cause),
    });
    match removed {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(cause),
    }
}

/// A name that stands for anything but a regular file, in words such as "a FIFO"; `None` for a file and for
/// nothing. A symlink is not followed.
pub(crate) fn stranger(path: &Path) -> Option<&'static str> {
    let kind = fs::symlink_metadata(path).ok()?.file_type();
    Some(match kind {
        kind if kind.is_file() => return None,
        kind if kind.is_dir() => "a directory",
        kind if kind.is_symlink() => "a symlink",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    })
}

/// Opens a file of layerd's own that is there. What has its name and is no regular file is neither opened,
/// followed nor waited for.
///
/// # Errors
/// Those of open(2); for what is no file, one that says what it is.
pub(crate) fn open(path: &Path, options: &mut fs::OpenOptions) -> io::Result<File> {
    let refused = |kind| io::Error::other(format!("{} is {kind}, and no file", path.display()));
    if let Some(kind) = stranger(path) {
        return Err(refused(kind));
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = options.custom_flags(flags.bits()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(refused("something else by now")),
    }
}

/// Reads a file; `None` if there is none. A symlink is not followed, and a FIFO not waited for.
///
/// # Errors
/// Those of open(2) and read(2).
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut options = File::options();
    let opened = options.read(true).custom_flags(flags.bits()).open(path);
    match opened.and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Creates a file that only root reads, in place of what has its name, as [`remove`] does. Not durable.
///
/// # Errors
/// Those of [`remove`] and open(2).
pub fn create(path: &Path) -> io::Result<File> {
    remove(path)?;
    let mut new = File::options();
    new.write(true).create_new(true).mode(0o600).open(path)
}

/// Opens a file of its own name to be read and written, or creates it empty with mode 0600. What has the
/// name and is no file makes way, as for [`create`]. Not durable.
///
/// # Errors
/// Those of [`remove`] and open(2).
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        remove(path)?;
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).custom_flags(flags.bits()).open(path)
}

/// Creates a file whose allocated blocks are overwritten in place, so that it can be written on a
/// full disk. On btrfs the flag must be set while the file is empty (`chattr +C`); other file systems
/// overwrite in place anyway, or cannot. Not durable.
///
/// # Errors
/// `AlreadyExists`, and others of open(2).
pub(crate) fn create_in_place(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    if let Ok(flags) = ioctl_getflags(&file) {
        // Fails on every file system without the flag.
        let _ = ioctl_setflags(&file, flags | IFlags::NOCOW);
    }
    Ok(file)
}

/// True for a file on btrfs that was not made by [`create_in_place`].
pub(crate) fn is_copied_on_write(file: impl AsFd) -> io::Result<bool> {
    let is_btrfs = rustix::fs::fstatfs(&file)?.f_type == nix::sys::statfs::BTRFS_SUPER_MAGIC.0;
    Ok(is_btrfs && !ioctl_getflags(&file)?.contains(IFlags::NOCOW))
}

/// Writes a file beside `path`, with the extension `new`, and gives it the name `path` when it is whole.
/// Durable on return: one wait for the file and one for its folder.
///
/// # Errors
/// Those of `write` and the file system. Before the file has its name, nothing was changed; after
/// that it may not be durable.
pub fn replace(path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    replace_as(path, create, write).map(drop)
}

/// As [`replace`], with a file as [`create_in_place`] makes it, which it answers.
pub(crate) fn replace_in_place(
    path: &Path,
    write: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<File> {
    let create = |path: &Path| {
        remove(path)?;
        create_in_place(path)
    };
    replace_as(path, create, write)
}

fn replace_as(
    path: &Path,
    create: impl FnOnce(&Path) -> io::Result<File>,
    write: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<File> {
    let temporary = path.with_extension("new");
    let written = || -> io::Result<File> {
        let file = create(&temporary)?;
        write(&file)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        Ok(file)
    };
    let file = written().inspect_err(|_| {
        // One that stays is in the way of nothing.
        let _ = remove(&temporary);
    })?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Makes what a name may stand for, in turn, and has `replace` write over it.
    fn over_anything(path: &Path, replace: &dyn Fn() -> io::Result<()>) {
        let other = path.with_file_name("other");
        fs::write(&other, "another's").expect("write");
        let fifo = || nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).map_err(Into::into);
        let before: [&dyn Fn() -> io::Result<()>; 5] = [
            &|| Ok(()),
            &|| fs::write(path, "longer than what comes"),
            &|| symlink(&other, path),
            &|| fs::create_dir(path),
            &fifo,
        ];
        for before in before {
            before().expect("it can be made");
            let _ = read(path).map(|found| found.map(|bytes| assert!(bytes != b"another's")));
            replace().expect("replaced");
            assert_eq!(fs::read(&other).expect("read"), b"another's");
        }
    }

    #[test]
    fn a_file_takes_the_place_of_anything() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        over_anything(&path, &|| {
            create(&path)?.write_all(b"new")?;
            assert_eq!(fs::read(&path)?, b"new");
            assert!(remove(&path)?);
            remove(&path).map(|was_there| assert!(!was_there))
        });
    }

    #[test]
    fn a_file_is_opened_as_it_is_and_takes_the_place_of_anything_else() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        over_anything(&path, &|| {
            let was = read(&path).ok().flatten().unwrap_or_default();
            let mut kept = Vec::new();
            open_or_create(&path)?.read_to_end(&mut kept)?;
            assert_eq!(kept, if path.is_file() { was } else { Vec::new() });
            assert!(fs::symlink_metadata(&path)?.is_file());
            fs::remove_file(&path)
        });
    }

    #[test]
    fn remains_of_a_replacement_are_in_the_way_of_none() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        let write = |mut file: &File| file.write_all(b"new");
        let in_place = || replace_in_place(&path, write).map(drop);
        let ways: [&dyn Fn() -> io::Result<()>; 2] = [&|| replace(&path, write), &in_place];
        for way in ways {
            over_anything(&folder.path().join("file.new"), &|| {
                way()?;
                assert_eq!(fs::read(&path)?, b"new");
                fs::remove_file(&path)
            });
        }
    }

    #[test]
    fn a_replacement_that_fails_leaves_the_old_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        fs::write(&path, "old").expect("write");
        replace(&path, |_| Err(io::ErrorKind::StorageFull.into())).expect_err("full");
        assert_eq!(fs::read(&path).expect("read"), b"old");
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    }
}
