//! The plan: what a data root has, and what of it containerd and layerd have already.

use std::collections::{BTreeMap, HashMap, HashSet};

use layerd_proto::layerd::v1 as wire;

use super::manifest::{digest, manifest};
use super::{Args, Json, json, refused};
use crate::client::{Blob, Client, Containerd};
use crate::cmd::Daemon;
use crate::cmd::import::{UNKNOWN, check_snapshotter};
use crate::docker_root::containers::{Container, containers};
use crate::docker_root::graph::Graph;
use crate::docker_root::tar_split::Archive;
use crate::docker_root::volumes::{lock, volumes};
use crate::docker_root::{Damaged, Root, images};
use crate::error::Error;
use crate::snapshot::Kind;

/// Name that Docker gives to an image without one, followed by the digest of its manifest.
const DANGLING: &str = "moby-dangling@";

pub(super) struct Plan {
    /// None if they are left out, or there are none.
    pub(super) images: Option<Images>,
    pub(super) volumes: Vec<Volume>,
    containers: Vec<(Container, String)>,
    /// Images that are damaged, with what is wrong.
    damaged: Vec<(String, String)>,
    /// Keeps Docker from starting meanwhile.
    _lock: Option<nix::fcntl::Flock<std::fs::File>>,
}

/// Images, and the containerd that is to get them.
pub(super) struct Images {
    pub(super) containerd: Containerd,
    pub(super) namespace: String,
    /// Name of layerd in containerd's configuration.
    pub(super) own: String,
    pub(super) graph: Graph,
    pub(super) all: Vec<Image>,
}

/// An image with what is to be done for it.
pub(super) struct Image {
    pub(super) image: images::Image,
    /// Its names, or its id where it has none.
    pub(super) shown: String,
    pub(super) manifest: Vec<u8>,
    /// Lengths of the archives of its layers.
    pub(super) lengths: Vec<u64>,
    /// Places of the layers that layerd lacks; those of images before it are left out.
    pub(super) missing: Vec<usize>,
    /// Set if the archives of its layers are to be written.
    pub(super) has_archives: bool,
    /// Names that it is to get.
    pub(super) names: Vec<String>,
    /// Set if containerd has all of it, or other images under all of its names.
    pub(super) is_done: bool,
    pub(super) note: String,
}

/// A volume; with a note it is left.
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) content: String,
    pub(super) note: String,
    /// Set if it was imported before.
    is_done: bool,
}

impl Plan {
    pub(super) async fn make(
        args: &Args,
        root: &Root,
        client: &mut Client,
        daemon: &Daemon,
    ) -> Result<Self, Error> {
        let refuse = |damaged: Damaged| refused(args, &damaged);
        let lock = lock(root).map_err(in_use(args))?;
        check_owner(root).map_err(refuse)?;
        let graph = match args.no_images {
            true => None,
            false => Graph::of(root, args.driver.as_deref()).map_err(refuse)?,
        };
        let containers = containers(root, graph).map_err(refuse)?;
        check_stopped(args, &containers)?;
        let (mut found, mut damaged) = (Vec::new(), Vec::new());
        if let Some(graph) = graph {
            (found, damaged) = look_at_images(root, graph).map_err(refuse)?;
        }
        if !damaged.is_empty() && !args.skip_damaged {
            return Err(all_damaged(args, &damaged));
        }
        let left = volumes(root).map_err(refuse)?;
        let volumes = match args.no_volumes {
            true => Vec::new(),
            false => plan_volumes(root, left, client).await?,
        };
        let images = match graph {
            None => None,
            Some(graph) => {
                let address = args.containerd_address.as_deref();
                let containerd = client.connect_containerd(address, daemon.timeout).await?;
                let own = client.snapshotter().await?;
                check_snapshotter(&containerd, &own, UNKNOWN).await?;
                let images = plan_images(&containerd, args, &own, found).await?;
                Some(Images {
                    containerd,
                    namespace: args.namespace.clone(),
                    own,
                    graph,
                    all: images,
                })
            }
        };
        let containers = containers.into_iter().map(|one| noted(root, one)).collect();
        Ok(Self {
            images,
            volumes,
            containers,
            damaged,
            _lock: lock,
        })
    }

    /// True if layers are to be imported whose files can get second names.
    pub(super) fn takes_second_names(&self) -> bool {
        let images = self
            .images
            .iter()
            .filter(|images| images.graph.is_overlayfs());
        let mut images = images.flat_map(|images| &images.all);
        images.any(|image| !image.missing.is_empty())
    }

