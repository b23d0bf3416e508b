//! What Prometheus reads.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use layerd_integration::{Daemon, Scratch};

/// Asks once, as Prometheus does.
pub(crate) fn get(socket: &Path, target: &str) -> (String, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: layerd\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The value of a series, as it stands on the page.
pub(crate) fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series));
    let line = line.unwrap_or_else(|| panic!("no {series} in:\n{page}"));
    line.trim().parse().unwrap()
}

#[test]
fn root_metrics_are_served_where_the_configuration_says() {
    let scratch = Scratch::new();
    let socket = scratch.path().join("metrics.sock");
    let config = scratch.path().join("config.toml");
    let text = format!("[metrics]\naddress = \"unix:{}\"\n", socket.display());
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::start_with(scratch.path(), &["--config", config.to_str().unwrap()]);
    let mut client = daemon.snapshots();
    client.prepare("key", "", &[]).unwrap();
    client.commit("name", "key", &[]).unwrap();
    client.view("view", "name", &[]).unwrap();
    client.stat("nobody").unwrap_err();

    let (head, page) = get(&socket, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(value(&page, "layerd_snapshots{kind=\"committed\"} "), 1.0);
    assert_eq!(value(&page, "layerd_snapshots{kind=\"view\"} "), 1.0);
    assert_eq!(value(&page, "layerd_database_failed "), 0.0);
    assert_eq!(value(&page, "layerd_reap_failures_total "), 0.0);
    let calls = |method: &str, code: &str| {
        let service = "containerd.services.snapshots.v1.Snapshots";
        let series = format!(
            "layerd_rpc_seconds_count{{service=\"{service}\",method=\"{method}\",code=\"{code}\"}} "
        );
        value(&page, &series)
    };
    assert_eq!(calls("Commit", "Ok"), 1.0);
    assert_eq!(calls("Stat", "NotFound"), 1.0);
    assert!(value(&page, "layerd_commit_seconds_count ") >= 3.0);
    let (head, _) = get(&socket, "/other");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "for root alone");
}

#[test]
fn root_nothing_is_served_unless_asked_for() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(scratch.path());
    assert!(!daemon.log().contains("serving metrics"));
}
