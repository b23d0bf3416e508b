//! `layerctl setup nri`: NRI in containerd, for `layerd-nri`.

use std::fs;
use std::path::{Path, PathBuf};

use super::main_config::{self, Change};
use super::{announce, check_installed, installed, put_back, read_main, write};
use crate::containerd::effective::{Effective, Unreadable};
use crate::containerd::main_file::{self, MainFile};
use crate::containerd::nri::{self, State};
use crate::containerd::{Schema, Version};
use crate::error::Error;
use crate::managed_file::{self, Done};
use crate::output::Output;
use crate::text::escape;

/// Prints, writes or removes the drop-in that turns NRI on in containerd, for layerd-nri
///
/// containerd 2 has NRI on unless its configuration turns it off: then there is no file to write.
/// containerd 1.7 has it off, 1.6 has none. The drop-in is layerd-nri.toml in containerd's directory
/// of drop-ins, and repeats what the configuration says of NRI otherwise. As with `setup containerd`,
/// an edited file stays, config.toml gets a line that imports the directory where it needs one, and
/// --remove undoes all of it. containerd must be restarted to notice a change; running containers go on.
#[derive(Debug, clap::Args)]
pub(super) struct Nri {
    /// containerd's version, such as 1.7 or 2.1.4; asked of `containerd --version` by default
    #[arg(long, value_name = "VERSION", value_parser = Version::parse)]
    version: Option<Version>,

    /// Write the drop-in, unless it was edited
    #[arg(long, conflicts_with = "remove")]
    write: bool,

    /// Remove the drop-in, and what --write did to config.toml
    #[arg(long)]
    remove: bool,

    /// containerd's own configuration
    #[arg(long, value_name = "FILE", default_value = main_file::MAIN)]
    config: PathBuf,

    /// Directory for the drop-in, layerd-nri.toml
    #[arg(long, value_name = "DIR", default_value = main_file::DROP_INS)]
    dir: PathBuf,
}

const NEXT: &str = "Then `systemctl enable --now layerd-nri.service` gives containers volumes.";

pub(super) fn run(args: Nri, out: &mut Output) -> Result<(), Error> {
    let path = args.dir.join("layerd-nri.toml");
    if args.remove {
        return super::remove(&path, &args.config, out);
    }
    let version = match args.version {
        Some(version) => version,
        None => installed()?,
    };
    let files = Effective::read(&args.config).map_err(|why| unreadable(&why))?;
    match nri::state(version, &files, Some(&path)) {
        State::Off => {}
        State::On => {
            return out.line(&format!(
                "containerd {version} has NRI on; there is no file to write.\n{NEXT}"
            ));
        }
        State::Unknown => return Err(unknown(version)),
        State::Barred => return Err(barred(&args.config)),
    }
    let text = read_main(&args.config)?;
    let main = text.as_deref().map(MainFile::parse).transpose();
    let main = main.map_err(|why| main_config::unreadable(&args.config, why))?;
    let schema = Schema::choose(version, main.map(|main| main.schema));
    let drop_in = managed_file::sealed(&nri::drop_in(version, schema, &files, &path));
    let change = Change::plan(version, text.as_deref(), &args.config, &path)?;
    if !args.write {
        out.raw(drop_in.as_bytes())?;
        return announce(&change, &args.config);
    }
    if args.config == Path::new(main_file::MAIN) {
        check_installed(version)?;
    }
    let before = fs::read(&path).ok();
    let done = write(&path, &drop_in)?;
    if let Err(error) = change.apply(&args.config, nri::is_on, out) {
        put_back(&path, before.as_deref())?;
        return Err(error);
    }
    let name = escape(&path.display().to_string());
    if done == Done::Already && change == Change::Nothing {
        return out.line(&format!("{name} is up to date"));
    }
    out.line(&format!(
        "Wrote {name}\nRestart containerd: systemctl restart containerd\n{NEXT}"
    ))
}

fn unreadable(why: &Unreadable) -> Error {
    main_config::unreadable(&why.path, why.to_string())
}

fn unknown(version: Version) -> Error {
    Error::Invalid {
        what: "turn NRI on".to_owned(),
        why: format!("containerd {version} has none; 1.7 is the first that has"),
        hint: "Use the OCI hooks: docs/runtimes.md has them.".to_owned(),
    }
}

fn barred(main: &Path) -> Error {
    Error::Refused {
        what: "turn NRI on".to_owned(),
        why: format!(
            "`disabled_plugins` in {} or a file that it imports names it",
            main.display()
        ),
        hint: "Take nri out of that list: no drop-in can.".to_owned(),
    }
}
