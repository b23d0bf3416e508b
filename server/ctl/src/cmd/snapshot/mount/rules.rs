//! Directories that `snapshot mount` and `umount` leave alone: the rules that attach has for targets.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use layerd_mounts::mounter::{Handle, KernelMounter, MountError, Mounter, Reserved, Symlinks};
use layerd_mounts::{Slot, mountinfo};

use crate::client::Client;
use crate::cmd::Daemon;
use crate::error::Error;

/// The daemon's paths, and where attachments are mounted.
pub(super) struct Rules {
    mounter: KernelMounter,
    root: PathBuf,
    socket: PathBuf,
    /// Keys and mount points.
    attached: Vec<(String, PathBuf)>,
}

/// Why a directory is left alone, and what to do instead.
struct Broken {
    why: String,
    hint: &'static str,
}

impl Broken {
    fn new(why: String, hint: &'static str) -> Self {
        Self { why, hint }
    }
}

impl Rules {
    pub(super) async fn ask(client: &mut Client, daemon: &Daemon) -> Result<Self, Error> {
        let root = client.info().await?.root.into();
        let all = client.attachments(None, String::new()).await?;
        let attached = all.into_iter().filter(|one| !one.mounted_at.is_empty());
        Ok(Self {
            mounter: KernelMounter::new(),
            root,
            socket: daemon.address.clone(),
            attached: attached
                .map(|one| (one.key, one.mounted_at.into()))
                .collect(),
        })
    }

    /// Refuses a directory that nothing may be mounted on.
    pub(super) fn check_mount(&self, dir: &Path) -> Result<(), Error> {
        let broken = self.broken_by_mount(dir);
        Self::refuse("mount a snapshot on", dir, broken)
    }

    /// Refuses a directory on which something else than a snapshot is mounted. Nothing there is none.
    pub(super) fn check_unmount(&self, dir: &Path) -> Result<(), Error> {
        let broken = self.broken_by_unmount(dir);
        Self::refuse("unmount", dir, broken)
    }

    fn refuse(
        attempt: &str,
        dir: &Path,
        broken: Result<Option<Broken>, MountError>,
    ) -> Result<(), Error> {
        let what = format!("{attempt} {}", dir.display());
        match broken {
            Ok(None) => Ok(()),
            Ok(Some(Broken { why, hint })) => Err(Error::Invalid {
                what,
                why,
                hint: hint.to_owned(),
            }),
            Err(cause @ MountError::Missing { .. }) => Err(Error::NotFound {
                what,
                why: cause.to_string(),
                hint: "DIR is a directory that exists.".to_owned(),
            }),
            Err(cause) => Err(Error::Invalid {
                what,
                why: cause.to_string(),
                hint: "DIR is a directory that exists.".to_owned(),
            }),
        }
    }

    fn broken_by_mount(&self, dir: &Path) -> Result<Option<Broken>, MountError> {
        let target = self.open(dir)?;
        if !target.is_dir() {
            let path = dir.to_owned();
            return Err(MountError::NotADirectory { path });
        }
        if let Some(rule) = self.reserved().rule_broken(&target, &|_| false)? {
            return Ok(Some(Broken::new(format!("it {rule}"), ELSEWHERE)));
        }
        if self.stands_at(&target)? {
            let why = "it is a mount point already".to_owned();
            return Ok(Some(Broken::new(why, ELSEWHERE)));
        }
        let real = target.real_path()?;
        let inner = |(_, mounted): &&(String, PathBuf)| mounted.starts_with(&real);
        Ok(self.attached.iter().find(inner).map(|(key, mounted)| {
            let mounted = mounted.display();
            let why = format!("it would hide what attachment {key:?} has on {mounted}");
            Broken::new(why, ELSEWHERE)
        }))
    }

    fn broken_by_unmount(&self, dir: &Path) -> Result<Option<Broken>, MountError> {
        let top = match self.open(dir) {
            Err(MountError::Missing { .. }) => return Ok(None),
            top => top?,
        };
        let real = top.real_path()?;
        let Some(above) = real.parent() else {
            let why = "it is the root directory of the host".to_owned();
            return Ok(Some(Broken::new(why, BY_HAND)));
        };
        if !self.stands_at(&top)? {
            return Ok(None);
        }
        let reserved = self.reserved();
        if let Some(rule) = reserved.hidden_by((top.device(), top.inode()))? {
            return Ok(Some(Broken::new(format!("it {rule}"), BY_HAND)));
        }
        if reserved.has(&self.open(above)?, &|_| false)? {
            let root = self.root.display();
            let why = format!("it lies in layerd's data directory {root}");
            return Ok(Some(Broken::new(why, BY_HAND)));
        }
        if let Some((key, _)) = self.attached.iter().find(|(_, at)| *at == real) {
            let why = format!("attachment {key:?} has it mounted");
            return Ok(Some(Broken::new(why, "Use `layerctl detach`.")));
        }
        if self.is_snapshot(&top)? {
            return Ok(None);
        }
        let why = "what is mounted there is no snapshot of layerd's".to_owned();
        Ok(Some(Broken::new(why, BY_HAND)))
    }

