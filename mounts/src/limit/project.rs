//! Limits by quotas of projects, on xfs that is mounted with `prjquota`: the kernel counts the files of a
//! directory, and nothing lies between them and the disk.
//!
//! On xfs alone: elsewhere the kernel lets pass who has CAP_SYS_RESOURCE (`ignore_hardlimit` of
//! fs/quota/dquot.c), and overlayfs writes with the capabilities of the program that mounted it. xfs limits
//! everybody. It holds those who run wild, and not who means to escape: outside of a user namespace the owner
//! of a file may give it to another project (FS_IOC_FSSETXATTR).

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::sys::statfs::{XFS_SUPER_MAGIC, fstatfs};
use nix::unistd::symlinkat;
use parking_lot::Mutex;

use super::Limit;
use crate::error::Error;
use crate::space::Space;
use crate::sys::project::{self, Quota};

/// Folder of the trial.
const TRIED: &str = ".layerd-quota";
/// Limit of the trial in bytes, and the bytes that are written to pass it: xfs wants room for many inodes to
/// make the first.
const TRIAL: (u64, usize) = (Limit::MIN_BYTES, 5 << 20);
/// Projects in use that are passed over before this gives up.
const ATTEMPTS: u32 = 1 << 14;
/// Bit of all projects of layerd: programs that number theirs begin at 1, or at 1,048,576.
const HIGH: u32 = 1 << 30;

/// Projects that one folder hands out. Lower ones first, and again when nothing is in them any more: xfs
/// keeps a record of each that was ever used.
#[derive(Debug)]
pub struct Projects {
    folder: PathBuf,
    first: u32,
    next: Mutex<u32>,
    tried: OnceLock<Result<(), String>>,
}

impl Projects {
    /// Those of a folder: another one begins elsewhere, so that two daemons on one file system do not meet.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        let bytes = folder.as_os_str().as_bytes().iter();
        let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        let first = HIGH | ((hash << 14) & (HIGH - 1));
        Self {
            folder: folder.to_owned(),
            first,
            next: Mutex::new(first),
            tried: OnceLock::new(),
        }
    }

    /// Tells if limits in the folder are enforced: tries, once, whether writing past one ends.
    ///
    /// # Errors
    /// The thing that is missing, in words.
    pub fn are_enforced(&self) -> Result<(), String> {
        self.tried.get_or_init(|| self.probe()).clone()
    }

    /// Refuses `what` is held to a size by a quota that is not enforced any more.
    ///
    /// # Errors
    /// [`Error::Unsuitable`], if it is so.
    pub fn require(&self, what: &str) -> Result<(), Error> {
        self.are_enforced().map_err(|why| Error::Unsuitable {
            path: self.folder.clone(),
            check: "project quotas",
            problem: format!("{what} is held to a size by one, and they are not enforced: {why}"),
            advice: "mount the file system with prjquota, as it was when this was made".to_owned(),
        })
    }

    /// Takes a project that is not in use on the file system of `file`, and sets its limit, with `own` inodes
    /// beside those that are asked for. Costs two system calls, and one for each that is in use.
    ///
    /// # Errors
    /// The kernel's answer to quotactl_fd(2); `EAGAIN` if none was found.
    pub fn take(&self, file: BorrowedFd<'_>, limit: Limit, own: u64) -> Result<Project, Errno> {
        let mut next = self.next.lock();
        let end = next.saturating_add(ATTEMPTS);
        for id in *next..end {
            if project::quota(file, id)? == Quota::default() {
                let taken = Project(id);
                taken.limit(file, limit, own)?;
                *next = id.saturating_add(1);
                return Ok(taken);
            }
        }
        *next = self.first;
        Err(Errno::EAGAIN)
    }

    /// The same, with a symlink `name` in `dir` that notes the project. After a failure neither stays.
    ///
    /// # Errors
    /// As for [`take`](Self::take), or the kernel's answer to symlinkat(2).
    pub fn take_noted(
        &self,
        dir: BorrowedFd<'_>,
        name: &str,
        limit: Limit,
        own: u64,
    ) -> Result<Project, Errno> {
        let project = self.take(dir, limit, own)?;
        project.note(dir, name).inspect_err(|_| {
            // What stays without a note is a number that is not used again.
            let _ = self.free(dir, project);
        })?;
        Ok(project)
    }

    /// Takes the limit of a project away. It is handed out again once nothing is in it. Success where quotas
    /// are off, since there is no limit.
    ///
    /// # Errors
    /// The kernel's answer to quotactl_fd(2).
    pub fn free(&self, file: BorrowedFd<'_>, project: Project) -> Result<(), Errno> {
        match project.free(file) {
            Ok(()) | Err(Errno::ESRCH | Errno::ENOSYS | Errno::EOPNOTSUPP) => {}
            Err(cause) => return Err(cause),
        }
        let mut next = self.next.lock();
        if (self.first..*next).contains(&project.0) {
            *next = project.0;
        }
        Ok(())
    }

    fn probe(&self) -> Result<(), String> {
        let open = |path: &Path| File::open(path).map_err(|cause| cause.to_string());
        let dir = open(&self.folder)?;
        match fstatfs(&dir) {
            Ok(found) if found.filesystem_type() == XFS_SUPER_MAGIC => {}
            Ok(_) => return Err("the file system is not xfs".to_owned()),
            Err(cause) => return Err(cause.desc().to_owned()),
        }
        let off = |cause: Errno| format!("xfs is not mounted with prjquota ({})", cause.desc());
        let limit = Limit {
            bytes: TRIAL.0,
            inodes: None,
        };
        let project = self.take(dir.as_fd(), limit, 0).map_err(off)?;
        let tried = self.folder.join(TRIED);
        let clean = || {
            let _ = fs::remove_file(tried.join("file"));
            let _ = fs::remove_dir(&tried);
        };
        clean();
        let made = fs::create_dir(&tried).map_err(|cause| cause.to_string());
        let outcome = made.and_then(|()| try_limit(project, &open(&tried)?, &tried));
        clean();
        outcome.and(self.free(dir.as_fd(), project).map_err(off))
    }
}

