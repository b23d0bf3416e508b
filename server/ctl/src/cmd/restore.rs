//! `layerctl restore`.

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use layerd_proto::layerd::v1::RestoreRecordsResponse;
use serde::Serialize;

use super::Daemon;
use crate::error::Error;
use crate::output::Output;
use crate::text::escape;

/// Brings the records back after the database was lost or damaged
///
/// Without FILE, layerd takes the newest export that it kept under its root by itself; FILE is
/// what `layerctl backup` wrote. Nothing is deleted: a damaged database is set aside, and layers
/// that the export does not know, because they are newer, are moved to lost/ under the root.
/// layerd serves again as soon as the records are back, without a restart. While the records are
/// sound it refuses. To take removed snapshots back, use `layerctl trash restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A backup; `-` is standard input
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Json {
    snapshots: u64,
    set_aside: u64,
}

pub(crate) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let file = args.file.as_deref().map(read).transpose()?;
    let mut client = daemon.connect().await?;
    let root = client.info().await?.root;
    let done = client.restore_records(file.as_deref()).await?;
    if out.json {
        return out.object(&Json {
            snapshots: done.snapshots,
            set_aside: done.set_aside,
        });
    }
    let source = match &args.file {
        Some(file) => file.display().to_string(),
        None => format!("the newest export in {root}/meta"),
    };
    for line in lines(&done, &source, &root) {
        out.line(&escape(&line))?;
    }
    Ok(())
}

/// Reads all of it before anything is sent. Nothing at all would mean "the newest export" to the
/// daemon, which is not what somebody who named a file wants.
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
    let mut lines = vec![format!(
        "{} snapshots are back, from {source}.",
        done.snapshots
    )];
    lines.push(match done.set_aside {
        0 => "Every layer on disk is known; nothing had to be set aside.".to_owned(),
        some => format!(
            "{some} layers are newer than that: they are in {root}/lost now. Nothing was deleted."
        ),
    });
    lines.push(
        "layerd serves again; `layerctl fsck` compares the records with the disk.".to_owned(),
    );
    lines
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
        };
        let text = lines(&done(3), "b", "/r").join(" ");
        assert!(text.contains("2 snapshots are back, from b."), "{text}");
        assert!(
            text.contains("3 layers") && text.contains("/r/lost"),
            "{text}"
        );
        let text = lines(&done(0), "b", "/r").join(" ");
        assert!(!text.contains("lost"), "{text}");
    }
}
