//! Gathers what the doctor judges. A fact that cannot be had is a finding of its own; nothing here
//! fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use layerd_mounts::{Slot, mountinfo};
use layerd_proto::layerd::v1::{Health, InfoResponse, Removed};
use nix::sys::statvfs::statvfs;

use super::{Args, Daemon};
use crate::client::{Client, Containerd};
use crate::containerd::effective::Effective;
use crate::doctor::containerd::{Facts, Running};
use crate::doctor::host::{self, Checked};
use crate::doctor::{Finding, daemon as judge, mounts, quoted, unit};
use crate::error::Error;

const CONFIG: &str = "/etc/layerd/config.toml";
const CONTAINERD: &str = "/run/containerd/containerd.sock";
const MOUNTS: &str = "mounts";

type Settings = BTreeMap<String, String>;

pub(super) async fn findings(args: &Args, daemon: &Daemon, now: i64) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut answered = ask(daemon, &mut found).await;
    let info = answered.as_ref().map(|(_, info)| info);
    let health = info.and_then(|info| info.health.clone());
    found.push(kernel());
    let file = file(args, health.as_ref());
    let checked = check(file.as_deref(), health.as_ref(), daemon.timeout).await;
    let settings = compare(checked, file.as_deref(), health.as_ref(), &mut found);
    match &mut answered {
        Some((client, info)) => found.extend(ask_more(client, info, now).await),
        None => found.extend(disk(&settings)),
    }
    found.extend(containerd(args, daemon, &settings).await);
    found.extend(units(daemon.timeout).await);
    found
}

/// The daemon's description of itself, or a finding why there is none.
async fn ask(daemon: &Daemon, found: &mut Vec<Finding>) -> Option<(Client, InfoResponse)> {
    let asked = async {
        let mut client = daemon.connect().await?;
        let info = client.info().await?;
        Ok::<_, Error>((client, info))
    };
    match asked.await {
        Ok((client, info)) => {
            found.push(judge::version(&info, env!("CARGO_PKG_VERSION")));
            Some((client, info))
        }
        Err(error) => {
            let mend = match &error {
                Error::TimedOut { .. } => "systemctl status layerd; journalctl -u layerd",
                _ => "systemctl start layerd; journalctl -u layerd",
            };
            let means = "No container starts and no image is pulled; those that run go on. Records, trash and \
                         attachments were not looked at: `layerd fsck` looks at the records of a daemon that is down.";
            found.push(Finding::error("daemon", error.to_string(), means, mend));
            None
        }
    }
}

fn kernel() -> Finding {
    let name = nix::sys::utsname::uname();
    let release = name.map(|name| name.release().to_string_lossy().into_owned());
    Finding::ok("kernel", format!("Linux {}", release.unwrap_or_default()))
}

/// The configuration file to look at.
fn file(args: &Args, health: Option<&Health>) -> Option<PathBuf> {
    let of_daemon = match health {
        Some(health) => Some(PathBuf::from(&health.config_file)),
        None => Some(PathBuf::from(CONFIG)).filter(|file| file.exists()),
    };
    let named = args.config.clone().or(of_daemon);
    named.filter(|file| !file.as_os_str().is_empty())
}

/// What `layerd check` says, with what the daemon's command line overrides.
async fn check(
    file: Option<&Path>,
    health: Option<&Health>,
    limit: Duration,
) -> Result<Checked, Finding> {
    const CHECK: &str = "host";
    if !nix::unistd::geteuid().is_root() {
        let means = "Only root can try out a mount. Run `layerctl doctor` as root to have the host checked.";
        return Err(Finding::info(CHECK, "not looked at", means));
    }
    if file.is_none() && health.is_none() {
        let found = format!("not looked at: there is no {CONFIG}, and no daemon to ask");
        let means =
            "Name the configuration with --config to have it and its data directory checked.";
        return Err(Finding::info(CHECK, found, means));
    }
    let mut arguments = vec!["check".to_owned(), "--json".to_owned()];
    let mut add =
        |option: &str, value: &str| arguments.extend([option.to_owned(), value.to_owned()]);
    if let Some(file) = file {
        add("--config", &file.display().to_string());
    }
    for (key, option) in [("root", "--root"), ("socket.path", "--socket")] {
        let health = health.filter(|health| health.overridden.iter().any(|one| one == key));
        if let Some(value) = health.and_then(|health| health.settings.get(key)) {
            add(option, value);
        }
    }
    let output = output(&layerd(), &arguments, limit).await;
    output.and_then(|text| Checked::parse(&text)).ok_or_else(|| {
        let means = "No layerd of this release is beside layerctl or on the search path, or its check did not end.";
        Finding::warning(CHECK, "`layerd check --json` says nothing", means, "layerd check")
    })
}

/// The daemon's program: beside this one, else on the search path.
fn layerd() -> PathBuf {
    let own = std::env::current_exe().ok();
    let beside = own.map(|own| own.with_file_name("layerd"));
    let beside = beside.filter(|program| program.exists());
    beside.unwrap_or_else(|| PathBuf::from("layerd"))
}

