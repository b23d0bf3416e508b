//! A Debian of its own with systemd as its first process: a copy of the tree from debootstrap in
//! namespaces for everything that systemd touches.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use layerd_integration::Scratch;
use layerd_integration::peers::Debian;
use layerd_integration::process::{Server, output, wait_until};
use nix::mount::{MsFlags, mount};

/// Longer than anything here takes, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Script that starts the first process, given the root directory and a cgroup. Programs that only
/// look for /run/systemd/system find it.
const BOOT: &str = r#"
    top=$0 cgroup=$1
    echo $$ >"$cgroup/cgroup.procs"
    exec unshare --cgroup --mount --uts --ipc --net --pid --fork --kill-child \
        --propagation private -- sh -euc '
        top=$0
        mount --bind "$top" "$top"
        cd "$top"
        mount -t proc proc proc
        mount -t sysfs -o ro sysfs sys
        mount -t cgroup2 cgroup2 sys/fs/cgroup
        mount -t tmpfs -o mode=755 tmpfs dev
        for name in null zero full random urandom tty; do
            : >dev/$name
            mount --bind /dev/$name dev/$name
        done
        mknod dev/loop-control c 10 237
        for number in $(seq 0 63); do mknod dev/loop$number b 7 $number; done
        mkdir dev/pts dev/shm
        mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
        ln -s pts/ptmx dev/ptmx
        mount -t tmpfs -o mode=755 tmpfs run
        mount -t tmpfs tmpfs tmp
        exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
            chroot . /lib/systemd/systemd --unit=basic.target --log-target=console
    ' "$top"
"#;

/// The tree with its own names in place of what debootstrap took from this machine.
pub(crate) fn copy_of_debian(scratch: &Scratch, release: Debian) -> PathBuf {
    let top = scratch.path().join("debian");
    output(Command::new("cp").arg("-aT").arg(release.tree()).arg(&top));
    std::fs::write(top.join("etc/hostname"), "debian\n").unwrap();
    std::fs::write(top.join("etc/apt/sources.list"), "").unwrap();
    // dpkg shows no progress to what is no terminal, and the operator says yes.
    let quiet = "Dpkg::Use-Pty \"false\";\nAPT::Get::Assume-Yes \"true\";\n";
    std::fs::write(top.join("etc/apt/apt.conf.d/quiet"), quiet).unwrap();
    // The tree goes with the test, whatever becomes of the machine's power.
    std::fs::write(top.join("etc/dpkg/dpkg.cfg.d/quick"), "force-unsafe-io\n").unwrap();
    std::fs::write(top.join("etc/resolv.conf"), "").unwrap();
    // It has no modules of its own to load.
    let modules = "etc/systemd/system/systemd-modules-load.service";
    std::os::unix::fs::symlink("/dev/null", top.join(modules)).unwrap();
    top
}

/// The machine. Ended when dropped.
pub(crate) struct Machine {
    top: PathBuf,
    cgroup: PathBuf,
    server: Server,
    /// Its first process, as we see it.
    first: u32,
}

impl Machine {
    /// Boots it, until systemd has nothing left to start.
    pub(crate) fn boot(scratch: &Scratch, top: &Path) -> Self {
        let cgroup = own_cgroup(scratch);
        let mut command = Command::new("sh");
        command.args(["-euc", BOOT]).arg(top).arg(&cgroup);
        let server = Server::start(&command, &scratch.path().join("console"));
        let unshare = server.pid().as_raw();
        let mut first = None;
        wait_until("the first process", LIMIT, || {
            let children = format!("/proc/{unshare}/task/{unshare}/children");
            let children = std::fs::read_to_string(children).unwrap_or_default();
            first = children.trim().parse().ok();
            first.is_some_and(is_systemd)
        });
        let machine = Self {
            top: top.to_owned(),
            cgroup,
            server,
            first: first.unwrap(),
        };
        wait_until("systemd to be up", LIMIT, || {
            machine.try_run("systemctl is-system-running").0
        });
        machine
    }

    /// Its top directory, without what is mounted in it.
    pub(crate) fn top(&self) -> &Path {
        &self.top
    }

    /// A path in it, with what is mounted in it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.first))
    }

    /// Command that runs a shell script in it.
    pub(crate) fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.first))
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .args(["--root", "--wd", "--", "env", "-i"])
            .args([
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "DEBIAN_FRONTEND=noninteractive",
            ])
            .args(["LC_ALL=C.UTF-8", "sh", "-euc", script]);
        command
    }

    /// Runs a script, which must succeed; what it printed, errors with the rest.
    pub(crate) fn run(&self, script: &str) -> String {
        let (ok, said) = self.try_run(script);
        assert!(ok, "{script}: {said}\nconsole:\n{}", self.server.log());
        said
    }

    /// Runs a script; true if it succeeds, with its output.
    pub(crate) fn try_run(&self, script: &str) -> (bool, String) {
        let all = self
            .command(&format!("exec 2>&1\n{script}"))
            .output()
            .unwrap();
        (
            all.status.success(),
            String::from_utf8_lossy(&all.stdout).into_owned(),
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.server.kill9();
        // Groups of processes that just ended may be busy for a moment.
        for _ in 0..100 {
            let mut remove = Command::new("find");
            remove.arg(&self.cgroup).args(["-depth", "-type", "d"]);
            let _ = remove.args(["-exec", "rmdir", "{}", ";"]).output();
            if !self.cgroup.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("left behind: {}", self.cgroup.display());
    }
}

fn is_systemd(pid: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| name.trim() == "systemd")
}

/// A cgroup for the machine, wherever the host has mounted the hierarchy.
fn own_cgroup(scratch: &Scratch) -> PathBuf {
    let all = scratch.dir("cgroup");
    let flags = MsFlags::empty();
    mount(Some("cgroup2"), &all, Some("cgroup2"), flags, None::<&str>).unwrap();
    let name = format!("layerd-package-{}", std::process::id());
    let own = all.join(name);
    std::fs::create_dir(&own).unwrap();
    own
}
