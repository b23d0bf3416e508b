//! Images of a data root: names, configurations and the layers of each.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::graph::{Graph, check_id};
use super::{Damaged, Root, digest, digits, names, parsed};

/// Bytes of a configuration, as containerd's clients read it.
const MOST_OF_A_CONFIG: u64 = 4 << 20;
/// Bytes of the list of names.
const MOST_OF_NAMES: u64 = 64 << 20;
/// Layers of an image. Docker makes 127 at most.
const MOST_LAYERS: usize = 512;

/// An image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Digest of its configuration.
    pub(crate) id: String,
    /// Whole names with tags, sorted; none for one that lost its name.
    pub(crate) names: Vec<String>,
    pub(crate) config: Vec<u8>,
    /// Lowest first.
    pub(crate) layers: Vec<Layer>,
}

/// An image that is not whole.
#[derive(Debug)]
pub(crate) struct DamagedImage {
    /// Its names, or its id where it has none.
    pub(crate) names: Vec<String>,
    pub(crate) damaged: Damaged,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) chain_id: String,
    /// Chain id of the one below; empty for none.
    pub(crate) parent: String,
    /// Digest of its archive.
    pub(crate) diff_id: String,
    /// Directory with its files, relative to the root.
    pub(crate) files: String,
    /// Path of what its archive is made of besides these files, relative to the root.
    pub(crate) tar_split: String,
}

#[derive(Deserialize)]
struct Names {
    #[serde(rename = "Repositories", default)]
    repositories: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    rootfs: RootFs,
}

#[derive(Deserialize, Default)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

/// Folders of a root that belong to a driver's images.
struct Folders<'r> {
    root: &'r Root,
    graph: Graph,
    /// Layers by chain id, as images share them.
    known: BTreeMap<String, Layer>,
}

/// Images with a name, and those without one that no other image is built on. An image that is not whole is
/// answered as that.
///
/// # Errors
/// If the list of images cannot be read.
pub(crate) fn images(
    root: &Root,
    graph: Graph,
) -> Result<Vec<Result<Image, DamagedImage>>, Damaged> {
    let names = all_names(root, graph)?;
    let content = format!("image/{}/imagedb/content/sha256", graph.name());
    let mut ids: BTreeSet<String> = names.keys().cloned().collect();
    let mut parents = BTreeSet::new();
    for name in root.names(&content)? {
        // Temporary files of an interrupted write are left alone.
        let Some(digits) = digits(&name) else {
            continue;
        };
        let metadata = format!(
            "image/{}/imagedb/metadata/sha256/{digits}/parent",
            graph.name()
        );
        if root.file(&metadata)?.is_some() {
            parents.insert(root.word(&metadata)?);
        }
        ids.insert(format!("sha256:{digits}"));
    }
    let mut folders = Folders {
        root,
        graph,
        known: BTreeMap::new(),
    };
    let mut images = Vec::new();
    for id in ids {
        let names = names.get(&id).cloned().unwrap_or_default();
        if names.is_empty() && parents.contains(&id) {
            continue;
        }
        let image = folders.image(&id, names.clone());
        images.push(image.map_err(|damaged| {
            let names = if names.is_empty() { vec![id] } else { names };
            DamagedImage { names, damaged }
        }));
    }
    Ok(images)
}

/// Names by the image that they mean. Those by the digest of a registry's manifest are left out, since that
/// manifest is not kept.
fn all_names(root: &Root, graph: Graph) -> Result<BTreeMap<String, Vec<String>>, Damaged> {
    let path = format!("image/{}/repositories.json", graph.name());
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let Some(content) = root.read(&path, MOST_OF_NAMES)? else {
        return Ok(all);
    };
    let list: Names = parsed(&path, &content)?;
    for (name, id) in list.repositories.into_values().flatten() {
        let broken = |problem: String| Damaged::new(path.as_str(), problem);
        let digits = digits(&id).ok_or_else(|| broken(format!("{id:?} is no id of an image")))?;
        let names = all.entry(format!("sha256:{digits}")).or_default();
        if !name.contains('@') {
            names.push(names::whole(&name).map_err(broken)?);
        }
    }
    all.values_mut().for_each(|names| names.sort_unstable());
    Ok(all)
}

