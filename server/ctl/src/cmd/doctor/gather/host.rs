//! The host, the configuration and the units.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use layerd_proto::layerd::v1::Health;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use super::{Settings, output};
use crate::cmd::Daemon;
use crate::cmd::doctor::Args;
use crate::containerd::instance_at;
use crate::doctor::csi;
use crate::doctor::host::{self, Checked};
use crate::doctor::unit::{self, Process};
use crate::doctor::{Action, Finding};

pub(super) const CONFIG: &str = "/etc/layerd/config.toml";

/// The configuration file to look at.
pub(super) fn file(args: &Args, health: Option<&Health>) -> Option<PathBuf> {
    let of_daemon = match health {
        Some(health) => Some(PathBuf::from(&health.config_file)),
        None => Some(PathBuf::from(CONFIG)).filter(|file| file.exists()),
    };
    let named = args.config.clone().or(of_daemon);
    named.filter(|file| !file.as_os_str().is_empty())
}

/// Result of `layerd check`, with the overrides of the daemon's command line.
pub(super) async fn check(
    file: Option<&Path>,
    health: Option<&Health>,
    limit: Duration,
) -> Result<Checked, Finding> {
    const CHECK: &str = "host";
    if !nix::unistd::geteuid().is_root() {
        let impact = "Only root can try out a mount. Run `layerctl doctor` as root to have the host checked.";
        return Err(Finding::info(CHECK, "not looked at", impact));
    }
    if file.is_none() && health.is_none() {
        let found = format!("not looked at: there is no {CONFIG}, and no daemon to ask");
        let impact =
            "Name the configuration with --config to have it and its data directory checked.";
        return Err(Finding::info(CHECK, found, impact));
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
        let impact = "No layerd of this release is beside layerctl or on the search path, or its check did not end.";
        let action = Action::advice("Install layerd and layerctl of one release.");
        Finding::warning(CHECK, "`layerd check --json` says nothing", impact, action)
    })
}

/// The daemon's program: beside this one, else on the search path.
fn layerd() -> PathBuf {
    let own = std::env::current_exe().ok();
    let beside = own.map(|own| own.with_file_name("layerd"));
    let beside = beside.filter(|program| program.exists());
    beside.unwrap_or_else(|| PathBuf::from("layerd"))
}

/// Checks host and configuration; answers the settings that count.
pub(super) fn compare(
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
                found.push(host::effective(settings, health));
            }
            of_file = checked.settings.unwrap_or_default();
        }
    }
    health.map_or(of_file, |health| health.settings.clone())
}

/// Findings about layerd's units, and true if systemd starts layerd again and again in vain.
pub(super) async fn units(daemon: &Daemon) -> (Vec<Finding>, bool) {
    if !is_booted() {
        let impact =
            "Whatever starts layerd here, see to it that it starts it again after a crash.";
        let unit = Finding::info("unit", "this host is not run by systemd", impact);
        let few = peer(&daemon.address).and_then(|pid| unit::few_of_process(pid, &process(pid)));
        return (few.into_iter().chain([unit]).collect(), false);
    }
    let arguments = match instance_at(&daemon.address) {
        None => unit::ARGUMENTS.map(str::to_owned).to_vec(),
        Some(name) => (unit::ARGUMENTS.iter())
            .filter(|argument| **argument != unit::DOCKER)
            .map(|argument| argument.replace("layerd.", &format!("layerd@{name}.")))
            .collect(),
    };
    let output = output(Path::new("systemctl"), &arguments, daemon.timeout).await;
    let output = unit::without_instance(&output.unwrap_or_default());
    let process = unit::main_pid(&output).map(process).unwrap_or_default();
    (unit::findings(&output, &process), unit::is_down(&output))
}

/// True if systemd runs this host, as by sd_booted(3).
pub(super) fn is_booted() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// Process that listens at a socket. Where systemd listens for a service, that is systemd.
fn peer(socket: &Path) -> Option<u32> {
    let stream = UnixStream::connect(socket).ok()?;
    let credentials = getsockopt(&stream, PeerCredentials).ok()?;
    u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0)
}

/// Facts about a process; unreadable ones count as sound.
fn process(pid: u32) -> Process {
    let link = |of: &str, name: &str| fs::read_link(format!("/proc/{of}/{name}")).ok();
    let pid = pid.to_string();
    let (own, first) = (link(&pid, "ns/mnt"), link("1", "ns/mnt"));
    let program = link(&pid, "exe");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let descriptors = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let column = |number: usize| descriptors?.split_whitespace().nth(number)?.parse().ok();
    Process {
        has_own_mounts: own.is_some() && first.is_some() && own != first,
        is_replaced: program.is_some_and(|path| path.to_string_lossy().ends_with(" (deleted)")),
        descriptors: column(0),
        most_descriptors: column(1),
    }
}

/// The CSI socket of the configuration, if it names one.
pub(super) async fn csi(settings: &Settings, timeout: Duration) -> Option<Finding> {
    let socket = settings.get("csi.socket").filter(|path| !path.is_empty())?;
    let socket = PathBuf::from(socket);
    let answer = crate::client::csi::driver(&socket, timeout).await;
    let registration = csi::registration(&socket);
    let looked = registration.filter(|path| path.parent().is_some_and(Path::is_dir));
    Some(csi::finding(&csi::Facts {
        answer: answer.map_err(|error| error.to_string()),
        is_registered: looked.map(|path| path.exists()),
        socket,
    }))
}
