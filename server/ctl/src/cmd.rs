//! The commands, one file a noun.

pub(crate) mod attach;
pub(crate) mod attachments;
pub(crate) mod backup;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod du;
pub(crate) mod events;
pub(crate) mod fsck;
pub(crate) mod info;
pub(crate) mod layer;
pub(crate) mod man;
pub(crate) mod mount;
pub(crate) mod oci_apply;
pub(crate) mod oci_hook;
pub(crate) mod orphans;
pub(crate) mod report;
pub(crate) mod restore;
pub(crate) mod setup;
pub(crate) mod snapshot;
pub(crate) mod trash;
pub(crate) mod version;
pub(crate) mod volume;
pub(crate) mod why;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{Cli, Command};
use crate::client::Client;
use crate::error::Error;
use crate::output::Output;

/// Time for a daemon that is known to be down: one that was started by hand answers within it.
const DOWN: Duration = Duration::from_secs(2);

/// Where the daemon is and how long it may take.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) address: PathBuf,
    timeout: Duration,
}

impl Daemon {
    /// The same, for a daemon that is known to be down.
    fn expected_down(&self) -> Self {
        Self {
            address: self.address.clone(),
            timeout: self.timeout.min(DOWN),
        }
    }

    async fn connect(&self) -> Result<Client, Error> {
        Client::connect(&self.address, self.timeout).await
    }
}

pub(crate) fn run(cli: Cli, out: &mut Output) -> Result<(), Error> {
    let daemon = Daemon {
        address: cli.address,
        timeout: cli.timeout,
    };
    match cli.command {
        Command::Info(args) => wait(info::run(&args, &daemon, out)),
        Command::Snapshot(args) => wait(snapshot::run(args, &daemon, out)),
        Command::Layer(args) => wait(layer::run(args, &daemon, out)),
        Command::Volume(args) => wait(volume::run(args, &daemon, out)),
        Command::Mount(args) => wait(mount::run(args, &daemon, out)),
        Command::Attach(args) => wait(attach::attach(args, &daemon, out)),
        Command::Detach(args) => wait(attach::detach(args, &daemon, out)),
        Command::Attachments(args) => wait(attachments::run(args, &daemon, out)),
        Command::WhoUses(args) => wait(attachments::who_uses(&args, &daemon, out)),
        Command::OciApply(args) => wait(oci_apply::run(args, &daemon, out)),
        Command::OciHook(args) => wait(oci_hook::run(args, &daemon)),
        Command::Doctor(args) => wait(doctor::run(&args, &daemon, out)),
        Command::Events(args) => wait(events::run(&args, &daemon, out)),
        Command::Du(args) => wait(du::run(&args, &daemon, out)),
        Command::Orphans(args) => wait(orphans::run(&args, &daemon, out)),
        Command::Report(args) => wait(report::run(&args, &daemon, out)),
        Command::Why(args) => wait(why::run(&args, &daemon, out)),
        Command::Trash(args) => wait(trash::run(args, &daemon, out)),
        Command::Fsck(args) => wait(fsck::run(&args, &daemon, out)),
        Command::Backup(args) => wait(backup::run(&args, &daemon, out)),
        Command::Restore(args) => wait(restore::run(&args, &daemon, out)),
        Command::Version(args) => wait(version::run(&args, &daemon, out)),
        Command::Setup(args) => setup::run(args, &daemon, out),
        Command::Completions(args) => completions::run(&args, out),
        Command::Man(args) => man::run(&args, out),
    }
}

/// Runs a conversation with the daemon on this thread.
pub(crate) fn wait<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| Error::Io {
            what: "start".to_owned(),
            cause,
        })?
        .block_on(work)
}