    /// Number of images and volumes that are to be imported.
    pub(super) fn due(&self) -> usize {
        let images = self.images.iter().flat_map(|images| &images.all);
        let volumes = self.volumes.iter();
        images.filter(|image| !image.is_done).count()
            + volumes.filter(|volume| volume.is_due()).count()
    }

    pub(super) fn rows(&self) -> Vec<Json<'_>> {
        let row = |kind, name, note| Json {
            kind,
            name,
            id: "",
            layers: 0,
            imported: 0,
            bytes: 0,
            copied_bytes: 0,
            note,
        };
        let images = self.images.iter().flat_map(|images| &images.all);
        let mut rows: Vec<_> = images.map(|image| json(image, 0)).collect();
        let damaged = self.damaged.iter();
        rows.extend(damaged.map(|(name, why)| row("image", name, why)));
        rows.extend(self.volumes.iter().map(|volume| {
            let note = match volume.is_done {
                true => "is there",
                false => &volume.note,
            };
            row("volume", &volume.name, note)
        }));
        rows.extend(self.containers.iter().map(|(container, note)| Json {
            id: &container.id,
            ..row("container", &container.name, note)
        }));
        rows
    }
}

impl Volume {
    pub(super) fn is_due(&self) -> bool {
        self.note.is_empty() && !self.is_done
    }
}

impl Image {
    /// Bytes of the archives of the layers that are missing.
    pub(super) fn bytes(&self) -> u64 {
        let missing = self.missing.iter();
        missing.filter_map(|place| self.lengths.get(*place)).sum()
    }
}

fn in_use(args: &Args) -> impl Fn(Damaged) -> Error {
    let what = format!("import {}", args.dir.display());
    move |damaged| Error::Refused {
        what: what.clone(),
        why: damaged.to_string(),
        hint: "Stop it: `systemctl stop docker.socket docker.service`.".to_owned(),
    }
}

/// Refuses a root of mapped ids, in which files have other owners than in their images.
fn check_owner(root: &Root) -> Result<(), Damaged> {
    match root.owner()? {
        0 => Ok(()),
        owner => {
            let problem = format!(
                "belongs to the user {owner}: a root of a rootless Docker, or of one with userns-remap, has files \
                 of other owners than its images and containers see"
            );
            Err(Damaged::new(".", problem))
        }
    }
}

fn check_stopped(args: &Args, containers: &[Container]) -> Result<(), Error> {
    let running: Vec<_> = (containers.iter())
        .filter_map(|one| Some(format!("{} (process {})", one.name, one.process?)))
        .collect();
    if running.is_empty() || args.no_volumes {
        return Ok(());
    }
    Err(Error::Refused {
        what: format!("import {}", args.dir.display()),
        why: format!(
            "containers may write to its volumes: {}",
            running.join(", ")
        ),
        hint: "Stop them, or leave the volumes out with --no-volumes.".to_owned(),
    })
}

fn all_damaged(args: &Args, damaged: &[(String, String)]) -> Error {
    let lines = damaged.iter().map(|(name, why)| format!("{name}: {why}"));
    Error::Refused {
        what: format!("import {}", args.dir.display()),
        why: lines.collect::<Vec<_>>().join("; "),
        hint: "Nothing was changed. --skip-damaged leaves these images out.".to_owned(),
    }
}

type Found = Vec<(images::Image, Vec<u64>)>;

/// Images with the lengths of their archives, and those that are damaged.
fn look_at_images(root: &Root, graph: Graph) -> Result<(Found, Vec<(String, String)>), Damaged> {
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    let mut known = HashMap::new();
    for image in images::images(root, graph)? {
        let looked = image.and_then(|image| match lengths(root, &image, &mut known) {
            Ok(lengths) => Ok((image, lengths)),
            Err(damaged) => {
                let names = image.names;
                Err(images::DamagedImage { names, damaged })
            }
        });
        match looked {
            Ok(image) => found.push(image),
            Err(one) => damaged.push((one.names.join(", "), one.damaged.to_string())),
        }
    }
    Ok((found, damaged))
}

fn lengths(
    root: &Root,
    image: &images::Image,
    known: &mut HashMap<String, u64>,
) -> Result<Vec<u64>, Damaged> {
    let mut lengths = Vec::with_capacity(image.layers.len());
    for layer in &image.layers {
        let length = match known.get(&layer.chain_id) {
            Some(known) => *known,
            None => Archive::open(root, layer)?.length()?,
        };
        known.insert(layer.chain_id.clone(), length);
        lengths.push(length);
    }
    Ok(lengths)
}

