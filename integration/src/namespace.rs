//! A user namespace as a rootless containerd has it, made by root: nothing depends on what the machine lets
//! ordinary users do.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{Server, WAIT_LIMIT, output, wait_until};
use crate::scratch::{Scratch, target};

/// The ordinary user. Not in /etc/passwd: nothing looks for a name.
pub const USER: u32 = 20_001;
/// Ids from 1 on of the namespace: number of the first of them on the machine, and their count.
pub const SUBORDINATE: (u32, u32) = (300_000, 65_536);

/// A user namespace of an ordinary user, with a mount namespace of its own. Its processes are ended when it is
/// dropped.
#[derive(Debug)]
pub struct UserNamespace {
    holder: Server,
}

impl UserNamespace {
    /// Makes one, whose user gets the directory of `scratch`. Paths are the same within; those on the way
    /// to the target directory can be entered, whatever their modes outside.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(scratch: &Scratch) -> Self {
        let path = scratch.path();
        std::os::unix::fs::chown(path, Some(USER), Some(USER)).expect("it is the test's");
        let program = format!(
            r#"set -e
            first=/$(echo "{target}" | cut -d/ -f2)
            user="setpriv --reuid {USER} --regid {USER} --clear-groups --"
            if ! $user test -x "{target}"; then
                mount --rbind "{target}" /mnt
                mount -t tmpfs -o mode=755 tmpfs "$first"
                mkdir -p "{target}"
                mount --move /mnt "{target}"
            fi
            exec $user unshare --user --mount --propagation private tail --pid={own} -f /dev/null"#,
            target = target().display(),
            own = std::process::id(),
        );
        let mut holder = Command::new("unshare");
        holder.args(["--mount", "--propagation", "private", "sh", "-c", &program]);
        let holder = Server::start(&holder, &path.join("namespace.log"));
        let made = Self { holder };
        let own = std::fs::read_link("/proc/self/ns/user").expect("proc is mounted");
        wait_until("a user namespace", WAIT_LIMIT, || {
            let other = std::fs::read_link(made.file("ns/user"));
            other.is_ok_and(|other| other != own) && made.has_program("tail")
        });
        let (first, count) = SUBORDINATE;
        for map in ["uid_map", "gid_map"] {
            let lines = format!("0 {USER} 1\n1 {first} {count}\n");
            std::fs::write(made.file(map), lines).expect("root may write it");
        }
        // containerd keeps sockets there, wherever its state is.
        let mut mount = made.command(Path::new("mount"));
        output(mount.args(["-t", "tmpfs", "tmpfs", "/run"]));
        made
    }

    /// Runs a program in it, as its root.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--user", "--mount", "--setuid", "0", "--setgid", "0"]);
        command.arg(format!("--target={}", self.pid())).arg("--");
        // The kernel forgets the parent's death where a program changes its user.
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]);
        command.arg(program);
        command
    }

    /// The path as the machine's root reaches what is mounted in it.
    #[must_use]
    pub fn outside(&self, path: &Path) -> std::path::PathBuf {
        let inside = path.strip_prefix("/").expect("paths are absolute");
        self.file("root").join(inside)
    }

    /// The process that holds it.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.holder.pid()
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        Path::new("/proc").join(self.pid().to_string()).join(name)
    }

    fn has_program(&self, name: &str) -> bool {
        let found = std::fs::read_to_string(self.file("comm"));
        found.is_ok_and(|found| found.trim() == name)
    }
}

impl Drop for UserNamespace {
    fn drop(&mut self) {
        let Ok(own) = std::fs::read_link(self.file("ns/user")) else {
            return;
        };
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in all {
            let is_within = std::fs::read_link(process.path().join("ns/user"));
            let pid = process
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(pid) = pid.filter(|_| is_within.is_ok_and(|its| its == own)) {
                // It may have ended meanwhile.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}
