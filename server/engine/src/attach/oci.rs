//! Attachments as mounts of the OCI runtime specification (section "Mounts" of config.md).

use layerd_spec::{Bind, Kind, MountSpec, Propagation, ReadOnly, Tmpfs, TmpfsSize};
use layerd_store::Attachment;

use crate::Attachments;
use crate::volume_slot as slot;

/// One entry of `mounts` in config.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciMount {
    /// Where in the container.
    pub destination: String,
    /// `bind` or `tmpfs`.
    pub kind: String,
    /// Its source.
    pub source: String,
    /// Options in the words of the specification.
    pub options: Vec<String>,
}

impl Attachments {
    pub(super) fn oci_mounts(&self, spec: &MountSpec, attachment: &Attachment) -> Vec<OciMount> {
        let destination = spec.target.to_string();
        let mounted = attachment.mount.as_ref().map(|mount| mount.target.clone());
        let bind = |source: String, recursive: bool, propagation: Propagation| OciMount {
            destination: destination.clone(),
            kind: "bind".to_owned(),
            source,
            options: bind_options(spec.read_only, recursive, propagation),
        };
        vec![match &spec.kind {
            Kind::Volume(_) => {
                let data = attachment
                    .volume
                    .map(|id| self.volumes.dirs.data_path(slot(id)).display().to_string());
                bind(
                    mounted.or(data).unwrap_or_default(),
                    true,
                    Propagation::Rprivate,
                )
            }
            Kind::Bind(wanted) => {
                let by_runtime = mounted.is_none();
                let source = mounted.unwrap_or_else(|| self.path_for_runtime(wanted));
                let mut bind = bind(source, wanted.recursive, wanted.propagation);
                // A mount of layerd's is read-only below already.
                if by_runtime && is_recursive_if_possible(spec, wanted) {
                    bind.options.push("rro".to_owned());
                }
                bind
            }
            Kind::Image(_) => {
                let mut image = bind(mounted.unwrap_or_default(), true, Propagation::Rprivate);
                image.options.retain(|option| option != "rw");
                image.options.push("ro".to_owned());
                image
            }
            Kind::Tmpfs(tmpfs) => match mounted {
                Some(mounted) => bind(mounted, false, Propagation::Rprivate),
                None => OciMount {
                    destination: destination.clone(),
                    kind: "tmpfs".to_owned(),
                    source: "tmpfs".to_owned(),
                    options: tmpfs_options(tmpfs, spec.read_only),
                },
            },
        }]
    }
}

impl Attachments {
    /// The path that a runtime is to bind: no symlink, where none was to be followed by it.
    fn path_for_runtime(&self, bind: &Bind) -> String {
        let source = bind.source.as_path();
        let real = bind
            .propagation
            .is_private()
            .then(|| self.above_root(source));
        let real = real.flatten();
        real.as_deref().unwrap_or(source).display().to_string()
    }
}

/// True if a runtime is asked to make submounts read-only too, where it can. Mounts that propagate
/// later are as writable as at their origin, so it is not asked for binds that propagate.
fn is_recursive_if_possible(spec: &MountSpec, bind: &Bind) -> bool {
    spec.read_only == ReadOnly::RoRecursiveIfPossible
        && bind.recursive
        && bind.propagation.is_private()
}

fn bind_options(read_only: ReadOnly, recursive: bool, propagation: Propagation) -> Vec<String> {
    let access = match read_only {
        ReadOnly::Rw => "rw",
        ReadOnly::RoTop | ReadOnly::RoRecursiveIfPossible => "ro",
        ReadOnly::RoRecursiveRequired => "rro",
    };
    let kind = if recursive { "rbind" } else { "bind" };
    [kind, propagation.as_str(), access]
        .map(str::to_owned)
        .to_vec()
}

fn tmpfs_options(tmpfs: &Tmpfs, read_only: ReadOnly) -> Vec<String> {
    let mut options = vec!["nosuid".to_owned(), "nodev".to_owned()];
    options.push(if tmpfs.exec { "exec" } else { "noexec" }.to_owned());
    if read_only != ReadOnly::Rw {
        options.push("ro".to_owned());
    }
    options.push(format!("mode={:o}", tmpfs.mode.unwrap_or(0o1777)));
    match tmpfs.size {
        Some(TmpfsSize::Bytes(bytes)) => options.push(format!("size={bytes}")),
        Some(TmpfsSize::Percent(percent)) => options.push(format!("size={percent}%")),
        None => {}
    }
    let numbers = [
        ("uid", tmpfs.uid.map(u64::from)),
        ("gid", tmpfs.gid.map(u64::from)),
        ("nr_inodes", tmpfs.inodes),
    ];
    options.extend(
        numbers
            .into_iter()
            .filter_map(|(name, number)| Some(format!("{name}={}", number?))),
    );
    options.extend(tmpfs.more.iter().cloned());
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_described_in_the_words_of_the_specification() {
        let cases = [
            (ReadOnly::Rw, true, "rbind rprivate rw"),
            (ReadOnly::Rw, false, "bind rprivate rw"),
            (ReadOnly::RoTop, true, "rbind rprivate ro"),
            (ReadOnly::RoRecursiveIfPossible, true, "rbind rprivate ro"),
            (ReadOnly::RoRecursiveRequired, true, "rbind rprivate rro"),
        ];
        for (read_only, recursive, wanted) in cases {
            let options = bind_options(read_only, recursive, Propagation::Rprivate);
            assert_eq!(options.join(" "), wanted);
        }
        let shared = bind_options(ReadOnly::Rw, true, Propagation::Rshared);
        assert_eq!(shared.join(" "), "rbind rshared rw");
    }

    #[test]
    fn a_tmpfs_is_described_with_every_option() {
        let plain = tmpfs_options(&Tmpfs::default(), ReadOnly::Rw);
        assert_eq!(plain.join(","), "nosuid,nodev,noexec,mode=1777");
        let all = Tmpfs {
            size: Some(TmpfsSize::Bytes(4096)),
            mode: Some(0o750),
            uid: Some(7),
            gid: Some(8),
            inodes: Some(9),
            exec: true,
            more: vec!["huge=always".to_owned()],
        };
        assert_eq!(
            tmpfs_options(&all, ReadOnly::RoTop).join(","),
            "nosuid,nodev,exec,ro,mode=750,size=4096,uid=7,gid=8,nr_inodes=9,huge=always"
        );
        let percent = Tmpfs {
            size: Some(TmpfsSize::Percent(50)),
            ..Tmpfs::default()
        };
        let options = tmpfs_options(&percent, ReadOnly::Rw).join(",");
        assert_eq!(options, "nosuid,nodev,noexec,mode=1777,size=50%");
    }
}
