//! `layerctl events`.

use clap::ValueEnum;
use layerd_proto::layerd::v1::{EventsRequest, EventsResponse};
use serde::Serialize;

use super::Daemon;
use crate::error::Error;
use crate::human::When;
use crate::output::Output;
use crate::text::escape;

/// Shows events until it is interrupted
///
/// Snapshots that are prepared, viewed, committed, updated, removed or restored; layers that are
/// unpacked into them or made from them; volumes and attachments; the trash, with its
/// mass-removal guard; and the reserve of the disk. Events that come faster than they can be shown are counted: a watcher delays
/// no operation. The daemon keeps the last 1024 events since its start for --since.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show only these; may be repeated
    #[arg(short, long = "topic", value_enum, value_name = "TOPIC")]
    topics: Vec<Topic>,

    /// Show only what has a key or name that begins so, such as k8s.io/
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    prefix: String,

    /// First show the kept events since then: a time such as 2026-01-31T12:00:00Z, or a duration such as
    /// 24h for as long ago
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    since: Option<When>,

    /// End after so many lines; 0 goes on
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 0)]
    limit: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Topic {
    Snapshot,
    Layer,
    Volume,
    Attachment,
    Trash,
    Reserve,
}

impl Topic {
    fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Layer => "layer",
            Self::Volume => "volume",
            Self::Attachment => "attachment",
            Self::Trash => "trash",
            Self::Reserve => "reserve",
        }
    }
}

#[derive(Serialize)]
struct Json<'a> {
    at: Option<String>,
    topic: &'a str,
    what: &'a str,
    subject: &'a str,
    missed: u64,
}

pub(crate) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let request = EventsRequest {
        topics: args
            .topics
            .iter()
            .map(|topic| topic.name().to_owned())
            .collect(),
        prefix: args.prefix.clone(),
        since: args.since.map(|since| prost_types::Timestamp {
            seconds: since.seconds(out.now),
            nanos: 0,
        }),
    };
    let mut events = daemon.connect().await?.events(request).await?;
    out.flush()?;
    let mut shown = 0;
    while args.limit == 0 || shown < args.limit {
        let Some(event) = events.next().await? else {
            return Ok(());
        };
        show(&event, out)?;
        // Each event is shown at once.
        out.flush()?;
        shown += 1;
    }
    Ok(())
}

fn show(event: &EventsResponse, out: &mut Output) -> Result<(), Error> {
    if out.json {
        return out.object(&Json {
            at: event.at.map(|at| at.to_string()),
            topic: &event.topic,
            what: &event.what,
            subject: &event.subject,
            missed: event.missed,
        });
    }
    out.line(&line(event))
}

fn line(event: &EventsResponse) -> String {
    if event.missed > 0 {
        return format!("({} events were missed)", event.missed);
    }
    let (topic, what) = (&event.topic, &event.what);
    let at = event.at.unwrap_or_default();
    format!("{at}  {topic:<10}  {what:<9}  {}", escape(&event.subject))
}

#[cfg(test)]
mod tests {
    use super::{EventsResponse, line};

    #[test]
    fn one_line_each_and_harmless() {
        let event = EventsResponse {
            topic: "snapshot".to_owned(),
            what: "removed".to_owned(),
            subject: "a\x1b[2J".to_owned(),
            at: Some(prost_types::Timestamp {
                seconds: 1,
                nanos: 500_000_000,
            }),
            missed: 0,
        };
        assert_eq!(
            line(&event),
            "1970-01-01T00:00:01.500Z  snapshot    removed    a\\u{1b}[2J"
        );
        let missed = EventsResponse {
            missed: 3,
            ..EventsResponse::default()
        };
        assert_eq!(line(&missed), "(3 events were missed)");
    }
}
