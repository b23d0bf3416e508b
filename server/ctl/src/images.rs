//! Names of images beside the keys of snapshots.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client::{Client, Containerd, Namespace};
use crate::containerd::BackendKey;
use crate::error::Error;
use crate::snapshot::Snapshot;
use crate::table::{Cell, Colour};
use crate::text::escape;

/// Time that containerd gets: without it, tables lack a column.
const PATIENCE: Duration = Duration::from_secs(2);

impl Namespace {
    /// Keys of snapshots with the image of each.
    fn keys(&self) -> Vec<(&str, &str)> {
        let containers = self.containers.iter();
        let mut keys: Vec<_> = containers
            .map(|(key, image)| (key.as_str(), image.as_str()))
            .collect();
        for (image, target) in &self.images {
            keys.extend(
                self.unpacked(target)
                    .into_iter()
                    .map(|key| (key, image.as_str())),
            );
        }
        keys
    }

    /// Topmost snapshots of what a blob refers to, itself included.
    fn unpacked<'n>(&'n self, target: &'n str) -> Vec<&'n str> {
        let configs = self.configs(target).into_iter();
        configs.map(|(_, key)| key).collect()
    }

    /// Configurations of unpacked images that a blob refers to, itself included, each with its topmost
    /// snapshot.
    pub(crate) fn configs<'n>(&'n self, target: &'n str) -> Vec<(&'n str, &'n str)> {
        let (mut found, mut seen, mut next) = (Vec::new(), HashSet::new(), vec![target]);
        while let Some(digest) = next.pop() {
            if let Some(blob) = self.blobs.get(digest).filter(|_| seen.insert(digest)) {
                found.extend(blob.snapshot.as_deref().map(|key| (digest, key)));
                next.extend(blob.refers_to.iter().map(String::as_str));
            }
        }
        found
    }
}

/// Images by snapshot: those unpacked into it or into a layer above it, and those of containers on it.
#[derive(Debug, Default)]
pub(crate) struct Images(HashMap<String, BTreeSet<String>>);

impl Images {
    /// Asks containerd, at the address in layerd's configuration; `None` if it does not answer. Costs
    /// a list of the snapshots, and three of each of containerd's namespaces.
    pub(crate) async fn ask(client: &mut Client) -> Option<Self> {
        let asked = async {
            let containerd = client.connect_containerd(None, PATIENCE).await?;
            let snapshotter = client.snapshotter().await?;
            let mut namespaces = Vec::new();
            for name in containerd.namespaces().await? {
                namespaces.push(containerd.images(name, &snapshotter).await?);
            }
            Ok::<_, Error>(Self::new(&client.list(Vec::new()).await?, &namespaces))
        };
        tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()
    }

    fn new(snapshots: &[Snapshot], namespaces: &[Namespace]) -> Self {
        let by_name: HashMap<&str, &Snapshot> = (snapshots.iter())
            .map(|snapshot| (snapshot.name.as_str(), snapshot))
            .collect();
        let mut named: HashMap<(&str, &str), Vec<&str>> = HashMap::new();
        for namespace in namespaces {
            for (key, image) in namespace.keys() {
                named.entry((&namespace.name, key)).or_default().push(image);
            }
        }
        let mut images: HashMap<String, BTreeSet<String>> = HashMap::new();
        for snapshot in snapshots {
            let key = BackendKey::parse(&snapshot.name);
            let own = key.and_then(|key| named.get(&(key.namespace, key.client_key)));
            for image in own.into_iter().flatten() {
                let mut layer = Some(snapshot);
                // Layers below one that has the name already have it, too.
                while let Some(one) = layer.filter(|one| {
                    let names = images.entry(one.name.clone()).or_default();
                    names.insert((*image).to_owned())
                }) {
                    layer = by_name.get(one.parent.as_str()).copied();
                }
            }
        }
        Self(images)
    }

    /// In the order of their names; none if containerd has none.
    pub(crate) fn of(&self, key: &str) -> Vec<&str> {
        let names = self.0.get(key).into_iter().flatten();
        names.map(String::as_str).collect()
    }

    /// The first of them and the number of the others; with `full`, all.
    pub(crate) fn cell(&self, key: &str, full: bool) -> Cell {
        match self.of(key)[..] {
            [] => Cell::left("-").coloured(Colour::Dim),
            [first, _, ..] if !full => {
                let others = self.of(key).len() - 1;
                Cell::left(format!("{} +{others}", escape(first)))
            }
            ref all => Cell::left(escape(&all.join(", "))),
        }
    }
}

impl Client {
    /// Connects to containerd, at `address` or at the one in layerd's configuration.
    pub(crate) async fn connect_containerd(
        &mut self,
        address: Option<&Path>,
        timeout: Duration,
    ) -> Result<Containerd, Error> {
        let address = match address {
            Some(address) => address.to_owned(),
            None => self.containerd().await?,
        };
        Containerd::connect(&address, timeout).await
    }

    /// containerd's socket, as layerd's configuration has it.
    async fn containerd(&mut self) -> Result<PathBuf, Error> {
        let health = self.info().await?.health.unwrap_or_default();
        let configured = health.settings.get("containerd.address");
        Ok(configured.map_or_else(|| crate::containerd::ADDRESS.into(), PathBuf::from))
    }
}

#[cfg(test)]
mod tests {
    use layerd_proto::containerd::services::snapshots::v1::Info;

    use super::{Images, Namespace, Snapshot};
    use crate::client::Blob;

    fn snapshot(name: &str, parent: &str) -> Snapshot {
        Snapshot::from(Info {
            name: name.to_owned(),
            parent: parent.to_owned(),
            ..Info::default()
        })
    }

    fn pair(left: &str, right: &str) -> (String, String) {
        (left.to_owned(), right.to_owned())
    }

    #[test]
    fn layers_have_the_names_of_what_stands_on_them() {
        let snapshots = [
            snapshot("n/1/base", ""),
            snapshot("n/2/app", "n/1/base"),
            snapshot("n/3/web", "n/2/app"),
            snapshot("n/4/other", "n/1/base"),
            snapshot("m/5/app", ""),
            snapshot("mine", "n/1/base"),
        ];
        let blob = |refers_to: &[&str], snapshot: Option<&str>| Blob {
            refers_to: refers_to.iter().map(ToString::to_string).collect(),
            snapshot: snapshot.map(str::to_owned),
        };
        let namespace = Namespace {
            name: "n".to_owned(),
            images: vec![pair("app:1", "index"), pair("gone:1", "nowhere")],
            blobs: [
                // A blob that refers to itself ends nothing.
                ("index", blob(&["index", "manifest", "elsewhere"], None)),
                ("manifest", blob(&["config"], None)),
                ("config", blob(&[], Some("app"))),
            ]
            .map(|(digest, blob)| (digest.to_owned(), blob))
            .into(),
            containers: vec![pair("web", "app:1"), pair("other", "old:1")],
        };
        let images = Images::new(&snapshots, &[namespace]);
        assert_eq!(images.of("n/1/base"), ["app:1", "old:1"]);
        assert_eq!(images.of("n/2/app"), ["app:1"]);
        assert_eq!(images.of("n/3/web"), ["app:1"]);
        assert_eq!(images.of("n/4/other"), ["old:1"]);
        for without in ["m/5/app", "mine", "nothing"] {
            assert!(images.of(without).is_empty(), "{without}");
        }
    }
}
