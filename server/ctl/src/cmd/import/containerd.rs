//! `layerctl import containerd`: images that another snapshotter of containerd has unpacked.

mod plan;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use tonic::Code;

use super::target::{Filling, Layer, Target, forgiving};
use super::{LEASE, UNKNOWN, check_snapshotter};
use crate::client::{Containerd, Holder, Leased, New};
use crate::cmd::Daemon;
use crate::confirm::Confirmation;
use crate::error::{Error, all_or};
use crate::human;
use crate::output::Output;
use crate::progress::Progress;
use crate::snapshot::{Kind, Mount};
use crate::table::{Cell, Table};
use crate::text::escape;
use plan::{Image, plan};

/// Takes over the images that containerd has unpacked with another snapshotter
///
/// Nothing is pulled and nothing unpacked: on one file system, each file gets a second name (hard link) in
/// layerd; across file systems it is copied. containerd then takes each image for unpacked in both. The
/// other snapshotter keeps its layers, and containers that were made on them stay there. `ctr images rm`,
/// or a garbage collection after the images are gone, deletes its names, not what layerd has.
///
/// Shows the plan and asks. Interrupted, it goes on where it was when it is run again; what was half
/// done is collected by containerd after a day, or removed by the next run. An image is taken for unpacked when all of its
/// layers are durable.
///
/// layerd must keep layers in the form of overlayfs (driver overlay or overlay1).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Snapshotter to import from
    #[arg(long, value_name = "NAME", default_value = "overlayfs")]
    snapshotter: String,

    /// Namespaces of containerd; by default all
    #[arg(short, long, value_name = "NAME")]
    namespace: Vec<String>,

    /// containerd's socket; by default the one in layerd's configuration
    #[arg(long, value_name = "PATH", value_parser = crate::address::parse)]
    containerd_address: Option<PathBuf>,

    /// Only show what would be imported
    #[arg(long)]
    dry_run: bool,

    /// Do not ask; needed where standard input is no terminal
    #[arg(short, long, alias = "yes", short_alias = 'y')]
    force: bool,
}

const QUESTION: Confirmation = Confirmation {
    what: "import images",
    unasked: "Say --force to import them, or --dry-run to see them.",
    declined: "Nothing was changed.",
};

#[derive(Serialize)]
struct Json<'a> {
    namespace: &'a str,
    image: &'a str,
    config: &'a str,
    chain_id: &'a str,
    layers: usize,
    /// Layers that were, or would be, imported with it.
    imported: usize,
    /// Bytes of these.
    bytes: u64,
    /// Bytes that were copied, since a second name could not be made.
    copied_bytes: u64,
}

/// Images of a namespace, each with the bytes of its layers to import.
struct Found {
    namespace: String,
    images: Vec<(Image, u64)>,
}

pub(super) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let own = client.snapshotter().await?;
    if args.snapshotter == own {
        return Err(refused(
            "--snapshotter is layerd itself",
            "Name another one.",
        ));
    }
    let address = args.containerd_address.as_deref();
    let containerd = client.connect_containerd(address, daemon.timeout).await?;
    check_snapshotter(&containerd, &own, UNKNOWN).await?;
    let hint = "`ctr plugins ls` shows those that it has; name one with --snapshotter.";
    check_snapshotter(&containerd, &args.snapshotter, hint).await?;
    let found = look(args, &containerd, &own).await?;
    if args.dry_run {
        return show(&found, out);
    }
    let all = found.iter().flat_map(|found| &found.images);
    let due: usize = all.filter(|(image, _)| !is_done(image)).count();
    if due > 0 && !args.force {
        show(&found, out)?;
        out.flush()?;
        QUESTION.confirm(&format!("Import {due} images into layerd?"))?;
    }
    let (begun, mut totals) = (Instant::now(), Totals::default());
    for found in &found {
        let target = Target {
            own: &own,
            client: &mut client,
            containerd: &containerd,
            namespace: &found.namespace,
        };
        let mut import = Import { args, target };
        import.images(found, &mut totals, out).await?;
    }
    if out.json {
        return Ok(());
    }
    let (images, layers) = (totals.images, totals.layers);
    let (bytes, copied) = (human::size(totals.bytes), human::size(totals.copied));
    let time = human::duration(begun.elapsed());
    out.line(&format!(
        "imported {images} images, {layers} layers of {bytes}, {copied} of them copied, in {time}"
    ))
}

