//! Metrics as Prometheus reads them.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use layerd_integration::image::write_layer;
use layerd_integration::metrics::{get, value};
use layerd_integration::process::{Server, output, wait_until};
use layerd_integration::{Daemon, Entry, Scratch};
use nix::sys::signal::Signal;

use crate::run;

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
    client.stat("missing").unwrap_err();

    let (head, page) = get(&socket, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(value(&page, "layerd_snapshots{kind=\"committed\"} "), 1.0);
    assert_eq!(value(&page, "layerd_snapshots{kind=\"view\"} "), 1.0);
    assert_eq!(value(&page, "layerd_database_failed "), 0.0);
    assert_eq!(value(&page, "layerd_deletion_failures_total "), 0.0);
    assert!(value(&page, "process_resident_memory_bytes ") > 1e6);
    assert!(value(&page, "process_max_fds ") > value(&page, "process_open_fds "));
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
fn root_images_their_mounts_and_their_bytes_are_counted() {
    let scratch = Scratch::new();
    let socket = scratch.path().join("metrics.sock");
    let config = scratch.path().join("config.toml");
    let text = format!(
        "[overlayfs]\nlayers = \"images\"\n[metrics]\naddress = \"unix:{}\"\n",
        socket.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut daemon = Daemon::start_with(scratch.path(), &["--config", config.to_str().unwrap()]);
    let archive = scratch.path().join("layer.tar");
    write_layer(&archive, &[Entry::file("file", [7; 100_000])]);
    let mut client = daemon.snapshots();
    for name in ["one", "two"] {
        client.prepare("key", "", &[]).unwrap();
        let mut apply = Command::new(crate::program().with_file_name("layerctl"));
        apply.arg("--address").arg(daemon.socket());
        output(apply.args(["layer", "apply", "key"]).arg(&archive));
        client.commit(name, "key", &[]).unwrap();
    }
    // Mounted and not, those by loop devices, and bytes.
    let counts = || {
        let (_, page) = get(&socket, "/metrics");
        let count = |state: &str| value(&page, &format!("layerd_images{{state=\"{state}\"}} "));
        assert!(value(&page, "layerd_image_bytes ") >= 100_000.0);
        let by_loop = value(&page, "layerd_image_loop_devices ");
        (count("mounted"), count("unmounted"), by_loop)
    };
    let served = |daemon: &Daemon, times: usize| {
        wait_until("metrics", Duration::from_secs(30), || {
            daemon.log().matches("serving metrics").count() == times
        });
    };
    served(&daemon, 1);
    assert_eq!(counts(), (0.0, 2.0, 0.0));
    client.view("view", "one", &[]).unwrap();
    // As the kernel says: before Linux 6.12 it takes loop devices.
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = table
        .lines()
        .find(|line| line.contains(scratch.path().to_str().unwrap()) && line.contains(" - erofs "));
    let by_loop = f64::from(mount.unwrap().contains(" - erofs /dev/loop"));
    assert_eq!(counts(), (1.0, 1.0, by_loop));
    daemon.kill9();
    daemon.restart();
    served(&daemon, 2);
    assert_eq!(counts(), (1.0, 1.0, by_loop), "mounts outlive layerd");
    let mut client = daemon.snapshots();
    for key in ["view", "one"] {
        client.remove(key).unwrap();
    }
    wait_until("the image to go", Duration::from_secs(10), || {
        counts() == (0.0, 1.0, 0.0)
    });
}

#[test]
fn root_nothing_is_served_unless_asked_for() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(scratch.path());
    assert!(!daemon.log().contains("serving metrics"));
}

/// Clients of the metrics take few descriptors, and those that do nothing do not stop the others for ever.
#[test]
fn root_clients_of_the_metrics_leave_descriptors_to_storage() {
    let scratch = Scratch::new();
    let socket = scratch.path().join("metrics.sock");
    let config = scratch.path().join("config.toml");
    let text = format!("[metrics]\naddress = \"unix:{}\"\n", socket.display());
    std::fs::write(&config, text).unwrap();
    let arguments = ["--config", config.to_str().unwrap()];
    let mut daemon = Daemon::start_with(scratch.path(), &arguments);
    wait_until("metrics", Duration::from_secs(30), || {
        daemon.log().contains("serving metrics")
    });
    let mut client = daemon.snapshots();
    client.prepare("before", "", &[]).unwrap();
    let open = || {
        let all = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
        all.count()
    };
    let before = open();
    let connect = |_| UnixStream::connect(&socket).unwrap();
    let idle: Vec<_> = (0..300).map(connect).collect();
    wait_until("the first of them", Duration::from_secs(30), || {
        open() >= before + 32
    });
    client.prepare("after", "", &[]).unwrap();
    assert!(open() < before + 100, "{before} before, {} now", open());
    drop(idle);
    let (head, _) = get(&socket, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let check = run(&[&["check"][..], &arguments].concat());
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(said.contains("metrics.sock is served by layerd"), "{said}");
    crate::stop::assert_stops_soon(&mut daemon, "clients of the metrics");
}

/// Storage does not depend on metrics. The address is taken when it becomes free.
#[test]
fn root_an_address_that_is_taken_stops_nothing() {
    let scratch = Scratch::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let config = scratch.path().join("config.toml");
    std::fs::write(&config, format!("[metrics]\naddress = \"{address}\"\n")).unwrap();
    let arguments = ["--config", config.to_str().unwrap()];
    let daemon = Daemon::start_with(scratch.path(), &arguments);
    daemon.snapshots().prepare("key", "", &[]).unwrap();
    let log = daemon.log();
    assert!(log.contains("metrics are not served"), "{log}");
    let info = || {
        let mut layerctl = Command::new(crate::program().with_file_name("layerctl"));
        layerctl.arg("--address").arg(daemon.socket());
        output(layerctl.args(["info", "-o", "json"]))
    };
    let wanted = format!("`metrics.address` does not work: listen at {address}");
    assert!(info().contains(&wanted), "{}", info());
    let check = run(&[&["check"][..], &arguments].concat());
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(
        said.contains(&format!("warn metrics: {address} cannot be had")),
        "{said}"
    );
    assert!(check.status.success(), "layerd runs all the same");
    drop(other);
    wait_until("metrics", Duration::from_secs(30), || {
        !info().contains(&wanted)
    });
    let check = run(&[&["check"][..], &arguments].concat());
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(said.contains("is served by layerd"), "{said}");
}

#[test]
fn root_a_journal_that_is_not_there_stops_nothing() {
    let scratch = Scratch::new();
    let mut unshare = Command::new("unshare");
    let script = "[ ! -d /run/systemd ] || mount -t tmpfs none /run/systemd; exec \"$0\" \"$@\"";
    unshare
        .args(["--mount", "--", "sh", "-euc", script])
        .arg(crate::program());
    let (socket, log) = (scratch.path().join("s"), scratch.path().join("log"));
    unshare.arg("--root").arg(scratch.path().join("root"));
    unshare
        .arg("--socket")
        .arg(&socket)
        .args(["--log-format", "journald"]);
    let mut server = Server::start(&unshare, &log);
    server.wait_for(&socket);
    assert!(
        server
            .end(Signal::SIGTERM, Duration::from_secs(30))
            .success()
    );
    let log = server.log();
    assert!(
        log.contains("cannot reach the systemd journal") && log.contains(" ready "),
        "{log}"
    );
}
