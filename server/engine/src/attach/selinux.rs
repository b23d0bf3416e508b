//! `z` and `Z`: SELinux labels for the content of volumes and binds.
//!
//! Labels are found as container runtimes find them: a container has a mount label (`mountLabel` of
//! the OCI runtime specification), `Z` gives it to the content, and `z` the same at level `s0`,
//! which all containers may use. Where no container's label is told, `z` takes the one that the
//! host's policy has for files of containers (`contexts/lxc_contexts`).

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use layerd_mounts::tree;
use layerd_spec::{Kind, MountSpec, Relabel};
use layerd_store::{Attachment, BadInput};

use crate::{Attachments, Error};

/// Longest label, in bytes.
const LABEL_MAX: usize = 255;
/// Directories that hosts need as they are labelled.
const HOSTS: [&str; 24] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt",
    "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib",
    "/var", "/var/lib", "/var/log",
];

/// The SELinux of a host.
#[derive(Debug, Default)]
pub(super) struct Selinux {
    /// Directory of the policy in force, such as `/etc/selinux/targeted`; `None` where it is off.
    pub(super) policy: Option<PathBuf>,
}

impl Selinux {
    /// Looks whether SELinux is on and which policy is in force.
    pub(super) fn of_host() -> Self {
        let is_on = Path::new("/sys/fs/selinux/enforce").exists();
        let config = fs::read_to_string("/etc/selinux/config").unwrap_or_default();
        let kind = value_of(&config, "SELINUXTYPE").unwrap_or("targeted");
        Self {
            policy: is_on.then(|| Path::new("/etc/selinux").join(kind)),
        }
    }

    /// The label for `spec`, if it asks for one and SELinux is on. `told` is the mount label of the
    /// container.
    fn label(&self, spec: &MountSpec, told: Option<&str>) -> Result<Option<String>, Error> {
        let told = told.map(checked).transpose()?;
        let (Some(relabel), Some(policy)) = (spec.relabel, &self.policy) else {
            return Ok(None);
        };
        if let Kind::Bind(bind) = &spec.kind
            && let Some(host) = hosts(bind.source.as_path())
        {
            let rule = format!(
                "{} is {host} of the host, which must keep its labels",
                bind.source
            );
            return Err(BadInput::new("relabel", rule).into());
        }
        match (relabel, told) {
            (Relabel::Private, Some(told)) => Ok(Some(told.to_owned())),
            (Relabel::Private, None) => {
                let rule = "private (Z) needs the container's label: give selinux_label, or \
                            linux.mountLabel in the bundle";
                Err(BadInput::new("relabel", rule).into())
            }
            (Relabel::Shared | Relabel::SharedByDialect, Some(told)) => Ok(Some(shared(told))),
            (Relabel::Shared | Relabel::SharedByDialect, None) => {
                let file = policy.join("contexts/lxc_contexts");
                let contexts = fs::read_to_string(&file).unwrap_or_default();
                let label = value_of(&contexts, "file").ok_or_else(|| {
                    let rule = format!("{} has no label for files", file.display());
                    BadInput::new("relabel", rule)
                })?;
                Ok(Some(shared(checked(label)?)))
            }
        }
    }
}

impl Attachments {
    /// Refuses a label that could not be set.
    pub(super) fn check_label(&self, spec: &MountSpec, told: Option<&str>) -> Result<(), Error> {
        self.selinux.label(spec, told).map(drop)
    }

    /// Labels the content of an attachment, if that was asked for and SELinux is on. Costs two or
    /// three calls a file. What is labelled stays so if the call fails.
    pub(super) fn relabel(
        &self,
        spec: &MountSpec,
        attachment: &Attachment,
        told: Option<&str>,
    ) -> Result<(), Error> {
        let Some(label) = self.selinux.label(spec, told)? else {
            return Ok(());
        };
        let Some(source) = self.source(spec, attachment.volume)? else {
            return Ok(());
        };
        let label = CString::new(label).unwrap_or_default();
        let keep_going = || !self.root.backlog.is_stopping();
        tree::label(source.as_fd(), source.path(), &label, &keep_going)
            .map_err(Error::driver("set SELinux labels"))
    }

    /// Note about explicit `z` and `Z` where SELinux is off; none for those that a dialect implies.
    #[must_use]
    pub fn label_note(&self, spec: &MountSpec) -> Option<String> {
        let is_said = matches!(spec.relabel, Some(Relabel::Shared | Relabel::Private));
        let is_off = is_said && self.selinux.policy.is_none();
        is_off.then(|| "nothing is relabelled (z, Z): SELinux is off on this host".to_owned())
    }
}

/// The directory of the host that a path leads to, if it is one that keeps its labels. By device and
/// inode: a bind mount gives it another path.
fn hosts(source: &Path) -> Option<&'static str> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|it| (it.dev(), it.ino()));
    let source = identity(source)?;
    HOSTS
        .into_iter()
        .find(|host| identity(Path::new(host)) == Some(source))
}

/// The value of `KEY = "VALUE"` or `KEY=VALUE` on a line of its own.
fn value_of<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let mut values = pairs.filter(|(name, _)| name.trim() == key);
    let (_, value) = values.next()?;
    Some(value.trim().trim_matches('"'))
}

/// A label is `USER:ROLE:TYPE:LEVEL`; the level may hold colons.
fn checked(label: &str) -> Result<&str, BadInput> {
    let parts: Vec<&str> = label.splitn(4, ':').collect();
    let is_good = parts.len() == 4
        && parts.iter().all(|part| !part.is_empty())
        && label.len() <= LABEL_MAX
        && label.bytes().all(|byte| byte.is_ascii_graphic());
    if is_good {
        return Ok(label);
    }
    let shown: String = label.chars().take(64).collect();
    let rule = format!("{shown:?} is not USER:ROLE:TYPE:LEVEL of at most {LABEL_MAX} bytes");
    Err(BadInput::new("selinux_label", rule))
}

/// The same label at the level that all containers may use.
fn shared(label: &str) -> String {
    let parts: Vec<&str> = label.splitn(4, ':').take(3).collect();
    format!("{}:s0", parts.join(":"))
}
