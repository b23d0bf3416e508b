//! Gathers what the doctor checks. A fact that cannot be had is a finding of its own; nothing here
//! fails.

mod containerd;
mod host;
mod nri;
mod plugin;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use layerd_mounts::mountinfo;
use layerd_proto::layerd::v1::ListVolumesRequest;
use layerd_proto::layerd::v1::{Health, InfoResponse, Removed};
use nix::sys::stat::{major, minor};
use nix::sys::statvfs::statvfs;

use super::{Args, Daemon};
use crate::client::Client;
use crate::cmd::du;
use crate::containerd::instance_at;
use crate::doctor::mounts::{self, Layers};
use crate::doctor::{Action, Finding, Severity, daemon as checks, files, quoted, unit, volumes};
use crate::error::Error;

const DEFAULT_SOCKET: &str = "/run/layerd/layerd.sock";
const MOUNTS: &str = "mounts";

type Settings = BTreeMap<String, String>;

/// Everything that was found, troubles first, the worst before the others.
pub(super) async fn findings(args: &Args, daemon: &Daemon, now: i64) -> Vec<Finding> {
    let (units, is_down) = host::units(daemon).await;
    let daemon = match is_down {
        true => &daemon.expected_down(),
        false => daemon,
    };
    let mut answered = ask(daemon).await;
    let info = answered.as_ref().ok().map(|(_, info)| info);
    let health = info.and_then(|info| info.health.clone());
    let file = host::file(args, health.as_ref());
    let checked = host::check(file.as_deref(), health.as_ref(), daemon.timeout).await;
    let mut found = Vec::new();
    let mut settings = host::compare(checked, file.as_deref(), health.as_ref(), &mut found);
    if let Some(info) = info.filter(|info| !info.root.is_empty()) {
        // A daemon without records has no settings to tell, and a root of its command line all the same.
        settings.insert("root".to_owned(), info.root.clone());
    }
    let can_start = !is_down && found.iter().all(|one| one.severity < Severity::Error);
    found.insert(0, kernel());
    match &mut answered {
        Ok((client, info)) => {
            found.insert(0, checks::version(info, env!("CARGO_PKG_VERSION")));
            found.extend(ask_more(client, info, now).await);
        }
        Err(error) => {
            found.insert(0, unreachable(error, &daemon.address, can_start));
            found.extend(disk(&settings));
        }
    }
    let drop_in = containerd::drop_in(args);
    let own = [file.as_deref(), drop_in.as_deref()];
    found.extend(look_at_files(&own, &daemon.address, &settings));
    let client = answered.as_mut().ok().map(|(client, _)| client);
    found.extend(containerd::findings(args, daemon, &settings, client, now).await);
    found.extend(units);
    found.extend(plugin::finding(&settings, daemon.timeout).await);
    found.extend(host::csi(&settings, daemon.timeout).await);
    found.extend(nri::finding(args, daemon.timeout).await);
    address(&mut found, &daemon.address);
    if !host::is_booted() {
        without_systemd(&mut found);
    }
    found.sort_by_key(|one| std::cmp::Reverse(one.severity));
    found
}

/// Commands reach the daemon that was asked, and its units.
fn address(found: &mut [Finding], socket: &Path) {
    if socket == Path::new(DEFAULT_SOCKET) {
        return;
    }
    if let Some(name) = instance_at(socket) {
        for finding in &mut *found {
            unit::of_instance(finding, &name);
        }
    }
    let with = format!(
        "layerctl --address {} ",
        quoted(&socket.display().to_string())
    );
    for finding in found {
        finding.fix = finding.fix.replace("layerctl ", &with);
        let quoted = format!("`{with}");
        finding.advice = finding.advice.replace("`layerctl ", &quoted);
        finding.impact = finding.impact.replace("`layerctl ", &quoted);
    }
}

/// Where systemd does not run, its commands are no fix.
fn without_systemd(found: &mut [Finding]) {
    for finding in found
        .iter_mut()
        .filter(|one| one.fix.contains("systemctl "))
    {
        let fix = std::mem::take(&mut finding.fix);
        finding.fix_name.clear();
        finding.safe = false;
        finding.advice =
            format!("Do what `{fix}` does where systemd runs: this host has something else.");
    }
}

/// The daemon's description of itself.
async fn ask(daemon: &Daemon) -> Result<(Client, InfoResponse), Error> {
    let mut client = daemon.connect().await?;
    let info = client.info().await?;
    Ok((client, info))
}

fn unreachable(error: &Error, socket: &Path, can_start: bool) -> Finding {
    let action = if !can_start {
        Action::advice("Mend first what keeps layerd from starting, which is named here, too.")
    } else if matches!(error, Error::TimedOut { .. }) {
        Action::advice(
            "`journalctl -u layerd` says what it waits for; systemd's watchdog starts it anew if it hangs.",
        )
    } else if host::is_booted()
        && (socket == Path::new(DEFAULT_SOCKET) || instance_at(socket).is_some())
    {
        Action::safe("start", "systemctl restart layerd.socket layerd.service")
    } else {
        Action::advice("Start it, or name its socket with --address.")
    };
    let impact = "No container starts and no image is pulled; those that run go on. Records, trash and attachments were \
                  not looked at: `layerd fsck` looks at the records of a daemon that is down.";
    Finding::error("daemon", error.to_string(), impact, action)
}

fn kernel() -> Finding {
    let name = nix::sys::utsname::uname();
    let release = name.map(|name| name.release().to_string_lossy().into_owned());
    Finding::ok("kernel", format!("Linux {}", release.unwrap_or_default()))
}

