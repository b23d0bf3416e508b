//! `layerctl restore`.

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use layerd_proto::layerd::v1::RestoreRecordsResponse;
use serde::Serialize;
use tonic::{Code, Status};

use super::Daemon;
use crate::error::{Error, reason};
use crate::output::Output;
use crate::text::escape;

/// Brings the records back after the database was lost or damaged
///
/// Without FILE, layerd takes the newest export that it kept under its root by itself, or what the
/// damaged database still holds if that is newer; `layerctl info` says which, and what is newer on
/// disk. FILE is what `layerctl backup` wrote. Nothing is deleted: a damaged database is set aside, and layers
/// that the export does not know, because they are newer, are moved to lost/ under the root.
/// layerd serves again as soon as the records are back, without a restart. While the records are
/// sound it refuses. To take removed snapshots back, use `layerctl trash restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A backup; `-` is standard input
    file: Option<PathBuf>,
}

/// Interval of asking layerd until it serves again.
const ASK_EVERY: Duration = Duration::from_millis(50);

#[derive(Serialize)]
struct Json {
    snapshots: u64,
    set_aside: u64,
    /// Name and age of the copy that was taken; empty for a file.
    source: String,
}

pub(crate) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let file = args.file.as_deref().map(read).transpose()?;
    let mut client = daemon.connect().await?;
    let root = client.info().await?.root;
    let done = client.restore_records(file.as_deref()).await;
    let done = done.map_err(|error| advise(error, args.file.is_some()))?;
    drop(client);
    wait_until_served(daemon).await?;
    if out.json {
        return out.object(&Json {
            snapshots: done.snapshots,
            set_aside: done.set_aside,
            source: done.source,
        });
    }
    let source = match &args.file {
        Some(file) => file.display().to_string(),
        None => done.source.clone(),
    };
    for line in lines(&done, &source, &root) {
        out.line(&escape(&line))?;
    }
    Ok(())
}

/// layerd leaves the rescue behind and opens what was restored, so that a script can go on at
/// once after us.
async fn wait_until_served(daemon: &Daemon) -> Result<(), Error> {
    loop {
        // A connection of its own each time: the rescue closes those that it served.
        let info = daemon.connect().await?.info().await;
        match info {
            Ok(info) if !info.driver.is_empty() => return Ok(()),
            Ok(_) => {}
            Err(Error::Call { status, .. }) if is_closing(&status) => {}
            Err(other) => return Err(other),
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// True for the status of a connection that ends during a call.
fn is_closing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Cancelled | Code::Unknown
    )
}

fn advise(error: Error, has_file: bool) -> Error {
    let Error::Call { what, status } = error else {
        return error;
    };
    let why = reason(&what, &status).to_owned();
    match status.code() {
        Code::NotFound => Error::NotFound {
            what,
            why,
            hint: "Name one that `layerctl backup` wrote: layerctl restore FILE. Without any, the \
                   layers stay where they are, but their names are lost."
                .to_owned(),
        },
        Code::InvalidArgument if has_file => Error::Invalid {
            what,
            why,
            hint:
                "Nothing was changed. Name another backup; without FILE, layerd takes the newest \
                   export it has kept."
                    .to_owned(),
        },
        _ => Error::Call { what, status },
    }
}

/// Reads the whole file before anything is sent: an empty stream would select the newest export.
fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let what = || format!("read the backup {}", file.display());
    let bytes = if file == Path::new("-") {
        if io::stdin().is_terminal() {
            return Err(Error::Invalid {
                what: what(),
                why: "standard input is a terminal".to_owned(),
                hint: "Name the file, or send it to standard input.".to_owned(),
            });
        }
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(file)
    };
    match bytes {
        Ok(bytes) if bytes.is_empty() => Err(Error::Invalid {
            what: what(),
            why: "it is empty".to_owned(),
            hint: "Name another backup; without FILE, layerd takes the newest export it has kept."
                .to_owned(),
        }),
        Ok(bytes) => Ok(bytes),
        Err(cause) => Err(Error::Io {
            what: what(),
            cause,
        }),
    }
}

fn lines(done: &RestoreRecordsResponse, source: &str, root: &str) -> Vec<String> {
    let set_aside = match done.set_aside {
        0 => "nothing, as every layer on disk is known".to_owned(),
        some => format!("{some}, newer than that; they are in {root}/lost now"),
    };
    vec![
        format!("Snapshots that are back: {}, from {source}", done.snapshots),
        format!("Layers set aside: {set_aside}"),
        "Nothing was deleted. layerd serves again; `layerctl fsck` compares records and disk."
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::{RestoreRecordsResponse, lines, read};
    use std::fs;

    #[test]
    fn an_empty_backup_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("backup");
        fs::write(&file, "").unwrap();
        let error = read(&file).unwrap_err();
        assert!(error.describe().contains("it is empty"), "{error}");
        fs::write(&file, "x").unwrap();
        assert_eq!(read(&file).unwrap(), b"x");
        read(&dir.path().join("none")).unwrap_err();
    }

    #[test]
    fn says_where_newer_layers_are() {
        let done = |set_aside| RestoreRecordsResponse {
            snapshots: 2,
            set_aside,
            source: String::new(),
        };
        let text = lines(&done(3), "b", "/r").join(" ");
        assert!(text.contains("are back: 2, from b"), "{text}");
        assert!(
            text.contains("aside: 3") && text.contains("/r/lost"),
            "{text}"
        );
        let text = lines(&done(0), "b", "/r").join(" ");
        assert!(!text.contains("lost"), "{text}");
    }
}
