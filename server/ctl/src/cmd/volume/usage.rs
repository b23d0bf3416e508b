//! `layerctl volume usage`.

use layerd_proto::layerd::v1::VolumeUsageResponse;
use serde::Serialize;

use crate::cmd::Daemon;
use crate::complete;
use crate::error::{Error, all_or};
use crate::human;
use crate::output::Output;
use crate::table::{Cell, Table};
use crate::text::escape;

/// Shows what volumes hold on disk
///
/// The figure is the last one that was taken, and its age is shown; where there is none yet, it is
/// taken now.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names
    #[arg(required = true, value_name = "NAME", add = complete::volumes())]
    names: Vec<String>,

    /// Measure now; costs one look at each file
    #[arg(short, long)]
    exact: bool,
}

#[derive(Serialize)]
struct Measured<'a> {
    name: &'a str,
    bytes: u64,
    inodes: u64,
    as_of: String,
}

pub(super) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let (mut measured, mut failed) = (Vec::new(), Vec::new());
    for name in &args.names {
        match client.volume_usage(name, args.exact).await {
            Ok(usage) => measured.push((name.as_str(), usage)),
            Err(error) => failed.push(error),
        }
    }
    print(&measured, out)?;
    all_or(failed)
}

fn print(measured: &[(&str, VolumeUsageResponse)], out: &mut Output) -> Result<(), Error> {
    if out.json {
        return measured.iter().try_for_each(|(name, usage)| {
            out.object(&Measured {
                name,
                bytes: usage.bytes,
                inodes: usage.inodes,
                as_of: usage.as_of.unwrap_or_default().to_string(),
            })
        });
    }
    let mut table = Table::new(&["SIZE", "INODES", "MEASURED", "NAME"]);
    for (name, usage) in measured {
        let taken = usage.as_of.unwrap_or_default().seconds;
        table.push(vec![
            Cell::right(human::size(usage.bytes)),
            Cell::right(usage.inodes.to_string()),
            Cell::right(human::age(taken, out.now)),
            Cell::left(escape(name)),
        ]);
    }
    out.table(&table)
}
