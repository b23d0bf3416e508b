//! The one place that knows which drivers there are: the daemon, `layerd check` and `layerd fsck` all
//! come here.
//!
//! A root belongs to one driver. Its name stands in `<root>/meta/driver`; a root that holds layers but
//! no such file is older than the file, and overlayfs's.

use std::fmt;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use layerd_mounts::folder::{open_file, sync_path};
use layerd_mounts::limit::Method;
use layerd_mounts::{Error, user_namespace};

use crate::aufs::{self, Aufs};
use crate::btrfs::Btrfs;
use crate::devicemapper::{self, Devicemapper};
use crate::driver::{Driver, Survey};
use crate::finding::Finding;
use crate::memory::Memory;
use crate::native::Native;
use crate::overlay::{LayerForm, Options, Overlay};
use crate::overlay1::{self, Overlay1};
use crate::zfs::{self, Zfs};

/// Drivers that there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// Directories with changes, stacked by overlayfs.
    #[default]
    Overlay,
    /// Directories with changes, and for overlayfs one whole tree of hard links below.
    Overlay1,
    /// Branches of AUFS, for kernels that have it.
    Aufs,
    /// Subvolumes of btrfs, shown by bind mounts.
    Btrfs,
    /// Thin devices of the device mapper, each with a file system of its own.
    Devicemapper,
    /// Whole trees, copied and shown by bind mounts.
    Native,
    /// Datasets of ZFS, shown as such.
    Zfs,
    /// Nothing on the disk, nothing to mount: for authors of clients.
    Memory,
}

impl Kind {
    /// All of them, the default first.
    pub const ALL: [Self; 8] = [
        Self::Overlay,
        Self::Overlay1,
        Self::Aufs,
        Self::Btrfs,
        Self::Devicemapper,
        Self::Native,
        Self::Zfs,
        Self::Memory,
    ];

    /// Name in configurations, and on the disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Overlay1 => "overlay1",
            Self::Aufs => "aufs",
            Self::Btrfs => "btrfs",
            Self::Devicemapper => "devicemapper",
            Self::Native => "native",
            Self::Zfs => "zfs",
            Self::Memory => "memory",
        }
    }

    /// True if writable layers can be held to a size, where the machine can.
    #[must_use]
    pub fn has_limits(self) -> bool {
        matches!(self, Self::Overlay | Self::Zfs)
    }

    /// Why it works for root of the machine alone, and not for root of a user namespace.
    #[must_use]
    fn needs_root_of_machine(self) -> Option<&'static str> {
        match self {
            Self::Overlay | Self::Overlay1 | Self::Native | Self::Memory => None,
            Self::Aufs => Some("the kernel mounts AUFS for root of the machine alone"),
            Self::Btrfs => Some(
                "usage is read by searching the trees of btrfs, which the kernel keeps to root of the machine",
            ),
            Self::Devicemapper => {
                Some("the kernel makes devices, and mounts them, for root of the machine alone")
            }
            Self::Zfs => Some("datasets are made and mounted by root of the machine alone"),
        }
    }

    /// True if layers outlive the daemon, so that its root may be persistent.
    #[must_use]
    pub fn is_persistent(self) -> bool {
        self != Self::Memory
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that is no driver's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no such driver; there are overlay, overlay1, aufs, btrfs, devicemapper, native, zfs and memory"
)]
pub struct UnknownDriver;

impl FromStr for Kind {
    type Err = UnknownDriver;

    /// Docker's name for the driver of the second generation is taken too.
    fn from_str(name: &str) -> Result<Self, UnknownDriver> {
        if name == "overlay2" {
            return Ok(Self::Overlay);
        }
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.name() == name).ok_or(UnknownDriver)
    }
}

