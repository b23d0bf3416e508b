//! `layerd check`: the configuration, the host and the unit, without starting.

mod metrics;
mod unit;

use std::collections::BTreeMap;
use std::io::{Write as _, stdout};
use std::path::Path;
use std::process::ExitCode;

use layerd_drivers::factory;
use layerd_mounts::mounter::{Feature, KernelMounter, Mounter, Without};
use nix::sys::statvfs::{FsFlags, statvfs};
use serde::Serialize;

use crate::config::Config;
use crate::{Settings, with_causes};

/// One thing that was looked at, as `--json` prints it.
#[derive(Debug, Default, Serialize)]
struct Looked {
    check: &'static str,
    ok: bool,
    /// Set if layerd cannot run without it.
    needed: bool,
    /// Set if the configuration asks for a feature that does not work without it.
    wanted: bool,
    found: String,
    /// The fix, for people; empty without one.
    advice: String,
    /// A command for a shell that changes it; empty if there is none.
    fix: String,
    /// Name of the command, the same in every release; empty if there is none.
    fix_name: &'static str,
    /// The first release of Linux that has it, if it is a feature of the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<&'static str>,
}

impl Looked {
    fn failed(check: &'static str, error: &dyn std::error::Error) -> Self {
        Self {
            check,
            needed: true,
            found: with_causes(error),
            ..Self::default()
        }
    }

    fn well(check: &'static str, found: &str) -> Self {
        Self {
            check,
            ok: true,
            found: found.to_owned(),
            ..Self::default()
        }
    }

    /// Something configured that does not work; layerd runs without it.
    fn unwell(check: &'static str, found: String) -> Self {
        Self {
            check,
            wanted: true,
            found,
            ..Self::default()
        }
    }
}

/// The last line of `--json`, if the configuration is valid.
#[derive(Debug, Serialize)]
struct Told {
    settings: BTreeMap<String, String>,
}

/// Prints one line a finding and answers whether layerd could run. With `json` the lines are JSON
/// objects, and the last one holds all settings.
pub(crate) fn run(settings: &Settings, json: bool) -> ExitCode {
    let config = match Config::load(settings) {
        Ok(config) => config,
        Err(error) => {
            let failed = Looked::failed("configuration", &error);
            return verdict(&[failed], None, json);
        }
    };
    let mut all = vec![Looked {
        needed: true,
        ..Looked::well("configuration", "valid")
    }];
    match factory::check(&config.root, &config.driver) {
        Ok(findings) => all.extend(findings.into_iter().map(Looked::from)),
        Err(error) => all.push(Looked::failed("root", &error)),
    }
    let features = KernelMounter::new().features();
    all.extend(features.into_iter().map(Looked::from));
    all.extend(volumes(&config));
    all.extend(metrics::look(&config));
    all.extend(unit::look(&config, config.effective.file.as_deref()));
    let settings = config.effective.settings;
    verdict(&all, Some(Told { settings }), json)
}

/// Finding about a disk of volumes that takes none. Where the root's is read-only, the driver says so.
fn volumes(config: &Config) -> Option<Looked> {
    let is_read_only = |path: &Path| {
        let disk = statvfs(path);
        disk.is_ok_and(|disk| disk.flags().contains(FsFlags::ST_RDONLY))
    };
    let path = config.root.join("volumes");
    (is_read_only(&path) && !is_read_only(&config.root)).then(|| Looked {
        advice: "mount it writable; layers are not concerned".to_owned(),
        ..Looked::unwell(
            "volumes",
            format!("the file system of {} is read-only", path.display()),
        )
    })
}

impl From<layerd_drivers::Finding> for Looked {
    fn from(finding: layerd_drivers::Finding) -> Self {
        Self {
            check: finding.name,
            ok: finding.ok,
            needed: finding.needed,
            found: finding.detail,
            advice: finding.advice,
            ..Self::default()
        }
    }
}

/// Layers can be kept without any of them.
impl From<Feature> for Looked {
    fn from(feature: Feature) -> Self {
        let ok = feature.trouble.is_none() || matches!(feature.without, Without::Otherwise(_));
        let advice = format!("use Linux {} or newer", feature.since);
        Self {
            check: feature.name,
            ok,
            found: feature.to_string(),
            advice: if ok { String::new() } else { advice },
            since: Some(feature.since),
            ..Self::default()
        }
    }
}

fn verdict(all: &[Looked], told: Option<Told>, json: bool) -> ExitCode {
    for looked in all {
        if json {
            object(looked);
        } else {
            line(looked);
        }
    }
    if let Some(told) = told.filter(|_| json) {
        object(&told);
    }
    if all.iter().any(|looked| looked.needed && !looked.ok) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn line(looked: &Looked) {
    let verdict = match (looked.ok, looked.needed, looked.wanted) {
        (false, true, _) => "FAIL",
        (false, false, true) => "warn",
        _ => "ok  ",
    };
    let parts = [&looked.found, &looked.advice, &looked.fix].map(String::as_str);
    let text = parts.into_iter().filter(|part| !part.is_empty());
    let text = text.collect::<Vec<_>>().join("; ");
    // A reader that closed the pipe has seen enough.
    let _ = writeln!(stdout(), "{verdict} {}: {text}", looked.check);
}

fn object(value: &impl Serialize) {
    // Text and truth values always become JSON.
    let text = serde_json::to_string(value).unwrap_or_default();
    let _ = writeln!(stdout(), "{text}");
}