#[derive(Default)]
struct Totals {
    images: usize,
    layers: usize,
    bytes: u64,
    copied: u64,
}

/// True if there is nothing to do for an image.
fn is_done(image: &Image) -> bool {
    image.is_referred && image.missing.is_empty()
}

fn refused(why: &str, hint: &str) -> Error {
    Error::Refused {
        what: "import images of containerd".to_owned(),
        why: why.to_owned(),
        hint: hint.to_owned(),
    }
}

/// Plans all namespaces that are asked for.
async fn look(args: &Args, containerd: &Containerd, own: &str) -> Result<Vec<Found>, Error> {
    let there = containerd.namespaces().await?;
    if let Some(missing) = args.namespace.iter().find(|one| !there.contains(one)) {
        let why = format!("it has no namespace {missing}");
        return Err(refused(&why, "`ctr namespaces ls` shows them."));
    }
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for name in there {
        if !args.namespace.is_empty() && !args.namespace.contains(&name) {
            continue;
        }
        match look_into((&args.snapshotter, own), containerd, &name).await {
            Ok(images) => found.push(Found {
                namespace: name,
                images,
            }),
            Err(error) => failed.push(error),
        }
    }
    all_or(failed).map(|()| found)
}

async fn look_into(
    (snapshotter, own): (&str, &str),
    containerd: &Containerd,
    name: &str,
) -> Result<Vec<(Image, u64)>, Error> {
    let namespace = containerd.images(name.to_owned(), snapshotter).await?;
    let from = containerd.snapshots(name, snapshotter).await?;
    let there = containerd.snapshots(name, own).await?;
    let there: HashSet<String> = (there.into_iter())
        .filter(|snapshot| snapshot.kind == Kind::Committed)
        .map(|snapshot| snapshot.name)
        .collect();
    let ours = containerd.of_images(name, own).await?.into_iter();
    let referred = ours.filter_map(|one| match one.holder {
        Holder::Image(config) => Some(config),
        Holder::Container(_) | Holder::Lease(_) => None,
    });
    let images = plan(&namespace, &from, &there, &referred.collect())?;
    let mut measured = Vec::with_capacity(images.len());
    for image in images {
        let mut bytes = 0;
        for layer in &image.missing {
            bytes += containerd.usage(name, snapshotter, &layer.name).await?;
        }
        measured.push((image, bytes));
    }
    Ok(measured)
}

fn show(found: &[Found], out: &mut Output) -> Result<(), Error> {
    let mut table = Table::new(&["NAMESPACE", "LAYERS", "IMPORT", "SIZE", "IMAGE"]);
    for one in found {
        for (image, bytes) in &one.images {
            if out.json {
                out.object(&json(&one.namespace, image, *bytes, 0))?;
            }
            table.push(vec![
                Cell::left(escape(&one.namespace)),
                Cell::right(image.layers.to_string()),
                Cell::right(image.missing.len().to_string()),
                Cell::right(human::size(*bytes)),
                Cell::left(escape(&image.name)),
            ]);
        }
    }
    match out.json {
        true => Ok(()),
        false => out.table(&table),
    }
}

fn json<'a>(namespace: &'a str, image: &'a Image, bytes: u64, copied_bytes: u64) -> Json<'a> {
    Json {
        namespace,
        image: &image.name,
        config: &image.config,
        chain_id: &image.chain,
        layers: image.layers,
        imported: image.missing.len(),
        bytes,
        copied_bytes,
    }
}

/// The import of a namespace.
struct Import<'a> {
    args: &'a Args,
    target: Target<'a>,
}

