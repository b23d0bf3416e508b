//! `layerctl backup`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Daemon;
use crate::client::Client;
use crate::error::Error;
use crate::human;
use crate::output::Output;
use crate::output_file::{OutputFile, refuse_terminal};
use crate::progress::Progress;
use crate::text::escape;

/// Writes all records to a file, consistent as of one moment
///
/// The file holds keys, parents, labels and sizes, not the layers themselves. Together with a copy
/// of the layers, `layerctl restore FILE` brings everything back. layerd keeps the newest such
/// exports under its root by itself; a backup elsewhere helps when that is lost as a whole. The
/// daemon works on meanwhile. FILE appears whole and durable, or not at all.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to write; `-` is standard output
    file: PathBuf,

    /// Replace FILE if it is there
    #[arg(short, long)]
    force: bool,
}

#[derive(Serialize)]
struct Json<'a> {
    file: &'a str,
    bytes: u64,
}

pub(crate) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    if args.file == Path::new("-") {
        refuse_terminal("write the backup")?;
        let mut client = daemon.connect().await?;
        return client.backup(|piece| out.raw(piece)).await;
    }
    let target = OutputFile::create(&args.file, args.force)?;
    let mut client = daemon.connect().await?;
    let bytes = to_file(&mut client, target).await?;
    let file = args.file.to_string_lossy();
    if out.json {
        return out.object(&Json { file: &file, bytes });
    }
    out.line(&format!("{}: {}", escape(&file), human::size(bytes)))
}

async fn to_file(client: &mut Client, mut target: OutputFile) -> Result<u64, Error> {
    let mut progress = Progress::new("receiving the backup".to_owned());
    let mut bytes = 0;
    let received = client.backup(|piece| {
        bytes += piece.len() as u64;
        progress.bytes(bytes, None);
        target.write(piece)
    });
    received.await?;
    progress.end();
    target.appear()?;
    Ok(bytes)
}