/// Settings of a driver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Which one.
    pub kind: Kind,
    /// Further options for the mounts of [`Kind::Overlay`] and [`Kind::Overlay1`], one to an element.
    pub mount_options: Vec<String>,
    /// Form of layers of [`Kind::Overlay`] that are unpacked from now on.
    pub layers: LayerForm,
    /// Way in which [`Kind::Overlay`] holds layers to a size from now on.
    pub limits: Method,
    /// Those of [`Kind::Devicemapper`].
    pub devicemapper: devicemapper::Options,
    /// Dataset of [`Kind::Zfs`], below which its layers are. Its name was [checked](zfs::check_name).
    pub dataset: Option<String>,
}

impl Settings {
    fn options(&self) -> Options {
        Options {
            mount_options: self.mount_options.clone(),
            layers: self.layers,
            limits: self.limits,
        }
    }
}

/// Opens the driver of a root, which is made if it is missing and belongs to the driver from then on.
/// Durable on return.
///
/// # Errors
/// [`Error::Unsuitable`] says what to change: also if the root belongs to another driver, in which
/// case nothing is changed. [`Error::Io`].
pub fn open(root: &Path, settings: &Settings) -> Result<Arc<dyn Driver>, Error> {
    refuse_other(root, settings.kind)?;
    refuse_in_namespace(root, settings.kind)?;
    let driver: Arc<dyn Driver> = match settings.kind {
        Kind::Overlay => Arc::new(Overlay::open(root, &settings.options())?),
        // Recorded only where the kernel has it: another driver may have the root then.
        Kind::Aufs => Arc::new(Aufs::open(root)?),
        // Likewise only with a pool.
        Kind::Devicemapper => Arc::new(Devicemapper::open(root, &settings.devicemapper)?),
        // Recorded before there is anything that would be taken for overlayfs's.
        Kind::Overlay1 => {
            record(root, settings.kind)?;
            Arc::new(Overlay1::open(root, &settings.mount_options)?)
        }
        Kind::Btrfs => {
            record(root, settings.kind)?;
            Arc::new(Btrfs::open(root)?)
        }
        Kind::Native => {
            record(root, settings.kind)?;
            Arc::new(Native::open(root)?)
        }
        // Recorded only where there is a dataset.
        Kind::Zfs => Arc::new(Zfs::open(root, settings.dataset.as_deref())?),
        Kind::Memory => return Ok(Arc::new(Memory::new())),
    };
    record(root, settings.kind)?;
    Ok(driver)
}

/// Checks a root as [`open`] does, but goes on after a failure, and records nothing.
///
/// # Errors
/// As [`open`], if the root cannot be used at all.
pub fn check(root: &Path, settings: &Settings) -> Result<Vec<Finding>, Error> {
    refuse_other(root, settings.kind)?;
    refuse_in_namespace(root, settings.kind)?;
    let mut findings = vec![Finding::good("driver", settings.kind.name())];
    findings.extend(match settings.kind {
        Kind::Overlay => Overlay::check(root, &settings.options())?,
        Kind::Overlay1 => Overlay1::check(root, &settings.mount_options)?,
        Kind::Aufs => Aufs::check(root)?,
        Kind::Btrfs => Btrfs::check(root)?,
        Kind::Devicemapper => Devicemapper::check(root, &settings.devicemapper)?,
        Kind::Native => Native::check(root)?,
        Kind::Zfs => Zfs::check(root, settings.dataset.as_deref())?,
        Kind::Memory => Vec::new(),
    });
    Ok(findings)
}

