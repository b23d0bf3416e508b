//! The units for `systemctl --user`, under a systemd of the user.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use layerd_integration::namespace::USER;
use layerd_integration::process::{Server, WAIT_LIMIT, output, wait_until};
use layerd_integration::scratch::profile;
use layerd_integration::{Scratch, UserNamespace};
use nix::mount::{MsFlags, mount};

use super::{owned, text};

/// Starts the user's systemd, given the runtime directory and a control group of its own.
const SESSION: &str = r#"
    mount -t tmpfs tmpfs /run
    mkdir -p /run/systemd/system
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    echo $$ >"$1/cgroup.procs"
    exec setpriv --reuid $2 --regid $2 --clear-groups -- setpriv --pdeathsig KILL -- \
        env -i XDG_RUNTIME_DIR="$0" HOME="$3" PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --user
"#;

/// The user's systemd. Ended when it is dropped, with all that it started.
struct Session {
    server: Server,
    cgroup: PathBuf,
    runtime: PathBuf,
    namespace: Arc<UserNamespace>,
}

impl Session {
    fn start(scratch: &Scratch) -> Self {
        let namespace = Arc::new(UserNamespace::new(scratch));
        let (home, runtime) = (owned(scratch, "home"), owned(scratch, "run"));
        write_units(&owned(scratch, "home/.config/systemd/user"));
        let state = owned(scratch, "run/containerd-rootless");
        fs::write(state.join("child_pid"), namespace.pid().to_string()).unwrap();
        let groups = scratch.dir("cgroup");
        let none = MsFlags::empty();
        mount(
            Some("cgroup2"),
            &groups,
            Some("cgroup2"),
            none,
            None::<&str>,
        )
        .unwrap();
        let cgroup = groups.join(format!("layerd-user-{}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        for file in [
            "",
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.threads",
        ] {
            chown(cgroup.join(file), Some(USER), Some(USER)).unwrap();
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-euc", SESSION]);
        command
            .args([&runtime, &cgroup])
            .arg(USER.to_string())
            .arg(&home);
        let server = Server::start(&command, &scratch.path().join("systemd.log"));
        let session = Self {
            server,
            cgroup,
            runtime,
            namespace,
        };
        wait_until("the user's systemd", WAIT_LIMIT, || {
            session
                .systemctl(&["is-system-running"])
                .output()
                .is_ok_and(|ended| ended.status.success())
        });
        session
    }

    /// A command of the user's systemctl.
    fn systemctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        // Where no systemd runs the machine, systemctl answers nothing outside.
        command
            .arg("--mount")
            .arg(format!("--target={}", self.server.pid()));
        let user = format!("{USER}");
        command.args(["--", "setpriv", "--reuid", &user, "--regid", &user]);
        command.args(["--clear-groups", "--"]);
        command
            .env("XDG_RUNTIME_DIR", &self.runtime)
            .env_remove("DBUS_SESSION_BUS_ADDRESS");
        command.args(["systemctl", "--user"]).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) {
        output(&mut self.systemctl(arguments));
    }

    fn main_pid(&self) -> String {
        let mut show = self.systemctl(&["show", "--property=MainPID", "--value", "layerd.service"]);
        output(&mut show).trim().to_owned()
    }

    fn is_active(&self) -> bool {
        self.systemctl(&["is-active", "layerd.service"])
            .output()
            .is_ok_and(|ended| ended.status.success())
    }

    /// Asks layerd by its default socket, as the user does.
    fn layerctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(profile().join("layerctl"));
        command
            .env("XDG_RUNTIME_DIR", &self.runtime)
            .env_remove("LAYERD_ADDRESS");
        output(command.args(arguments))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // All of it is below: what does not go is named by the directories that stay.
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        self.server.kill9();
        wait_until("the user's control groups to go", WAIT_LIMIT, || {
            let mut remove = Command::new("find");
            remove.arg(&self.cgroup).args(["-depth", "-type", "d"]);
            let _ = remove.args(["-exec", "rmdir", "{}", ";"]).output();
            !self.cgroup.exists()
        });
    }
}

/// The shipped units, which start the built layerd; beside them a containerd that only runs.
fn write_units(folder: &Path) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/user");
    for name in ["layerd.service", "layerd.socket"] {
        let unit = fs::read_to_string(shipped.join(name)).unwrap();
        let layerd = profile().join("layerd");
        let unit = unit.replace("/usr/bin/layerd", text(&layerd));
        fs::write(folder.join(name), unit).unwrap();
    }
    let containerd = "[Service]\nExecStart=/bin/sleep infinity\n";
    fs::write(folder.join("containerd.service"), containerd).unwrap();
}

#[test]
fn root_a_users_units_start_layerd_in_the_namespace_and_end_it_with_containerd() {
    let scratch = Scratch::new();
    let session = Session::start(&scratch);
    session.run(&["start", "layerd.socket", "containerd.service"]);
    assert!(!session.is_active(), "nothing has called yet");
    let info = session.layerctl(&["info"]);
    assert!(info.contains("user namespace: inside one"), "{info}");
    let data = scratch.path().join("home/.local/share/layerd");
    assert!(
        info.contains(&format!("Root Dir: {}", data.display())),
        "{info}"
    );
    session.layerctl(&["snapshot", "prepare", "kept"]);
    let first = session.main_pid();
    let own = format!("/proc/{first}/ns/mnt");
    let its = format!("/proc/{}/ns/mnt", session.namespace.pid());
    assert_eq!(fs::read_link(own).unwrap(), fs::read_link(its).unwrap());
    output(Command::new("kill").args(["-KILL", &first]));
    assert!(session.layerctl(&["snapshot", "ls", "-q"]).contains("kept"));
    assert_ne!(session.main_pid(), first);
    session.run(&["stop", "containerd.service"]);
    assert!(!session.is_active(), "its namespaces end with containerd");
    session.run(&["start", "containerd.service"]);
    assert!(session.layerctl(&["snapshot", "ls", "-q"]).contains("kept"));
    session.layerctl(&["snapshot", "rm", "kept"]);
}
