//! `layerctl volume ...`.

pub(super) mod archive;
mod change;
mod create;
mod filter;
mod list;
mod prune;
mod purge;
mod remove;
mod show;
mod usage;
mod watch;

use clap::Subcommand;

use super::Daemon;
use crate::error::Error;
use crate::output::Output;
use crate::text::escape;
use crate::volume::Volume;

/// Keeps data that outlives containers
///
/// A volume is a folder that layerd keeps, with a name of its own. What containers write there
/// stays when they and their images are gone, until the volume is removed; and a removed
/// volume stays in the trash for a week (trash.keep_volumes_secs), from where `volume undelete` takes it back whole.
///
/// Choose by the owner of the data:
///
///   a volume      the application's: databases, uploads, caches that are dear. layerd knows who
///                 uses it, refuses to remove it meanwhile, measures, copies and snapshots it
///   a bind mount  the host's: a folder that exists anyway and that others edit, such as source
///                 code or /etc/ssl. layerd keeps nothing of it and never deletes it; its path
///                 and its owners are the same inside and outside
///   tmpfs         transient: secrets, scratch files, sockets. It is memory, each container has its
///                 own, and all is gone when the container ends. Give it a size
///
/// `volume export` and `import` move a volume to another machine as a tar archive.
///
/// `layerctl mount --help` says how to write them on a command line.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Create),
    Ls(list::Ls),
    Inspect(show::Inspect),
    Show(show::Show),
    Rm(remove::Rm),
    Undelete(remove::Undelete),
    Prune(prune::Args),
    Purge(purge::Args),
    Rename(change::Rename),
    Label(change::Label),
    Update(change::Update),
    Usage(usage::Args),
    Snapshot(create::Snapshot),
    Clone(create::Copy),
    Export(archive::Export),
    Import(archive::Import),
    Watch(watch::Args),
}

pub(crate) async fn run(args: Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    match args.command {
        Command::Create(args) => create::create(args, daemon, out).await,
        Command::Ls(args) => list::ls(args, daemon, out).await,
        Command::Inspect(args) => show::inspect(&args, daemon, out).await,
        Command::Show(args) => show::show(&args, daemon, out).await,
        Command::Rm(args) => remove::rm(&args, daemon, out).await,
        Command::Undelete(args) => remove::undelete(&args, daemon, out).await,
        Command::Purge(args) => purge::run(&args, daemon, out).await,
        Command::Prune(args) => prune::run(args, daemon, out).await,
        Command::Rename(args) => change::rename(&args, daemon, out).await,
        Command::Label(args) => change::label(args, daemon, out).await,
        Command::Update(args) => change::update(args, daemon, out).await,
        Command::Usage(args) => usage::run(&args, daemon, out).await,
        Command::Snapshot(args) => create::snapshot(&args, daemon, out).await,
        Command::Clone(args) => create::copy(args, daemon, out).await,
        Command::Export(args) => archive::export(args, daemon, out).await,
        Command::Import(args) => archive::import(args, daemon, out).await,
        Command::Watch(args) => watch::run(&args, daemon, out).await,
    }
}

/// The whole volume to programs, its name to people and `$(...)`.
fn print_name(volume: &Volume, out: &mut Output) -> Result<(), Error> {
    if out.json {
        return out.object(volume);
    }
    out.line(&escape(&volume.name))
}
