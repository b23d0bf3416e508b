//! `layerctl import docker-root`: images and volumes that a Docker with a graph driver left.

mod images;
mod manifest;
mod plan;

use std::path::PathBuf;
use std::time::Instant;

use layerd_proto::layerd::v1 as wire;
use serde::Serialize;

use crate::client::Client;
use crate::cmd::Daemon;
use crate::cmd::volume::archive::aside;
use crate::confirm::Confirmation;
use crate::docker_root::{Damaged, Root};
use crate::error::Error;
use crate::human;
use crate::output::Output;
use crate::table::{Cell, Table};
use crate::text::escape;
use plan::{Image, Plan, Volume};

/// Takes over the images and volumes that a Docker daemon left below its data root
///
/// For a Docker that kept images with a graph driver (overlay2, fuse-overlayfs, vfs, overlay, aufs or btrfs)
/// and is to keep them with layerd. Images get into containerd whole, with archives of their layers, which are
/// made again byte for byte and checked by their digests, and with layers that are unpacked: on one file
/// system, the files of overlay2 get second names (hard links), so that they need no space again. Volumes of
/// the driver local are copied, with shared blocks where the file system can, and keep names and labels.
///
/// Docker must be stopped; containerd and layerd run. DIR is only read, and stays as it is; delete
/// it when nothing of it is needed. Containers are not taken over, nor what they wrote: the plan lists them.
///
/// Shows the plan and asks. What is damaged in DIR is refused before anything is changed. Interrupted, it goes
/// on where it was when it is run again.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The data root, of which no Docker runs
    #[arg(value_name = "DIR", default_value = "/var/lib/docker")]
    dir: PathBuf,

    /// Graph driver, if DIR has images of several
    #[arg(long, value_name = "NAME")]
    driver: Option<String>,

    /// Namespace of containerd that gets the images; Docker's is moby
    #[arg(short, long, value_name = "NAME", default_value = "moby")]
    namespace: String,

    /// containerd's socket; by default the one in layerd's configuration
    #[arg(long, value_name = "PATH", value_parser = crate::address::parse)]
    containerd_address: Option<PathBuf>,

    /// Leave images out; containerd is not needed then
    #[arg(long)]
    no_images: bool,

    /// Leave out the archives of layers, to save their space: images run, but cannot be pushed or saved
    #[arg(long, conflicts_with = "no_images")]
    no_archives: bool,

    /// Leave volumes out
    #[arg(long, conflicts_with = "no_images")]
    no_volumes: bool,

    /// Leave damaged images out, instead of refusing
    #[arg(long)]
    skip_damaged: bool,

    /// Only show what would be imported
    #[arg(long)]
    dry_run: bool,

    /// Do not ask; needed where standard input is no terminal
    #[arg(short, long, alias = "yes", short_alias = 'y')]
    force: bool,
}

const QUESTION: Confirmation = Confirmation {
    what: "import images and volumes",
    unasked: "Say --force to import them, or --dry-run to see them.",
    declined: "Nothing was changed.",
};

#[derive(Serialize)]
struct Json<'a> {
    kind: &'static str,
    name: &'a str,
    /// Digest of the configuration of an image; id of a container; empty for a volume.
    id: &'a str,
    layers: usize,
    /// Layers that were, or would be, imported.
    imported: usize,
    /// Bytes of the archives of these, or of a volume that was imported.
    bytes: u64,
    copied_bytes: u64,
    /// Reason why it is left, or why a part of it is; empty if all is taken over.
    note: &'a str,
}

#[derive(Default)]
struct Totals {
    images: usize,
    layers: usize,
    bytes: u64,
    copied: u64,
    volumes: usize,
}

pub(super) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let root = Root::open(&args.dir).map_err(|damaged| refused(args, &damaged))?;
    let mut client = daemon.connect().await?;
    let plan = Plan::make(args, &root, &mut client, daemon).await?;
    if plan.takes_second_names() && root.is_mounted_on_itself() {
        aside(&format!(
            "layerctl: warning: {0} is a mount of its own, as Docker makes it: files are copied, instead of getting \
             second names. `umount {0}` first, unless containers run.",
            args.dir.display()
        ))?;
    }
    if args.dry_run {
        return show(&plan, out);
    }
    let due = plan.due();
    if due > 0 && !args.force {
        show(&plan, out)?;
        out.flush()?;
        QUESTION.confirm(&format!("Import {due} images and volumes into layerd?"))?;
    }
    let (begun, mut totals) = (Instant::now(), Totals::default());
    if let Some(images) = &plan.images {
        images.import(&root, &mut client, &mut totals, out).await?;
    }
    for volume in plan.volumes.iter().filter(|volume| volume.is_due()) {
        import_volume(&root, &mut client, volume, &mut totals, out).await?;
    }
    if out.json {
        return Ok(());
    }
    let (images, layers, volumes) = (totals.images, totals.layers, totals.volumes);
    let (bytes, copied) = (human::size(totals.bytes), human::size(totals.copied));
    let time = human::duration(begun.elapsed());
    out.line(&format!(
        "imported {images} images, {layers} layers of {bytes}, and {volumes} volumes, {copied} copied, in {time}"
    ))
}

/// An error about the data root.
fn refused(args: &Args, damaged: &Damaged) -> Error {
    Error::Refused {
        what: format!("import {}", args.dir.display()),
        why: damaged.to_string(),
        hint: "Nothing was changed.".to_owned(),
    }
}

async fn import_volume(
    root: &Root,
    client: &mut Client,
    volume: &Volume,
    totals: &mut Totals,
    out: &mut Output,
) -> Result<(), Error> {
    let request = wire::CreateVolumeRequest {
        name: volume.name.clone(),
        labels: volume.labels.clone(),
        ..wire::CreateVolumeRequest::default()
    };
    let source = root.absolute(&volume.content);
    let source = source.to_string_lossy();
    let imported = client.import_directory(request, &source).await?;
    let copied = imported.bytes.saturating_sub(imported.cloned_bytes);
    totals.volumes += 1;
    totals.copied += copied;
    if !out.json {
        return Ok(());
    }
    out.object(&Json {
        kind: "volume",
        name: &volume.name,
        id: "",
        layers: 0,
        imported: 0,
        bytes: imported.bytes,
        copied_bytes: copied,
        note: "",
    })
}

/// Shows a plan.
fn show(plan: &Plan, out: &mut Output) -> Result<(), Error> {
    let mut table = Table::new(&["KIND", "LAYERS", "IMPORT", "SIZE", "NAME", "NOTE"]);
    for row in plan.rows() {
        if out.json {
            out.object(&row)?;
        }
        let number = |number: String| match row.kind == "image" {
            true => Cell::right(number),
            false => Cell::right(""),
        };
        table.push(vec![
            Cell::left(row.kind),
            number(row.layers.to_string()),
            number(row.imported.to_string()),
            number(human::size(row.bytes)),
            Cell::left(escape(row.name)),
            Cell::left(escape(row.note)),
        ]);
    }
    match out.json {
        true => Ok(()),
        false => out.table(&table),
    }
}

fn json<'a>(image: &'a Image, copied_bytes: u64) -> Json<'a> {
    Json {
        kind: "image",
        name: &image.shown,
        id: &image.image.id,
        layers: image.image.layers.len(),
        imported: image.missing.len(),
        bytes: image.bytes(),
        copied_bytes,
        note: &image.note,
    }
}
