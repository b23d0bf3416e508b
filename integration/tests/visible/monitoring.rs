//! The alerts and the dashboard of deploy/, held against Prometheus.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use layerd_integration::metrics::get;
use layerd_integration::peers::promtool;
use layerd_integration::process::output;
use layerd_integration::scratch::profile;
use layerd_integration::{Daemon, Scratch};

fn source(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

#[test]
fn root_alerts_fire_when_they_should() {
    let mut check = Command::new(promtool());
    let checked = output(
        check
            .args(["check", "rules"])
            .arg(source("deploy/alerts.yml")),
    );
    assert!(checked.contains("SUCCESS"), "{checked}");
    let mut test = Command::new(promtool());
    output(
        test.args(["test", "rules"])
            .arg(source("deploy/alerts-test.yml")),
    );
}

/// Each alert names its section of the page for people, and the page has no others.
#[test]
fn every_alert_has_its_section() {
    let rules = fs::read_to_string(source("deploy/alerts.yml")).unwrap();
    let page = fs::read_to_string(source("docs/alerts.md")).unwrap();
    let of = |text: &str, start: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim);
        lines
            .filter_map(|line| line.strip_prefix(start))
            .map(str::to_owned)
            .collect()
    };
    let alerts = of(&rules, "- alert: ");
    assert_eq!(of(&page, "## "), alerts);
    let sections = alerts.iter().map(|name| name.to_lowercase());
    assert_eq!(
        of(&rules, "runbook: docs/alerts.md#"),
        sections.collect::<Vec<_>>()
    );
}

#[test]
fn root_metrics_pass_promtool() {
    let scratch = Scratch::new();
    let socket = scratch.path().join("metrics.sock");
    let config = scratch.path().join("config.toml");
    let text = format!("[metrics]\naddress = \"unix:{}\"\n", socket.display());
    fs::write(&config, text).unwrap();
    let daemon = Daemon::start_with(scratch.path(), &["--config", config.to_str().unwrap()]);
    daemon.snapshots().prepare("key", "", &[]).unwrap();
    let mut layerctl = Command::new(profile().join("layerctl"));
    layerctl.arg("--address").arg(daemon.socket());
    output(layerctl.args(["volume", "create", "--size", "16m", "data"]));
    let page = scratch.path().join("page");
    fs::write(&page, get(&socket, "/metrics").1).unwrap();
    let mut check = Command::new(promtool());
    let check = check
        .args(["check", "metrics"])
        .stdin(File::open(&page).unwrap());
    let done = check.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.is_empty(), "{said}");
}

/// Fails if a query of a panel gives nothing. Takes two minutes: the guard keeps each layer for one before
/// it is deleted.
#[test]
fn root_full_every_panel_has_data() {
    let mut demo = Command::new(source("integration/demos/dashboard.sh"));
    let told = output(demo.env("LAYERD_BIN", profile()));
    assert!(told.contains("all have data."), "{told}");
}
