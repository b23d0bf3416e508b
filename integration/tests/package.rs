//! The packages: what is in them, and what they do to a machine, from the first installation to the last
//! trace.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "package/callers.rs"]
mod callers;
#[path = "package/content.rs"]
mod content;
#[path = "package/debians.rs"]
mod debians;
#[path = "package/faults.rs"]
mod faults;
#[path = "package/forms.rs"]
mod forms;
#[path = "package/installer.rs"]
mod installer;
#[path = "package/instances.rs"]
mod instances;
#[path = "package/machine.rs"]
mod machine;
#[path = "package/slow_start.rs"]
mod slow_start;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use layerd_integration::peers::Debian;
use layerd_integration::plugin::SOCKET;
use layerd_integration::process::{output, wait_until};
use layerd_integration::scratch::profile;
use layerd_integration::{Plugin, Scratch, transcript};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use callers::Callers;
use machine::{Machine, copy_of_debian};

const DATA: &str = "var/lib/containerd";

const VERSION: &str = "0.1.0-1";
const NEXT: &str = "0.1.1-1";

/// Paths written by apt and dpkg for themselves, and by systemd for the machine.
const NOT_OURS: [&str; 6] = [
    "var/cache/apt/",
    "var/lib/apt/",
    "var/lib/dpkg/",
    "var/log/",
    "var/lib/systemd/random-seed",
    "var/tmp/",
];

/// A folder below `target` that all tests of one run of nextest share, which starts each of them in a process of
/// its own: filled by `fill` when it is first asked for.
fn shared(name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let target = profile().parent().unwrap().to_owned();
    let lock = File::create(target.join(format!("{name}.lock"))).unwrap();
    let _held = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "nextest says so which run this is"
    )]
    let run = std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| std::process::id().to_string());
    let all = target.join(name);
    let own = all.join(run);
    if !own.exists() {
        let new = all.join("new");
        output(Command::new("rm").arg("-rf").arg(&all));
        std::fs::create_dir_all(&new).unwrap();
        fill(&new);
        std::fs::rename(&new, &own).unwrap();
    }
    own
}

/// The package of what is built, in a folder of its own.
fn built() -> PathBuf {
    let dir = shared("package-dev", |new| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/package.sh");
        output(Command::new(script).args(["dev", VERSION]).arg(new));
    });
    let mut made = std::fs::read_dir(dir).unwrap();
    made.next().unwrap().unwrap().path()
}

/// Puts the package of what is built into a directory of a tree; its path there.
fn package(top: &Path) -> String {
    let dir = top.join("packages");
    std::fs::create_dir_all(&dir).unwrap();
    let made = built();
    let name = made.file_name().unwrap();
    std::fs::copy(&made, dir.join(name)).unwrap();
    format!("/packages/{}", name.to_str().unwrap())
}

/// The same package as [`NEXT`].
fn next(top: &Path, package: &str) -> String {
    let next = package.replace(VERSION, NEXT);
    let script = "
        cd \"$0/packages\"
        dpkg-deb --raw-extract \"$0$1\" next
        sed -i \"s/^Version: .*/Version: $2/\" next/DEBIAN/control
        dpkg-deb --build -Znone next \"$0$3\"
        rm -r next";
    let mut command = Command::new("sh");
    command.args(["-euc", script]).arg(top);
    output(command.args([package, NEXT, &next]));
    next
}

/// All names on the machine's disk that are neither data nor the package manager's.
fn names(top: &Path) -> BTreeSet<String> {
    let mut find = Command::new("find");
    let all = output(
        find.arg(top)
            .args(["-mindepth", "1", "-xdev", "-printf", "%P\n"]),
    );
    let theirs = |name: &str| NOT_OURS.iter().any(|not| name.starts_with(not));
    let ours = |name: &&str| !theirs(name) || name.contains("layerd");
    let lines = all.lines().filter(|name| !name.starts_with(DATA));
    lines.filter(ours).map(str::to_owned).collect()
}

fn assert_no_trace(before: &BTreeSet<String>, top: &Path) {
    let after = names(top);
    let changed: Vec<_> = after.symmetric_difference(before).collect();
    assert!(changed.is_empty(), "not as before: {changed:#?}");
}

