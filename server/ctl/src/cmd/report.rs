//! `layerctl report`.

mod account;
mod map;
mod page;
mod treemap;

use std::path::{Path, PathBuf};
use std::time::Duration;

use layerd_proto::layerd::v1::{EventsRequest, EventsResponse, ListVolumesRequest};
use serde::Serialize;
use tokio::time::timeout;

use super::Daemon;
use crate::client::Client;
use crate::error::Error;
use crate::human;
use crate::images::Images;
use crate::output::Output;
use crate::output_file::OutputFile;
use crate::text::escape;
use account::Account;

/// Seconds of a day: the events that are shown.
const DAY: i64 = 24 * 60 * 60;
/// Longest time between two events that the daemon has kept; later ones are not waited for.
const PAUSE: Duration = Duration::from_millis(300);

/// Writes a page about the node: who holds its disk
///
/// One HTML file that needs no network and no script: a map of the bytes, own and shared; the layers with the
/// images and containers on them; volumes with their holders; the trash, and when what is in it goes; alarms
/// and the events of the last day, as far as the daemon kept them. It is readable in light and dark, on
/// paper and by keyboard. It names keys, images and owners: give it to those who may know them. Costs a
/// call for each snapshot. FILE appears whole and durable, or not at all.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to write the page; `-` is standard output
    #[arg(long, value_name = "FILE")]
    html: PathBuf,

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
    if args.html == Path::new("-") {
        let page = page::page(&account(daemon, out.now).await?);
        return out.raw(page.as_bytes());
    }
    let mut target = OutputFile::create(&args.html, args.force)?;
    let page = page::page(&account(daemon, out.now).await?);
    target.write(page.as_bytes())?;
    target.appear()?;
    let (file, bytes) = (args.html.to_string_lossy(), page.len() as u64);
    if out.json {
        return out.object(&Json { file: &file, bytes });
    }
    out.line(&format!("{}: {}", escape(&file), human::size(bytes)))
}

/// Asks for everything that the page shows.
async fn account(daemon: &Daemon, now: i64) -> Result<Account, Error> {
    let mut client = daemon.connect().await?;
    let found = client.list(Vec::new()).await?;
    Ok(Account {
        now,
        info: client.info().await?,
        snapshots: client.measure(found).await?,
        images: Images::ask(&mut client).await.unwrap_or_default(),
        volumes: client.volumes(ListVolumesRequest::default()).await?,
        attachments: client.attachments(None, String::new()).await?,
        trash: client.trash().await?,
        deleted: client.deleted_volumes().await?,
        events: events(&mut client, now).await?,
    })
}

async fn events(client: &mut Client, now: i64) -> Result<Vec<EventsResponse>, Error> {
    let request = EventsRequest {
        since: Some(prost_types::Timestamp {
            seconds: now - DAY,
            nanos: 0,
        }),
        ..EventsRequest::default()
    };
    let mut watch = client.events(request).await?;
    let mut all = Vec::new();
    while let Ok(next) = timeout(PAUSE, watch.next()).await {
        match next? {
            Some(event) => all.push(event),
            None => break,
        }
    }
    Ok(all)
}