/// Layers of a root that no daemon serves, looked at without changing anything.
///
/// # Errors
/// [`Error::Unsuitable`] if the root belongs to another driver, or if the driver keeps nothing on the
/// disk; [`Error::Io`].
pub fn survey(root: &Path, settings: &Settings) -> Result<Box<dyn Survey>, Error> {
    refuse_other(root, settings.kind)?;
    match settings.kind {
        Kind::Overlay => Ok(Box::new(Overlay::survey(root))),
        Kind::Overlay1 => Ok(Box::new(Overlay1::survey(root))),
        Kind::Aufs => Ok(Box::new(Aufs::survey(root))),
        Kind::Btrfs => Ok(Box::new(Btrfs::survey(root))),
        Kind::Devicemapper => Ok(Box::new(Devicemapper::survey(root))),
        Kind::Native => Ok(Box::new(Native::survey(root))),
        Kind::Zfs => Ok(Box::new(Zfs::survey(root, settings.dataset.as_deref())?)),
        Kind::Memory => Err(unsuitable(
            root,
            "the driver memory keeps nothing on the disk".to_owned(),
            "name the driver of the root in the setting `driver`".to_owned(),
        )),
    }
}

/// The name of the driver that a root belongs to; `None` if it is to be had.
fn owner(root: &Path) -> Result<Option<String>, Error> {
    let path = file(root);
    let mut text = String::new();
    match open_file(&path, false).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => return Ok(Some(text.trim().to_owned())),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
        Err(cause) => return Err(Error::io("read", &path, cause)),
    }
    // Records that are lost may have taken the name along: `aufs`, `d`, `r` and `z` are made by one driver
    // each, and `e` by overlay and overlay1.
    if root.join(aufs::HOME).exists() {
        return Ok(Some(Kind::Aufs.name().to_owned()));
    }
    if root.join(devicemapper::HOME).exists() {
        return Ok(Some(Kind::Devicemapper.name().to_owned()));
    }
    if root.join(overlay1::TREES).exists() {
        return Ok(Some(Kind::Overlay1.name().to_owned()));
    }
    if root.join(zfs::HOME).exists() {
        return Ok(Some(Kind::Zfs.name().to_owned()));
    }
    let is_old = root.join("e").exists() || root.join("meta/format").exists();
    Ok(is_old.then(|| Kind::Overlay.name().to_owned()))
}

fn refuse_other(root: &Path, kind: Kind) -> Result<(), Error> {
    if !kind.is_persistent() {
        return Ok(());
    }
    match owner(root)? {
        Some(owner) if owner != kind.name() => Err(unsuitable(
            root,
            format!("it belongs to the driver {owner:?}, and the setting is {kind}"),
            format!("set `driver = {owner:?}`, or choose another root"),
        )),
        _ => Ok(()),
    }
}

/// Refuses the drivers that need root of the machine, where this process is root of a user namespace.
fn refuse_in_namespace(root: &Path, kind: Kind) -> Result<(), Error> {
    match kind.needs_root_of_machine() {
        Some(why) if user_namespace::current().is_some() => Err(unsuitable(
            root,
            format!("layerd runs in a user namespace, where the driver {kind} cannot work: {why}"),
            "set `driver = \"overlay\"` or `driver = \"native\"`".to_owned(),
        )),
        _ => Ok(()),
    }
}

fn unsuitable(root: &Path, problem: String, advice: String) -> Error {
    Error::Unsuitable {
        path: root.to_owned(),
        check: "driver",
        problem,
        advice,
    }
}

/// Notes whose a root is, durably. Writes nothing if that stands there already.
fn record(root: &Path, kind: Kind) -> Result<(), Error> {
    let (path, meta) = (file(root), root.join("meta"));
    if path.exists() {
        return Ok(());
    }
    let mut private = fs::DirBuilder::new();
    private
        .recursive(true)
        .mode(0o700)
        .create(&meta)
        .map_err(|cause| Error::io("create directory", &meta, cause))?;
    let temporary = meta.join("driver.new");
    let write = || {
        // A name that an interrupted call left may stand for anything. One that stays makes this fail.
        let _ = fs::remove_file(&temporary).or_else(|_| fs::remove_dir(&temporary));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        writeln!(file, "{kind}")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|cause| Error::io("write", &path, cause))?;
    sync_path(&meta)?;
    sync_path(root)
}