/// The data as they are, with what is in them.
fn data(top: &Path) -> String {
    let mut find = Command::new("find");
    output(
        find.arg(top.join(DATA))
            .args(["-printf", "%P %m %U %s %T@\n"]),
    )
}

/// Commands of an operator, with their output.
#[derive(Default)]
struct Transcript(String);

impl Transcript {
    fn say(&mut self, text: &str) {
        let _ = writeln!(self.0, "\n# {text}");
    }

    fn run(&mut self, machine: &Machine, script: &str) -> String {
        let said = machine.run(script);
        let _ = write!(self.0, "$ {script}\n{said}");
        said
    }
}

impl Drop for Transcript {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

fn installed(machine: &Machine, transcript: &mut Transcript, package: &str) {
    transcript.say("Installed: the socket listens, the daemon waits for a call.");
    transcript.run(machine, &format!("apt-get install -q -y {package}"));
    transcript.run(
        machine,
        "systemctl is-enabled layerd.socket layerd-docker.socket layerd.service",
    );
    let states = transcript.run(
        machine,
        "systemctl is-active layerd.socket layerd-docker.socket layerd.service || true",
    );
    assert_eq!(states, "active\nactive\ninactive\n");
    let said = machine
        .run("systemd-analyze verify --man=no layerd.service layerd.socket layerd-docker.socket layerd-csi.socket");
    assert_eq!(said, "", "systemd-analyze");
    machine.run("layerd check --config /etc/layerd/config.toml");
}

fn served(machine: &Machine, transcript: &mut Transcript) {
    transcript.say("The first call starts the daemon.");
    transcript.run(machine, "layerctl snapshot prepare kept >/dev/null");
    transcript.run(machine, "systemctl is-active layerd.service");
    let pid = pid(machine);
    let spaces = machine.run(&format!("readlink /proc/1/ns/mnt /proc/{pid}/ns/mnt"));
    let spaces: BTreeSet<_> = spaces.lines().collect();
    assert_eq!(spaces.len(), 1, "its mounts are the host's");
}

/// Docker's plugin is there before Docker, and a call to it starts layerd.
fn plugged(machine: &Machine, transcript: &mut Transcript) {
    transcript.say("Docker's volume plugin: systemd holds its socket, too, and hands it over.");
    machine.run("systemctl stop layerd.service");
    let plugin = Plugin::at(&callers::existing(machine.path(SOCKET)));
    plugin.ok("Create", &json!({ "Name": "of-docker" }));
    transcript.run(machine, "systemctl is-active layerd.service");
    transcript.run(machine, "layerctl volume ls");
    machine.run("systemctl kill -s KILL layerd.service");
    assert_eq!(plugin.names(), ["of-docker"], "the call waited");
    a_call_outlives_its_daemon(machine);
    transcript
        .say("A volume with a size is held to it, under the unit's system calls and capabilities.");
    transcript.run(machine, "layerctl volume create --size 8m small");
    let path = "$(layerctl volume inspect --format '{{.Mountpoint}}' small)";
    let written = machine.run(&format!(
        "dd if=/dev/zero of={path}/file bs=1M count=9 2>&1 || true"
    ));
    assert!(written.contains("No space left on device"), "{written}");
    transcript.run(machine, "layerctl volume update --size 16m small");
    machine.run(&format!("dd if=/dev/zero of={path}/file bs=1M count=9"));
    transcript.run(
        machine,
        "layerctl volume rm small && layerctl volume purge -f small",
    );
    transcript.run(
        machine,
        "layerctl setup docker; layerctl setup podman --write",
    );
    // As on a machine whose layerd is older than its plugin.
    machine.run("systemctl stop layerd-docker.socket; layerctl info >/dev/null");
    assert!(!machine.path(SOCKET).exists(), "no plugin, no socket");
    machine.run("systemctl restart layerd.service");
    assert_eq!(plugin.names(), ["of-docker"]);
}

/// systemd keeps the connection, and the socket what was sent.
fn a_call_outlives_its_daemon(machine: &Machine) {
    let socket = callers::existing(machine.path(SOCKET));
    let mut stream = UnixStream::connect(socket).unwrap();
    let limit = Duration::from_secs(60);
    stream.set_read_timeout(Some(limit)).unwrap();
    let call = "POST /VolumeDriver.List HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{";
    stream.write_all(call.as_bytes()).unwrap();
    let kept = "systemctl show --value -p NFileDescriptorStore layerd.service";
    wait_until("systemd to keep the connection", limit, || {
        machine.run(kept).trim() == "1"
    });
    machine.run("systemctl kill -s STOP layerd.service");
    stream.write_all(b"}").unwrap();
    machine.run("systemctl kill -s KILL layerd.service");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("of-docker"), "{answer}");
}

