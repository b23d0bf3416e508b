//! `layerctl setup nri`: NRI in containerd, for `layerd-nri`.

use std::path::Path;

use super::main_config::{self, Change};
use super::{Files, announce, read_main, user};
use crate::containerd::effective::{Effective, Unreadable};
use crate::containerd::main_file::MainFile;
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
    #[command(flatten)]
    files: Files,
}

const NEXT: &str = "Then `systemctl enable --now layerd-nri.service` gives containers volumes.";

pub(super) fn run(args: Nri, out: &mut Output) -> Result<(), Error> {
    let options = &args.files;
    let path = options.dir.join("layerd-nri.toml");
    if options.remove {
        return super::remove(&path, &options.config, user::restart(false), out);
    }
    let version = options.version()?;
    let files = Effective::read(&options.config).map_err(|why| unreadable(&why))?;
    match nri::state(version, &files, Some(&path)) {
        State::Off => {}
        State::On => {
            return out.line(&format!(
                "containerd {version} has NRI on; there is no file to write.\n{NEXT}"
            ));
        }
        State::Unknown => return Err(unknown(version)),
        State::Barred => return Err(barred(&options.config)),
    }
    let text = read_main(&options.config)?;
    let main = text.as_deref().map(MainFile::parse).transpose();
    let main = main.map_err(|why| main_config::unreadable(&options.config, why))?;
    let schema = Schema::choose(version, main.map(|main| main.schema));
    let drop_in = managed_file::sealed(&nri::drop_in(version, schema, &files, &path));
    let change = Change::plan(version, text.as_deref(), &options.config, &path)?;
    if !options.write {
        out.raw(drop_in.as_bytes())?;
        return announce(&change, &options.config);
    }
    let done = options.write(version, &path, &drop_in, (&change, &nri::is_on), out)?;
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
