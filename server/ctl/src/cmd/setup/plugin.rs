//! `layerctl setup docker` and `podman`: where they find the volume plugin.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::{absolute, edited, failed};
use crate::atomic_file;
use crate::error::Error;
use crate::host_file;
use crate::managed_file;
use crate::output::Output;
use crate::text::escape;

/// Where systemd holds the plugin's socket, and Docker looks for it by itself.
const SOCKET: &str = "/run/docker/plugins/layerd.sock";

/// Prints, writes or removes the file that tells Docker where the volume plugin is
///
/// Docker finds a plugin whose socket lies in /run/docker/plugins, where layerd-docker.socket has it, by
/// itself: then there is no file to write. For another socket (`docker.socket` in layerd's
/// configuration) it is layerd.spec in /etc/docker/plugins, a line with the socket's address.
#[derive(Debug, clap::Args)]
pub(super) struct Docker {
    #[command(flatten)]
    common: Common,

    /// Directory for layerd.spec
    #[arg(long, value_name = "DIR", default_value = "/etc/docker/plugins")]
    dir: PathBuf,
}

/// Prints, writes or removes the drop-in that makes layerd a volume plugin of Podman
///
/// It is layerd.conf in /etc/containers/containers.conf.d, which Podman 4 and 5 read at each command.
/// Volumes that others made are listed after `podman volume reload`.
#[derive(Debug, clap::Args)]
pub(super) struct Podman {
    #[command(flatten)]
    common: Common,

    /// Directory for layerd.conf
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/etc/containers/containers.conf.d"
    )]
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Socket of the volume plugin
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,

    /// Write the file, unless it was edited
    #[arg(long, conflicts_with = "remove")]
    write: bool,

    /// Remove the file, unless it was edited
    #[arg(long)]
    remove: bool,
}

/// A file of layerd's in another program's configuration.
struct Managed {
    path: PathBuf,
    /// True for a text that layerd wrote.
    is_ours: fn(&str) -> bool,
}

pub(super) fn docker(args: &Docker, out: &mut Output) -> Result<(), Error> {
    let file = Managed {
        path: args.dir.join("layerd.spec"),
        is_ours: is_spec,
    };
    if args.common.remove {
        return file.remove(out);
    }
    let socket = absolute("--socket", &args.common.socket)?;
    if socket == SOCKET {
        return out.line(&format!(
            "Docker finds {SOCKET} by itself.\n\
             Where it is missing: systemctl enable layerd-docker.socket && systemctl restart layerd.service\n\
             Then `docker volume create --driver layerd NAME` uses it."
        ));
    }
    let text = format!("unix://{socket}\n");
    if !args.common.write {
        return out.raw(text.as_bytes());
    }
    file.write(&text, out)?;
    out.line("Docker reads it when the driver layerd is used first.")
}

pub(super) fn podman(args: &Podman, out: &mut Output) -> Result<(), Error> {
    let file = Managed {
        path: args.dir.join("layerd.conf"),
        is_ours: managed_file::is_sealed,
    };
    if args.common.remove {
        return file.remove(out);
    }
    let socket = absolute("--socket", &args.common.socket)?;
    let mut document = toml_edit::DocumentMut::new();
    document["engine"] = toml_edit::Item::Table(toml_edit::Table::new());
    document["engine"]["volume_plugins"] = toml_edit::Item::Table(toml_edit::Table::new());
    document["engine"]["volume_plugins"]["layerd"] = toml_edit::value(socket);
    let text = managed_file::sealed(&document.to_string());
    if !args.common.write {
        return out.raw(text.as_bytes());
    }
    file.write(&text, out)?;
    out.line("Then `podman volume create --driver layerd NAME` uses it.")
}

/// The one line that `setup docker` writes; a spec file has no room for a mark.
fn is_spec(text: &str) -> bool {
    let path = text
        .strip_prefix("unix://")
        .and_then(|rest| rest.strip_suffix('\n'));
    path.is_some_and(|path| path.starts_with('/') && !path.contains(char::is_control))
}

impl Managed {
    fn read(&self) -> Result<Option<String>, Error> {
        match host_file::read(&self.path) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(failed("read", &self.path, cause)),
        }
    }

    fn write(&self, text: &str, out: &mut Output) -> Result<(), Error> {
        let name = escape(&self.path.display().to_string());
        match self.read()? {
            Some(old) if old == text => return out.line(&format!("{name} is up to date")),
            Some(old) if !(self.is_ours)(&old) => {
                return Err(edited(
                    "write",
                    &self.path,
                    &managed_file::difference(&old, text),
                ));
            }
            Some(_) | None => {}
        }
        let written = atomic_file::replace(&self.path, text.as_bytes());
        written.map_err(|cause| failed("write", &self.path, cause))?;
        out.line(&format!("Wrote {name}"))
    }

    fn remove(&self, out: &mut Output) -> Result<(), Error> {
        let name = escape(&self.path.display().to_string());
        match self.read()? {
            None => return out.line(&format!("There is no {name}")),
            Some(old) if !(self.is_ours)(&old) => return Err(edited("remove", &self.path, "")),
            Some(_) => {}
        }
        let removed = managed_file::remove(&self.path);
        removed.map_err(|cause| failed("remove", &self.path, cause))?;
        forget_empty(&self.path)
            .map_err(|cause| failed("remove the folder of", &self.path, cause))?;
        out.line(&format!("Removed {name}"))
    }
}

/// Removes the two directories that writing may have made, if they are empty.
fn forget_empty(path: &Path) -> io::Result<()> {
    for dir in path.ancestors().skip(1).take(2) {
        match fs::remove_dir(dir) {
            Err(cause) if cause.kind() == ErrorKind::DirectoryNotEmpty => return Ok(()),
            outcome => outcome?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_of_ours_is_a_line_with_a_unix_socket() {
        assert!(is_spec("unix:///run/layerd/docker.sock\n"));
        for other in [
            "",
            "unix:///a\n# mine\n",
            "unix://a\n",
            "tcp://host:1\n",
            "unix:///a",
        ] {
            assert!(!is_spec(other), "{other:?}");
        }
    }
}
