//! `layerctl setup`: what other programs need to know of layerd.

mod devicemapper;
mod kubernetes;
mod main_config;
mod nri;
mod plugin;
mod user;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::Subcommand;

use main_config::Change;

use super::Daemon;
use crate::atomic_file;
use crate::containerd::dropin::{DropIn, Served, host_platform};
use crate::containerd::effective::{Effective, Others};
use crate::containerd::main_file::{self, MainFile};
use crate::containerd::{SNAPSHOTTER, Schema, Version, instance_of};
use crate::error::Error;
use crate::host_file;
use crate::managed_file::{self, Done, Owner};
use crate::output::Output;
use crate::text::escape;

/// Configures other programs to use layerd, and makes a pool for it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Containerd(Containerd),
    Docker(plugin::Docker),
    Podman(plugin::Podman),
    Kubernetes(kubernetes::Kubernetes),
    Nri(nri::Nri),
    Devicemapper(devicemapper::Devicemapper),
}

/// Options of drop-ins for containerd.
#[derive(Debug, clap::Args)]
struct Files {
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

    /// Directory for the drop-in
    #[arg(long, value_name = "DIR", default_value = main_file::DROP_INS)]
    dir: PathBuf,
}

impl Files {
    /// As given, else the installed one.
    fn version(&self) -> Result<Version, Error> {
        self.version.map_or_else(installed, Ok)
    }

    /// Writes a drop-in, and changes the main file with it. Undoes the first if the second fails.
    fn write(
        &self,
        version: Version,
        path: &Path,
        drop_in: &str,
        (change, is_loaded): (&Change, &dyn Fn(&str) -> bool),
        out: &mut Output,
    ) -> Result<Done, Error> {
        if self.config == Path::new(main_file::MAIN) {
            check_installed(version)?;
        }
        let before = host_file::read(path).ok();
        let done = write(path, drop_in)?;
        if let Err(error) = change.apply(&self.config, is_loaded, out) {
            put_back(path, before.as_deref())?;
            return Err(error);
        }
        Ok(done)
    }
}

/// Prints, writes or removes the drop-in that makes layerd a snapshotter of containerd
///
/// Without --write it is printed. With --write it is put into containerd's directory of drop-ins,
/// unless the existing file was edited. If containerd would not read it there, config.toml
/// gets a line that imports the directory: containerd has to accept the new file first, the change
/// is shown, and the old file stays beside it as config.toml.before-layerd. Where there is no
/// config.toml, one is made. The drop-in says again what other files have in the lists that it
/// replaces, such as entries for other snapshotters: run it again after a change there. --remove
/// undoes all of it. containerd must be restarted to notice a change; running containers go on.
#[derive(Debug, clap::Args)]
struct Containerd {
    #[command(flatten)]
    files: Files,

    /// Socket containerd reaches layerd at; that of --address by default
    #[arg(long, value_name = "PATH", value_parser = crate::address::parse)]
    socket: Option<PathBuf>,

    /// Data directory of layerd
    #[arg(
        long,
        value_name = "DIR",
        default_value = main_file::ROOT
    )]
    root: PathBuf,

    /// Let pods with user namespaces share layers (containerd 2.0 and Linux 5.19)
    #[arg(long)]
    remap_ids: bool,

    /// Have image names and layer digests passed on as labels (containerd 2.1)
    #[arg(long)]
    annotations: bool,

    /// Let the layers of an image be unpacked at the same time (containerd 2.4, and `rebase = true`
    /// in layerd's configuration; from 2.2.3 on with a warning, as a pull can succeed there with
    /// nothing unpacked)
    #[arg(long)]
    parallel: bool,

    /// Leave unpacking to containerd's own differ; needed where layerd's configuration has
    /// `unpack.enabled = false`
    #[arg(long)]
    no_unpack: bool,

    /// Also the layerd of layerd@NAME.service, as the snapshotter layerd-NAME, with its default socket and data
    /// directory; for each instance once. --remap-ids and --parallel are for the one without a name
    #[arg(long, value_name = "NAME", value_parser = crate::containerd::instance)]
    instance: Vec<String>,

    /// For the rootless containerd of this user: files below $XDG_CONFIG_HOME/containerd, and the socket and
    /// data directory that a layerd in its user namespace has
    #[arg(long, conflicts_with_all = ["instance", "remap_ids"])]
    user: bool,

    /// Platform to unpack images for; this machine's by default
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
}

pub(crate) fn run(args: Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    match args.command {
        Command::Containerd(args) => containerd(args, daemon, out),
        Command::Docker(args) => plugin::docker(&args, out),
        Command::Podman(args) => plugin::podman(&args, out),
        Command::Kubernetes(args) => kubernetes::run(&args, out),
        Command::Nri(args) => nri::run(args, out),
        Command::Devicemapper(args) => devicemapper::run(&args, out),
    }
}

