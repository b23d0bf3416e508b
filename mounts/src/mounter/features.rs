//! Features of the kernel, found by trying each.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;

use super::detached::{self, KernelMounter};
use super::idmap::UserNamespace;
use super::{Handle, MountError, Mounter, Symlinks, TmpfsOptions, Want, overlay};
use crate::error::with_causes;
use crate::sys::{self, MountAttributes};
use crate::types::{IdMap, IdMaps};

type Trial = fn(&KernelMounter) -> Result<(), MountError>;

/// Name of the [`Feature`] that gives each mount a number which is never used again.
pub const UNIQUE_IDS: &str = "unique mount ids";

/// A feature of the kernel, as tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Name of the system call or property.
    pub name: &'static str,
    /// First release of Linux that has it, as in "6.8".
    pub since: &'static str,
    /// Effect of its absence.
    pub without: Without,
    /// Why it does not work; `None` if it does.
    pub trouble: Option<String>,
}

impl Feature {
    /// True if nothing can be attached without it.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        matches!(self.without, Without::Nothing)
    }
}

/// One line for people: "works", or the release of Linux to use and what becomes of the work.
impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(trouble) = &self.trouble else {
            return f.write_str("works");
        };
        write!(f, "missing ({trouble}), Linux {} has it; ", self.since)?;
        match self.without {
            Without::Nothing => f.write_str("nothing can be attached"),
            Without::Otherwise(way) => write!(f, "without it {way}"),
            Without::Refused(work) => write!(f, "refused without it: {work}"),
        }
    }
}

/// Effect of a missing [`Feature`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    /// Nothing can be attached.
    Nothing,
    /// It is done in another way, which the text describes.
    Otherwise(&'static str),
    /// The described operation is refused.
    Refused(&'static str),
}

/// Name, first release of Linux, what layerd does without it, and the trial.
const TRIALS: [(&str, &str, Without, Trial); 8] = [
    ("open_tree and move_mount", "5.2", Without::Nothing, clones),
    ("fsopen", "5.2", Without::Nothing, makes_tmpfs),
    ("openat2", "5.6", Without::Nothing, resolves),
    ("mount_setattr", "5.12", Without::Nothing, sets_attributes),
    (
        "id mappings",
        "5.12",
        Without::Refused("an id mapping of a bind mount"),
        maps_ids,
    ),
    (
        "id-mapped mounts of tmpfs",
        "6.3",
        Without::Refused("an id mapping of a bind mount whose source lies on tmpfs"),
        shifts_tmpfs,
    ),
    (
        UNIQUE_IDS,
        "6.8",
        Without::Otherwise("mounts are told apart by number, place, device and inode"),
        numbers_mounts,
    ),
    (
        "overlay layers one by one",
        "6.8",
        Without::Otherwise(
            "mounts of images are made by mount(2), in a mount namespace of their own",
        ),
        adds_layers,
    ),
];

/// See [`Mounter::features`].
pub(super) fn probe(mounter: &KernelMounter) -> Vec<Feature> {
    TRIALS
        .iter()
        .map(|(name, since, without, trial)| Feature {
            name,
            since,
            without: *without,
            trouble: trial(mounter).err().map(|error| with_causes(&error)),
        })
        .collect()
}

fn clones(mounter: &KernelMounter) -> Result<(), MountError> {
    detached::clone_any(&top(mounter)?).map(drop)
}

fn makes_tmpfs(mounter: &KernelMounter) -> Result<(), MountError> {
    mounter.tmpfs(&TmpfsOptions::default()).map(drop)
}

fn resolves(mounter: &KernelMounter) -> Result<(), MountError> {
    let found = mounter.resolve(&top(mounter)?, Path::new("."), Want::Directory);
    found.map(drop)
}

fn sets_attributes(mounter: &KernelMounter) -> Result<(), MountError> {
    let tree = detached::clone_any(&top(mounter)?)?;
    let nothing = MountAttributes::default();
    sys::mount_setattr(tree.as_fd(), true, &nothing)
        .map_err(|cause| MountError::io("change a mount of", Path::new("/"), cause))
}

fn maps_ids(_: &KernelMounter) -> Result<(), MountError> {
    namespace().map(drop)
}

fn namespace() -> Result<UserNamespace, MountError> {
    let range = vec![IdMap {
        container: 0,
        host: 1,
        length: 1,
    }];
    let ids = IdMaps {
        uid: range.clone(),
        gid: range,
    };
    UserNamespace::new(&ids, Path::new("this host"))
}

fn shifts_tmpfs(mounter: &KernelMounter) -> Result<(), MountError> {
    let tree = mounter.tmpfs(&TmpfsOptions::default())?;
    let namespace = namespace()?;
    let shown = Path::new("tmpfs");
    detached::shift(tree.fd.as_fd(), shown, false, &namespace)
}

fn numbers_mounts(_: &KernelMounter) -> Result<(), MountError> {
    known(sys::has_unique_ids(), "number the mount of", "/")
}

fn adds_layers(_: &KernelMounter) -> Result<(), MountError> {
    known(
        overlay::takes_single_layers(),
        "set `lowerdir+` of",
        "overlay",
    )
}

/// The outcome of a trial that is made once in a process and keeps no error.
fn known(works: bool, attempt: &'static str, shown: &str) -> Result<(), MountError> {
    if works {
        return Ok(());
    }
    Err(MountError::io(attempt, Path::new(shown), Errno::EOPNOTSUPP))
}

fn top(mounter: &KernelMounter) -> Result<Handle, MountError> {
    mounter.open_source(Path::new("/"), Symlinks::Follow)
}

#[cfg(test)]
mod tests {
    use super::{TRIALS, probe};
    use crate::mounter::KernelMounter;

    /// First releases are what users are told; so what a kernel of that release or a newer one
    /// lacks all the same is a wrong entry, or a trial that fails for another reason.
    #[test]
    fn root_each_kernel_has_what_it_should() {
        let release = nix::sys::utsname::uname().expect("it has a name");
        let release = release.release().to_string_lossy().into_owned();
        let number = |text: &str| -> (u32, u32) {
            let mut numbers = text.split(|c: char| !c.is_ascii_digit());
            let mut next = || {
                numbers
                    .next()
                    .and_then(|n| n.parse().ok())
                    .expect("a number")
            };
            (next(), next())
        };
        let features = probe(&KernelMounter::new());
        assert_eq!(features.len(), TRIALS.len());
        for feature in features {
            let expected = number(&release) >= number(feature.since);
            assert_eq!(
                feature.trouble.is_none(),
                expected,
                "{release}: {feature:?}"
            );
            let said = feature.to_string();
            assert_eq!(said == "works", expected, "{said}");
            assert!(expected || said.contains(feature.since), "{said}");
        }
    }
}
