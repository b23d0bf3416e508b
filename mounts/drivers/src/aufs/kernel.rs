//! Looks for AUFS in the kernel, and tries it.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use layerd_mounts::barrier::Barrier;
use layerd_mounts::folder::c_name;
use layerd_mounts::{Error, mount, tree};
use nix::mount::MsFlags;

use crate::finding::{Finding, open};

const NAME: &str = "aufs";
const DIRPERM1: &str = "dirperm1";
const ADVICE: &str = "run a kernel with the patches of AUFS and CONFIG_AUFS_FS, or with its module; no \
                      kernel of kernel.org and none of Debian has it. `driver = \"overlay\"` runs on \
                      any of them";

/// True if the trial found that AUFS takes the option.
pub(super) fn has_dirperm1(findings: &[Finding]) -> bool {
    let found = findings.iter().find(|finding| finding.name == DIRPERM1);
    found.is_some_and(|finding| finding.detail == "taken")
}

/// Finds out whether the kernel has AUFS, and whether it takes branches below `root`.
pub(super) fn look(root: &Path) -> Result<Vec<Finding>, Error> {
    if !is_known() {
        load_module();
    }
    if !is_known() {
        let detail = "this kernel has no AUFS: /proc/filesystems does not name it, and no module of that \
                      name could be loaded";
        return Ok(vec![Finding::bad(NAME, detail, ADVICE)]);
    }
    let scratch = Scratch::new(root)?;
    let tried = |options: &str| try_mount(&scratch.path, options);
    Ok(match (tried(",dirperm1"), tried("")) {
        (Ok(()), _) => vec![
            Finding::good(NAME, "works"),
            Finding::good(DIRPERM1, "taken"),
        ],
        (Err(_), Ok(())) => vec![
            Finding::good(NAME, "works"),
            Finding::good(DIRPERM1, "not taken by this kernel"),
        ],
        (Err(_), Err(cause)) => {
            let detail = format!("the kernel has AUFS, and refuses branches here: {cause}");
            let advice =
                "see the kernel's log; put the root on ext4 or xfs, and /dev/shm on a tmpfs";
            vec![Finding::bad(NAME, detail, advice)]
        }
    })
}

fn is_known() -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known.split_whitespace().any(|word| word == NAME)
}

/// Lets the kernel load the module: a mount without branches asks for it, and always fails.
fn load_module() {
    let ask = || {
        mount::own_namespace()?;
        nix::mount::mount(
            Some("none"),
            "/",
            Some(NAME),
            MsFlags::empty(),
            None::<&str>,
        )
    };
    let _ = mount::on_thread(ask);
}

/// The directory things are tried in. Gone when dropped.
struct Scratch {
    root: PathBuf,
    path: PathBuf,
}

impl Scratch {
    fn new(root: &Path) -> Result<Self, Error> {
        let path = root.join(format!("probe.{}", std::process::id()));
        let scratch = Self {
            root: root.to_owned(),
            path,
        };
        for folder in ["lower", "upper", "merged"] {
            let path = scratch.path.join(folder);
            let made = fs::create_dir_all(&path);
            made.map_err(|cause| Error::io("create directory", &path, cause))?;
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let name = self.path.file_name().unwrap_or_default();
        let name = c_name(&name.to_string_lossy());
        let delete = || {
            let barrier = Barrier::open(&self.root)?;
            tree::delete(
                open(&self.root)?.as_fd(),
                &name,
                &self.root,
                &barrier,
                &|| true,
            )
        };
        if let Err(error) = delete() {
            tracing::warn!(path = %self.path.display(), %error, "a trial directory stays behind");
        }
    }
}

/// Mounts two branches in a mount namespace of its own, and deletes a file of the lower one.
fn try_mount(scratch: &Path, further: &str) -> io::Result<()> {
    fs::write(scratch.join("lower/file"), "content")?;
    let options = format!(
        "br:{0}/upper=rw:{0}/lower=ro+wh,dio,xino=/dev/shm/aufs.xino{further}",
        scratch.display()
    );
    let merged = scratch.join("merged");
    let act = || -> io::Result<()> {
        mount::own_namespace()?;
        let (kind, flags) = (Some(NAME), MsFlags::empty());
        nix::mount::mount(Some("none"), &merged, kind, flags, Some(&*options))?;
        fs::remove_file(merged.join("file"))
    };
    mount::on_thread(act)??;
    match scratch.join("upper/.wh.file").exists() {
        true => Ok(()),
        false => Err(io::Error::other("a deletion leaves no whiteout")),
    }
}
