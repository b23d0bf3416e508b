//! `layerctl completions`.

use std::io;

use clap_complete::Shell;
use clap_complete::env::Shells;

use crate::error::Error;
use crate::output::Output;

/// Prints the completions of a shell
///
/// They have the shell ask layerctl, which asks the daemon for names of volumes, snapshots and owners.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<(), Error> {
    let shell = args.shell.to_string();
    let failed = |cause| Error::Io {
        what: format!("write completions for {shell}"),
        cause,
    };
    let shells = Shells::builtins();
    let completer = shells
        .completer(&shell)
        .ok_or_else(|| failed(io::ErrorKind::Unsupported.into()))?;
    let mut script = Vec::new();
    completer
        .write_registration("COMPLETE", "layerctl", "layerctl", "layerctl", &mut script)
        .map_err(failed)?;
    out.raw(&script)
}
