//! `layerctl volume inspect` and `show`.

use serde_json::{Value, json};

use crate::client::Client;
use crate::cmd::Daemon;
use crate::complete;
use crate::error::{Error, all_or};
use crate::format::Template;
use crate::human;
use crate::output::Output;
use crate::text::{escape, escape_json};
use crate::volume::Volume;

/// Shows volumes as an array of JSON objects, with Docker's names of fields
///
/// Status has what layerd knows besides. With -o json, one object a line as of `volume ls -o json`.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Names
    #[arg(required = true, value_name = "NAME", add = complete::volumes())]
    names: Vec<String>,

    /// Go template for each volume, such as '{{.Mountpoint}}', or json
    #[arg(short, long, value_name = "TEMPLATE", value_parser = Template::parse)]
    format: Option<Template>,
}

/// Shows all there is to know about volumes, for people
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Names
    #[arg(required = true, value_name = "NAME", add = complete::volumes())]
    names: Vec<String>,
}

pub(super) async fn inspect(
    args: &Inspect,
    daemon: &Daemon,
    out: &mut Output,
) -> Result<(), Error> {
    let (found, failed) = fetch(&mut daemon.connect().await?, &args.names).await;
    let docker = || found.iter().map(as_docker).collect::<Vec<_>>();
    match &args.format {
        Some(template) => template.print(&docker(), out)?,
        None if out.json => found.iter().try_for_each(|volume| out.object(volume))?,
        None => array(&docker(), out)?,
    }
    all_or(failed)
}

pub(super) async fn show(args: &Show, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let (found, failed) = fetch(&mut daemon.connect().await?, &args.names).await;
    for (at, volume) in found.iter().enumerate() {
        if out.json {
            out.object(volume)?;
            continue;
        }
        if at > 0 {
            out.line("")?;
        }
        let now = out.now;
        let mut lines = lines(volume, now).into_iter();
        lines.try_for_each(|line| out.line(&escape(&line)))?;
    }
    all_or(failed)
}

async fn fetch(client: &mut Client, names: &[String]) -> (Vec<Volume>, Vec<Error>) {
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for name in names {
        match client.volume(name).await {
            Ok(volume) => found.push(volume),
            Err(error) => failed.push(error),
        }
    }
    (found, failed)
}

/// Prints an array over several lines.
fn array(rows: &[Value], out: &mut Output) -> Result<(), Error> {
    let json = serde_json::to_string_pretty(rows).map_err(|cause| Error::Output(cause.into()))?;
    let mut lines = json.lines();
    lines.try_for_each(|line| out.line(&escape_json(line)))
}

/// A volume as Docker's API has it.
fn as_docker(volume: &Volume) -> Value {
    // Docker has -1 for what it does not know.
    let size = volume.bytes.map_or(json!(-1), |bytes| json!(bytes));
    json!({
        "CreatedAt": volume.created_at,
        "Driver": volume.driver,
        "Labels": volume.labels,
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Options": volume.options,
        "Scope": "local",
        "Status": {
            "Id": volume.id,
            "UpdatedAt": volume.updated_at,
            "Anonymous": volume.anonymous,
            "FilledFrom": volume.filled_from,
            "SnapshotOf": volume.snapshot_of,
            "Limit": volume.limit,
        },
        "UsageData": {
            "RefCount": volume.attachments,
            "Size": size,
        },
    })
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
    let size = volume.options.get("size");
    let limit = size.map(|size| format!("{size} bytes ({})", volume.limit));
    let origin = (!volume.filled_from.is_empty()).then(|| volume.filled_from.clone());
    let facts = [
        ("Anonymous", anonymous),
        ("Limit", limit),
        ("Filled from", origin),
        ("Read-only snapshot of id", volume.snapshot_of.clone()),
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
