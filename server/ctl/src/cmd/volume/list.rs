//! `layerctl volume ls` and `inspect`.

use layerd_proto::layerd::v1::ListVolumesRequest;

use crate::cmd::Daemon;
use crate::error::{Error, all_or};
use crate::human;
use crate::output::Output;
use crate::table::{Cell, Table};
use crate::text::escape;
use crate::volume::Volume;

/// Lists volumes, oldest first
#[derive(Debug, clap::Args)]
#[command(visible_alias = "list")]
pub(crate) struct Ls {
    /// Print names only; with --deleted ids, as several can have had one name
    #[arg(short, long)]
    quiet: bool,

    /// Only volumes that match: name=PART, label=KEY, label=KEY=VALUE, driver=NAME,
    /// dangling=true (nothing uses it) or dangling=false. May be repeated; all must match
    #[arg(short, long = "filter", value_name = "FILTER", value_parser = parse_filter)]
    filters: Vec<Filter>,

    /// List removed volumes that `volume undelete` can take back
    #[arg(long)]
    deleted: bool,
}

/// Shows all there is to know about volumes
#[derive(Debug, clap::Args)]
#[command(visible_alias = "show")]
pub(crate) struct Inspect {
    /// Names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    Name(String),
    Label(String),
    Driver(String),
    Dangling(bool),
}

fn parse_filter(text: &str) -> Result<Filter, String> {
    let value = |value: &str| value.to_owned();
    match text.split_once('=') {
        Some(("name", part)) if !part.is_empty() => Ok(Filter::Name(value(part))),
        Some(("label", label)) if !label.is_empty() => Ok(Filter::Label(value(label))),
        Some(("driver", driver)) if !driver.is_empty() => Ok(Filter::Driver(value(driver))),
        Some(("dangling", "true" | "1")) => Ok(Filter::Dangling(true)),
        Some(("dangling", "false" | "0")) => Ok(Filter::Dangling(false)),
        _ => Err(
            "name=PART, label=KEY[=VALUE], driver=NAME or dangling=true|false is wanted".to_owned(),
        ),
    }
}

/// One request for all filters. Of those that the daemon takes once, a second one is refused
/// rather than forgotten.
fn request(filters: Vec<Filter>, deleted: bool) -> Result<ListVolumesRequest, Error> {
    let mut request = ListVolumesRequest {
        deleted,
        ..ListVolumesRequest::default()
    };
    for filter in filters {
        let (field, is_second) = match filter {
            Filter::Label(label) => {
                request.labels.push(label);
                continue;
            }
            Filter::Name(part) => ("name", put(&mut request.name, part)),
            Filter::Driver(driver) => ("driver", put(&mut request.driver, driver)),
            Filter::Dangling(is) => ("dangling", request.dangling.replace(is).is_some()),
        };
        if is_second {
            return Err(twice(field));
        }
    }
    Ok(request)
}

/// Sets a field; true if it was set before.
fn put(field: &mut String, value: String) -> bool {
    !std::mem::replace(field, value).is_empty()
}

fn twice(field: &str) -> Error {
    Error::Invalid {
        what: "list volumes".to_owned(),
        why: format!("--filter {field}=... was given twice"),
        hint: "Only label filters can be repeated.".to_owned(),
    }
}

pub(super) async fn ls(args: Ls, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let request = request(args.filters, args.deleted)?;
    let found = daemon.connect().await?.volumes(request).await?;
    if args.quiet {
        return found.iter().try_for_each(|volume| match args.deleted {
            true => out.line(&volume.id.to_string()),
            false => out.line(&escape(&volume.name)),
        });
    }
    if out.json {
        return found.iter().try_for_each(|volume| out.object(volume));
    }
    out.table(&table(&found, args.deleted, out.now))
}

fn table(found: &[Volume], deleted: bool, now: i64) -> Table {
    let (first, time) = match deleted {
        true => ("ID", "DELETED"),
        false => ("USES", "AGE"),
    };
    let mut table = Table::new(&[first, time, "DRIVER", "NAME"]);
    for volume in found {
        let (number, since) = match deleted {
            true => (volume.id, volume.deleted),
            false => (volume.attachments, volume.created),
        };
        table.push(vec![
            Cell::right(number.to_string()),
            Cell::right(human::age(since, now)),
            Cell::left(escape(&volume.driver)),
            Cell::left(escape(&volume.name)),
        ]);
    }
    table
}

pub(super) async fn inspect(
    args: &Inspect,
    daemon: &Daemon,
    out: &mut Output,
) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let (mut failed, mut shown) = (Vec::new(), 0);
    for name in &args.names {
        match client.volume(name).await {
            Ok(volume) => {
                print(&volume, shown > 0, out)?;
                shown += 1;
            }
            Err(error) => failed.push(error),
        }
    }
    all_or(failed)
}

fn print(volume: &Volume, is_next: bool, out: &mut Output) -> Result<(), Error> {
    if out.json {
        return out.object(volume);
    }
    if is_next {
        out.line("")?;
    }
    let now = out.now;
    lines(volume, now)
        .iter()
        .try_for_each(|line| out.line(&escape(line)))
}

fn lines(volume: &Volume, now: i64) -> Vec<String> {
    let age = human::age(volume.created, now);
    let mut lines = vec![
        format!("Name: {}", volume.name),
        format!("Id: {}", volume.id),
        format!("Driver: {}", volume.driver),
        format!("Path: {}", volume.path),
        format!("Created: {} ({age} ago)", volume.created_at),
        format!("Updated: {}", volume.updated_at),
        format!("Uses: {}", volume.attachments),
    ];
    let anonymous = volume.anonymous.then_some("yes".to_owned());
    let origin = (!volume.filled_from.is_empty()).then(|| volume.filled_from.clone());
    let facts = [
        ("Anonymous", anonymous),
        ("Filled from", origin),
        (
            "Read-only snapshot of id",
            volume.snapshot_of.map(|id| id.to_string()),
        ),
    ];
    let facts = facts
        .into_iter()
        .filter_map(|(name, fact)| fact.map(|fact| format!("{name}: {fact}")));
    lines.extend(facts);
    for (name, pairs) in [("Labels", &volume.labels), ("Options", &volume.options)] {
        lines.push(format!("{name}: {}", pairs.len()));
        lines.extend(pairs.iter().map(|(key, value)| format!(" {key}={value}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{Filter, parse_filter, request};
    use crate::error::Exit;

    #[test]
    fn filters_become_one_request() {
        let texts = [
            "name=a",
            "label=k",
            "label=k=v=w",
            "driver=local",
            "dangling=true",
        ];
        let filters: Vec<Filter> = texts.map(|text| parse_filter(text).unwrap()).into();
        let request = request(filters, true).unwrap();
        assert_eq!(
            (request.name.as_str(), request.driver.as_str()),
            ("a", "local")
        );
        assert_eq!(request.labels, ["k", "k=v=w"]);
        assert_eq!((request.dangling, request.deleted), (Some(true), true));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for bad in ["", "name", "name=", "label=", "dangling=maybe", "size=1"] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_second_filter_is_not_forgotten() {
        let table = [
            [Filter::Name("a".to_owned()), Filter::Name("b".to_owned())],
            [
                Filter::Driver("a".to_owned()),
                Filter::Driver("b".to_owned()),
            ],
            [Filter::Dangling(true), Filter::Dangling(true)],
        ];
        for twice in table {
            assert_eq!(
                request(twice.into(), false).unwrap_err().exit(),
                Exit::Invalid
            );
        }
    }
}
