//! `layerctl layer ...`.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use layerd_proto::layerd::v1 as wire;
use serde::Serialize;

use super::Daemon;
use super::volume::archive::{aside, open};
use crate::client::Client;
use crate::complete;
use crate::error::Error;
use crate::human;
use crate::output::Output;
use crate::output_file::{OutputFile, refuse_terminal};
use crate::progress::Progress;
use crate::text::escape;

/// Unpacks layers of images into snapshots, and makes layers of them
///
/// As containerd's differ does it, without containerd and without a mount. Keys are those of the
/// backend, as `snapshot ls` shows them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Apply(Apply),
    Diff(Diff),
}

/// Unpacks a layer into an active snapshot
///
/// FILE is a tar archive, plain or compressed with gzip or zstd; its whiteouts hide what lies
/// below. If that fails half way, the snapshot can only be removed.
#[derive(Debug, clap::Args)]
struct Apply {
    /// The active snapshot
    #[arg(add = complete::snapshots())]
    key: String,

    /// The layer; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,

    /// Expected digest of FILE: sha256: and 64 hexadecimal digits
    #[arg(long, value_name = "DIGEST", default_value = "")]
    digest: String,
}

/// Makes a layer of what a snapshot changed in its parent
///
/// The snapshot can be in use; a file that is written to meanwhile is reported, as it may be a
/// mixture of old and new. FILE appears whole and durable, or not at all.
#[derive(Debug, clap::Args)]
struct Diff {
    /// The snapshot, active or committed
    #[arg(add = complete::snapshots())]
    key: String,

    /// Where to write; `-` is standard output
    #[arg(default_value = "-")]
    file: PathBuf,

    /// Replace FILE if it is there
    #[arg(short, long)]
    force: bool,

    /// Compression of the layer
    #[arg(long, value_enum, value_name = "HOW", default_value = "gzip")]
    compression: Compression,

    /// Latest time that a file gets, in seconds since 1970
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    source_date_epoch: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

#[derive(Serialize)]
struct AppliedJson<'a> {
    key: &'a str,
    diff_id: &'a str,
    size: u64,
    bytes: u64,
    inodes: u64,
}

#[derive(Serialize)]
struct DiffedJson<'a> {
    key: &'a str,
    file: &'a str,
    digest: &'a str,
    size: u64,
    diff_id: &'a str,
    uncompressed: u64,
    changed: u64,
}

pub(crate) async fn run(args: Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    match args.command {
        Command::Apply(args) => apply(args, daemon, out).await,
        Command::Diff(args) => diff(args, daemon, out).await,
    }
}

async fn apply(args: Apply, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let (input, length) = open(&args.file)?;
    let shown = escape(&args.key);
    let mut progress = Progress::new(format!("unpacking into {shown}"));
    let mut client = daemon.connect().await?;
    let layer = wire::ApplyLayer {
        key: args.key.clone(),
        compression: wire::Compression::Unspecified.into(),
        digest: args.digest,
    };
    let read = move |bytes| progress.bytes(bytes, length);
    let applied = client.apply_layer(layer, input, read).await?;
    if out.json {
        return out.object(&AppliedJson {
            key: &args.key,
            diff_id: &applied.diff_id,
            size: applied.size,
            bytes: applied.bytes,
            inodes: applied.inodes,
        });
    }
    let (files, size) = (applied.inodes, human::size(applied.bytes));
    out.line(&format!(
        "{shown}: {files} files, {size}, {}",
        applied.diff_id
    ))
}

async fn diff(args: Diff, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let to_output = args.file == Path::new("-");
    if to_output {
        refuse_terminal("write the layer")?;
    }
    let target = (!to_output).then(|| OutputFile::create(&args.file, args.force));
    let target = target.transpose()?;
    let mut client = daemon.connect().await?;
    let made = receive(&mut client, &args, target, out).await?;
    if out.json && !to_output {
        out.object(&DiffedJson {
            key: &args.key,
            file: &args.file.to_string_lossy(),
            digest: &made.digest,
            size: made.size,
            diff_id: &made.diff_id,
            uncompressed: made.uncompressed,
            changed: made.changed,
        })?;
    } else if !out.json {
        let (size, whole) = (human::size(made.size), human::size(made.uncompressed));
        let line = format!(
            "{}: {size}, {}\n  uncompressed {whole}, {}",
            escape(&args.key),
            made.digest,
            made.diff_id
        );
        match to_output {
            true => aside(&line)?,
            false => line.lines().try_for_each(|line| out.line(line))?,
        }
    }
    match made.changed {
        0 => Ok(()),
        some => aside(&format!(
            "layerctl: warning: {some} files were written to while they were read: their content may be a mixture"
        )),
    }
}

async fn receive(
    client: &mut Client,
    args: &Diff,
    mut target: Option<OutputFile>,
    out: &mut Output,
) -> Result<wire::DiffedLayer, Error> {
    let mut progress = Progress::new(format!("making a layer of {}", escape(&args.key)));
    let mut bytes = 0;
    let compression = match args.compression {
        Compression::None => wire::Compression::None,
        Compression::Gzip => wire::Compression::Gzip,
        Compression::Zstd => wire::Compression::Zstd,
    };
    let request = wire::DiffLayerRequest {
        key: args.key.clone(),
        compression: compression.into(),
        source_date_epoch: args.source_date_epoch,
    };
    let made = client.diff_layer(request, |piece| {
        bytes += piece.len() as u64;
        progress.bytes(bytes, None);
        match &mut target {
            Some(target) => target.write(piece),
            None => out.raw(piece),
        }
    });
    let made = made.await?;
    progress.end();
    target.map_or(Ok(()), OutputFile::appear)?;
    Ok(made)
}
