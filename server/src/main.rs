//! layerd: keeps what containers store on disk, and tells containerd how to mount it.
//!
//! This file reads the command line, sets up logging and turns the outcome into an exit code. The
//! daemon is in `daemon.rs`.

mod api;
mod calls;
mod check;
mod config;
mod content;
mod daemon;
mod ending;
mod fsck;
mod fullness;
mod health;
mod listener;
mod logging;
mod man;
mod metrics;
mod namespace;
mod notify;
mod opening;
mod optional;
mod reaper;
mod starting;
mod tasks;
mod traces;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use tracing::error;

use config::{Config, LogFormat};

/// Storage daemon for containers: a snapshotter for containerd.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Validates the configuration and the host without starting; exits with 1 if layerd could
    /// not run.
    Check {
        #[command(flatten)]
        settings: Settings,
        /// Print JSON objects, one a line, the last with all settings
        #[arg(long)]
        json: bool,
    },
    /// Finds what is wrong under a root that no daemon serves; changes nothing unless told to.
    /// Exits with 1 if problems are left.
    Fsck {
        #[command(flatten)]
        settings: Settings,
        /// Do what is announced behind each problem
        #[arg(long)]
        repair: bool,
        /// Read the files of layers too, and compare them with what was unpacked
        #[arg(long)]
        content: bool,
    },
    /// Puts an export of the records in place of a lost or damaged database. What was there is set
    /// aside, nothing is deleted.
    Restore {
        #[command(flatten)]
        settings: Settings,
        /// Export to take; the newest one under the root unless given
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
    },
    /// Writes the man pages of layerd into a directory.
    #[command(hide = true)]
    Man { dir: PathBuf },
}

/// Settings on the command line win over those of the file.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Configuration file (TOML); none is read unless it is named here, but in a user namespace that of the
    /// user, $XDG_CONFIG_HOME/layerd/config.toml, if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory that holds all data
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Storage driver: overlay, overlay1, aufs, btrfs, devicemapper, native, zfs or memory
    #[arg(long, value_name = "NAME")]
    driver: Option<String>,
    /// Unix socket to serve on
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Unix socket to serve the Container Storage Interface on
    #[arg(long, value_name = "PATH")]
    csi_socket: Option<PathBuf>,
    /// Name of this node in Kubernetes; the host name by default
    #[arg(long, value_name = "NAME")]
    csi_node_id: Option<String>,
    /// Log level: error, warn, info, debug, trace, or a filter such as info,layerd_store=debug
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Log format
    #[arg(long, value_name = "FORMAT", value_enum)]
    log_format: Option<LogFormat>,
}

fn main() -> ExitCode {
    // Whatever we were started with: no more than root may write what layerd makes. The data
    // directory is closed to others as a whole; within it, layers must have their mode from the
    // start, as changing it afterwards is one more thing to wait for.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    #[cfg(all(target_feature = "crt-static", target_env = "gnu"))]
    if let Err(cause) = layerd_mounts::sys::names::look_up_without_modules() {
        logging::complain(&cause);
        return ExitCode::from(2);
    }
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Check { settings, json }) => check::run(&settings, json),
        Some(Command::Fsck {
            settings,
            repair,
            content,
        }) => fsck::run(&settings, repair, content),
        Some(Command::Restore { settings, from }) => fsck::restore(&settings, from.as_deref()),
        Some(Command::Man { dir }) => man::run(Arguments::command(), &dir),
        None => serve(&arguments.settings),
    }
}

fn serve(settings: &Settings) -> ExitCode {
    let config = match Config::load(settings) {
        Ok(config) => config,
        Err(error) => {
            logging::complain(&error);
            return ExitCode::from(2);
        }
    };
    if let Err(error) = logging::start(&config.log) {
        logging::complain(&error);
        return ExitCode::from(2);
    }
    match daemon::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what caused it, on one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.ends_with(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}
