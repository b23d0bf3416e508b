//! containerd: what it answers, what its files say, and what it needs of layerd.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Settings, output};
use crate::client::{Client, Containerd};
use crate::cmd::doctor::Args;
use crate::cmd::{Daemon, orphans as look};
use crate::containerd::effective::{Effective, Unreadable};
use crate::containerd::main_file::{DROP_INS, MAIN};
use crate::containerd::{ADDRESS, Version, snapshotter};
use crate::doctor::containerd::{Facts, Running, options_of_settings};
use crate::doctor::{Action, Finding, Severity, quoted, references};
use crate::error::Error;
use crate::managed_file::{self, Owner};
use crate::orphans::differences;

/// Younger snapshots are not compared: containerd may be about to record them.
const GRACE: i64 = 60;

pub(super) async fn findings(
    args: &Args,
    daemon: &Daemon,
    settings: &Settings,
    client: Option<&mut Client>,
    now: i64,
) -> Vec<Finding> {
    let configured = settings.get("containerd.address").map(PathBuf::from);
    let address = args.containerd_address.clone().or(configured);
    let address = address.unwrap_or_else(|| ADDRESS.into());
    let name = name(args, settings);
    let asked = async {
        let containerd = Containerd::connect(&address, daemon.timeout).await?;
        let running = Running {
            version: containerd.version().await?,
            plugins: containerd.plugins(name).await?,
        };
        Ok::<_, Error>((containerd, running))
    };
    let (answered, mut found) = match asked.await {
        Ok(answered) => {
            let found = Finding::ok("containerd", format!("answers at {}", address.display()));
            (Some(answered), vec![found])
        }
        Err(error) => (None, vec![unreachable(&error)]),
    };
    let running = answered.as_ref().map(|(_, running)| running);
    let of_files = files(args, daemon, settings, running).await;
    // It may be the files that keep it from starting.
    let is_kept = of_files.iter().any(|one| one.severity == Severity::Error);
    if let Some(down) = found.iter_mut().find(|one| is_kept && one.is_trouble()) {
        down.fix.clear();
        down.fix_name.clear();
        down.safe = false;
        down.advice = "Mend its configuration first, which is named here, too.".to_owned();
    }
    found.extend(of_files);
    if let (Some((containerd, running)), Some(client)) = (&answered, client)
        && !running.plugins.is_empty()
    {
        found.extend(compare(client, containerd, name, now).await);
    }
    found
}

/// Name of layerd in containerd's configuration.
fn name<'a>(args: &'a Args, settings: &'a Settings) -> &'a str {
    let root = settings.get("root").map_or("", String::as_str);
    let own = args.snapshotter.as_deref();
    own.unwrap_or_else(|| snapshotter(Path::new(root)))
}

fn unreachable(error: &Error) -> Finding {
    let impact = "No container starts and no image is pulled, with whatever snapshotter; layerd itself is not the cause.";
    let action = Action::safe("start-containerd", "systemctl restart containerd");
    Finding::error("containerd", error.to_string(), impact, action)
}

/// Its configuration of layerd.
async fn files(
    args: &Args,
    daemon: &Daemon,
    settings: &Settings,
    running: Option<&Running>,
) -> Vec<Finding> {
    let drop_in = drop_in(args);
    let edited = drop_in.as_deref().filter(|path| is_edited(path));
    let installed = match drop_in {
        Some(_) => installed(daemon.timeout).await,
        None => None,
    };
    match Effective::read(&args.containerd_config) {
        Ok(files) => Facts {
            main: &args.containerd_config,
            files: &files,
            running,
            installed,
            edited,
            socket: &daemon.address,
            settings,
            name: name(args, settings),
        }
        .findings(),
        Err(why) => vec![unreadable(
            &why,
            drop_in.as_deref(),
            &args.containerd_config,
            settings,
        )],
    }
}

/// The file that `layerctl setup containerd --write` makes for the containerd of this host; none if
/// another one is asked about.
pub(super) fn drop_in(args: &Args) -> Option<PathBuf> {
    let is_host_s = args.containerd_config == Path::new(MAIN);
    is_host_s.then(|| Path::new(DROP_INS).join("layerd.toml"))
}

/// The release that starts next.
pub(super) async fn installed(limit: Duration) -> Option<Version> {
    let version = ["--version".to_owned()];
    let said = output(Path::new("containerd"), &version, limit).await?;
    Version::from_output(&said).ok()
}

fn is_edited(path: &Path) -> bool {
    matches!(managed_file::owner(path), Ok(Owner::Foreign(_)))
}

fn unreadable(
    why: &Unreadable,
    drop_in: Option<&Path>,
    main: &Path,
    settings: &Settings,
) -> Finding {
    let impact = "containerd does not start with it; one that runs goes on with what it read.";
    let action = if drop_in == Some(why.path.as_path()) {
        let path = quoted(&why.path.display().to_string());
        let options = options_of_settings(main, settings);
        Action::safe(
            "replace-unreadable-drop-in",
            format!(
                "mv --backup=numbered {path} {path}.edited && layerctl setup containerd --write{options} && systemctl restart containerd"
            ),
        )
    } else {
        Action::advice(format!(
            "Mend {}; `containerd config dump` shows what containerd makes of it.",
            why.path.display()
        ))
    };
    Finding::error(
        "containerd's configuration",
        one_line(&why.to_string()),
        impact,
        action,
    )
}

/// Without the parser's picture of the line.
fn one_line(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.contains(" |"));
    lines.collect::<Vec<_>>().join(": ")
}

/// Snapshots that one side has and the other lacks. Costs two lists of both.
async fn compare(
    client: &mut Client,
    containerd: &Containerd,
    snapshotter: &str,
    now: i64,
) -> Vec<Finding> {
    match look::look(client, containerd, snapshotter).await {
        Ok(seen) => references::findings(&differences(&seen, now - GRACE, snapshotter)),
        Err(error) => vec![super::unasked("snapshots in containerd", &error)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_in_that_is_no_toml_is_written_anew_as_the_settings_ask() {
        let path = Path::new(DROP_INS).join("layerd.toml");
        let why = Unreadable {
            path: path.clone(),
            why: "no TOML".to_owned(),
        };
        let settings = [("root", "/data/layers"), ("unpack.enabled", "false")];
        let settings: Settings = settings
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let found = unreadable(&why, Some(&path), Path::new(MAIN), &settings);
        let wanted = "setup containerd --write --root /data/layers --no-unpack && systemctl";
        assert!(found.fix.contains(wanted), "{found:?}");
        let other = unreadable(&why, None, Path::new(MAIN), &settings);
        assert!(
            other.fix.is_empty() && !other.advice.is_empty(),
            "{other:?}"
        );
    }
}