/// Project with a limit of its own, of which a symlink keeps the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project(u32);

impl Project {
    /// Sets the limit of the project on the file system of `file`, with `own` inodes beside those that are
    /// asked for.
    ///
    /// # Errors
    /// The kernel's answer to quotactl_fd(2).
    pub fn limit(self, file: BorrowedFd<'_>, limit: Limit, own: u64) -> Result<(), Errno> {
        let inodes = limit.inodes.map_or(0, |inodes| inodes.saturating_add(own));
        project::limit(file, self.0, limit.bytes, inodes)
    }

    fn free(self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        project::limit(file, self.0, 0, 0)
    }

    /// Gives an empty directory to the project, with all that is made in it.
    ///
    /// # Errors
    /// The kernel's answer to FS_IOC_FSSETXATTR.
    pub fn give(self, dir: BorrowedFd<'_>) -> Result<(), Errno> {
        project::give(dir, self.0)
    }

    /// Sets the limit of bytes, and leaves that of inodes as it is.
    ///
    /// # Errors
    /// The kernel's answer to quotactl_fd(2).
    pub fn resize(self, file: BorrowedFd<'_>, bytes: u64) -> Result<(), Errno> {
        let have = project::quota(file, self.0)?;
        project::limit(file, self.0, bytes, have.inodes)
    }

    /// Notes the project by a symlink, whose text is the name of nothing.
    ///
    /// # Errors
    /// The kernel's answer to symlinkat(2).
    pub fn note(self, dir: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
        symlinkat(format!("{NOTE}{}", self.0).as_str(), dir, name)
    }

    /// Reads which project a symlink notes; `None` for none, and for anything else of that name.
    ///
    /// # Errors
    /// The kernel's answer to readlinkat(2).
    pub fn noted(dir: BorrowedFd<'_>, name: &str) -> Result<Option<Self>, Errno> {
        match readlinkat(dir, name) {
            Ok(text) => {
                let number = text.to_str().and_then(|text| text.strip_prefix(NOTE));
                Ok(number.and_then(|number| number.parse().ok().map(Self)))
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EINVAL) => Ok(None),
            Err(cause) => Err(cause),
        }
    }
}

/// Start of the text of a symlink.
const NOTE: &str = "project:";

