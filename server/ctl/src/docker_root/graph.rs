//! Graph drivers of Docker: where each has the files of a layer.

use super::{Damaged, Root};

/// A graph driver whose layers are directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Graph {
    Overlay2,
    FuseOverlayfs,
    Vfs,
    /// The first generation of overlayfs, with whole trees of hard links.
    Overlay,
    Aufs,
    Btrfs,
}

const ALL: [Graph; 6] = [
    Graph::Overlay2,
    Graph::FuseOverlayfs,
    Graph::Vfs,
    Graph::Overlay,
    Graph::Aufs,
    Graph::Btrfs,
];

/// Bytes of the id of a layer in a graph driver.
const MOST_OF_AN_ID: usize = 128;

impl Graph {
    /// As Docker calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Overlay2 => "overlay2",
            Self::FuseOverlayfs => "fuse-overlayfs",
            Self::Vfs => "vfs",
            Self::Overlay => "overlay",
            Self::Aufs => "aufs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Directory in which the files of a layer are found by their paths: its changes, or a whole tree.
    pub(crate) fn files(self, id: &str) -> String {
        match self {
            Self::Overlay2 | Self::FuseOverlayfs => format!("{}/{id}/diff", self.name()),
            Self::Vfs => format!("vfs/dir/{id}"),
            Self::Overlay => format!("overlay/{id}/root"),
            Self::Aufs => format!("aufs/diff/{id}"),
            Self::Btrfs => format!("btrfs/subvolumes/{id}"),
        }
    }

    /// Directory of what a container wrote.
    pub(crate) fn written(self, id: &str) -> String {
        match self {
            Self::Overlay => format!("overlay/{id}/upper"),
            other => other.files(id),
        }
    }

    /// True if that directory is a layer in overlayfs's form.
    pub(crate) fn is_overlayfs(self) -> bool {
        self == Self::Overlay2
    }

    /// Finds out with which driver a root has images. None for a root without any.
    ///
    /// # Errors
    /// If there are several and none is named; if `wanted` has none; if it is one whose layers lie in no
    /// directories.
    pub(crate) fn of(root: &Root, wanted: Option<&str>) -> Result<Option<Self>, Damaged> {
        let mut there = Vec::new();
        for name in root.names("image")? {
            let content = format!("image/{name}/imagedb/content/sha256");
            if !root.names(&content)?.is_empty() {
                there.push(name);
            }
        }
        let listed = there.join(", ");
        let name = match (wanted, there.as_slice()) {
            (None, []) => return Ok(None),
            (None, [name]) => name.clone(),
            (Some(wanted), _) if there.iter().any(|name| name == wanted) => wanted.to_owned(),
            (Some(wanted), []) => {
                let problem = format!("has no images of the driver {wanted}, nor of any other");
                return Err(Damaged::new("image", problem));
            }
            (Some(wanted), _) => {
                let problem = format!("has no images of the driver {wanted}, but of {listed}");
                return Err(Damaged::new("image", problem));
            }
            (None, _) => {
                let problem =
                    format!("has images of several drivers ({listed}); name one with --driver");
                return Err(Damaged::new("image", problem));
            }
        };
        let known = ALL.into_iter().find(|graph| graph.name() == name);
        let path = format!("image/{name}");
        known.map_or_else(
            || Err(Damaged::new(path, unreadable(&name))),
            |graph| Ok(Some(graph)),
        )
    }
}

/// Why the layers of a driver cannot be read.
fn unreadable(name: &str) -> String {
    let way = "with the Docker that made it, `docker save IMAGE | ctr --namespace moby images import \
               --snapshotter layerd -` for each image; volumes alone go with --no-images";
    match name {
        "devicemapper" => format!(
            "the driver devicemapper has layers on thin devices, which have to be made active and mounted one by \
             one, and not in directories: {way}"
        ),
        "zfs" => format!(
            "the driver zfs has layers in datasets and their snapshots, which have to be mounted one by one, and \
             not in directories: {way}"
        ),
        other => format!("the driver {other} is unknown here: {way}"),
    }
}

/// Checks the id of a layer in a graph driver, which is a folder's name: letters, digits, `-` and `_`.
pub(super) fn check_id<'i>(path: &str, id: &'i str) -> Result<&'i str, Damaged> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match !id.is_empty() && id.len() <= MOST_OF_AN_ID && id.bytes().all(is_fine) {
        true => Ok(id),
        false => {
            let shown: String = id.chars().take(MOST_OF_AN_ID).collect();
            Err(Damaged::new(path, format!("{shown:?} is no id of a layer")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Graph, check_id};
    use crate::docker_root::Root;

    #[test]
    fn a_driver_is_found_and_others_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let image = |name: &str| {
            let content = dir
                .path()
                .join(format!("image/{name}/imagedb/content/sha256"));
            std::fs::create_dir_all(&content).unwrap();
            std::fs::write(content.join("x"), "").unwrap();
        };
        let said = |wanted| Graph::of(&root, wanted).unwrap_err().to_string();
        assert_eq!(Graph::of(&root, None).unwrap(), None);
        assert!(said(Some("vfs")).contains("no images of the driver vfs, nor of any"));
        image("overlay2");
        assert_eq!(Graph::of(&root, None).unwrap(), Some(Graph::Overlay2));
        image("devicemapper");
        assert!(said(None).contains("several drivers (devicemapper, overlay2)"));
        assert!(said(Some("devicemapper")).contains("thin devices"));
        assert!(said(Some("aufs")).contains("but of devicemapper, overlay2"));
        assert_eq!(
            Graph::of(&root, Some("overlay2")).unwrap(),
            Some(Graph::Overlay2)
        );
    }

    #[test]
    fn an_id_is_one_name() {
        for good in ["a", "0f-init", "q2kx_9"] {
            assert_eq!(check_id("cache-id", good).unwrap(), good);
        }
        for bad in ["", ".", "..", "../x", "a/b", "a\0", &"a".repeat(129)] {
            assert!(check_id("cache-id", bad).is_err(), "{bad:?}");
        }
    }
}