fn pid(machine: &Machine) -> String {
    let pid = machine.run("systemctl show --value -p MainPID layerd.service");
    pid.trim().to_owned()
}

fn killed(machine: &Machine, transcript: &mut Transcript) {
    transcript.say("Killed: the next call waits in the socket until it is back.");
    let first = pid(machine);
    transcript.run(machine, "systemctl kill -s KILL layerd.service");
    transcript.run(machine, "layerctl snapshot ls");
    assert_ne!(pid(machine), first, "it is another one");
}

/// A daemon that neither works nor ends. systemd's patience is cut from a minute to two seconds.
fn hung(machine: &Machine, transcript: &mut Transcript) {
    transcript.say("Stopped in its tracks: systemd's watchdog starts it anew.");
    let less = "
        mkdir -p /run/systemd/system/layerd.service.d
        printf '[Service]\\nWatchdogSec=2s\\n' >/run/systemd/system/layerd.service.d/test.conf
        systemctl daemon-reload
        systemctl restart layerd.service";
    machine.run(less);
    let first = pid(machine);
    transcript.run(machine, "systemctl kill -s STOP layerd.service");
    transcript.run(machine, "layerctl snapshot ls");
    assert_ne!(pid(machine), first, "it is another one");
    machine.run("rm -r /run/systemd/system/layerd.service.d; systemctl daemon-reload");
}

