//! Finds out at start whether layers can be kept below a root, and with which mount options. Each
//! refusal says what to change.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use layerd_mounts::Error;
use layerd_mounts::mount::{self, ImageAccess};
use layerd_mounts::user_namespace::{self, UserNamespace};
use nix::errno::Errno;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs};

use crate::finding::{FileSystem, Finding, file_system, open};
use crate::overlay::plan::Layout;
use crate::overlay::{LayerForm, Options};

mod images;
mod trial;

/// Result of the checks.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) layout: Layout,
    pub(crate) findings: Vec<Finding>,
    pub(crate) file_system: FileSystem,
    /// Set if layers that are unpacked become images.
    pub(crate) makes_images: bool,
}

/// Looks at `root`, an existing directory without symlinks in its path.
///
/// # Errors
/// [`Error::Unsuitable`] for a path or options that cannot be used at all, [`Error::Io`] if the
/// root cannot be written.
pub(crate) fn run(root: &Path, options: &Options) -> Result<Checked, Error> {
    let namespace = user_namespace::current();
    let form = options.layers;
    trial::load_module();
    let index = Path::new("/sys/module/overlay/parameters/index").exists();
    let options = complete(&options.mount_options, namespace.is_some(), index);
    let layout = Layout::new(root, options.clone(), mount::page_size())?;
    let (finding, file_system) = file_system(root)?;
    let mut findings = vec![on_overlay(root)?, finding];
    // Overlay on overlay fails in ways that the trial could only guess at.
    let mut makes_images = false;
    if !findings.iter().any(Finding::refuses) {
        let (found, images) = tried(root, &options, form)?;
        findings.extend(found);
        let forms = images::decide(form, images);
        findings.push(forms.finding);
        makes_images = forms.makes_images;
    }
    findings.extend(in_namespace(namespace));
    Ok(Checked {
        layout,
        findings,
        file_system,
        makes_images,
    })
}

/// Lets the kernel load overlayfs, whose parameters show only then.
pub(crate) fn load_module() {
    trial::load_module();
}

/// Findings of a trial, and its outcome for images if these were tried.
type Tried = (Vec<Finding>, Option<Result<ImageAccess, String>>);

/// A root that holds layers passed the trial before. If there is no room to repeat it, the daemon
/// must start all the same: to remove layers is what makes room.
fn tried(root: &Path, options: &[String], form: LayerForm) -> Result<Tried, Error> {
    let in_use = root.join("l").exists();
    match trial::run(root, options, in_use, form) {
        Err(cause) if in_use && cause.is_full() => Ok((vec![trial::no_room(&cause)], None)),
        outcome => outcome,
    }
}

/// Adds what this kernel needs to what was configured. `index=off`: with it on, an upper directory
/// that moved, or one that is mounted twice for a moment, would be refused. `userxattr`: in a user
/// namespace overlayfs may not use its own attributes.
fn complete(configured: &[String], in_userns: bool, index: bool) -> Vec<String> {
    let named = |name: &str| {
        let is = |option: &String| option.split('=').next() == Some(name);
        configured.iter().any(is)
    };
    let mut options = configured.to_vec();
    if in_userns && !named("userxattr") {
        options.push("userxattr".to_owned());
    }
    if index && !named("index") {
        options.push("index=off".to_owned());
    }
    options
}

fn on_overlay(root: &Path) -> Result<Finding, Error> {
    const NAME: &str = "not on overlayfs";
    let dir = open(root)?;
    let fail = |cause: Errno| Error::io("look at the file system of", root, cause);
    let magic = fstatfs(dir.as_fd()).map_err(fail)?.filesystem_type();
    if magic == OVERLAYFS_SUPER_MAGIC {
        return Ok(Finding::bad(
            NAME,
            "the root is itself inside an overlay mount, such as a container's file system",
            "put the root on a volume or a disk",
        ));
    }
    Ok(Finding::good(NAME, "yes"))
}

/// Findings about the user namespace of this process.
fn in_namespace(namespace: Option<&UserNamespace>) -> Vec<Finding> {
    const NAME: &str = "user namespace";
    let Some(namespace) = namespace else {
        return vec![Finding::good(NAME, "not inside one")];
    };
    let marks = "overlayfs keeps its marks in user.overlay attributes";
    vec![
        Finding::good(NAME, format!("inside one, with {namespace}; {marks}")),
        Finding::good(
            "devices in layers",
            "left out and logged, as containerd does: the kernel keeps making them to root of the machine",
        ),
    ]
}

/// Name of the directory that one process tries things in.
fn scratch(root: &Path) -> PathBuf {
    root.join(format!("{SCRATCH}{}", std::process::id()))
}

const SCRATCH: &str = "probe.";

#[cfg(test)]
mod tests;
