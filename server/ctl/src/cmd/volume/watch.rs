//! `layerctl volume watch`.

use layerd_proto::layerd::v1::VolumeEvent;
use serde::Serialize;

use super::super::Daemon;
use crate::error::Error;
use crate::human::size;
use crate::output::Output;
use crate::text::escape;

/// Shows what happens to volumes and attachments, as it happens, until it is interrupted
///
/// As `layerctl events` with these topics, and with --progress also how far copies into volumes
/// are. Ends with an error if it cannot keep up.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show how far copies are
    #[arg(long)]
    progress: bool,

    /// End after so many lines; 0 goes on
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 0)]
    limit: u64,
}

#[derive(Serialize)]
struct Json<'a> {
    at: String,
    what: &'a str,
    subject: &'a str,
    files: u64,
    bytes: u64,
    files_expected: u64,
}

pub(crate) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut events = daemon.connect().await?.watch_volumes(args.progress).await?;
    let mut shown = 0;
    while args.limit == 0 || shown < args.limit {
        let Some(event) = events.next().await? else {
            return Err(Error::Refused {
                what: "watch volumes".to_owned(),
                why: "layerd ended the stream: it is stopping, or this side was too slow"
                    .to_owned(),
                hint: "`layerctl volume ls` shows what there is by now.".to_owned(),
            });
        };
        show(&event, out)?;
        out.flush()?;
        shown += 1;
    }
    Ok(())
}

fn show(event: &VolumeEvent, out: &mut Output) -> Result<(), Error> {
    let at = event.at.unwrap_or_default().to_string();
    if out.json {
        return out.object(&Json {
            at,
            what: &event.what,
            subject: &event.subject,
            files: event.files,
            bytes: event.bytes,
            files_expected: event.files_expected,
        });
    }
    let far = match event.what.as_str() {
        "filling" => format!("  {} files, {}", event.files, size(event.bytes)),
        _ => String::new(),
    };
    out.line(&format!(
        "{at}  {:<10}  {}{far}",
        event.what,
        escape(&event.subject)
    ))
}
