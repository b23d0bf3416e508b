//! The alerts and the dashboard of deploy/, held against Prometheus.

use std::path::PathBuf;
use std::process::Command;

use layerd_integration::peers::promtool;
use layerd_integration::process::output;
use layerd_integration::scratch::profile;

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

/// Fails if a query of a panel gives nothing.
#[test]
fn root_full_every_panel_has_data() {
    let mut demo = Command::new(source("integration/demos/dashboard.sh"));
    let told = output(demo.args(["20", "60"]).env("LAYERD_BIN", profile()));
    assert!(told.contains("all have data."), "{told}");
}
