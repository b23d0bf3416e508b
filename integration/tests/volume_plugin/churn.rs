//! Containers of Docker come and go while layerd is killed again and again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, SystemTime};

use layerd_integration::plugin::{SOCKET, own_run};
use layerd_integration::process::{output, wait_until};
use layerd_integration::scratch::profile;
use layerd_integration::{Activated, Docker, FdStore, Plugin, Scratch};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{AGREED, image, write_config};

/// Containers that run at a time.
const AT_ONCE: usize = 4;
/// A container that is to fail for a reason of its own has this exit code.
const OWN_FAILURE: i32 = 7;
/// Longest time between the start of a container and the kill that is meant for it, in milliseconds.
const DELAY: u64 = 1500;

#[test]
fn root_containers_come_and_go_while_layerd_is_killed() {
    churn(10, 3);
}

#[test]
fn root_full_two_hundred_containers_come_and_go_while_layerd_is_killed_fifty_times() {
    churn(200, 50);
}

/// Socket, data and log of a layerd whose socket and connections systemd holds.
struct Node {
    held: UnixListener,
    store: FdStore,
    own: PathBuf,
    config: PathBuf,
    docker: Docker,
    scratch: Scratch,
}

impl Node {
    fn new() -> Self {
        own_run();
        let scratch = Scratch::new();
        let config = write_config(&scratch, 0);
        let held = UnixListener::bind(SOCKET).unwrap();
        let docker = Docker::start_alone(&scratch.dir("k"));
        docker.docker(&["import", image(&scratch).to_str().unwrap(), "base"]);
        let _ = scratch.dir("root");
        Self {
            held,
            store: FdStore::new(scratch.path()),
            own: scratch.path().join("layerd.sock"),
            config,
            docker,
            scratch,
        }
    }

    fn start(&self) -> Activated {
        let (own, config) = (self.own.to_str().unwrap(), self.config.to_str().unwrap());
        let arguments = ["--socket", own, "--config", config, "--log-level", "debug"];
        let (root, log) = (self.scratch.path().join("root"), self.log());
        Activated::start_keeping(&self.store, &self.held, "docker", &root, &log, &arguments)
    }

    fn log(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    /// Objects that `layerctl -o json` prints.
    fn layerctl(&self, arguments: &[&str]) -> Vec<Value> {
        let mut command = Command::new(profile().join("layerctl"));
        command.arg("--address").arg(&self.own).args(["-o", "json"]);
        let text = output(command.args(arguments));
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Runs container `number` to its end: the even ones write into a new volume, and the next one reads it.
    fn container(&self, number: usize) {
        let (name, volume) = (format!("c{number}"), volume(number));
        let mount = format!("{volume}:/data");
        let is_writer = number.is_multiple_of(2);
        let code = if number % 10 < 2 { OWN_FAILURE } else { 0 };
        // Docker may lose the output of a container that is short: the exit code tells.
        let script = match is_writer {
            true => format!(
                "grep -q image /data/of-image || exit 99; echo {volume} > /data/file; exit {code}"
            ),
            false => format!("grep -qx {volume} /data/file || exit 98; exit {code}"),
        };
        let mut arguments = vec!["run", "--network", "none", "--name", &name];
        arguments.extend(["-v", &mount, "-v", "/scratch", "--volume-driver", "layerd"]);
        // The anonymous volume goes with the container, by `--rm` or by `rm --volumes`.
        let removes_itself = number % 4 < 2;
        arguments.extend(removes_itself.then_some("--rm"));
        arguments.extend(["base", "sh", "-c", &script]);
        self.docker(&arguments, code);
        if !removes_itself {
            self.docker(&["rm", "--force", "--volumes", &name], 0);
        }
        // Every second volume is removed after its reader.
        if !is_writer && !is_kept(number) {
            self.docker(&["volume", "rm", &volume], 0);
        }
    }

    /// Runs `docker`, which has to end with a code.
    fn docker(&self, arguments: &[&str], code: i32) {
        let ended = self.docker.command(arguments).output().unwrap();
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}: {ended:?}");
    }
}

fn volume(number: usize) -> String {
    format!("data-{}", number / 2)
}

fn is_kept(number: usize) -> bool {
    (number / 2).is_multiple_of(2)
}

/// Numbers that look random, of splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Runs containers in pairs, and kills layerd at moments that are spread over them.
fn churn(containers: usize, kills: usize) {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let mut random = Random(u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap());
    let node = Node::new();
    let (next, started) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // The thread that starts layerd lives longest: layerd is killed when it ends.
    let mut daemon = node.start();
    scope(|threads| {
        let work = || {
            loop {
                let first = next.fetch_add(2, Ordering::Relaxed);
                if first >= containers {
                    return;
                }
                for number in [first, first + 1] {
                    started.fetch_add(1, Ordering::Relaxed);
                    node.container(number);
                }
            }
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| threads.spawn(work)).collect();
        for kill in 0..kills {
            // A worker that failed starts no more containers.
            let due = kill * containers / kills;
            wait_until("containers to start", Duration::from_secs(300), || {
                started.load(Ordering::Relaxed) > due || workers.iter().any(|one| one.is_finished())
            });
            sleep(Duration::from_millis(random.below(DELAY)));
            daemon.end(Signal::SIGKILL);
            daemon = node.start();
        }
    });
    assert_eq!(started.load(Ordering::Relaxed), containers);
    nothing_is_lost_and_nothing_is_left(&node, containers);
    daemon.end(Signal::SIGTERM);
}

fn nothing_is_lost_and_nothing_is_left(node: &Node, containers: usize) {
    let kept: BTreeSet<String> = (0..containers)
        .filter(|&number| is_kept(number))
        .map(volume)
        .collect();
    let plugin = Plugin::at(Path::new(SOCKET));
    let listed: BTreeSet<String> = plugin.names().into_iter().collect();
    assert_eq!(listed, kept, "the volumes that were not removed");
    assert_eq!(node.docker.docker(&["ps", "--all", "--quiet"]), "");
    wait_until("all holders to be let go", AGREED, || {
        node.layerctl(&["attachments"]).is_empty()
    });
    let of_layerctl: BTreeSet<String> = node
        .layerctl(&["volume", "ls"])
        .iter()
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(of_layerctl, kept);
    for volume in &kept {
        let mount = format!("{volume}:/data");
        let script = format!("grep -qx {volume} /data/file");
        let run = ["run", "--rm", "--network", "none", "-v", &mount];
        node.docker
            .docker(&[&run[..], &["base", "sh", "-c", &script]].concat());
    }
    let fsck = node.layerctl(&["fsck"]);
    assert!(fsck.is_empty(), "{fsck:#?}");
    no_volume_was_made_twice(node, containers);
    wait_until("all holders to be let go", AGREED, || {
        node.layerctl(&["attachments"]).is_empty()
    });
    for volume in &kept {
        node.docker.docker(&["volume", "rm", volume]);
    }
    assert_eq!(plugin.names(), Vec::<String>::new());
}

/// A volume that was lost would have been made again.
fn no_volume_was_made_twice(node: &Node, containers: usize) {
    let log = fs::read_to_string(node.log()).unwrap();
    assert!(!log.contains("ERROR"), "{log}");
    for number in (0..containers).step_by(2) {
        let made = format!("volume created name={} ", volume(number));
        let times = log.matches(&made).count();
        assert!(times <= 1, "{made} {times} times: the first one was lost");
    }
}
