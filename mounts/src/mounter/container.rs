//! Mounts for a container that a runtime is creating: made in this mount namespace, put into the
//! container's before it pivots into its root directory.
//!
//! The content of the root directory is an image author's: symlinks in it are resolved below it, and
//! the mount point found is held open.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::stat;
use rustix::mount::MountAttrFlags;

use super::{
    BindOptions, Handle, KernelMounter, MountError, Mounter, NewSource, Propagation, ReadOnly,
    Symlinks, Tree, detached, path,
};
use crate::error::Error;
use crate::mount::on_thread;

/// Makes a mount that is given in the words of the OCI runtime specification. It stands nowhere yet.
///
/// # Errors
/// [`Error::UnknownOption`] for types other than `bind` and `tmpfs` and for options that layerd does
/// not name to runtimes; those of [`Mounter::open_source`], [`Mounter::bind`] and
/// [`Mounter::tmpfs`].
pub fn oci_tree(kind: &str, source: &Path, options: &[String]) -> Result<Tree, MountError> {
    match kind {
        "bind" => {
            let options = bind_options(source, options)?;
            let source = KernelMounter.open_source(source, Symlinks::Follow)?;
            KernelMounter.bind(&source, &options)
        }
        "tmpfs" => tmpfs(source, options),
        other => Err(unknown(source, other)),
    }
}

fn bind_options(source: &Path, words: &[String]) -> Result<BindOptions, MountError> {
    let mut options = BindOptions::default();
    let (mut top, mut all) = (false, false);
    for word in words {
        match word.as_str() {
            "bind" | "rw" => {}
            "rbind" => options.recursive = true,
            "ro" => top = true,
            "rro" => all = true,
            "private" | "rprivate" => options.propagation = Propagation::Private,
            "slave" | "rslave" => options.propagation = Propagation::Slave,
            "shared" | "rshared" => options.propagation = Propagation::Shared,
            "nosuid" => options.nosuid = true,
            "nodev" => options.nodev = true,
            "noexec" => options.noexec = true,
            other => return Err(unknown(source, other)),
        }
    }
    options.read_only = match (top, all) {
        (false, false) => ReadOnly::Writable,
        (true, false) => ReadOnly::Top,
        (true, true) => ReadOnly::RecursiveIfPossible,
        (false, true) => ReadOnly::RecursiveRequired,
    };
    Ok(options)
}

/// Pairs go to the file system, words to the mount.
fn tmpfs(shown: &Path, words: &[String]) -> Result<Tree, MountError> {
    let mut pairs = Vec::new();
    let mut attributes = MountAttrFlags::empty();
    for word in words {
        match (word.as_str(), word.split_once('=')) {
            (_, Some((key, value))) => pairs.push((key, value.to_owned())),
            ("rw" | "exec" | "suid" | "dev", _) => {}
            ("ro", _) => attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
            ("nosuid", _) => attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID,
            ("nodev", _) => attributes |= MountAttrFlags::MOUNT_ATTR_NODEV,
            ("noexec", _) => attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            (other, _) => return Err(unknown(shown, other)),
        }
    }
    detached::tmpfs(&pairs, attributes)
}

fn unknown(target: &Path, option: &str) -> MountError {
    MountError::Table(Error::UnknownOption {
        target: target.to_owned(),
        option: option.to_owned(),
    })
}

/// True if something is mounted at a path, as this mount namespace has it.
///
/// # Errors
/// Those of [`Mounter::open_source`].
pub fn is_mount_point(path: &Path) -> Result<bool, MountError> {
    let mount = |path: &Path| {
        KernelMounter
            .open_source(path, Symlinks::Follow)?
            .mount_id()
    };
    match path.parent() {
        Some(above) => Ok(mount(above)? != mount(path)?),
        None => Ok(true),
    }
}

/// The mount namespace of another process, held open.
#[derive(Debug)]
pub struct MountNamespace {
    fd: OwnedFd,
    path: PathBuf,
}

impl MountNamespace {
    /// Opens that of a process.
    ///
    /// # Errors
    /// [`MountError::Missing`] if there is no such process, [`MountError::BadPath`] if it has the
    /// caller's own mount namespace, else [`MountError::Io`].
    pub fn of(pid: u32) -> Result<Self, MountError> {
        let path = PathBuf::from(format!("/proc/{pid}/ns/mnt"));
        let fail = |cause: std::io::Error| match cause.kind() {
            std::io::ErrorKind::NotFound => MountError::Missing { path: path.clone() },
            _ => MountError::io("open", &path, cause),
        };
        let fd = OwnedFd::from(std::fs::File::open(&path).map_err(fail)?);
        let own = stat("/proc/thread-self/ns/mnt").map_err(|cause| fail(cause.into()))?;
        let its = nix::sys::stat::fstat(&fd).map_err(|cause| fail(cause.into()))?;
        if (own.st_dev, own.st_ino) == (its.st_dev, its.st_ino) {
            let problem = "is the mount namespace of the caller, no container's";
            return Err(MountError::BadPath { path, problem });
        }
        Ok(Self { fd, path })
    }

