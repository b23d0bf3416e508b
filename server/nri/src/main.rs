//! `layerd-nri`: a plugin of NRI, the interface by which containerd and CRI-O let others adjust containers.
//! Containers get the volumes that an annotation of theirs or of their pod asks for.
//!
//! A client of layerd as any other. The runtime goes on without a plugin that is not there; that is said in
//! docs/runtimes.md.

mod annotation;
mod layerd;
mod mux;
mod plugin;
mod releases;
mod session;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};
use sd_notify::NotifyState;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::layerd::Layerd;
use crate::plugin::Plugin;
use crate::session::Identity;

/// Pause before the runtime is connected to again.
const RETRY: Duration = Duration::from_secs(1);

/// Gives containers of containerd and CRI-O layerd's volumes, as a plugin of NRI
///
/// The annotation volumes.layerd.io/CONTAINER of a pod, or of the container, has a value of --mount a line,
/// as `layerctl attach --mount` takes it:
///
///   metadata:
///     annotations:
///       volumes.layerd.io/web: |
///         type=volume,src=data,dst=/data
///         type=tmpfs,dst=/cache
///
/// They are attached when the container is created, and let go when it is removed. The owner is
/// container:INSTANCE:ID. If layerd refuses, the container is not created, and the pod's events say why.
#[derive(Debug, Parser)]
#[command(name = "layerd-nri", version, verbatim_doc_comment)]
struct Arguments {
    /// Socket of layerd
    #[arg(long, value_name = "PATH", default_value = "/run/layerd/layerd.sock")]
    address: PathBuf,

    /// Socket of the runtime's NRI
    #[arg(long, value_name = "PATH", default_value = "/var/run/nri/nri.sock")]
    socket: PathBuf,

    /// Begin of the ids of owners; each runtime of a machine needs another
    #[arg(long, value_name = "NAME", default_value = "nri", value_parser = instance)]
    instance: String,

    /// Place among the runtime's plugins, two digits: they are called in ascending order
    #[arg(long, value_name = "NN", default_value = "50", value_parser = index)]
    index: String,

    /// Accept bind mounts. Without it they are refused: the author of a pod may be a user who may not read
    /// the host's files
    #[arg(long)]
    allow_binds: bool,

    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes the man page, for packagers
    #[command(hide = true)]
    Man {
        /// An existing directory
        dir: PathBuf,
    },
}

fn instance(text: &str) -> Result<String, &'static str> {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match (1..=64).contains(&text.len()) && text.chars().all(is_fit) {
        // Their containers are in no list of the runtime's, and would be let go.
        true if text == "oci" => {
            Err("it is the one of containers with the hooks of `layerctl oci-hook`")
        }
        true => Ok(text.to_owned()),
        false => Err("1 to 64 letters, digits, dots, hyphens and underscores"),
    }
}

fn index(text: &str) -> Result<String, &'static str> {
    match text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Ok(text.to_owned()),
        false => Err("two digits, such as 05"),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Man { dir }) = &arguments.command {
        return man(dir);
    }
    let filter = match EnvFilter::try_new(&arguments.log_level) {
        Ok(filter) => filter,
        Err(cause) => {
            eprintln!("layerd-nri: --log-level: {cause}");
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = runtime.and_then(|runtime| runtime.block_on(run(&arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("layerd-nri: {cause}");
            ExitCode::FAILURE
        }
    }
}

/// Works until SIGTERM or SIGINT.
async fn run(arguments: &Arguments) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let layerd = Layerd::new(&arguments.address, &arguments.instance);
    let plugin = Arc::new(Plugin::new(layerd, arguments.allow_binds));
    tell(NotifyState::Ready);
    tokio::select! {
        () = serve(arguments, &plugin) => {}
        () = plugin.releases.run(&plugin.layerd) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Tells systemd, if it started this program. `layerctl doctor` reads the status.
fn tell(state: NotifyState<'_>) {
    if let Err(cause) = sd_notify::notify(&[state]) {
        warn!(%cause, "tell systemd about the state");
    }
}

/// Connects to the runtime again and again. A reason is logged once while it lasts.
async fn serve(arguments: &Arguments, plugin: &Arc<Plugin>) {
    let identity = Identity {
        name: "layerd".to_owned(),
        index: arguments.index.clone(),
    };
    let mut last = String::new();
    loop {
        let reason = match UnixStream::connect(&arguments.socket).await {
            Err(cause) => format!("connect to {}: {cause}", arguments.socket.display()),
            Ok(socket) => {
                last.clear();
                match session::run(socket, &identity, plugin).await {
                    Ok(()) => "the runtime closed the connection".to_owned(),
                    Err(cause) => with_causes(&cause),
                }
            }
        };
        if reason != last {
            info!(reason, "not registered; trying on");
            tell(NotifyState::Status(&format!("not registered: {reason}")));
            last = reason;
        }
        sleep(RETRY).await;
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn man(dir: &Path) -> ExitCode {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    let page = clap_mangen::Man::new(command).section("8").manual("layerd");
    match page.generate_to(dir) {
        Ok(_) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!(
                "layerd-nri: write the man page to {}: {cause}",
                dir.display()
            );
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::instance;

    #[test]
    fn an_instance_is_none_of_the_hooks() {
        for good in ["nri", "crio-2", "a.b_c"] {
            assert_eq!(instance(good).as_deref(), Ok(good));
        }
        for bad in ["", "a:b", "oci"] {
            assert!(instance(bad).is_err(), "{bad}");
        }
    }
}
