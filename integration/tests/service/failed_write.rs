//! A disk that fails writes: the daemon answers reads, and every service of it is unwell.

use std::process::Command;
use std::time::Duration;

use layerd_integration::Daemon;
use layerd_integration::process::{output, wait_until};
use layerd_integration::snapshots::channel;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::{info, on_its_own_disk};

/// The daemon as a whole, and its services.
const SERVICES: [&str; 8] = [
    "",
    "containerd.services.diff.v1.Diff",
    "containerd.services.snapshots.v1.Snapshots",
    "layerd.v1.Admin",
    "layerd.v1.Attachments",
    "layerd.v1.Layers",
    "layerd.v1.Mounts",
    "layerd.v1.Volumes",
];
/// EXT4_IOC_SHUTDOWN, after which every write fails.
const SHUT_DOWN: &str = "
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))
";

fn health(daemon: &Daemon) -> Vec<ServingStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut client = HealthClient::new(channel(daemon.socket().to_owned()));
        let mut all = Vec::new();
        for service in SERVICES {
            let service = service.to_owned();
            let reply = client.check(HealthCheckRequest { service }).await;
            all.push(reply.unwrap().into_inner().status());
        }
        all
    })
}

#[test]
fn root_after_a_failed_write_no_service_serves() {
    let (_scratch, disk, mut daemon) = on_its_own_disk();
    let mut client = daemon.snapshots();
    assert_eq!(health(&daemon), [ServingStatus::Serving; SERVICES.len()]);

    output(Command::new("python3").args(["-c", SHUT_DOWN]).arg(&disk));
    let refused = client.remove("before").unwrap_err();
    assert_ne!(refused.code(), Code::NotFound, "{refused}");
    wait_until("the health to tell", Duration::from_secs(60), || {
        health(&daemon) == [ServingStatus::NotServing; SERVICES.len()]
    });
    client.stat("before").expect("reads are answered");
    let said = info(&daemon);
    assert!(said.starts_with("ALARM: "), "{said}");
    daemon.kill9();
}