impl Folders<'_> {
    fn image(&mut self, id: &str, names: Vec<String>) -> Result<Image, Damaged> {
        let digits = digits(id).unwrap_or_default();
        let path = format!(
            "image/{}/imagedb/content/sha256/{digits}",
            self.graph.name()
        );
        let config = self.root.need(&path, MOST_OF_A_CONFIG)?;
        if digest(&config) != id {
            let problem = "has another digest than its name says: it was changed, or is damaged";
            return Err(Damaged::new(path, problem));
        }
        let parsed: Config = parsed(&path, &config)?;
        let diff_ids = parsed.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() > MOST_LAYERS {
            let problem = format!("has {} layers, more than {MOST_LAYERS}", diff_ids.len());
            return Err(Damaged::new(path, problem));
        }
        let (mut layers, mut parent) = (Vec::with_capacity(diff_ids.len()), String::new());
        for diff_id in diff_ids {
            if self::digits(&diff_id).is_none() || !diff_id.starts_with("sha256:") {
                let problem = format!("{diff_id:?} is no digest of a layer");
                return Err(Damaged::new(path, problem));
            }
            let layer = self.layer(&parent, &diff_id)?;
            parent.clone_from(&layer.chain_id);
            layers.push(layer);
        }
        let id = id.to_owned();
        Ok(Image {
            id,
            names,
            config,
            layers,
        })
    }

    /// The layer `diff_id` on top of `parent`.
    fn layer(&mut self, parent: &str, diff_id: &str) -> Result<Layer, Damaged> {
        let chain_id = chain_id(parent, diff_id);
        if let Some(known) = self.known.get(&chain_id) {
            return Ok(known.clone());
        }
        let digits = digits(&chain_id).unwrap_or_default();
        let folder = format!("image/{}/layerdb/sha256/{digits}", self.graph.name());
        let has = |name: &str, wanted: &str| {
            let path = format!("{folder}/{name}");
            let found = self.root.word(&path)?;
            match found == wanted {
                true => Ok(()),
                false => {
                    let problem = format!("has {found:?}, where {wanted:?} belongs");
                    Err(Damaged::new(path, problem))
                }
            }
        };
        has("diff", diff_id)?;
        if !parent.is_empty() {
            has("parent", parent)?;
        }
        let path = format!("{folder}/cache-id");
        let cache_id = self.root.word(&path)?;
        let files = self.graph.files(check_id(&path, &cache_id)?);
        if self.root.directory(&files)?.is_none() {
            return Err(Damaged::new(files, "is missing"));
        }
        let tar_split = format!("{folder}/tar-split.json.gz");
        if self.root.file(&tar_split)?.is_none() {
            return Err(Damaged::new(tar_split, "is missing"));
        }
        let layer = Layer {
            chain_id: chain_id.clone(),
            parent: parent.to_owned(),
            diff_id: diff_id.to_owned(),
            files,
            tar_split,
        };
        self.known.insert(chain_id, layer.clone());
        Ok(layer)
    }
}