async fn plan_images(
    containerd: &Containerd,
    args: &Args,
    own: &str,
    found: Found,
) -> Result<Vec<Image>, Error> {
    let name = args.namespace.as_str();
    let namespace = containerd.images(name.to_owned(), own).await?;
    let there = containerd.snapshots(name, own).await?.into_iter();
    let committed = there.filter(|snapshot| snapshot.kind == Kind::Committed);
    let mut there = There {
        names: namespace.images.into_iter().collect(),
        blobs: namespace.blobs,
        snapshots: committed.map(|snapshot| snapshot.name).collect(),
        archives: !args.no_archives,
    };
    let plan = |(image, lengths)| there.plan(image, lengths);
    Ok(found.into_iter().map(plan).collect())
}

/// Images, blobs and layers that a namespace of containerd has.
struct There {
    /// Names of images with the digests of their manifests.
    names: HashMap<String, String>,
    blobs: HashMap<String, Blob>,
    /// Committed ones, and those of images that were planned before.
    snapshots: HashSet<String>,
    /// Set if archives are wanted.
    archives: bool,
}

impl There {
    fn plan(&mut self, image: images::Image, lengths: Vec<u64>) -> Image {
        let layers = image.layers.iter().zip(&lengths);
        let layers: Vec<_> = layers
            .map(|(layer, length)| (layer.diff_id.as_str(), *length))
            .collect();
        let manifest = manifest((&image.id, image.config.len() as u64), &layers);
        let target = digest(&manifest);
        let mut wanted = image.names.clone();
        if wanted.is_empty() {
            wanted.push(format!("{DANGLING}{target}"));
        }
        let is_free = |name: &&String| !self.names.contains_key(*name);
        let names: Vec<_> = wanted.iter().filter(is_free).cloned().collect();
        let is_other = |name: &&String| self.names.get(*name).is_some_and(|has| *has != target);
        let others: Vec<_> = wanted.iter().filter(is_other).map(String::as_str).collect();
        // One that gets no name gets no layers.
        let is_left = others.len() == wanted.len();
        let mut missing = Vec::new();
        if !is_left {
            let layers = image.layers.iter().enumerate();
            let new = layers.filter(|(_, layer)| self.snapshots.insert(layer.chain_id.clone()));
            missing.extend(new.map(|(place, _)| place));
        }
        let is_named = names.is_empty() && !is_left;
        let is_whole = is_named && missing.is_empty() && self.is_whole(&image, &target);
        let note = match (is_whole, others.as_slice()) {
            (true, []) => "is there".to_owned(),
            (_, []) => String::new(),
            (_, others) => format!("containerd has other images named {}", others.join(", ")),
        };
        Image {
            shown: match image.names.as_slice() {
                [] => image.id.clone(),
                names => names.join(", "),
            },
            note,
            is_done: is_whole || is_left,
            has_archives: self.archives,
            image,
            manifest,
            lengths,
            missing,
            names,
        }
    }

    /// True if all blobs of an image are there, and its configuration names its topmost layer.
    fn is_whole(&self, image: &images::Image, target: &str) -> bool {
        let top = image.layers.last().map(|layer| &layer.chain_id);
        let config = self.blobs.get(&image.id);
        let has_archive = |layer: &images::Layer| self.blobs.contains_key(&layer.diff_id);
        config.is_some_and(|config| config.snapshot.as_ref() == top)
            && self.blobs.contains_key(target)
            && (!self.archives || image.layers.iter().all(has_archive))
    }
}

async fn plan_volumes(
    root: &Root,
    found: Vec<crate::docker_root::volumes::Volume>,
    client: &mut Client,
) -> Result<Vec<Volume>, Error> {
    let there = client.volumes(wire::ListVolumesRequest::default()).await?;
    let origin: HashMap<_, _> = (there.into_iter())
        .map(|volume| (volume.name, volume.filled_from))
        .collect();
    let plan = |volume: crate::docker_root::volumes::Volume| {
        let source = format!("directory {}", root.absolute(&volume.content).display());
        let origin = origin.get(&volume.name);
        let is_done = volume.left.is_empty() && origin == Some(&source);
        let note = match (volume.left.is_empty(), origin) {
            (false, _) => volume.left,
            (true, Some(_)) if !is_done => "layerd has another volume of this name".to_owned(),
            (true, _) => String::new(),
        };
        Volume {
            name: volume.name,
            labels: volume.labels,
            content: volume.content,
            note,
            is_done,
        }
    };
    Ok(found.into_iter().map(plan).collect())
}

/// A container with the place of its changes, which are not taken over.
fn noted(root: &Root, container: Container) -> (Container, String) {
    let note = match container.written.as_str() {
        "" => "is not taken over".to_owned(),
        written => format!(
            "is not taken over: what it wrote stays in {}; `docker commit` makes an image of it",
            root.absolute(written).display()
        ),
    };
    (container, note)
}