fn upgraded(machine: &Machine, transcript: &mut Transcript, package: &str) {
    transcript.say("Upgraded while clients call, with a configuration that was changed and units disabled: so they stay.");
    let edit =
        "sed -i 's/^#stop_timeout_secs = 30/stop_timeout_secs = 20/' /etc/layerd/config.toml";
    transcript.run(machine, edit);
    transcript.run(machine, "systemctl disable layerd.service");
    let old = pid(machine);
    let layerctl = machine.command("exec 2>&1; layerctl snapshot ls");
    let socket = callers::existing(machine.path("/run/layerd/layerd.sock"));
    let callers = Callers::start(&socket, move || {
        let mut command = Command::new(layerctl.get_program());
        let all = command.args(layerctl.get_args()).output().unwrap();
        let said = || String::from_utf8_lossy(&all.stdout).into_owned();
        all.status.success().then_some(()).ok_or_else(said)
    });
    transcript.run(machine, &format!("apt-get install -q -y {package}"));
    // What a restart does to callers is a matter of moments: here are more of them.
    transcript.run(
        machine,
        "for i in $(seq 10); do systemctl restart layerd.service; done",
    );
    let seen = callers.stop();
    for seen in &seen {
        transcript.say(&format!(
            "{}: {} calls, {} failed, {} made again, the longest took {} ms",
            seen.what,
            seen.calls,
            seen.failed.len(),
            seen.again,
            seen.longest.as_millis()
        ));
    }
    let failed: Vec<_> = seen.iter().flat_map(|seen| &seen.failed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(seen.iter().all(|seen| seen.calls > 10), "{seen:?}");
    let new = pid(machine);
    assert_ne!(new, old, "it is the new one");
    let program = machine.run(&format!("readlink /proc/{new}/exe"));
    assert_eq!(program, "/usr/bin/layerd\n", "not the one that was deleted");
    machine.run("grep -qx 'stop_timeout_secs = 20' /etc/layerd/config.toml");
    let enabled = machine.run("systemctl is-enabled layerd.service || true");
    assert_eq!(enabled, "disabled\n", "as the administrator left it");
    machine.run("systemctl enable layerd.service");
    transcript.run(machine, "layerctl snapshot ls");
}

fn removed(machine: &Machine, transcript: &mut Transcript, package: &str) {
    transcript.say("Removed: configuration and data stay, and serve again when it is back.");
    transcript.run(machine, "apt-get remove -q -y layerd");
    machine.run("test ! -e /run/layerd && test ! -e /usr/bin/layerd");
    let left = data(machine.top());
    assert!(left.lines().count() > 10, "{left}");
    transcript.run(machine, &format!("apt-get install -q -y {package}"));
    let kept = transcript.run(machine, "layerctl snapshot ls");
    assert!(kept.contains("kept"), "{kept}");
    machine.run("grep -qx 'stop_timeout_secs = 20' /etc/layerd/config.toml");
}

fn purged(machine: &Machine, transcript: &mut Transcript, before: &BTreeSet<String>) {
    transcript.say("Purged: nothing is left but the data.");
    machine.run("systemctl stop layerd.service");
    let left = data(machine.top());
    let said = transcript.run(machine, "apt-get purge -q -y layerd");
    assert!(said.contains(&format!("stay in /{DATA}/")), "{said}");
    assert_eq!(data(machine.top()), left, "not a byte of the data changed");
    assert_no_trace(before, machine.top());
    let units = machine.run("systemctl list-units --all --plain --no-legend 'layerd*'");
    assert_eq!(units, "", "units");
    assert!(!machine.path("/run/layerd").exists());
    assert!(!machine.path("/run/docker").exists());
    transcript.run(machine, &format!("ls -A /{DATA}"));
}

#[test]
fn root_package_comes_serves_and_goes_under_systemd() {
    let scratch = Scratch::new();
    let top = copy_of_debian(&scratch, Debian::Bookworm);
    let old = package(&top);
    let new = next(&top, &old);
    let machine = Machine::boot(&scratch, &top);
    let before = names(&top);
    let mut transcript = Transcript::default();
    installed(&machine, &mut transcript, &old);
    served(&machine, &mut transcript);
    plugged(&machine, &mut transcript);
    killed(&machine, &mut transcript);
    hung(&machine, &mut transcript);
    let second = instances::begun(&machine, &mut transcript);
    upgraded(&machine, &mut transcript, &new);
    instances::upgraded(&machine, &second);
    removed(&machine, &mut transcript, &new);
    instances::removed(&machine);
    purged(&machine, &mut transcript, &before);
    transcript::save("package.txt", transcript.0.trim_start());
}

/// As in a container, or while an image is made: nothing runs, and systemctl may be missing.
#[test]
fn root_package_comes_and_goes_without_systemd() {
    let scratch = Scratch::new();
    let top = copy_of_debian(&scratch, Debian::Bookworm);
    let old = package(&top);
    let new = next(&top, &old);
    std::fs::remove_file(top.join("usr/bin/systemctl")).unwrap();
    let before = names(&top);
    let chroot = |script: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--", "chroot"])
            .arg(&top);
        output(command.args(["sh", "-euc", &format!("exec 2>&1; {script}")]))
    };
    chroot(&format!(
        "dpkg --install {old}; layerd --version; layerctl --version"
    ));
    chroot(&format!("dpkg --install {new}; dpkg --verify layerd"));
    chroot("dpkg --remove layerd; test -e /etc/layerd/config.toml; test ! -e /usr/bin/layerd");
    chroot(&format!(
        "mkdir -p /{DATA}/io.containerd.snapshotter.v1.layerd"
    ));
    let said = chroot("dpkg --purge layerd");
    assert!(said.contains(&format!("stay in /{DATA}/")), "{said}");
    assert_no_trace(&before, &top);
    assert!(top.join(DATA).exists());
}

/// The package, unpacked.
fn unpacked(scratch: &Scratch) -> PathBuf {
    let built = package(scratch.path());
    let package = scratch.path().join(built.trim_start_matches('/'));
    let to = scratch.dir("tree");
    output(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(package)
            .arg(&to),
    );
    to
}