fn try_limit(project: Project, inside: &File, path: &Path) -> Result<(), String> {
    let (bytes, written) = TRIAL;
    let given = project.give(inside.as_fd());
    given.map_err(|cause| cause.desc().to_owned())?;
    let shown = Space::of(path).map_err(|cause| cause.to_string())?;
    if shown.bytes > bytes {
        return Err("statfs(2) does not show the limit".to_owned());
    }
    let file = File::create(path.join("file"));
    let mut file = file.map_err(|cause| cause.to_string())?;
    let outcome = file.write_all(&vec![1; written]);
    match outcome.and_then(|()| file.sync_all()) {
        Ok(()) => Err("limits of projects are counted and not enforced".to_owned()),
        Err(cause) => match cause.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT) => Ok(()),
            _ => Err(cause.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd as _;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::limit::{Enforcement, Method};
    use crate::test_support::{LoopDisk, enter_private_mounts};

    const LIMIT: Limit = Limit {
        bytes: 8 << 20,
        inodes: Some(10),
    };

    #[test]
    fn root_quotas_are_tried_before_they_are_relied_on() {
        enter_private_mounts();
        let tried = |disk: &LoopDisk| Projects::new(disk.path()).are_enforced();
        let plain = LoopDisk::xfs(&[]);
        let why = tried(&plain).expect_err("mounted without the option");
        assert!(why.contains("prjquota"), "{why}");
        let ext4 = LoopDisk::ext4(16);
        let why = tried(&ext4).expect_err("lets root pass");
        assert!(why.contains("not xfs"), "{why}");
        let Some(disk) = LoopDisk::xfs_with_project_quotas() else {
            return;
        };
        let projects = Projects::new(disk.path());
        assert_eq!(projects.are_enforced(), Ok(()));
        let probed = |method| Enforcement::probe(&projects, method);
        assert_eq!(probed(Method::Auto), Enforcement::Quota);
        assert_ne!(probed(Method::Images), Enforcement::Quota);
        assert!(!disk.path().join(TRIED).exists());
    }

    #[test]
    fn root_projects_are_handed_out_again_once_they_are_empty() {
        enter_private_mounts();
        let Some(disk) = LoopDisk::xfs_with_project_quotas() else {
            let plain = LoopDisk::xfs(&[]);
            let dir = File::open(plain.path()).expect("open");
            let refused = Projects::new(plain.path()).take(dir.as_fd(), LIMIT, 0);
            assert!(refused.is_err(), "no limit without a quota");
            return;
        };
        let dir = File::open(disk.path()).expect("open");
        let projects = Projects::new(disk.path());
        let take = || projects.take(dir.as_fd(), LIMIT, 1).expect("take");
        let (first, second) = (take(), take());
        assert_ne!(first, second);
        let path = disk.path().join("held");
        fs::create_dir(&path).expect("a directory");
        let held = File::open(&path).expect("open");
        first.give(held.as_fd()).expect("give");
        let made = (0..100).take_while(|name| File::create(path.join(name.to_string())).is_ok());
        assert_eq!(made.count(), 10);
        let space = Space::of(&path).expect("df");
        assert_eq!((space.bytes, space.inodes), (8 << 20, 11));
        first.resize(held.as_fd(), 16 << 20).expect("resize");
        let space = Space::of(&path).expect("df");
        assert_eq!((space.bytes, space.inodes), (16 << 20, 11));
        projects.free(dir.as_fd(), first).expect("free");
        let third = take();
        assert!(third != first && third != second, "something is in it");
        File::create(path.join("more")).expect("no limit any more");
        let entries = fs::read_dir(&path).expect("read");
        for entry in entries {
            fs::remove_file(entry.expect("an entry").path()).expect("delete");
        }
        drop(held);
        fs::remove_dir(&path).expect("delete");
        // xfs frees what was deleted in the background.
        let end = Instant::now() + Duration::from_secs(60);
        while project::quota(dir.as_fd(), first.0).expect("look") != Quota::default() {
            assert!(Instant::now() < end, "nothing is in it any more");
            std::thread::sleep(Duration::from_millis(10));
        }
        projects.free(dir.as_fd(), first).expect("again");
        assert_eq!(take(), first);
        // Another daemon on the same file system meets nothing of this one.
        let other = Projects::new(&disk.path().join("other"));
        let other = other.take(dir.as_fd(), LIMIT, 1).expect("take");
        assert!(![first, second, third].contains(&other));
    }

    #[test]
    fn a_project_is_noted_by_a_symlink() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let dir = File::open(folder.path()).expect("open");
        let noted = |name| Project::noted(dir.as_fd(), name).expect("read");
        let project = Project(HIGH | 7);
        project.note(dir.as_fd(), "one").expect("note");
        assert_eq!(noted("one"), Some(project));
        for (name, text) in [("two", "7"), ("three", "project:x"), ("four", "project:-1")] {
            std::os::unix::fs::symlink(text, folder.path().join(name)).expect("symlink");
            assert_eq!(noted(name), None, "{text}");
        }
        fs::write(folder.path().join("five"), "project:7").expect("write");
        assert_eq!((noted("five"), noted("none")), (None, None));
    }
}