impl Import<'_> {
    async fn images(
        &mut self,
        found: &Found,
        totals: &mut Totals,
        out: &mut Output,
    ) -> Result<(), Error> {
        let due = found.images.iter().filter(|(image, _)| !is_done(image));
        let due: Vec<_> = due.collect();
        if due.is_empty() {
            return Ok(());
        }
        // Of its own for each run: the layers of one that was interrupted stay with the lease of that one.
        let id = format!("layerctl-import-{}-{}", out.now, std::process::id());
        let (containerd, namespace) = (self.target.containerd, self.target.namespace);
        let lease = containerd.lease(namespace, &id, out.now + LEASE).await?;
        let imported = self.under(&lease, &due, totals, out).await;
        // After a failure, too: the collector then takes what no image refers to yet.
        let ended = lease.end().await;
        imported.and(ended)
    }

    async fn under(
        &mut self,
        lease: &Leased<'_>,
        due: &[&(Image, u64)],
        totals: &mut Totals,
        out: &mut Output,
    ) -> Result<(), Error> {
        for (image, bytes) in due {
            let copied = self.image(lease, image).await?;
            totals.images += 1;
            totals.layers += image.missing.len();
            totals.bytes += bytes;
            totals.copied += copied;
            if out.json {
                out.object(&json(self.target.namespace, image, *bytes, copied))?;
            }
        }
        Ok(())
    }

    /// Imports what an image lacks, and notes that it is unpacked. Answers the bytes that were copied.
    async fn image(&mut self, lease: &Leased<'_>, image: &Image) -> Result<u64, Error> {
        let mut progress = Progress::new(format!("importing {}", escape(&image.name)));
        let mut sources = Vec::with_capacity(image.missing.len());
        for layer in &image.missing {
            sources.push((layer, self.source(lease, layer).await?));
        }
        let (mut copied, all) = (0, sources.len() as u64);
        for (done, (layer, source)) in (0..).zip(&sources) {
            progress.layers(done, all);
            let filling = Filling::Directory(source);
            copied += self.target.layer(lease, layer, filling).await?;
        }
        let own = self.target.own;
        lease.refer(&image.config, own, &image.chain).await?;
        progress.end();
        Ok(copied)
    }

    /// Directory of a layer, by the mounts of a view.
    async fn source(&self, lease: &Leased<'_>, layer: &Layer) -> Result<String, Error> {
        let key = format!("layerctl-import {}", layer.name);
        let from = &self.args.snapshotter;
        forgiving(lease.remove(from, &key).await, Code::NotFound)?;
        let new = New {
            key: key.clone(),
            parent: layer.name.clone(),
            labels: [].into(),
        };
        let mounts = lease.view(from, new).await?;
        lease.remove(from, &key).await?;
        directory(&mounts, !layer.parent.is_empty()).ok_or_else(|| {
            let why = format!(
                "the snapshotter {from} does not keep the changes of {} in a directory: its mounts are {}",
                layer.name,
                mounts_text(&mounts)
            );
            refused(&why, "Pull its images with layerd.")
        })
    }
}

/// The topmost directory that the mounts of a view show: of overlayfs the first lower one; a bind's,
/// if it is all there is.
fn directory(mounts: &[Mount], has_parent: bool) -> Option<String> {
    let [mount] = mounts else { return None };
    match mount.kind.as_str() {
        "overlay" if has_parent => {
            let lowers = (mount.options.iter()).find_map(|option| option.strip_prefix("lowerdir="));
            let (first, _) = lowers?.split_once(':')?;
            Some(first.to_owned())
        }
        "bind" if !has_parent => Some(mount.source.clone()),
        _ => None,
    }
}

fn mounts_text(mounts: &[Mount]) -> String {
    let shown = mounts.iter().map(|mount| {
        let options = mount.options.join(",");
        format!("{} of {:?} with {options}", mount.kind, mount.source)
    });
    shown.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::directory;
    use crate::snapshot::Mount;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Vec<Mount> {
        vec![Mount {
            kind: kind.to_owned(),
            source: source.to_owned(),
            target: String::new(),
            options: options.iter().map(ToString::to_string).collect(),
        }]
    }

    #[test]
    fn the_topmost_directory_is_that_of_the_layer() {
        let overlay = mount(
            "overlay",
            "overlay",
            &["index=off", "lowerdir=/a/2/fs:/a/1/fs"],
        );
        let bind = mount("bind", "/a/1/fs", &["ro", "rbind"]);
        assert_eq!(directory(&overlay, true).as_deref(), Some("/a/2/fs"));
        assert_eq!(directory(&bind, false).as_deref(), Some("/a/1/fs"));
        // A whole tree, as the snapshotters native and btrfs keep, is not what a layer changed.
        assert_eq!(directory(&bind, true), None);
        assert_eq!(directory(&overlay, false), None);
        assert_eq!(directory(&mount("overlay", "overlay", &[]), true), None);
        assert_eq!(directory(&[], true), None);
    }
}
