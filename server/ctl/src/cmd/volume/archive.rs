//! `layerctl volume export` and `import`.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::create::Settings;
use crate::client::{Client, Exported};
use crate::cmd::Daemon;
use crate::complete;
use crate::error::Error;
use crate::human;
use crate::output::Output;
use crate::output_file::{OutputFile, refuse_terminal};
use crate::progress::Progress;
use crate::text::escape;
use crate::volume::Volume;

/// Writes a volume to a tar archive, with a checksum
///
/// Everything goes along: owners, modes, times, extended attributes and access lists, hard links,
/// holes. Any tar reads it (GNU tar with --xattrs --xattrs-include='*'); `volume import` also
/// checks that it is whole and unchanged. The volume can be in use; a file that is written to
/// meanwhile is reported, as it may be a mixture of old and new. Stop its writers, or export a
/// `volume snapshot` of it. FILE appears whole and durable, or not at all.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// The volume
    #[arg(value_name = "VOLUME", add = complete::volumes())]
    name: String,

    /// Where to write; `-` is standard output
    #[arg(default_value = "-")]
    file: PathBuf,

    /// Replace FILE if it is there
    #[arg(short, long)]
    force: bool,
}

/// Creates a volume from a tar archive
///
/// Fails if the volume is there. It appears whole and durable, or not at all, and no file of it
/// lies outside of the volume whatever the archive says. A checksum in it is verified. Owners,
/// set-user-id bits and devices are taken as they are, as by `tar -xp`: import what you trust. What
/// is more than the disk can take is refused (`import_keep_percent` in layerd's configuration).
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// Name of the new volume
    #[arg(value_name = "VOLUME")]
    name: String,

    /// The archive, not compressed; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,

    #[command(flatten)]
    settings: Settings,
}

#[derive(Serialize)]
struct ExportedJson<'a> {
    name: &'a str,
    file: &'a str,
    bytes: u64,
    files: u64,
    left_out: u64,
    changed: u64,
    sha256: &'a str,
}

#[derive(Serialize)]
struct ImportedJson<'a> {
    #[serde(flatten)]
    volume: &'a Volume,
    files: u64,
    bytes: u64,
    verified: bool,
}

pub(super) async fn export(args: Export, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let to_output = args.file == Path::new("-");
    if to_output {
        refuse_terminal("write the archive")?;
    }
    let target = (!to_output).then(|| OutputFile::create(&args.file, args.force));
    let target = target.transpose()?;
    let mut client = daemon.connect().await?;
    let exported = receive(&mut client, &args.name, target, out).await?;
    let file = args.file.to_string_lossy();
    if out.json && !to_output {
        out.object(&ExportedJson {
            name: &args.name,
            file: &file,
            bytes: exported.bytes,
            files: exported.files,
            left_out: exported.left_out,
            changed: exported.changed,
            sha256: &exported.sha256,
        })?;
    } else if !out.json {
        let line = summary(&args.name, &exported);
        match to_output {
            true => aside(&line)?,
            false => out.line(&line)?,
        }
    }
    warnings(&exported).iter().try_for_each(|line| aside(line))
}

async fn receive(
    client: &mut Client,
    name: &str,
    mut target: Option<OutputFile>,
    out: &mut Output,
) -> Result<Exported, Error> {
    let mut progress = Progress::new(format!("exporting {}", escape(name)));
    let mut bytes = 0;
    let exported = client.export_volume(name, |piece| {
        bytes += piece.len() as u64;
        progress.bytes(bytes, None);
        match &mut target {
            Some(target) => target.write(piece),
            None => out.raw(piece),
        }
    });
    let exported = exported.await?;
    progress.end();
    target.map_or(Ok(()), OutputFile::appear)?;
    Ok(exported)
}

fn summary(name: &str, exported: &Exported) -> String {
    let (files, size) = (exported.files, human::size(exported.bytes));
    let name = escape(name);
    format!("{name}: {files} files, {size}, sha256:{}", exported.sha256)
}

fn warnings(exported: &Exported) -> Vec<String> {
    let lines = [
        (
            exported.changed,
            "files were written to while they were read: their content may be a mixture",
        ),
        (
            exported.left_out,
            "sockets were left out, as no archive holds one",
        ),
    ];
    let lines = lines.into_iter().filter(|(count, _)| *count > 0);
    lines
        .map(|(count, what)| format!("layerctl: warning: {count} {what}"))
        .collect()
}

/// Beside the output.
pub(in crate::cmd) fn aside(line: &str) -> Result<(), Error> {
    writeln!(io::stderr(), "{line}").map_err(Error::Output)
}

pub(super) async fn import(args: Import, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let (input, length) = open(&args.file)?;
    let mut progress = Progress::new(format!("importing {}", escape(&args.name)));
    let request = args.settings.request(args.name, None);
    let mut client = daemon.connect().await?;
    let read = move |bytes| progress.bytes(bytes, length);
    let (volume, reply) = client.import_volume(request, input, read).await?;
    let (files, bytes, verified) = (reply.files, reply.bytes, reply.verified);
    if out.json {
        return out.object(&ImportedJson {
            volume: &volume,
            files,
            bytes,
            verified,
        });
    }
    let checksum = match verified {
        true => "checksum verified",
        false => "the archive has no checksum",
    };
    let (name, size) = (escape(&volume.name), human::size(bytes));
    out.line(&format!("{name}: {files} files, {size}, {checksum}"))
}

/// The archive, and its length if that is known.
pub(in crate::cmd) fn open(file: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>), Error> {
    if file == Path::new("-") {
        return match io::stdin().is_terminal() {
            false => Ok((Box::new(io::stdin()), None)),
            true => Err(Error::Refused {
                what: "read the archive".to_owned(),
                why: "standard input is a terminal".to_owned(),
                hint: "Name a file, or send an archive in.".to_owned(),
            }),
        };
    }
    let failed = |cause| Error::Io {
        what: format!("read {}", file.display()),
        cause,
    };
    let opened = File::open(file).map_err(failed)?;
    let found = opened.metadata().map_err(failed)?;
    let length = found.is_file().then_some(found.len());
    Ok((Box::new(opened), length))
}