/// Facts from a daemon that answers.
async fn ask_more(client: &mut Client, info: &InfoResponse, now: i64) -> Vec<Finding> {
    let mut found = checks::findings(info, &[], now);
    // Without records there is nothing more to ask.
    if info.driver.is_empty() {
        return found;
    }
    if found
        .iter()
        .any(|one| one.is_trouble() && matches!(one.check.as_str(), "space" | "inodes"))
    {
        let holders = du::largest(client).await.unwrap_or_default();
        found = checks::findings(info, &holders, now);
    }
    match client.fsck(false).await {
        Ok(problems) => found.extend(checks::records(&problems)),
        Err(error) => found.push(unasked("records and disk", &error)),
    }
    found.extend(match look_at_mounts(client, Path::new(&info.root)).await {
        Ok(some) => mounts::or_well(some, "none is left over, and no attachment lacks its own"),
        Err(error) => vec![unasked(MOUNTS, &error)],
    });
    match client.volumes(ListVolumesRequest::default()).await {
        Ok(all) => found.extend(volumes::findings(&all, Path::new(&info.root))),
        Err(error) => found.push(unasked("volumes", &error)),
    }
    found
}

fn unasked(check: &str, error: &Error) -> Finding {
    let action = Action::advice("`journalctl -u layerd -p warning` may say why.");
    Finding::error(check, error.to_string(), "It was not looked at.", action)
}

async fn look_at_mounts(client: &mut Client, root: &Path) -> Result<Vec<Finding>, Error> {
    let failed = |cause: layerd_mounts::Error| Error::Io {
        what: "read the mount table".to_owned(),
        cause: std::io::Error::other(cause),
    };
    // Before the table: who removes a snapshot in order unmounts it first.
    let removed = client.trash().await?.into_iter();
    let layer = |one: Removed| {
        let Removed { id, .. } = one;
        // One of the two is there, the second of a layer that is held to a size.
        let upper = [format!("l/{id}"), format!("c/{id}/data/u")];
        upper.map(|upper| (root.join(upper), id.clone()))
    };
    let removed: BTreeMap<PathBuf, String> = removed.flat_map(layer).collect();
    let before = mountinfo::read().map_err(failed)?;
    let attachments = client.attachments(None, String::new()).await?;
    let after = mountinfo::read().map_err(failed)?;
    let is_layer = |path: &Path| !removed.contains_key(path) && path.symlink_metadata().is_ok();
    let layers = Layers {
        root,
        is_layer: &is_layer,
        removed: &removed,
        running: &running(),
    };
    let mut found = mounts::overlays(&after, &layers);
    found.extend(mounts::leaked(&before, &attachments, &after, root));
    found.extend(mounts::waiting(&attachments));
    Ok(found)
}

/// Devices of the file systems that processes have as their root. Costs a look at each process.
fn running() -> BTreeSet<(u32, u32)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let roots = processes.filter_map(|process| fs::metadata(process.path().join("root")).ok());
    let number = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
    roots
        .map(|root| (number(major(root.dev())), number(minor(root.dev()))))
        .collect()
}

/// Findings about the owners and modes of files on which layerd depends.
fn look_at_files(own: &[Option<&Path>], socket: &Path, settings: &Settings) -> Vec<Finding> {
    let table = mountinfo::read().unwrap_or_default();
    let mut found = Vec::new();
    if let Some(root) = settings.get("root").map(Path::new).filter(|_| is_root()) {
        found.extend(files::root(root, &table));
    }
    let own: Vec<&Path> = own.iter().flatten().copied().collect();
    found.extend(files::configuration(&own));
    found.extend(files::socket(socket));
    found
}

/// Others cannot look below the data directory's parents.
fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The disk, while the daemon cannot be asked.
fn disk(settings: &Settings) -> Vec<Finding> {
    let root = settings.get("root").map(Path::new);
    let Some(disk) = root.and_then(|root| statvfs(root).ok()) else {
        return Vec::new();
    };
    let (blocks, free) = (disk.blocks(), disk.blocks_available());
    let info = InfoResponse {
        disk_bytes: blocks.saturating_mul(disk.fragment_size()),
        disk_free_bytes: free.saturating_mul(disk.fragment_size()),
        ..InfoResponse::default()
    };
    let health = Health {
        settings: settings.clone(),
        inodes: disk.files(),
        inodes_free: disk.files_available(),
        ..Health::default()
    };
    crate::doctor::disk::disk(&info, &health)
}

/// Standard output of a program, however it ends. None if it cannot be run, or not in time.
async fn output(program: &Path, arguments: &[String], limit: Duration) -> Option<String> {
    let mut command = tokio::process::Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let ended = command.kill_on_drop(true).output();
    let ended = match limit.is_zero() {
        true => ended.await,
        false => tokio::time::timeout(limit, ended).await.ok()?,
    };
    String::from_utf8(ended.ok()?.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_prose_reach_the_daemon_that_was_asked_too() {
        let action = Action::advice("Look at `layerctl trash ls`.");
        let mut found = [Finding::error(
            "trash",
            "held",
            "`layerctl fsck` tells.",
            action,
        )];
        address(&mut found, Path::new(DEFAULT_SOCKET));
        assert!(!found[0].advice.contains("--address"));
        address(&mut found, Path::new("/run/other.sock"));
        let with = "`layerctl --address /run/other.sock ";
        assert_eq!(found[0].advice, format!("Look at {with}trash ls`."));
        assert!(found[0].impact.starts_with(with), "{found:?}");
    }
}
