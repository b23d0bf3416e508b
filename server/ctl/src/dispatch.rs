//! The command that a command line names, run.

use crate::cli::{Cli, Command};
use crate::client::wait;
use crate::cmd::{
    Daemon, attach, attachments, backup, completions, doctor, du, events, fsck, import, info,
    layer, man, mount, oci_apply, oci_hook, orphans, report, restore, setup, snapshot, top, trash,
    version, volume, why,
};
use crate::error::Error;
use crate::help;
use crate::output::Output;

pub(crate) fn run(cli: Cli, out: &mut Output) -> Result<(), Error> {
    let daemon = Daemon::new(cli.address, cli.timeout);
    match cli.command {
        Command::Info(args) => wait(info::run(&args, &daemon, out)),
        Command::Snapshot(args) => wait(snapshot::run(args, &daemon, out)),
        Command::Layer(args) => wait(layer::run(args, &daemon, out)),
        Command::Import(args) => wait(import::run(args, &daemon, out)),
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
        Command::Top(args) => wait(top::run(&args, &daemon, out)),
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
        Command::Man(args) => man::run(&args, help::command(), out),
    }
}
