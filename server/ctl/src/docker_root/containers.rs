//! Containers of a data root, whose writable layers stay where they are.

use serde::Deserialize;

use super::graph::{Graph, check_id};
use super::{Damaged, Root, digits, parsed};

const MOST_OF_A_CONTAINER: u64 = 16 << 20;

/// A container.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Name of its image when it was made.
    pub(crate) image: String,
    /// Directory with what it wrote, relative to the root; empty if there is none.
    pub(crate) written: String,
    /// Its process, if that is still there.
    pub(crate) process: Option<u32>,
}

#[derive(Deserialize)]
struct Record {
    #[serde(rename = "Name", default)]
    name: String,
    #[serde(rename = "Driver", default)]
    driver: String,
    #[serde(rename = "Config", default)]
    config: Config,
    #[serde(rename = "State", default)]
    state: State,
}

#[derive(Deserialize, Default)]
struct Config {
    #[serde(rename = "Image", default)]
    image: String,
}

#[derive(Deserialize, Default)]
struct State {
    #[serde(rename = "Running", default)]
    running: bool,
    #[serde(rename = "Pid", default)]
    pid: u32,
}

/// Containers of a driver, sorted by name; of all drivers without one.
///
/// # Errors
/// If something is not as Docker writes it.
pub(crate) fn containers(root: &Root, graph: Option<Graph>) -> Result<Vec<Container>, Damaged> {
    let mut containers = Vec::new();
    for id in root.names("containers")? {
        let path = format!("containers/{id}/config.v2.json");
        let Some(content) = (match digits(&id) {
            Some(_) => root.read(&path, MOST_OF_A_CONTAINER)?,
            None => None,
        }) else {
            continue;
        };
        let record: Record = parsed(&path, &content)?;
        let graph = graph.filter(|graph| graph.name() == record.driver);
        let written = graph.map_or_else(|| Ok(String::new()), |graph| written(root, graph, &id))?;
        let State { running, pid } = record.state;
        containers.push(Container {
            name: record.name.trim_start_matches('/').to_owned(),
            image: record.config.image,
            written,
            process: (running && is_of(pid, &id)).then_some(pid),
            id,
        });
    }
    containers.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(containers)
}

fn written(root: &Root, graph: Graph, id: &str) -> Result<String, Damaged> {
    let path = format!("image/{}/layerdb/mounts/{id}/mount-id", graph.name());
    if root.file(&path)?.is_none() {
        return Ok(String::new());
    }
    let mount = root.word(&path)?;
    Ok(graph.written(check_id(&path, &mount)?))
}

/// True if a process is that of a container, as the name of its control group tells.
fn is_of(pid: u32, id: &str) -> bool {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
    groups.is_ok_and(|groups| groups.contains(id))
}

#[cfg(test)]
mod tests {
    use super::containers;
    use crate::docker_root::Root;
    use crate::docker_root::graph::Graph;

    #[test]
    fn a_container_has_its_name_its_image_and_what_it_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(containers(&root, None).unwrap().is_empty());
        let id = "0f".repeat(32);
        let folder = dir.path().join("containers").join(&id);
        std::fs::create_dir_all(&folder).unwrap();
        let record = r#"{"Name":"/web","Driver":"vfs","Config":{"Image":"app"},"State":{"Running":true,"Pid":0}}"#;
        std::fs::write(folder.join("config.v2.json"), record).unwrap();
        let mounts = dir.path().join(format!("image/vfs/layerdb/mounts/{id}"));
        std::fs::create_dir_all(&mounts).unwrap();
        std::fs::write(mounts.join("mount-id"), "abc").unwrap();
        std::fs::create_dir(dir.path().join("containers/other")).unwrap();
        let found = containers(&root, Some(Graph::Vfs)).unwrap();
        assert_eq!(found.len(), 1);
        let one = &found[0];
        assert_eq!(
            (one.name.as_str(), one.image.as_str(), one.process),
            ("web", "app", None)
        );
        assert_eq!(one.written, "vfs/dir/abc");
        assert_eq!(containers(&root, Some(Graph::Aufs)).unwrap()[0].written, "");
        std::fs::write(mounts.join("mount-id"), "../abc").unwrap();
        let said = containers(&root, Some(Graph::Vfs)).unwrap_err().to_string();
        assert!(said.ends_with("\"../abc\" is no id of a layer"), "{said}");
    }
}
