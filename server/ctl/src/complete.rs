//! Completions that ask the daemon for names while a person types. A daemon that does not answer at
//! once has none.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::address;
use crate::client::{self, Client};
use crate::error::Error;
use layerd_proto::layerd::v1::ListVolumesRequest;

/// Limit for each answer; a person waits for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Kind of names.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Volumes,
    RemovedVolumes,
    Snapshots,
    Attachments,
    Owners,
}

pub(crate) fn volumes() -> ArgValueCompleter {
    completer(Kind::Volumes)
}

/// Names of volumes in the trash.
pub(crate) fn removed_volumes() -> ArgValueCompleter {
    completer(Kind::RemovedVolumes)
}

pub(crate) fn snapshots() -> ArgValueCompleter {
    completer(Kind::Snapshots)
}

/// Keys of attachments.
pub(crate) fn attachments() -> ArgValueCompleter {
    completer(Kind::Attachments)
}

/// Owners of attachments.
pub(crate) fn owners() -> ArgValueCompleter {
    completer(Kind::Owners)
}

fn completer(kind: Kind) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| {
        let words: Vec<OsString> = std::env::args_os().collect();
        let address = typed_address(&words, std::env::var_os("LAYERD_ADDRESS"));
        let names = ask(kind, address).unwrap_or_default();
        matching(names, current)
    })
}

/// Address of the daemon on the command line that is being typed, which follows `--`.
fn typed_address(words: &[OsString], variable: Option<OsString>) -> PathBuf {
    let typed = words.iter().skip_while(|word| *word != "--").skip(1);
    let typed: Vec<_> = typed.filter_map(|word| word.to_str()).collect();
    let given =
        typed
            .iter()
            .enumerate()
            .find_map(|(at, word)| match word.strip_prefix("--address") {
                Some("") => typed.get(at + 1).copied(),
                Some(joined) => joined.strip_prefix('='),
                None => None,
            });
    let variable = variable.and_then(|value| value.into_string().ok());
    let text = given.map(str::to_owned).or(variable);
    text.and_then(|text| address::parse(&text).ok())
        .unwrap_or_else(|| address::usual().into())
}

/// Names that begin so, each once; those that a shell would need quotes for are left out.
fn matching(mut names: Vec<String>, current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    names.retain(|name| {
        name.starts_with(&*current) && name.chars().all(|char| char.is_ascii_graphic())
    });
    names.sort();
    names.dedup();
    names.into_iter().map(CompletionCandidate::new).collect()
}

fn ask(kind: Kind, address: PathBuf) -> Result<Vec<String>, Error> {
    client::wait(async move {
        let mut client = Client::connect(&address, PATIENCE).await?;
        names(kind, &mut client).await
    })
}

async fn names(kind: Kind, client: &mut Client) -> Result<Vec<String>, Error> {
    Ok(match kind {
        Kind::Volumes => {
            let volumes = client.volumes(ListVolumesRequest::default()).await?;
            volumes.into_iter().map(|volume| volume.name).collect()
        }
        Kind::RemovedVolumes => {
            let volumes = client.deleted_volumes().await?;
            volumes.into_iter().map(|volume| volume.name).collect()
        }
        Kind::Snapshots => {
            let snapshots = client.list(Vec::new()).await?;
            snapshots
                .into_iter()
                .map(|snapshot| snapshot.name)
                .collect()
        }
        Kind::Attachments | Kind::Owners => {
            let all = client.attachments(None, String::new()).await?;
            let of = |kind| matches!(kind, Kind::Owners);
            let name = |one: crate::attachment::Attachment| match of(kind) {
                true => one.owner,
                false => one.key,
            };
            all.into_iter().map(name).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::{OsStr, OsString};
    use std::path::PathBuf;

    use super::{matching, typed_address};

    #[test]
    fn the_daemon_that_is_typed_is_asked() {
        let words = |line: &str| -> Vec<OsString> { line.split(' ').map(OsString::from).collect() };
        let variable = || Some(OsString::from("unix:///run/v.sock"));
        let table = [
            ("layerctl -- layerctl volume rm", "/run/v.sock"),
            (
                "layerctl -- layerctl --address /run/a.sock volume rm",
                "/run/a.sock",
            ),
            (
                "layerctl -- layerctl --address=/run/b.sock volume rm",
                "/run/b.sock",
            ),
            ("layerctl --address /run/no.sock", "/run/v.sock"),
        ];
        for (line, wanted) in table {
            assert_eq!(
                typed_address(&words(line), variable()),
                PathBuf::from(wanted),
                "{line}"
            );
        }
        let default = PathBuf::from("/run/layerd/layerd.sock");
        assert_eq!(typed_address(&words("layerctl"), None), default);
    }

    #[test]
    fn names_match_by_their_beginning() {
        let names = ["data", "db", "data", "da ta", "d\u{1b}a", "x"];
        let found = matching(names.map(str::to_owned).to_vec(), OsStr::new("d"));
        let found: Vec<_> = found.iter().map(|one| one.get_value().to_owned()).collect();
        assert_eq!(found, ["data", "db"]);
    }
}
