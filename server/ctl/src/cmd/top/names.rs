//! Names of containers as their runtime has them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use layerd_proto::layerd::v1 as wire;

use crate::client::Client;
use crate::containerd::BackendKey;
use crate::error::Error;

/// Time that containerd gets: without it, snapshots stand for their containers.
const PATIENCE: Duration = Duration::from_secs(2);
/// Times that a key is asked for: a container is recorded after its snapshot.
const ATTEMPTS: u8 = 3;
/// Label of nerdctl's containers.
const NERDCTL: &str = "nerdctl/name";
/// Labels of the CRI's containers: namespace and name of the pod, and the name in it.
const CRI: [&str; 3] = [
    "io.kubernetes.pod.namespace",
    "io.kubernetes.pod.name",
    "io.kubernetes.container.name",
];

/// Names by the keys of snapshots.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashMap<String, String>,
    /// Times that a key was asked for.
    asked: HashMap<String, u8>,
}

impl Names {
    /// Asks containerd, at the address in layerd's configuration, if one of these has no name and was not asked
    /// for often. Costs a list of the containers of each of its namespaces then.
    pub(super) async fn learn(&mut self, keys: &HashSet<&str>, client: &mut Client) {
        let is_missing = |key: &&str| {
            let asked = self.asked.get(*key).copied().unwrap_or(0);
            !self.known.contains_key(*key) && asked < ATTEMPTS && BackendKey::parse(key).is_some()
        };
        let missing: Vec<&str> = keys.iter().copied().filter(is_missing).collect();
        if missing.is_empty() {
            return;
        }
        let asked = tokio::time::timeout(PATIENCE, ask(client)).await;
        // Without containerd keys stand for names.
        let names = asked.ok().and_then(Result::ok).unwrap_or_default();
        for key in missing {
            let name = BackendKey::parse(key).and_then(|parsed| {
                names.get(&(parsed.namespace.to_owned(), parsed.client_key.to_owned()))
            });
            if let Some(name) = name {
                self.known.insert(key.to_owned(), name.clone());
            }
            *self.asked.entry(key.to_owned()).or_default() += 1;
        }
    }

    /// Name of a container, or else its snapshot's key; a volume's name.
    pub(super) fn of(&self, one: &wire::Fullness) -> String {
        self.known.get(&one.name).unwrap_or(&one.name).clone()
    }
}

/// Names by namespace and containerd's key.
async fn ask(client: &mut Client) -> Result<HashMap<(String, String), String>, Error> {
    let containerd = client.connect_containerd(None, PATIENCE).await?;
    let snapshotter = client.snapshotter().await?;
    let mut names = HashMap::new();
    for namespace in containerd.namespaces().await? {
        for one in containerd.containers(&namespace, &snapshotter).await? {
            let name = name(&one.id, &one.labels);
            names.insert((namespace.clone(), one.snapshot_key), name);
        }
    }
    Ok(names)
}

/// Name of a container by its labels, or else its id.
fn name(id: &str, labels: &BTreeMap<String, String>) -> String {
    let label = |key: &str| labels.get(key).filter(|value| !value.is_empty());
    if let Some(name) = label(NERDCTL) {
        return name.clone();
    }
    let parts: Option<Vec<_>> = CRI.iter().map(|key| label(key).cloned()).collect();
    parts.map_or_else(|| id.to_owned(), |parts| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_name_a_container() {
        let labels = |all: &[(&str, &str)]| {
            let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            all.iter().map(owned).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(name("0f", &labels(&[])), "0f");
        assert_eq!(name("0f", &labels(&[(NERDCTL, "web")])), "web");
        let pod = [(CRI[0], "default"), (CRI[1], "web-0"), (CRI[2], "app")];
        assert_eq!(name("0f", &labels(&pod)), "default/web-0/app");
        assert_eq!(name("0f", &labels(&pod[..2])), "0f", "the sandbox");
    }
}
