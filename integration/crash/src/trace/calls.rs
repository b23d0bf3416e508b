//! Which system calls change state, and where in their arguments the files stand.

use std::path::PathBuf;

use super::plan::Class;
use super::tracee::Tracee;

/// Where a call's file stands.
#[derive(Debug, Clone, Copy)]
enum Names {
    /// Argument holding a descriptor. Sockets, pipes and the like do not count.
    File(usize),
    /// Argument holding a path.
    Path(usize),
    /// Arguments holding two paths.
    Paths(usize, usize),
    /// Arguments holding a directory's descriptor and a path.
    At(usize, usize),
    /// Two such pairs.
    Ats(usize, usize, usize, usize),
    /// No file that matters.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct Spec(i64, &'static str, Class, Names);

use Class::{Attribute, Control, Create, Mount, Open, Read, Remove, Rename, Sync, Write};
use Names::{At, Ats, File, Nothing, Path, Paths};

const SPECS: &[Spec] = &[
    Spec(libc::SYS_open, "open", Open, Path(0)),
    Spec(libc::SYS_openat, "openat", Open, At(0, 1)),
    Spec(libc::SYS_openat2, "openat2", Open, At(0, 1)),
    Spec(libc::SYS_creat, "creat", Create, Path(0)),
    Spec(libc::SYS_mkdir, "mkdir", Create, Path(0)),
    Spec(libc::SYS_mkdirat, "mkdirat", Create, At(0, 1)),
    Spec(libc::SYS_mknod, "mknod", Create, Path(0)),
    Spec(libc::SYS_mknodat, "mknodat", Create, At(0, 1)),
    Spec(libc::SYS_symlink, "symlink", Create, Path(1)),
    Spec(libc::SYS_symlinkat, "symlinkat", Create, At(1, 2)),
    Spec(libc::SYS_link, "link", Create, Paths(0, 1)),
    Spec(libc::SYS_linkat, "linkat", Create, Ats(0, 1, 2, 3)),
    Spec(libc::SYS_write, "write", Write, File(0)),
    Spec(libc::SYS_writev, "writev", Write, File(0)),
    Spec(libc::SYS_pwrite64, "pwrite64", Write, File(0)),
    Spec(libc::SYS_pwritev, "pwritev", Write, File(0)),
    Spec(libc::SYS_pwritev2, "pwritev2", Write, File(0)),
    Spec(libc::SYS_sendfile, "sendfile", Write, File(0)),
    Spec(libc::SYS_splice, "splice", Write, File(2)),
    Spec(libc::SYS_copy_file_range, "copy_file_range", Write, File(2)),
    Spec(libc::SYS_truncate, "truncate", Write, Path(0)),
    Spec(libc::SYS_ftruncate, "ftruncate", Write, File(0)),
    Spec(libc::SYS_fallocate, "fallocate", Write, File(0)),
    Spec(libc::SYS_fsync, "fsync", Sync, File(0)),
    Spec(libc::SYS_fdatasync, "fdatasync", Sync, File(0)),
    Spec(libc::SYS_sync_file_range, "sync_file_range", Sync, File(0)),
    Spec(libc::SYS_syncfs, "syncfs", Sync, File(0)),
    Spec(libc::SYS_sync, "sync", Sync, Nothing),
    Spec(libc::SYS_msync, "msync", Sync, Nothing),
    Spec(libc::SYS_rename, "rename", Rename, Paths(0, 1)),
    Spec(libc::SYS_renameat, "renameat", Rename, Ats(0, 1, 2, 3)),
    Spec(libc::SYS_renameat2, "renameat2", Rename, Ats(0, 1, 2, 3)),
    Spec(libc::SYS_unlink, "unlink", Remove, Path(0)),
    Spec(libc::SYS_unlinkat, "unlinkat", Remove, At(0, 1)),
    Spec(libc::SYS_rmdir, "rmdir", Remove, Path(0)),
    Spec(libc::SYS_chmod, "chmod", Attribute, Path(0)),
    Spec(libc::SYS_fchmod, "fchmod", Attribute, File(0)),
    Spec(libc::SYS_fchmodat, "fchmodat", Attribute, At(0, 1)),
    Spec(libc::SYS_fchmodat2, "fchmodat2", Attribute, At(0, 1)),
    Spec(libc::SYS_chown, "chown", Attribute, Path(0)),
    Spec(libc::SYS_lchown, "lchown", Attribute, Path(0)),
    Spec(libc::SYS_fchown, "fchown", Attribute, File(0)),
    Spec(libc::SYS_fchownat, "fchownat", Attribute, At(0, 1)),
    Spec(libc::SYS_setxattr, "setxattr", Attribute, Path(0)),
    Spec(libc::SYS_lsetxattr, "lsetxattr", Attribute, Path(0)),
    Spec(libc::SYS_fsetxattr, "fsetxattr", Attribute, File(0)),
    Spec(libc::SYS_removexattr, "removexattr", Attribute, Path(0)),
    Spec(libc::SYS_lremovexattr, "lremovexattr", Attribute, Path(0)),
    Spec(libc::SYS_fremovexattr, "fremovexattr", Attribute, File(0)),
    Spec(libc::SYS_utime, "utime", Attribute, Path(0)),
    Spec(libc::SYS_utimes, "utimes", Attribute, Path(0)),
    Spec(libc::SYS_futimesat, "futimesat", Attribute, At(0, 1)),
    Spec(libc::SYS_utimensat, "utimensat", Attribute, At(0, 1)),
    Spec(libc::SYS_mount, "mount", Mount, Paths(0, 1)),
    Spec(libc::SYS_umount2, "umount2", Mount, Path(0)),
    Spec(libc::SYS_pivot_root, "pivot_root", Mount, Path(0)),
    Spec(libc::SYS_fsopen, "fsopen", Mount, Nothing),
    Spec(libc::SYS_fsconfig, "fsconfig", Mount, Nothing),
    Spec(libc::SYS_fsmount, "fsmount", Mount, Nothing),
    Spec(libc::SYS_fspick, "fspick", Mount, At(0, 1)),
    Spec(libc::SYS_open_tree, "open_tree", Mount, At(0, 1)),
    Spec(libc::SYS_move_mount, "move_mount", Mount, Ats(0, 1, 2, 3)),
    Spec(libc::SYS_mount_setattr, "mount_setattr", Mount, At(0, 1)),
    Spec(libc::SYS_ioctl, "ioctl", Control, File(0)),
    Spec(libc::SYS_read, "read", Read, File(0)),
    Spec(libc::SYS_readv, "readv", Read, File(0)),
    Spec(libc::SYS_pread64, "pread64", Read, File(0)),
    Spec(libc::SYS_preadv, "preadv", Read, File(0)),
    Spec(libc::SYS_preadv2, "preadv2", Read, File(0)),
    Spec(libc::SYS_getdents64, "getdents64", Read, File(0)),
];

/// A system call as it stands in the registers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw {
    pub(crate) number: i64,
    pub(crate) arguments: [u64; 6],
}

