//! Tries out what overlayfs needs, in a directory below the root: entry types, and a real mount.
//!
//! The mount is made in a mount namespace that one thread has for itself and that ends with it,
//! so that nothing of it is ever seen outside or left behind.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use layerd_mounts::barrier::Barrier;
use layerd_mounts::error::with_causes;
use layerd_mounts::mounter::{BindOptions, KernelMounter, Mounter, Symlinks};
use layerd_mounts::{Error, IdMaps, mount, overlay_options, tree, user_namespace};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::sys::stat::Mode;

use super::{Finding, SCRATCH, Tried, images, open, scratch};
use crate::overlay::LayerForm;

const KINDS: &str = "use ext4, btrfs, or xfs made with ftype=1";

/// Tries `options` on the file system of `root`. If it is `in_use` by layerd already, a full disk
/// does not count.
pub(super) fn run(
    root: &Path,
    options: &[String],
    in_use: bool,
    form: LayerForm,
) -> Result<Tried, Error> {
    sweep(root)?;
    let scratch = Scratch::new(root)?;
    let kinds = entry_types(&scratch.path)?;
    let mounted = if kinds.ok {
        vec![
            overlay(&scratch.path, options, in_use),
            idmapped_layers(&scratch.path),
        ]
    } else {
        Vec::new()
    };
    let images = (form != LayerForm::Directories).then(|| images::run(&scratch.path));
    drop(scratch);
    Ok(([vec![kinds], mounted].concat(), images))
}

/// Lets the kernel load overlayfs if it is a module that nothing has used yet: its parameters show
/// only then. Asking for a mount without layers does that, and always fails.
pub(super) fn load_module() {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.split_whitespace().any(|word| word == "overlay") {
        return;
    }
    let ask = || {
        mount::own_namespace()?;
        let flags = MsFlags::empty();
        nix::mount::mount(Some("overlay"), "/", Some("overlay"), flags, None::<&str>)
    };
    // Whether it worked shows when a real mount is tried.
    let _ = mount::on_thread(ask);
}

/// The directory things are tried in. Gone when dropped.
struct Scratch {
    root: PathBuf,
    path: PathBuf,
}

impl Scratch {
    fn new(root: &Path) -> Result<Self, Error> {
        let path = scratch(root);
        let scratch = Self {
            root: root.to_owned(),
            path,
        };
        let folders = ["lower1/gone", "lower2", "upper", "work", "merged"];
        for folder in folders {
            let path = scratch.path.join(folder);
            fs::create_dir_all(&path)
                .map_err(|cause| Error::io("create directory", &path, cause))?;
        }
        for file in ["lower1/gone/file", "lower1/file", "lower2/other"] {
            let path = scratch.path.join(file);
            fs::write(&path, file).map_err(|cause| Error::io("write", &path, cause))?;
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = discard(&self.root, &self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a trial directory stays behind");
        }
    }
}

fn discard(root: &Path, path: &Path) -> Result<(), Error> {
    let name = path.file_name().map(|name| name.as_encoded_bytes());
    let name = CString::new(name.unwrap_or_default()).expect("a file name has no NUL");
    let barrier = Barrier::open(root)?;
    tree::delete(open(root)?.as_fd(), &name, root, &barrier, &|| true)
}

/// Deletes what processes that no longer run left behind.
fn sweep(root: &Path) -> Result<(), Error> {
    let fail = |cause| Error::io("read directory", root, cause);
    for entry in fs::read_dir(root).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(SCRATCH));
        let owner: Option<u32> = owner.and_then(|owner| owner.parse().ok());
        let gone = |id| id == std::process::id() || !Path::new(&format!("/proc/{id}")).exists();
        if owner.is_some_and(gone) {
            discard(root, &entry.path())?;
        }
    }
    Ok(())
}

fn entry_types(scratch: &Path) -> Result<Finding, Error> {
    const NAME: &str = "entry types";
    let fail = |cause: Errno| Error::io("read directory", scratch, cause);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = Dir::open(scratch, flags, Mode::empty()).map_err(fail)?;
    for entry in dir.iter() {
        if entry.map_err(fail)?.file_type().is_none() {
            let detail = "the file system does not tell the types of directory entries (d_type)";
            return Ok(Finding::bad(NAME, detail, KINDS));
        }
    }
    Ok(Finding::good(NAME, "told by the file system"))
}

