//! Images on their way into containerd: archives, layers, configuration, manifest, names.

use std::collections::BTreeMap;
use std::io::Cursor;

use tonic::Code;

use super::manifest::target;
use super::plan::{Image, Images};
use super::{Totals, json};
use crate::client::{Client, Leased, NewBlob};
use crate::cmd::import::LEASE;
use crate::cmd::import::target::{Filling, Layer, Target};
use crate::docker_root::tar_split::Archive;
use crate::docker_root::{Damaged, Root, images};
use crate::error::Error;
use crate::output::Output;
use crate::progress::Progress;
use crate::text::escape;

/// Label of a blob that needs another one, with a suffix that tells several apart.
const REFERENCE: &str = "containerd.io/gc.ref.content";

impl Images {
    /// Imports what is not there yet, one image after the other: an image has its name when all of it is
    /// durable.
    pub(super) async fn import(
        &self,
        root: &Root,
        client: &mut Client,
        totals: &mut Totals,
        out: &mut Output,
    ) -> Result<(), Error> {
        let due: Vec<_> = self.all.iter().filter(|image| !image.is_done).collect();
        if due.is_empty() {
            return Ok(());
        }
        // Of its own for each run: the layers of one that was interrupted stay with the lease of that one.
        let id = format!("layerctl-import-{}-{}", out.now, std::process::id());
        let lease = (self.containerd)
            .lease(&self.namespace, &id, out.now + LEASE)
            .await?;
        let target = Target {
            own: &self.own,
            client,
            containerd: &self.containerd,
            namespace: &self.namespace,
        };
        let mut import = Import {
            root,
            lease: &lease,
            target,
            links: self.graph.is_overlayfs(),
        };
        let mut imported = Ok(());
        for image in due {
            imported = import.image(image, totals, out).await;
            if imported.is_err() {
                break;
            }
        }
        // After a failure, too: the collector then takes what no image refers to yet.
        let ended = lease.end().await;
        imported.and(ended)
    }
}

struct Import<'a> {
    root: &'a Root,
    lease: &'a Leased<'a>,
    target: Target<'a>,
    /// Set while layerd takes directories in overlayfs's form.
    links: bool,
}

impl Import<'_> {
    async fn image(
        &mut self,
        image: &Image,
        totals: &mut Totals,
        out: &mut Output,
    ) -> Result<(), Error> {
        let mut progress = Progress::new(format!("importing {}", escape(&image.shown)));
        let (mut copied, all) = (0, image.image.layers.len() as u64);
        for (place, layer) in image.image.layers.iter().enumerate() {
            progress.layers(place as u64, all);
            let length = image.lengths.get(place).copied().unwrap_or_default();
            if image.has_archives {
                copied += self.archive(layer, length).await?;
            }
            if image.missing.contains(&place) {
                copied += self.layer(layer).await?;
            }
        }
        self.documents(image).await?;
        progress.end();
        totals.images += 1;
        totals.layers += image.missing.len();
        totals.bytes += image.bytes();
        totals.copied += copied;
        match out.json {
            true => out.object(&json(image, copied)),
            false => Ok(()),
        }
    }

    /// Writes the archive of a layer. Answers its bytes, unless containerd had it.
    async fn archive(&self, layer: &images::Layer, length: u64) -> Result<u64, Error> {
        let blob = NewBlob {
            digest: layer.diff_id.clone(),
            size: length,
            labels: BTreeMap::new(),
        };
        let input = self.open(layer)?;
        let written = self.lease.write_blob(&blob, input).await?;
        Ok(if written { length } else { 0 })
    }

    /// Makes a layer in layerd. Answers the bytes that were copied.
    async fn layer(&mut self, layer: &images::Layer) -> Result<u64, Error> {
        let new = Layer {
            name: layer.chain_id.clone(),
            parent: layer.parent.clone(),
            labels: BTreeMap::new(),
        };
        if self.links {
            let source = self.root.absolute(&layer.files);
            let source = source.to_string_lossy();
            let filling = Filling::Directory(&source);
            match self.target.layer(self.lease, &new, filling).await {
                Err(Error::Call { status, .. }) if status.code() == Code::Unimplemented => {
                    self.links = false;
                }
                other => return other,
            }
        }
        let archive = Box::new(self.open(layer)?);
        let filling = Filling::Archive(archive, &layer.diff_id);
        self.target.layer(self.lease, &new, filling).await
    }

    fn open(&self, layer: &images::Layer) -> Result<Archive, Error> {
        Archive::open(self.root, layer).map_err(|damaged: Damaged| Error::Refused {
            what: format!("read the layer {}", layer.chain_id),
            why: damaged.to_string(),
            hint: "Run the import again: it goes on.".to_owned(),
        })
    }

    /// Writes configuration and manifest, notes that the image is unpacked, and gives it its names.
    async fn documents(&self, image: &Image) -> Result<(), Error> {
        let config = NewBlob {
            digest: image.image.id.clone(),
            size: image.image.config.len() as u64,
            labels: BTreeMap::new(),
        };
        let content = Cursor::new(image.image.config.clone());
        self.lease.write_blob(&config, content).await?;
        if let Some(top) = image.image.layers.last() {
            let (own, config) = (self.target.own, &image.image.id);
            self.lease.refer(config, own, &top.chain_id).await?;
        }
        let target = target(&image.manifest);
        let mut labels = BTreeMap::from([(format!("{REFERENCE}.config"), image.image.id.clone())]);
        let layers = image.image.layers.iter().enumerate();
        labels.extend(layers.map(|(place, layer)| {
            let label = format!("{REFERENCE}.l.{place}");
            (label, layer.diff_id.clone())
        }));
        let manifest = NewBlob {
            digest: target.digest.clone(),
            size: image.manifest.len() as u64,
            labels,
        };
        let content = Cursor::new(image.manifest.clone());
        self.lease.write_blob(&manifest, content).await?;
        for name in &image.names {
            // One that is taken by now keeps the image that it has.
            self.lease.name_image(name, target.clone()).await?;
        }
        Ok(())
    }
}
