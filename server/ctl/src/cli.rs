//! The command line. The help texts here are also the man pages; `help.rs` puts them in order.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::address;
use crate::cmd::{
    attach, attachments, backup, completions, doctor, du, events, fsck, import, info, layer, man,
    mount, oci_apply, oci_hook, orphans, report, restore, setup, snapshot, top, trash, version,
    volume, why,
};
use crate::human;

/// Looks into layerd and changes what it keeps
#[derive(Debug, Parser)]
#[command(
    name = "layerctl",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    /// Socket of the daemon
    #[arg(
        long,
        global = true,
        env = "LAYERD_ADDRESS",
        hide_env_values = true,
        value_name = "PATH",
        default_value = address::usual(),
        value_parser = address::parse
    )]
    pub(crate) address: PathBuf,

    /// Columns (table), or one object a line (json)
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORM",
        hide_possible_values = true,
        hide_default_value = true,
        default_value = "table"
    )]
    pub(crate) output: Format,

    /// Never colour the output, as if NO_COLOR were set
    #[arg(long, global = true)]
    pub(crate) no_color: bool,

    /// Limit for each answer, 0 for none (30s)
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        hide_default_value = true,
        default_value = "30s",
        value_parser = human::parse_duration
    )]
    pub(crate) timeout: Duration,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Info(info::Args),
    #[command(alias = "snapshots", alias = "snap")]
    Snapshot(snapshot::Args),
    #[command(alias = "volumes", alias = "vol")]
    Volume(volume::Args),
    #[command(alias = "layers")]
    Layer(layer::Args),
    Import(import::Args),
    Mount(mount::Args),
    Attach(attach::Attach),
    Detach(attach::Detach),
    Attachments(attachments::Args),
    WhoUses(attachments::WhoUses),
    OciApply(oci_apply::Args),
    OciHook(oci_hook::Args),
    Doctor(doctor::Args),
    Du(du::Args),
    Top(top::Args),
    Report(report::Args),
    Events(events::Args),
    Orphans(orphans::Args),
    Why(why::Args),
    Trash(trash::Args),
    Fsck(fsck::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Version(version::Args),
    Setup(setup::Args),
    Completions(completions::Args),
    Man(man::Args),
}