/// Why a trial did not come to a good end.
enum Trouble {
    /// This process may not mount.
    NotAllowed(&'static str, io::Error),
    /// The mount was refused.
    Refused(io::Error),
    /// It was mounted, but one of the things that layers need does not work.
    Broken(&'static str, io::Error),
}

const NAME: &str = "overlay mount";

/// Finding for a disk that is too full for a trial.
pub(super) fn no_room(cause: &dyn std::fmt::Display) -> Finding {
    let advice = "remove layers, or make room on the disk";
    Finding::bad(NAME, format!("not tried: {cause}"), advice).tolerable()
}

fn is_full(cause: &io::Error) -> bool {
    let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    kinds.contains(&cause.kind())
}

fn overlay(scratch: &Path, options: &[String], in_use: bool) -> Finding {
    let tried = mount::on_thread(|| try_overlay(scratch, options));
    let trouble = match tried {
        Ok(Ok(())) => return Finding::good(NAME, "works"),
        Ok(Err(trouble)) => trouble,
        Err(cause) => Trouble::NotAllowed("cannot start a thread", cause),
    };
    match trouble {
        Trouble::Refused(cause) | Trouble::Broken(_, cause) if in_use && is_full(&cause) => {
            no_room(&cause)
        }
        Trouble::NotAllowed(what, cause) => {
            let detail = format!("not tried: {what}: {cause}");
            let advice = "run this check as root (it needs CAP_SYS_ADMIN)";
            Finding::bad(NAME, detail, advice).tolerable()
        }
        Trouble::Refused(cause) if cause.raw_os_error() == Some(Errno::ENODEV as i32) => {
            let detail = "the kernel has no overlay file system";
            Finding::bad(NAME, detail, "load the module: modprobe overlay")
        }
        Trouble::Refused(cause) => {
            let detail = format!(
                "the kernel refuses it with `{}`: {cause}",
                options.join(",")
            );
            let advice = format!("see the kernel's log; {KINDS}, and options that it knows");
            Finding::bad(NAME, detail, advice)
        }
        Trouble::Broken(what, cause) => {
            Finding::bad(NAME, format!("it cannot {what}: {cause}"), KINDS)
        }
    }
}

fn try_overlay(scratch: &Path, options: &[String]) -> Result<(), Trouble> {
    mount::own_namespace().map_err(|cause| {
        Trouble::NotAllowed("cannot make a mount namespace", io::Error::from(cause))
    })?;
    let dir = |name: &str| scratch.join(name).display().to_string();
    let mut all = vec![
        format!("workdir={}", dir("work")),
        format!("upperdir={}", dir("upper")),
        format!("lowerdir={}:{}", dir("lower1"), dir("lower2")),
    ];
    all.extend_from_slice(options);
    let data = overlay_options::data(&all);
    let merged = scratch.join("merged");
    let flags = MsFlags::empty();
    nix::mount::mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        flags,
        Some(data.as_str()),
    )
    .map_err(|cause| Trouble::Refused(cause.into()))?;
    use_it(scratch, &merged)
}

/// Does once what layers live by.
fn use_it(scratch: &Path, merged: &Path) -> Result<(), Trouble> {
    let steps: [(&'static str, Step); 4] = [
        ("show a file of the second layer", |_, merged| {
            fs::read(merged.join("other")).map(drop)
        }),
        ("write a file", |_, merged| {
            fs::write(merged.join("new"), "new")
        }),
        ("delete a file of a layer below", |scratch, merged| {
            fs::remove_file(merged.join("file"))?;
            expect(!merged.join("file").exists() && scratch.join("lower1/file").exists())
        }),
        (
            "make a directory where one of a layer below was",
            |_, merged| {
                fs::remove_file(merged.join("gone/file"))?;
                fs::remove_dir(merged.join("gone"))?;
                fs::create_dir(merged.join("gone"))?;
                expect(!merged.join("gone/file").exists())
            },
        ),
    ];
    for (what, step) in steps {
        step(scratch, merged).map_err(|cause| Trouble::Broken(what, cause))?;
    }
    Ok(())
}

/// Tries layers whose owners are shifted, as containerd mounts them for pods with user namespaces.
fn idmapped_layers(scratch: &Path) -> Finding {
    const NAME: &str = "id-mapped layers";
    if user_namespace::current().is_some() {
        let detail =
            "refused: the kernel maps ids of files on a disk for root of the machine alone";
        return Finding::good(NAME, detail);
    }
    let tried = mount::on_thread(|| try_idmapped(scratch));
    match tried.unwrap_or_else(|cause| Err(cause.to_string())) {
        Ok(()) => Finding::good(NAME, "work"),
        Err(trouble) => {
            let advice = "use Linux 5.19 or newer and ext4, xfs, btrfs or (Linux 6.3) tmpfs to give \
                          pods user namespaces without copying layers";
            Finding::bad(NAME, format!("do not work: {trouble}"), advice).tolerable()
        }
    }
}

fn try_idmapped(scratch: &Path) -> Result<(), String> {
    let mapped = BindOptions {
        ids: IdMaps::parse("0:100000:65536", "0:100000:65536").ok(),
        ..BindOptions::default()
    };
    let mounter = KernelMounter::new();
    let map = |layer: &Path| {
        let tree = mounter.bind(&mounter.open_source(layer, Symlinks::Refuse)?, &mapped)?;
        mounter.attach(tree, &mounter.open_source(layer, Symlinks::Refuse)?)
    };
    mount::own_namespace().map_err(|cause| with_causes(&cause))?;
    let layers = ["lower1", "lower2"].map(|name| scratch.join(name));
    for layer in &layers {
        map(layer).map_err(|error| with_causes(&error))?;
    }
    let lowers = layers.each_ref().map(|layer| layer.display().to_string());
    let merged = scratch.join("merged");
    let (kind, flags) = (Some("overlay"), MsFlags::MS_RDONLY);
    let data = format!("lowerdir={}", lowers.join(":"));
    nix::mount::mount(kind, &merged, kind, flags, Some(data.as_str()))
        .map_err(|cause| format!("overlayfs refuses them: {cause}"))?;
    let owner = fs::metadata(merged.join("other")).map(|file| file.uid());
    match owner {
        Ok(100_000) => Ok(()),
        Ok(other) => Err(format!("a file of user 0 shows as that of {other}")),
        Err(cause) => Err(cause.to_string()),
    }
}

type Step = fn(&Path, &Path) -> io::Result<()>;

fn expect(seen: bool) -> io::Result<()> {
    if seen {
        return Ok(());
    }
    Err(io::Error::other("the change does not show"))
}
