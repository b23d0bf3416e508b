//! `layerctl volume rm` and `undelete`: into the trash and out of it.

use serde::Serialize;

use super::print_name;
use crate::client::Client;
use crate::cmd::Daemon;
use crate::complete;
use crate::error::{Error, all_or, reason};
use crate::operand::Operand;
use crate::output::Output;
use crate::text::escape;
use crate::volume::Volume;

/// Removes volumes that nothing uses
///
/// Prints the names it removed. They stay in the trash for a week unless the configuration says
/// otherwise (trash.keep_volumes_secs), or until `volume purge` or `trash empty`; `volume undelete`
/// takes them back. Takes as long for a large volume as for a small one.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Names
    #[arg(required = true, value_name = "NAME", add = complete::volumes())]
    names: Vec<String>,

    /// A volume that is not there is no failure, and one that was created through CSI goes as well. One
    /// that is in use stays all the same
    #[arg(short, long)]
    force: bool,
}

/// Takes a removed volume back, with all that is in it, and prints its name
#[derive(Debug, clap::Args)]
pub(crate) struct Undelete {
    /// Id as `volume ls --deleted` shows it, or the name it had; what is the id of one and the name of
    /// another is refused
    #[arg(value_name = "ID|NAME", add = complete::removed_volumes())]
    which: String,

    /// Another name to give it, as when its own is taken by now
    #[arg(long = "as", value_name = "NAME")]
    new_name: Option<String>,
}

#[derive(Serialize)]
struct Removed<'a> {
    removed: &'a str,
    existed: bool,
    id: String,
}

pub(super) async fn rm(args: &Rm, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let mut failed = Vec::new();
    for name in &args.names {
        match remove(&mut client, name, args.force).await {
            Ok(removed) if out.json => out.object(&removed)?,
            Ok(_) => out.line(&escape(name))?,
            Err(error) => failed.push(error),
        }
    }
    all_or(failed)
}

/// The daemon answers success where there is nothing to remove, so that a call can be repeated. A
/// person most likely mistyped; who did not says --force.
async fn remove<'a>(client: &mut Client, name: &'a str, force: bool) -> Result<Removed<'a>, Error> {
    if !force {
        client.volume(name).await?;
    }
    let reply = client.delete_volume(name, force).await;
    let reply = reply.map_err(|error| advise_rm(error, name))?;
    Ok(Removed {
        removed: name,
        existed: reply.existed,
        id: reply.id,
    })
}

fn advise_rm(error: Error, name: &str) -> Error {
    match error {
        Error::Call { what, status } if status.code() == tonic::Code::FailedPrecondition => {
            let why = reason(&what, &status).to_owned();
            // A volume of an orchestrator is kept without a user, and the daemon says what removes it.
            let hint = match why.contains("volume rm --force") {
                true => "It stays in the trash for a while, as any other.".to_owned(),
                false => format!(
                    "`layerctl who-uses '{}'` shows who; `layerctl detach` lets go.",
                    escape(name)
                ),
            };
            Error::Refused { what, why, hint }
        }
        other => other,
    }
}

pub(super) async fn undelete(
    args: &Undelete,
    daemon: &Daemon,
    out: &mut Output,
) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let deleted = client.deleted_volumes().await?;
    let is_id = deleted.iter().any(|volume| volume.id == args.which);
    let (id, name) = match is_id {
        true => (chosen(&deleted, &args.which)?.id.as_str(), ""),
        false => ("", args.which.as_str()),
    };
    let new_name = args.new_name.as_deref().unwrap_or_default();
    print_name(&client.undelete_volume(id, name, new_name).await?, out)
}

fn chosen<'v>(deleted: &'v [Volume], which: &str) -> Result<&'v Volume, Error> {
    let operand = Operand {
        text: which,
        attempt: "take back",
        noun: "volume",
        hint: "`layerctl volume ls --deleted` shows what is there.",
    };
    operand.choose(deleted, |one| (&one.id, &one.name))
}