/// Name of a layer with all that are below it, as the image specification defines it.
fn chain_id(parent: &str, diff_id: &str) -> String {
    if parent.is_empty() {
        return diff_id.to_owned();
    }
    let hash = Sha256::digest(format!("{parent} {diff_id}"));
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{DamagedImage, chain_id, images};
    use crate::docker_root::graph::Graph;
    use crate::docker_root::{Root, digest};

    fn put(dir: &Path, path: &str, content: &[u8]) {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// An image of two layers; answers its id and the folder of its second layer's records.
    fn made(dir: &Path) -> (String, String) {
        let diffs = [digest(b"a"), digest(b"b")];
        let config = format!(
            r#"{{"rootfs":{{"type":"layers","diff_ids":["{}","{}"]}}}}"#,
            diffs[0], diffs[1]
        );
        let id = digest(config.as_bytes());
        let digits = id.strip_prefix("sha256:").unwrap();
        put(
            dir,
            &format!("image/vfs/imagedb/content/sha256/{digits}"),
            config.as_bytes(),
        );
        let names = format!(
            r#"{{"Repositories":{{"app":{{"app:2":"{id}","app:1":"{id}","app@{id}":"{id}"}}}}}}"#
        );
        put(dir, "image/vfs/repositories.json", names.as_bytes());
        let (mut parent, mut folder) = (String::new(), String::new());
        for (cache, diff) in ["one", "two"].into_iter().zip(&diffs) {
            let chain = chain_id(&parent, diff);
            folder = format!("image/vfs/layerdb/{}", chain.replace(':', "/"));
            put(dir, &format!("{folder}/diff"), diff.as_bytes());
            put(dir, &format!("{folder}/cache-id"), cache.as_bytes());
            put(dir, &format!("{folder}/tar-split.json.gz"), b"");
            if !parent.is_empty() {
                put(dir, &format!("{folder}/parent"), parent.as_bytes());
            }
            put(dir, &format!("vfs/dir/{cache}/etc/file"), b"");
            parent = chain;
        }
        (id, folder)
    }

    #[test]
    fn an_image_has_its_names_and_its_layers_from_below() {
        let dir = tempfile::tempdir().unwrap();
        let (id, _) = made(dir.path());
        let root = Root::open(dir.path()).unwrap();
        let found = images(&root, Graph::Vfs).unwrap();
        let image = found[0].as_ref().unwrap();
        assert_eq!(image.id, id);
        assert_eq!(
            image.names,
            ["docker.io/library/app:1", "docker.io/library/app:2"]
        );
        let files: Vec<_> = image
            .layers
            .iter()
            .map(|layer| layer.files.as_str())
            .collect();
        assert_eq!(files, ["vfs/dir/one", "vfs/dir/two"]);
        assert_eq!(image.layers[1].parent, image.layers[0].chain_id);
        assert_eq!(image.layers[0].parent, "");
    }

    #[test]
    fn what_is_damaged_is_named() {
        type Damage = fn(&Path, &str);
        let table: [(Damage, &str); 8] = [
            (
                |dir, folder| put(dir, &format!("{folder}/cache-id"), b"../../../etc"),
                "is no id of a layer",
            ),
            (
                |dir, folder| put(dir, &format!("{folder}/parent"), b"sha256:0"),
                "parent: has \"sha256:0\"",
            ),
            (
                |dir, folder| put(dir, &format!("{folder}/diff"), b"x"),
                "diff: has \"x\"",
            ),
            (
                |dir, folder| {
                    std::fs::remove_file(dir.join(folder).join("tar-split.json.gz")).unwrap()
                },
                "tar-split.json.gz: is missing",
            ),
            (
                |dir, folder| std::fs::remove_file(dir.join(folder).join("parent")).unwrap(),
                "parent: is missing",
            ),
            (
                |dir, _| {
                    std::fs::rename(dir.join("vfs/dir/two"), dir.join("vfs/dir/three")).unwrap()
                },
                "vfs/dir/two: is missing",
            ),
            (
                |dir, _| {
                    std::fs::rename(dir.join("vfs/dir/two"), dir.join("two")).unwrap();
                    std::os::unix::fs::symlink("/etc", dir.join("vfs/dir/two")).unwrap();
                },
                "vfs/dir/two: is a symlink",
            ),
            (
                |dir, folder| put(dir, &format!("{folder}/cache-id"), &[b'a'; 5000]),
                "has more than 4096 bytes",
            ),
        ];
        for (damage, wanted) in table {
            let dir = tempfile::tempdir().unwrap();
            let (_, folder) = made(dir.path());
            damage(dir.path(), &folder);
            let root = Root::open(dir.path()).unwrap();
            let found = images(&root, Graph::Vfs).unwrap();
            let DamagedImage { names, damaged } = found[0].as_ref().unwrap_err();
            assert_eq!(names.len(), 2);
            assert!(
                damaged.to_string().contains(wanted),
                "{damaged} has no {wanted}"
            );
        }
    }

    #[test]
    fn a_configuration_is_its_digest_and_an_id_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let (id, _) = made(dir.path());
        let root = Root::open(dir.path()).unwrap();
        let content = format!("image/vfs/imagedb/content/{}", id.replace(':', "/"));
        put(dir.path(), &content, b"{}");
        let found = images(&root, Graph::Vfs).unwrap();
        let damaged = &found[0].as_ref().unwrap_err().damaged;
        assert!(damaged.problem.contains("another digest"), "{damaged}");
        let names = br#"{"Repositories":{"app":{"app:1":"sha256:../../x"}}}"#;
        put(dir.path(), "image/vfs/repositories.json", names);
        let damaged = images(&root, Graph::Vfs).unwrap_err();
        assert!(
            damaged.problem.contains("is no id of an image"),
            "{damaged}"
        );
        put(dir.path(), "image/vfs/repositories.json", b"[");
        let damaged = images(&root, Graph::Vfs).unwrap_err();
        assert!(
            damaged.problem.contains("is not what Docker writes"),
            "{damaged}"
        );
    }
}