fn containerd(args: Containerd, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let args = args.of_user()?;
    let (files, restart) = (&args.files, user::restart(args.user));
    let path = files.dir.join("layerd.toml");
    if files.remove {
        return remove(&path, &files.config, restart, out);
    }
    let version = files.version()?;
    let text = read_main(&files.config)?;
    let main = text.as_deref().map(MainFile::parse).transpose();
    let main = main.map_err(|why| main_config::unreadable(&files.config, why))?;
    let change = Change::plan(version, text.as_deref(), &files.config, &path)?;
    let files_read = Effective::read_without(&files.config, Some(&path));
    let others = files_read.map_err(|why| main_config::unreadable(&why.path, why.to_string()))?;
    let drop_in = drop_in(&args, version, main.as_ref(), (others.others, daemon))?;
    let socket = drop_in.served[0].socket.clone();
    if let Some(warning) = drop_in.warning() {
        out.progress(&format!("layerctl: warning: {warning}"))?;
    }
    let drop_in = managed_file::sealed(&drop_in.render());
    if !files.write {
        out.raw(drop_in.as_bytes())?;
        return announce(&change, &files.config);
    }
    let is_loaded = |dump: &str| has_layerd(dump, &socket);
    refuse_to_drop(&args.instance, &path)?;
    let done = files.write(version, &path, &drop_in, (&change, &is_loaded), out)?;
    tell((done, &change), &path, restart, out)
}

/// Refuses to take an instance away by leaving it out: containerd would not know its snapshots any more.
fn refuse_to_drop(instances: &[String], path: &Path) -> Result<(), Error> {
    let written = host_file::read_to_string(path).unwrap_or_default();
    let written = toml::from_str::<toml::Table>(&written).unwrap_or_default();
    let proxies = written.get("proxy_plugins").and_then(toml::Value::as_table);
    let snapshotters = proxies
        .into_iter()
        .flatten()
        .filter(|(_, proxy)| proxy.get("type").and_then(toml::Value::as_str) == Some("snapshot"));
    let names = snapshotters.filter_map(|(name, _)| instance_of(name));
    let left_out: Vec<&str> = names
        .filter(|name| !instances.iter().any(|one| one == name))
        .collect();
    match left_out.first() {
        None => Ok(()),
        Some(first) => Err(Error::Refused {
            what: format!("write {}", path.display()),
            why: format!(
                "it has the instances {}, which are not named",
                left_out.join(", ")
            ),
            hint: format!(
                "Add --instance {first}, or take all away first: layerctl setup containerd --remove"
            ),
        }),
    }
}

/// True for a configuration with layerd as a snapshotter at `socket`.
fn has_layerd(dump: &str, socket: &str) -> bool {
    let file = toml::from_str::<toml::Table>(dump).unwrap_or_default();
    let proxy = file.get("proxy_plugins").and_then(|all| all.get("layerd"));
    let address = proxy.and_then(|proxy| proxy.get("address"));
    address.and_then(toml::Value::as_str) == Some(socket)
}

/// Undoes [`write()`], with an empty directory.
fn put_back(path: &Path, before: Option<&[u8]>) -> Result<(), Error> {
    let undone = match before {
        Some(before) => atomic_file::replace(path, before),
        None => managed_file::remove(path),
    };
    undone.map_err(|cause| failed("put back", path, cause))?;
    if before.is_none() {
        let _ = path.parent().map(fs::remove_dir);
    }
    Ok(())
}

/// The release that starts next must know what the drop-in has in it: an older one may not start.
fn check_installed(version: Version) -> Result<(), Error> {
    match installed() {
        Ok(installed) if !installed.is_same_series(version) => Err(Error::Refused {
            what: format!("write a drop-in for containerd {version}"),
            why: format!("containerd {installed} is installed, and reads it when it starts next"),
            hint: "Leave --version out; after another release is installed, run the command again."
                .to_owned(),
        }),
        _ => Ok(()),
    }
}

fn drop_in(
    args: &Containerd,
    version: Version,
    main: Option<&MainFile>,
    (others, daemon): (Others, &Daemon),
) -> Result<DropIn, Error> {
    let socket = args.socket.as_deref().unwrap_or(&daemon.address);
    let mut served = vec![Served {
        name: SNAPSHOTTER.to_owned(),
        socket: absolute("--socket", socket)?,
        root: absolute("--root", &args.root)?,
    }];
    let mut named = args.instance.clone();
    named.sort();
    named.dedup();
    served.extend(named.iter().map(|name| Served::instance(name)));
    let drop_in = DropIn {
        version,
        schema: Schema::choose(version, main.map(|main| main.schema)),
        served,
        platform: args.platform.clone().unwrap_or_else(host_platform),
        remap_ids: args.remap_ids,
        annotations: args.annotations,
        parallel: args.parallel,
        differ: !args.no_unpack,
        others,
    };
    drop_in
        .check()
        .map_err(|why| invalid(why, "Leave the option out."))?;
    Ok(drop_in)
}