fn file(root: &Path) -> PathBuf {
    root.join("meta/driver")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{Kind, Settings, check, open, survey};

    fn settings(kind: Kind) -> Settings {
        Settings {
            kind,
            ..Settings::default()
        }
    }

    fn refused<T>(outcome: Result<T, layerd_mounts::Error>, says: &str) {
        let error = outcome.err().expect("it belongs to another").to_string();
        assert!(error.contains(says), "{error}");
    }

    fn belongs_to(root: &Path, owner: Kind, other: Kind) {
        let says = format!("belongs to the driver \"{owner}\", and the setting is {other}");
        let before = fs::read(root.join("meta/driver")).ok();
        refused(open(root, &settings(other)), &says);
        refused(check(root, &settings(other)), &says);
        refused(survey(root, &settings(other)), &says);
        assert_eq!(fs::read(root.join("meta/driver")).ok(), before);
        survey(root, &settings(owner)).expect("its own driver reads it");
    }

    #[test]
    fn every_driver_has_one_name() {
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!("overlay2".parse(), Ok(Kind::Overlay));
        assert!("vfs".parse::<Kind>().is_err());
    }

    #[test]
    fn a_root_belongs_to_one_driver() {
        for (owner, other) in [
            (Kind::Overlay, Kind::Native),
            (Kind::Native, Kind::Overlay),
            (Kind::Overlay, Kind::Overlay1),
            (Kind::Overlay1, Kind::Overlay),
        ] {
            let root = tempfile::tempdir().expect("a temporary directory");
            drop(open(root.path(), &settings(owner)).expect("open"));
            belongs_to(root.path(), owner, other);
            drop(open(root.path(), &settings(owner)).expect("open again"));
        }
    }

    /// Older versions did not write down whose it was.
    #[test]
    fn an_old_root_is_overlays() {
        let root = tempfile::tempdir().expect("a temporary directory");
        drop(open(root.path(), &settings(Kind::Overlay)).expect("open"));
        fs::remove_file(root.path().join("meta/driver")).expect("as before");
        belongs_to(root.path(), Kind::Overlay, Kind::Native);
        drop(open(root.path(), &settings(Kind::Overlay)).expect("open"));
        let noted = fs::read_to_string(root.path().join("meta/driver")).expect("noted");
        assert_eq!(noted, "overlay\n");
    }

    /// A root whose records are lost is not taken for another driver's.
    #[test]
    fn whole_trees_tell_whose_a_root_is() {
        let root = tempfile::tempdir().expect("a temporary directory");
        drop(open(root.path(), &settings(Kind::Overlay1)).expect("open"));
        fs::remove_file(root.path().join("meta/driver")).expect("lost");
        belongs_to(root.path(), Kind::Overlay1, Kind::Overlay);
    }

    #[test]
    fn what_an_interrupted_call_left_is_not_written_to() {
        let before: [&dyn Fn(&Path); 3] = [
            &|path| fs::create_dir(path).expect("a directory"),
            &|path| std::os::unix::fs::symlink("../other", path).expect("a symlink"),
            &|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).expect("a FIFO"),
        ];
        for before in before {
            let root = tempfile::tempdir().expect("a temporary directory");
            fs::create_dir(root.path().join("meta")).expect("a directory");
            fs::write(root.path().join("other"), "another's").expect("write");
            before(&root.path().join("meta/driver.new"));
            drop(open(root.path(), &settings(Kind::Native)).expect("open"));
            let read = |name| fs::read_to_string(root.path().join(name)).expect("read");
            assert_eq!(read("meta/driver"), "native\n");
            assert_eq!(read("other"), "another's");
        }
    }

    #[test]
    fn a_driver_of_the_future_is_named() {
        let root = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(root.path().join("meta")).expect("a directory");
        fs::write(root.path().join("meta/driver"), "bcachefs\n").expect("write");
        refused(open(root.path(), &settings(Kind::Native)), "\"bcachefs\"");
    }
}
