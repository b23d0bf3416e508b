//! Plain types that drivers, mounts and volumes share.

/// One range of an id mapping, as in user_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// First id in the container.
    pub container: u32,
    /// First id on the host.
    pub host: u32,
    /// Number of ids; never zero.
    pub length: u32,
}

/// Checked id mappings of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// User ids.
    pub uid: Vec<IdMap>,
    /// Group ids.
    pub gid: Vec<IdMap>,
}

/// One mount, as mount(8) would be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// File system type, such as `bind` or `overlay`.
    pub kind: String,
    /// Source to mount.
    pub source: String,
    /// Options, one to an element.
    pub options: Vec<String>,
}

impl Mount {
    /// The directory that is written to through the mount, as its options name it: the upper directory of an
    /// overlay, or the source of a bind. `None` for a mount of another type, and for one without an upper
    /// directory.
    #[must_use]
    pub fn written(&self) -> Option<&str> {
        match self.kind.as_str() {
            "bind" => Some(&self.source),
            "overlay" => {
                let mut options = self.options.iter();
                options.find_map(|option| option.strip_prefix("upperdir="))
            }
            _ => None,
        }
    }
}

/// Disk space of a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of disk blocks, each inode counted once.
    pub bytes: u64,
    /// Inodes, the top directory included.
    pub inodes: u64,
}

#[cfg(test)]
mod tests {
    use super::Mount;

    #[test]
    fn a_mount_names_what_it_writes_to() {
        let written = |kind: &str, options: &[&str]| {
            let mount = Mount {
                kind: kind.to_owned(),
                source: "/source".to_owned(),
                options: options.iter().map(ToString::to_string).collect(),
            };
            mount.written().map(str::to_owned)
        };
        let overlay = ["index=off", "upperdir=/r/l/3", "lowerdir=/r/l/1"];
        assert_eq!(written("overlay", &overlay).as_deref(), Some("/r/l/3"));
        assert_eq!(written("overlay", &overlay[2..]), None);
        assert_eq!(written("bind", &["rbind"]).as_deref(), Some("/source"));
        assert_eq!(written("aufs", &["br:/b=rw"]), None);
    }
}
