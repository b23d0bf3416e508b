//! A daemon that has no descriptor left for another client.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use layerd_integration::process::{WAIT_LIMIT, output, wait_until};
use layerd_integration::{Daemon, Scratch};

/// Processor time of the daemon so far, in clock ticks, which are 100 a second (proc(5)).
fn ticks(daemon: &Daemon) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<_> = fields.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn root_without_descriptors_the_daemon_rests_and_says_so() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(scratch.path());
    let mut client = daemon.snapshots();
    client.prepare("before", "", &[]).unwrap();
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let limit = format!("--nofile={}", open.count() + 4);
    output(
        Command::new("prlimit")
            .arg(format!("--pid={}", daemon.pid()))
            .arg(limit),
    );

    let connect = |_| UnixStream::connect(daemon.socket()).unwrap();
    let waiting: Vec<_> = (0..16).map(connect).collect();
    let is_said = || daemon.log().contains("clients cannot be accepted");
    wait_until("a line about it", WAIT_LIMIT, is_said);
    let before = ticks(&daemon);
    sleep(Duration::from_secs(2));
    let used = ticks(&daemon) - before;
    assert!(used < 50, "{used} of 200 ticks");
    assert_eq!(
        daemon.log().matches("clients cannot be accepted").count(),
        1
    );

    drop(waiting);
    daemon.snapshots().prepare("after", "", &[]).unwrap();
}