fn invalid(why: String, hint: &str) -> Error {
    Error::Invalid {
        what: "make the drop-in".to_owned(),
        why,
        hint: hint.to_owned(),
    }
}

/// containerd has another working directory, and its configuration holds text only.
fn absolute(option: &str, path: &Path) -> Result<String, Error> {
    match path.to_str() {
        Some(text) if path.is_absolute() && !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(invalid(
            format!("{option} is {}", path.display()),
            "An absolute path without control characters is wanted.",
        )),
    }
}

/// Asks the containerd on the search path.
fn installed() -> Result<Version, Error> {
    let what = || "find out containerd's version".to_owned();
    let hint = "Name it with --version, such as --version 2.1.".to_owned();
    let output = Process::new("containerd")
        .arg("--version")
        .output()
        .map_err(|cause| Error::Invalid {
            what: what(),
            why: format!("run `containerd --version`: {cause}"),
            hint: hint.clone(),
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Version::from_output(&text).map_err(|why| Error::Invalid {
        what: what(),
        why,
        hint,
    })
}

fn read_main(path: &Path) -> Result<Option<String>, Error> {
    match host_file::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(failed("read", path, cause)),
    }
}

fn write(path: &Path, text: &str) -> Result<Done, Error> {
    match managed_file::owner(path).map_err(|cause| failed("read", path, cause))? {
        Owner::Us(old) if old == text => return Ok(Done::Already),
        Owner::Us(_) | Owner::Absent => {}
        Owner::Foreign(old) => {
            return Err(edited("write", path, &managed_file::difference(&old, text)));
        }
    }
    atomic_file::replace(path, text.as_bytes()).map_err(|cause| failed("write", path, cause))?;
    Ok(Done::Now)
}

/// Removes the drop-in first: a config.toml that imports nothing is harmless.
fn remove(path: &Path, main: &Path, restart: &str, out: &mut Output) -> Result<(), Error> {
    let name = escape(&path.display().to_string());
    let removed = match managed_file::owner(path).map_err(|cause| failed("read", path, cause))? {
        Owner::Absent => false,
        Owner::Foreign(_) => return Err(edited("remove", path, "")),
        Owner::Us(_) => true,
    };
    if removed {
        managed_file::remove(path).map_err(|cause| failed("remove", path, cause))?;
        out.line(&format!("Removed {name}"))?;
    } else {
        out.line(&format!("There is no {name}"))?;
    }
    main_config::undo(main, path, out)?;
    // Only an empty directory goes.
    let _ = path.parent().map(fs::remove_dir);
    match removed {
        true => out.line(restart),
        false => Ok(()),
    }
}

fn failed(attempt: &str, path: &Path, cause: io::Error) -> Error {
    Error::Io {
        what: format!("{attempt} {}", path.display()),
        cause,
    }
}

fn edited(attempt: &str, path: &Path, difference: &str) -> Error {
    let lines: Vec<String> = difference.lines().map(escape).collect();
    let would = if lines.is_empty() {
        ""
    } else {
        "\nThis would have changed:\n"
    };
    Error::Refused {
        what: format!("{attempt} {}", path.display()),
        why: "it was written or edited by another program".to_owned(),
        hint: format!(
            "Move it away and try again, or keep it and change it by hand.{would}{}",
            lines.join("\n")
        ),
    }
}

fn tell(
    (done, change): (Done, &Change),
    path: &Path,
    restart: &str,
    out: &mut Output,
) -> Result<(), Error> {
    let name = escape(&path.display().to_string());
    match done {
        Done::Already => out.line(&format!("{name} is up to date"))?,
        Done::Now => out.line(&format!("Wrote {name}"))?,
    }
    if done == Done::Already && *change == Change::Nothing {
        return Ok(());
    }
    out.line(&format!(
        "{restart}\n\
         Then `ctr plugins ls` lists layerd, and `ctr images pull --snapshotter layerd` uses it.",
    ))
}

/// Beside a printed drop-in the change of config.toml goes to standard error, so that the output
/// can be saved as it is.
fn announce(change: &Change, main: &Path) -> Result<(), Error> {
    if *change == Change::Nothing {
        return Ok(());
    }
    let name = escape(&main.display().to_string());
    let text = format!(
        "containerd would not read the drop-in yet. --write also changes {name}:\n{}",
        told_lines(&change.patch())
    );
    io::stderr()
        .write_all(text.as_bytes())
        .map_err(Error::Output)
}

/// Lines that are safe to print.
fn told_lines(text: &str) -> String {
    text.lines().map(|line| escape(line) + "\n").collect()
}

#[cfg(test)]
mod tests;