    /// Attaches trees below a root directory of that namespace, in order, each at its absolute path as
    /// a process in that root would resolve it. Missing mount points are made, as the owner of the
    /// root directory. After an error those attached before stay: the container is not to start.
    ///
    /// # Errors
    /// [`MountError`] naming the path at fault.
    pub fn attach(&self, root: &Path, trees: Vec<(Tree, PathBuf)>) -> Result<(), MountError> {
        let run = || {
            self.enter()?;
            let root = KernelMounter.open_source(root, Symlinks::Follow)?;
            let put = |(tree, target)| put(&root, tree, target);
            trees.into_iter().try_for_each(put)
        };
        on_thread(run).unwrap_or_else(|cause| Err(MountError::io("enter", &self.path, cause)))
    }

    /// Moves this thread there for good.
    fn enter(&self) -> Result<(), MountError> {
        let fail = |cause: Errno| MountError::io("enter", &self.path, cause);
        unshare(CloneFlags::CLONE_FS).map_err(fail)?;
        setns(&self.fd, CloneFlags::CLONE_NEWNS).map_err(fail)
    }
}

fn put(root: &Handle, tree: Tree, target: PathBuf) -> Result<(), MountError> {
    let (uid, gid) = root.owner()?;
    let new = NewSource {
        file: !tree.is_dir()?,
        uid,
        gid,
        ..NewSource::DIRECTORY
    };
    let target = path::create_in_root(root, &target, &new)?;
    path::refuse_kernels(&target)?;
    KernelMounter.attach(tree, &target).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use nix::unistd::{getegid, geteuid};

    use super::{bind_options, unknown};
    use crate::mounter::{
        Handle, KernelMounter, MountError, Mounter, NewSource, Propagation, ReadOnly, Symlinks,
        path::create_in_root,
    };

    fn words(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn binds_are_given_in_the_words_of_runtimes() {
        let of = |text| bind_options(Path::new("/s"), &words(text));
        let plain = of("bind,rprivate,rw").unwrap();
        assert_eq!(plain.read_only, ReadOnly::Writable);
        assert!(!plain.recursive);
        let read_only = [
            ("rbind,ro", ReadOnly::Top),
            ("rbind,ro,rro", ReadOnly::RecursiveIfPossible),
            ("rbind,rro", ReadOnly::RecursiveRequired),
        ];
        for (text, wanted) in read_only {
            let options = of(text).unwrap();
            assert_eq!((options.read_only, options.recursive), (wanted, true));
        }
        assert_eq!(of("rslave").unwrap().propagation, Propagation::Slave);
        let error = of("rbind,idmap").unwrap_err().to_string();
        assert_eq!(error, unknown(Path::new("/s"), "idmap").to_string());
    }

    #[test]
    fn paths_are_made_inside_of_a_root() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        std::fs::create_dir_all(root.join("real")).unwrap();
        symlink("/real", root.join("absolute")).unwrap();
        symlink("../../real", root.join("up")).unwrap();
        symlink("/nowhere", root.join("dangling")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        let handle = KernelMounter.open_source(&root, Symlinks::Refuse).unwrap();
        let make = |path: &str, file: bool| -> Result<Handle, MountError> {
            let new = NewSource {
                file,
                uid: geteuid().as_raw(),
                gid: getegid().as_raw(),
                ..NewSource::DIRECTORY
            };
            create_in_root(&handle, Path::new(path), &new)
        };
        assert!(make("/absolute/a/b", false).unwrap().is_dir());
        assert!(!make("/up/c/file", true).unwrap().is_dir());
        assert!(make("/", false).unwrap().is_dir());
        for made in ["real/a/b", "real/c/file"] {
            assert!(root.join(made).exists(), "{made}");
        }
        let bad: [(&str, PathBuf); 4] = [
            ("/dangling/a", root.join("dangling")),
            ("/file/a", root.join("file")),
            ("/a/../../b", "/a/../../b".into()),
            ("relative", "relative".into()),
        ];
        for (path, named) in bad {
            let error = make(path, false).unwrap_err().to_string();
            assert!(error.contains(named.to_str().unwrap()), "{error}");
        }
        assert!(!root.join("nowhere").exists() && !scratch.path().join("b").exists());
    }
}
