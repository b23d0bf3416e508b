//! `layerctl backup`.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use tempfile::NamedTempFile;

use super::Daemon;
use crate::client::Client;
use crate::error::Error;
use crate::human;
use crate::output::Output;
use crate::text::escape;

/// How often the progress is drawn anew.
const DRAW_EVERY: Duration = Duration::from_millis(100);

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
        return to_output(daemon, out).await;
    }
    check_target(&args.file, args.force)?;
    let mut client = daemon.connect().await?;
    let bytes = to_file(&mut client, &args.file, args.force).await?;
    let file = args.file.to_string_lossy();
    if out.json {
        return out.object(&Json { file: &file, bytes });
    }
    out.line(&format!("{}: {}", escape(&file), human::size(bytes)))
}

async fn to_output(daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    if io::stdout().is_terminal() {
        return Err(Error::Refused {
            what: "write the backup".to_owned(),
            why: "it is not text, and standard output is a terminal".to_owned(),
            hint: "Name a file, or send the output somewhere.".to_owned(),
        });
    }
    let mut client = daemon.connect().await?;
    client.backup(|piece| out.raw(piece)).await
}

/// Looks before anything is asked of the daemon. Only a file is ever replaced, never a device.
fn check_target(file: &Path, force: bool) -> Result<(), Error> {
    let Ok(found) = fs::symlink_metadata(file) else {
        return Ok(());
    };
    let refused = |why: &str, hint: &str| {
        Err(Error::Refused {
            what: format!("write {}", file.display()),
            why: why.to_owned(),
            hint: hint.to_owned(),
        })
    };
    if !found.is_file() {
        return refused(
            "something that is no file is there",
            "Name another file; `-` writes to standard output.",
        );
    }
    if !force {
        return refused("it is there already", TAKEN);
    }
    Ok(())
}

const TAKEN: &str = "Name another file, or replace it with --force.";

async fn to_file(client: &mut Client, file: &Path, force: bool) -> Result<u64, Error> {
    let failed = |cause| Error::Io {
        what: format!("write {}", file.display()),
        cause,
    };
    let dir = match file.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let mut target = NamedTempFile::new_in(dir).map_err(failed)?;
    let mut progress = Progress::new();
    let received = client.backup(|piece| {
        progress.add(piece.len());
        target.write_all(piece).map_err(failed)
    });
    received.await?;
    progress.end();
    target.as_file().sync_all().map_err(failed)?;
    appear(target, file, force)?;
    let synced = fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(failed)?;
    Ok(progress.bytes)
}

/// Gives the finished file its name in one step.
fn appear(target: NamedTempFile, file: &Path, force: bool) -> Result<(), Error> {
    let named = if force {
        target.persist(file)
    } else {
        target.persist_noclobber(file)
    };
    let what = format!("write {}", file.display());
    match named.map_err(|refused| refused.error) {
        Ok(_) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Err(Error::Refused {
            what,
            why: "it is there by now".to_owned(),
            hint: TAKEN.to_owned(),
        }),
        Err(cause) => Err(Error::Io { what, cause }),
    }
}

/// How much has come, on standard error if that is a terminal. The whole is not known before.
struct Progress {
    bytes: u64,
    drawn: Option<Instant>,
    is_shown: bool,
}

impl Progress {
    fn new() -> Self {
        Self {
            bytes: 0,
            drawn: None,
            is_shown: io::stderr().is_terminal(),
        }
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        let recently = |drawn: Instant| drawn.elapsed() < DRAW_EVERY;
        if self.is_shown && !self.drawn.is_some_and(recently) {
            // Whoever cannot see it misses nothing.
            let _ = write!(io::stderr(), "\r\x1b[Kreceived {}", human::size(self.bytes));
            self.drawn = Some(Instant::now());
        }
    }

    fn end(&mut self) {
        if self.drawn.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::{appear, check_target};
    use std::fs;
    use std::path::Path;

    #[test]
    fn only_files_are_replaced_and_only_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("backup");
        check_target(&file, false).unwrap();
        fs::write(&file, "old").unwrap();
        assert!(check_target(&file, false).is_err());
        check_target(&file, true).unwrap();
        for other in [Path::new("/dev/null"), dir.path()] {
            assert!(check_target(other, true).is_err(), "{}", other.display());
        }
    }

    #[test]
    fn a_file_that_came_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("backup");
        fs::write(&file, "theirs").unwrap();
        let ours = || {
            let ours = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
            fs::write(ours.path(), "ours").unwrap();
            ours
        };
        appear(ours(), &file, false).unwrap_err();
        assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
        appear(ours(), &file, true).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "ours");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