/// A call of interest.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) name: &'static str,
    pub(crate) class: Class,
    names: Names,
}

impl Raw {
    /// Says what the call does; none if it does nothing to files.
    pub(crate) fn classify(&self, tracee: Tracee) -> Option<Known> {
        let Spec(number, name, class, names) = *SPECS.iter().find(|spec| spec.0 == self.number)?;
        let class = match class {
            Open if self.makes(number, tracee) => Create,
            Control if !self.hands_over() => return None,
            class => class,
        };
        Some(Known { name, class, names })
    }

    /// The files that the call names; none if its descriptor is not a file.
    pub(crate) fn paths(&self, known: &Known, tracee: Tracee) -> Option<Vec<PathBuf>> {
        let cwd = i64::from(libc::AT_FDCWD).cast_unsigned();
        let at = |directory, path| tracee.path(directory, path);
        let argument = |index: usize| self.arguments[index];
        let paths = match known.names {
            File(file) => vec![Some(tracee.file(argument(file))?)],
            Path(path) => vec![at(cwd, argument(path))],
            Paths(from, to) => vec![at(cwd, argument(from)), at(cwd, argument(to))],
            At(directory, path) => vec![at(argument(directory), argument(path))],
            Ats(from, old, to, new) => vec![
                at(argument(from), argument(old)),
                at(argument(to), argument(new)),
            ],
            Nothing => vec![],
        };
        Some(paths.into_iter().flatten().collect())
    }

    /// True if an open may create or truncate its file.
    fn makes(&self, number: i64, tracee: Tracee) -> bool {
        let flags = match number {
            libc::SYS_open => self.arguments[1],
            libc::SYS_openat => self.arguments[2],
            _ => tracee.word(self.arguments[2]).unwrap_or(0),
        };
        let making = libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);
        flags & u64::from(making.cast_unsigned()) != 0
    }

    /// True if an ioctl may change a file. The terminal's and the descriptor's own
    /// ioctls (0x54..) are tried on any file and do nothing to it.
    fn hands_over(&self) -> bool {
        const COPIES_OUT: u64 = 2;
        let request = self.arguments[1];
        (request >> 8) & 0xff != 0x54 && (request >> 30) & 3 != COPIES_OUT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(number: i64, arguments: [u64; 6]) -> Option<Class> {
        let own = Tracee(i32::try_from(std::process::id()).unwrap());
        Raw { number, arguments }
            .classify(own)
            .map(|known| known.class)
    }

    #[test]
    fn no_call_is_listed_twice() {
        for (index, spec) in SPECS.iter().enumerate() {
            assert!(
                SPECS[..index].iter().all(|other| other.0 != spec.0),
                "{}",
                spec.1
            );
        }
    }

    #[test]
    fn flags_tell_creating_from_opening() {
        let flags = |flags: i32| [0, 0, u64::from(flags.cast_unsigned()), 0, 0, 0];
        let open = |bits| class(libc::SYS_openat, flags(bits));
        assert_eq!(open(libc::O_RDWR | libc::O_CREAT), Some(Create));
        assert_eq!(open(libc::O_WRONLY | libc::O_TRUNC), Some(Create));
        assert_eq!(open(libc::O_WRONLY | libc::O_TMPFILE), Some(Create));
        assert_eq!(open(libc::O_RDWR), Some(Open));
        assert_eq!(open(libc::O_DIRECTORY | libc::O_CLOEXEC), Some(Open));
    }

    #[test]
    fn ioctls_that_only_ask_do_not_count() {
        let ioctl = |request| class(libc::SYS_ioctl, [0, request, 0, 0, 0, 0]);
        assert_eq!(ioctl(libc::TCGETS), None);
        assert_eq!(ioctl(libc::FIOCLEX), None);
        assert_eq!(ioctl(libc::FS_IOC_GETFLAGS), None);
        assert_eq!(ioctl(libc::FS_IOC_SETFLAGS), Some(Control));
        assert_eq!(ioctl(libc::FICLONE), Some(Control));
    }
}
