//! `layerctl man`.

use std::path::PathBuf;

use clap::CommandFactory;

use crate::cli::Cli;
use crate::error::Error;
use crate::output::Output;
use crate::text::escape;

/// Writes the man pages of layerctl and its commands into a directory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An existing directory, such as /usr/local/share/man/man1
    dir: PathBuf,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<(), Error> {
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(|cause| Error::Io {
        what: format!("write man pages to {}", args.dir.display()),
        cause,
    })?;
    if !out.json {
        out.line(&escape(&format!("Man pages are in {}", args.dir.display())))?;
    }
    Ok(())
}