    /// True if a mount shows layers of the daemon's: an overlay of them, or a bind of one.
    fn is_snapshot(&self, top: &Handle) -> Result<bool, MountError> {
        let at = self.mounter.position(top)?;
        for folder in LAYERS.iter().map(|name| self.root.join(name)) {
            if !folder.exists() {
                continue;
            }
            let own = self.mounter.position(&self.open(&folder)?)?;
            if at.device == own.device && at.shown.starts_with(&own.path) {
                return Ok(true);
            }
        }
        let table = mountinfo::read()?;
        let images = self.root.join("x");
        let mut here = table.iter().filter(|one| one.device == at.device);
        Ok(here.any(|one| match one.kind.to_str() {
            Some("overlay") => has_layers(&one.super_options, &self.root),
            Some("erofs") => one.target.starts_with(&images),
            Some("zfs") => self.root.join("z").exists() && is_dataset(&one.source),
            _ => false,
        }))
    }

    /// True if the handle is the root of a mount, not a file in it.
    fn stands_at(&self, top: &Handle) -> Result<bool, MountError> {
        let real = top.real_path()?;
        let Some(above) = real.parent() else {
            return Ok(true);
        };
        Ok(self.open(above)?.mount_id()? != top.mount_id()?)
    }

    fn open(&self, path: &Path) -> Result<Handle, MountError> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        self.mounter.open_source(&path, Symlinks::Follow)
    }

    fn reserved(&self) -> Reserved<'_> {
        Reserved {
            mounter: &self.mounter,
            root: &self.root,
            socket: Some(&self.socket),
        }
    }
}

/// True if the name of a dataset of ZFS, or of its snapshot at Commit, ends as those of layers do.
fn is_dataset(source: &OsStr) -> bool {
    let name = source.to_str().and_then(|name| name.rsplit('/').next());
    let name = name.map(|name| name.strip_suffix("@layerd").unwrap_or(name));
    name.is_some_and(|name| name.parse::<Slot>().is_ok())
}

/// Folders with what binds of layers show: layers, whole trees of the driver overlay1, and branches.
const LAYERS: [&str; 3] = ["l", "r", "aufs/diff"];

const ELSEWHERE: &str = "Mount it elsewhere.";
const BY_HAND: &str = "`umount` takes away what you are sure of.";

/// True if an overlay writes to a layer of the daemon's, or consists of its layers without an upper
/// directory. Options near the size of a page name lower directories by what follows their common folder.
fn has_layers(options: &OsStr, root: &Path) -> bool {
    let value = |name: &[u8]| {
        let mut all = options.as_bytes().split(|byte| *byte == b',');
        all.find_map(|option| option.strip_prefix(name))
    };
    let path = |bytes| Path::new(OsStr::from_bytes(bytes));
    if let Some(upper) = value(b"upperdir=") {
        let is_in = |folder| path(upper).starts_with(root.join(folder));
        return ["l", "c"].into_iter().any(is_in);
    }
    let mut lowers = value(b"lowerdir=")
        .unwrap_or_default()
        .split(|byte| *byte == b':');
    let first = lowers.next().unwrap_or_default();
    let is_absolute = |folder| path(first).starts_with(root.join(folder));
    let is_slot = |text: &str| text.parse::<Slot>().is_ok();
    let is_image = |lower: &[u8]| {
        let text = std::str::from_utf8(lower).ok();
        let slot = text.and_then(|text| text.strip_suffix("/f"));
        slot.is_some_and(|slot| is_slot(slot.strip_prefix("x/").unwrap_or(slot)))
    };
    let is_limited = |lower: &[u8]| {
        let text = std::str::from_utf8(lower).ok();
        let slot = text.and_then(|text| text.strip_prefix("c/")?.strip_suffix("/data/u"));
        slot.is_some_and(is_slot)
    };
    ["l", "x", "r", "c"].into_iter().any(is_absolute)
        || is_limited(first)
        || std::str::from_utf8(first).is_ok_and(is_slot)
        || is_image(first)
        || first.starts_with(b"l/") && lowers.any(is_image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datasets_are_told_by_their_names() {
        let is = |name: &str| is_dataset(OsStr::new(name));
        assert!(is("tank/layers/1a") && is("tank/layers/1a@layerd"));
        assert!(!is("tank/layers/1a@daily") && !is("tank/HOME") && !is("tank/a-b"));
    }

    #[test]
    fn overlays_are_told_by_their_layers() {
        let has = |options: &str| has_layers(OsStr::new(options), Path::new("/r"));
        assert!(has("rw,lowerdir=/r/l/2:/r/l/1,index=off"));
        assert!(has("rw,lowerdir=/r/e,upperdir=/r/l/2,workdir=/r/w/2"));
        assert!(has(
            "rw,lowerdir=/r/l/1,upperdir=/r/c/2/data/u,workdir=/r/c/2/data/w"
        ));
        assert!(has("ro,lowerdir=/r/c/2/data/u:/r/l/1,redirect_dir=on"));
        assert!(has("ro,lowerdir=c/2/data/u:l/1"));
        assert!(!has("ro,lowerdir=/x/c/2/data/u:/r/l/1"));
        assert!(has("ro,lowerdir=2:1"));
        assert!(has("ro,lowerdir=/r/x/2/f:/r/l/1"));
        assert!(has("ro,lowerdir=2/f:1/f"));
        assert!(has("ro,lowerdir=l/2:x/1/f"));
        assert!(has("ro,lowerdir=/r/r/2"));
        assert!(!has("ro,lowerdir=/x/2/f:/x/1/f"));
        assert!(!has("rw,lowerdir=/x/l/2:/r/l/1,upperdir=/x/2"));
        assert!(!has("rw,lowerdir=l/ABC:l/DEF,upperdir=/x/2"));
        assert!(!has("ro,lowerdir=l/abc:l/def"));
        assert!(!has("rw"));
    }
}