/// Judges host and configuration; answers the settings that count.
fn compare(
    checked: Result<Checked, Finding>,
    file: Option<&Path>,
    health: Option<&Health>,
    found: &mut Vec<Finding>,
) -> Settings {
    let mut of_file = Settings::default();
    match checked {
        Err(finding) => found.push(finding),
        Ok(checked) => {
            let name = file.map(|file| file.display().to_string());
            found.extend(checked.findings(name.as_deref()));
            if let (Some(settings), Some(health)) = (&checked.settings, health) {
                found.push(host::in_force(settings, health));
            }
            of_file = checked.settings.unwrap_or_default();
        }
    }
    health.map_or(of_file, |health| health.settings.clone())
}

/// What a daemon that answers knows.
async fn ask_more(client: &mut Client, info: &InfoResponse, now: i64) -> Vec<Finding> {
    let mut found = judge::findings(info, now);
    // Without records there is nothing more to ask.
    if info.driver.is_empty() {
        return found;
    }
    match client.fsck(false).await {
        Ok(problems) => found.extend(judge::records(&problems)),
        Err(error) => found.push(unasked("records and disk", &error)),
    }
    found.extend(match look_at_mounts(client, Path::new(&info.root)).await {
        Ok(some) => mounts::or_well(some, "none is left over, and no attachment lacks its own"),
        Err(error) => vec![unasked(MOUNTS, &error)],
    });
    found
}

fn unasked(check: &str, error: &Error) -> Finding {
    let means = "It was not looked at.";
    Finding::error(check, error.to_string(), means, "journalctl -u layerd")
}

async fn look_at_mounts(client: &mut Client, root: &Path) -> Result<Vec<Finding>, Error> {
    let failed = |cause: layerd_mounts::Error| Error::Io {
        what: "read the mount table".to_owned(),
        cause: std::io::Error::other(cause),
    };
    // Before the table: who removes a snapshot in order unmounts it first.
    let removed = client.trash().await?.into_iter();
    let layer = |one: Removed| root.join("l").join(Slot(one.id).to_string());
    let removed: BTreeSet<PathBuf> = removed.map(layer).collect();
    let before = mountinfo::read().map_err(failed)?;
    let attachments = client.attachments(None, String::new()).await?;
    let after = mountinfo::read().map_err(failed)?;
    let is_layer = |path: &Path| !removed.contains(path) && path.symlink_metadata().is_ok();
    let mut found = mounts::overlays(&after, root, &is_layer);
    found.extend(mounts::leaked(&before, &attachments, &after, root));
    found.extend(mounts::waiting(&attachments));
    Ok(found)
}

/// The disk, while nobody else can be asked.
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
        has_reserve: true,
        ..Health::default()
    };
    judge::disk(&info, &health)
}

async fn containerd(args: &Args, daemon: &Daemon, settings: &Settings) -> Vec<Finding> {
    let configured = settings.get("containerd.address").map(PathBuf::from);
    let address = args.containerd_address.clone().or(configured);
    let address = address.unwrap_or_else(|| CONTAINERD.into());
    let asked = async {
        let containerd = Containerd::connect(&address, daemon.timeout).await?;
        Ok::<_, Error>(Running {
            version: containerd.version().await?,
            plugins: containerd.plugins(&args.snapshotter).await?,
        })
    };
    let mut found = Vec::new();
    let running = match asked.await {
        Ok(running) => {
            found.push(Finding::ok(
                "containerd",
                format!("answers at {}", address.display()),
            ));
            Some(running)
        }
        Err(error) => {
            let means = "No container starts and no image is pulled, with whatever snapshotter; layerd itself is not the cause.";
            found.push(Finding::error(
                "containerd",
                error.to_string(),
                means,
                "systemctl start containerd",
            ));
            None
        }
    };
    match Effective::read(&args.containerd_config) {
        Ok(files) => {
            let facts = Facts {
                main: &args.containerd_config,
                files: &files,
                running: running.as_ref(),
                socket: &daemon.address,
                settings,
                name: &args.snapshotter,
            };
            found.extend(facts.findings());
        }
        Err(why) => found.push(unreadable(&args.containerd_config, why)),
    }
    found
}

fn unreadable(main: &Path, why: String) -> Finding {
    let means = "containerd does not start with it; one that runs goes on with what it read.";
    let mend = format!(
        "containerd --config {} config dump",
        quoted(&main.display().to_string())
    );
    Finding::error("containerd's configuration", why, means, mend)
}

async fn units(limit: Duration) -> Vec<Finding> {
    // As sd_booted(3) tells.
    if !Path::new("/run/systemd/system").exists() {
        let means = "Whatever starts layerd here, see to it that it starts it again after a crash.";
        return vec![Finding::info(
            "unit",
            "this host is not run by systemd",
            means,
        )];
    }
    let arguments = unit::ARGUMENTS.map(str::to_owned);
    let output = output(Path::new("systemctl"), &arguments, limit).await;
    unit::findings(&output.unwrap_or_default())
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
