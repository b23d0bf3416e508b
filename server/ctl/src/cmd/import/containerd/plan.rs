//! Layers to import, in an order in which each has its parent.

use std::collections::{HashMap, HashSet};

use crate::client::Namespace;
use crate::cmd::import::target::Layer;
use crate::error::Error;
use crate::snapshot::{Kind, Snapshot};

/// Beginning of the labels that concern containerd's garbage collection of a snapshot alone.
const COLLECTION: &str = "containerd.io/gc.";

/// An unpacked image, and those of its layers that are to be imported with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// Its first name.
    pub(super) name: String,
    /// Digest of its configuration.
    pub(super) config: String,
    /// Its topmost snapshot.
    pub(super) chain: String,
    /// Number of its layers.
    pub(super) layers: usize,
    /// Lowest first; those of images before it are left out.
    pub(super) missing: Vec<Layer>,
    /// Set if the image says already that it is unpacked.
    pub(super) is_referred: bool,
}

/// Plans the import of all images of a namespace. `from` are the snapshots that there are, `there` the
/// names of those that layerd has, and `referred` the configurations that name one of them.
pub(super) fn plan(
    namespace: &Namespace,
    from: &[Snapshot],
    there: &HashSet<String>,
    referred: &HashSet<String>,
) -> Result<Vec<Image>, Error> {
    let by_name: HashMap<&str, &Snapshot> = (from.iter())
        .map(|snapshot| (snapshot.name.as_str(), snapshot))
        .collect();
    let (mut images, mut seen) = (Vec::new(), HashSet::new());
    let mut planned: HashSet<&str> = HashSet::new();
    for (name, target) in &namespace.images {
        for (config, chain) in namespace.configs(target) {
            if !seen.insert(config) {
                continue;
            }
            let stack = stack(&by_name, chain, name)?;
            let missing = stack.iter().rev().filter(|snapshot| {
                !there.contains(&snapshot.name) && planned.insert(&snapshot.name)
            });
            images.push(Image {
                name: name.clone(),
                config: config.to_owned(),
                chain: chain.to_owned(),
                missing: missing.map(|snapshot| layer(snapshot)).collect(),
                layers: stack.len(),
                is_referred: referred.contains(config),
            });
        }
    }
    Ok(images)
}

/// The committed snapshots from `chain` down.
fn stack<'s>(
    by_name: &HashMap<&str, &'s Snapshot>,
    chain: &str,
    image: &str,
) -> Result<Vec<&'s Snapshot>, Error> {
    let (mut stack, mut next) = (Vec::new(), chain);
    while !next.is_empty() {
        let found = by_name.get(next).copied();
        let found = found.filter(|one| one.kind == Kind::Committed && stack.len() < by_name.len());
        let Some(snapshot) = found else {
            return Err(Error::Refused {
                what: format!("import the image {image}"),
                why: format!("its snapshot {next} is not there, or not committed"),
                hint: "Pull the image again, or remove it.".to_owned(),
            });
        };
        stack.push(snapshot);
        next = &snapshot.parent;
    }
    Ok(stack)
}

fn layer(snapshot: &Snapshot) -> Layer {
    let labels = snapshot.labels.iter();
    let kept = labels.filter(|(label, _)| !label.starts_with(COLLECTION));
    Layer {
        name: snapshot.name.clone(),
        parent: snapshot.parent.clone(),
        labels: kept
            .map(|(label, value)| (label.clone(), value.clone()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use layerd_proto::containerd::services::snapshots::v1::{Info, Kind as WireKind};

    use super::{Image, plan};
    use crate::client::{Blob, Namespace};
    use crate::snapshot::Snapshot;

    fn snapshot(name: &str, parent: &str) -> Snapshot {
        let labels = [
            ("containerd.io/snapshot.ref", name),
            ("containerd.io/gc.root", "x"),
        ];
        let mut info = Info {
            name: name.to_owned(),
            parent: parent.to_owned(),
            labels: labels
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..Info::default()
        };
        info.set_kind(WireKind::Committed);
        Snapshot::from(info)
    }

    fn namespace(images: &[(&str, &str)]) -> Namespace {
        let blobs = images.iter().map(|(_, chain)| {
            let blob = Blob {
                refers_to: Vec::new(),
                snapshot: Some((*chain).to_owned()),
            };
            (format!("config-{chain}"), blob)
        });
        Namespace {
            name: "n".to_owned(),
            images: (images.iter())
                .map(|(name, chain)| ((*name).to_owned(), format!("config-{chain}")))
                .collect(),
            blobs: blobs.collect(),
            containers: Vec::new(),
        }
    }

    fn names(image: &Image) -> Vec<&str> {
        let layers = image.missing.iter();
        layers.map(|layer| layer.name.as_str()).collect()
    }

    fn set(names: &[&str]) -> HashSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn parents_come_first_and_each_layer_once() {
        let from = [snapshot("c", "b"), snapshot("b", "a"), snapshot("a", "")];
        let images = namespace(&[("one", "c"), ("two", "b"), ("three", "c")]);
        let planned = plan(&images, &from, &set(&[]), &set(&["config-b"])).unwrap();
        assert_eq!(
            planned.len(),
            2,
            "a second name of an image is no second image"
        );
        assert_eq!(names(&planned[0]), ["a", "b", "c"]);
        assert_eq!((planned[0].layers, planned[0].is_referred), (3, false));
        assert!(planned[1].missing.is_empty() && planned[1].is_referred);
        let labels = &planned[0].missing[0].labels;
        assert_eq!(labels.len(), 1, "{labels:?}");
        assert_eq!(labels["containerd.io/snapshot.ref"], "a");
        let rest = plan(&images, &from, &set(&["a"]), &set(&[])).unwrap();
        assert_eq!(names(&rest[0]), ["b", "c"]);
    }

    #[test]
    fn a_layer_that_is_missing_is_named() {
        let images = namespace(&[("one", "c")]);
        let broken = plan(&images, &[snapshot("c", "b")], &set(&[]), &set(&[]));
        let said = broken.unwrap_err().to_string();
        assert!(
            said.contains("the image one") && said.contains("snapshot b"),
            "{said}"
        );
        let round = [snapshot("c", "b"), snapshot("b", "c")];
        assert!(plan(&images, &round, &set(&[]), &set(&[])).is_err());
    }
}
