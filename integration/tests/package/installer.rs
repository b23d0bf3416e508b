//! The archive's install.sh, and the RPM package, from the first installation to the last trace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use layerd_integration::Scratch;
use layerd_integration::peers::Debian;
use layerd_integration::process::output;

use super::forms::Forms;
use super::machine::{Machine, copy_of_debian};
use super::{DATA, assert_no_trace, names, unpacked};

const CONFIG: &str = "etc/layerd/config.toml";
const UNIT: &str = "usr/local/lib/systemd/system/layerd.socket";

/// A tree with busybox alone: no Debian, no systemd, no bash.
struct Small {
    top: PathBuf,
    /// The unpacked archive in it.
    archive: PathBuf,
}

impl Small {
    fn make(scratch: &Scratch) -> Self {
        let top = scratch.dir("small");
        for dir in ["bin", "dev", "etc", "tmp"] {
            fs::create_dir(top.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", top.join("bin/busybox")).unwrap();
        let script = "
            mknod -m 666 \"$0/dev/null\" c 1 3
            for applet in $(\"$0/bin/busybox\" --list); do
                [ $applet = busybox ] || ln -s busybox \"$0/bin/$applet\"
            done";
        output(Command::new("sh").args(["-euc", script]).arg(&top));
        let archive = Forms::make().unpack(&top);
        Self { top, archive }
    }

    /// Success and what was said.
    fn try_run(&self, script: &str) -> (bool, String) {
        let mut command = Command::new("chroot");
        let script = format!("exec 2>&1; export PATH=/bin; cd /; {script}");
        command.arg(&self.top).args(["/bin/sh", "-euc", &script]);
        let all = command.output().unwrap();
        let said = String::from_utf8_lossy(&all.stdout).into_owned();
        (all.status.success(), said)
    }

    fn install(&self, arguments: &str) -> (bool, String) {
        let name = self.archive.file_name().unwrap().to_str().unwrap();
        self.try_run(&format!("/{name}/install.sh {arguments}"))
    }

    fn installed(&self, arguments: &str) -> String {
        let (ok, said) = self.install(arguments);
        assert!(ok, "{said}");
        said
    }

    fn uninstalled(&self) -> String {
        let (ok, said) = self.try_run("/usr/local/share/layerd/install.sh --uninstall");
        assert!(ok, "{said}");
        said
    }

    fn append(&self, path: &str) {
        let text = fs::read_to_string(self.top.join(path)).unwrap();
        fs::write(self.top.join(path), text + "# mine\n").unwrap();
    }

    /// Gives the archive another file in place of one, as another release has.
    fn release(&self, path: &str, text: &str) {
        fs::write(self.archive.join("files").join(path), text).unwrap();
        new_sums(&self.archive);
    }
}

/// Makes the checksums of a changed archive anew.
fn new_sums(archive: &Path) {
    let script = "
        cd \"$0\"
        rm SHA256SUMS
        find . -type f | sed 's|^./||' | xargs sha256sum >../sums
        mv ../sums SHA256SUMS";
    output(Command::new("sh").args(["-euc", script]).arg(archive));
}

#[test]
fn root_archive_is_installed_and_leaves_no_trace() {
    let scratch = Scratch::new();
    let small = Small::make(&scratch);
    let before = names(&small.top);
    let would = small.installed("--dry-run");
    assert!(
        would.contains("would put /usr/local/bin/layerd\n"),
        "{would}"
    );
    assert_no_trace(&before, &small.top);
    for _ in 0..2 {
        small.installed("");
    }
    let (_, said) = small.try_run("/usr/local/bin/layerd");
    assert_eq!(said, "layerd 0.1.0\n");
    let unit = fs::read_to_string(small.top.join(UNIT).with_file_name("layerd.service")).unwrap();
    assert!(
        unit.contains("\nExecStart=/usr/local/bin/layerd --config"),
        "{unit}"
    );
    let (_, modes) = small.try_run("stat -c '%a %n' usr/local/bin/layerd etc/layerd/config.toml");
    assert_eq!(
        modes,
        "755 usr/local/bin/layerd\n644 etc/layerd/config.toml\n"
    );
    let there = names(&small.top);
    let (ok, would) = small.try_run("/usr/local/share/layerd/install.sh --uninstall --dry-run");
    assert!(
        ok && would.contains("would run: rm -f /usr/local/bin/layerd\n"),
        "{would}"
    );
    assert_eq!(names(&small.top), there);
    small.uninstalled();
    assert_no_trace(&before, &small.top);
}

#[test]
fn root_archive_goes_below_any_prefix_and_into_any_tree() {
    let scratch = Scratch::new();
    let small = Small::make(&scratch);
    let before = names(&small.top);
    small.installed("--prefix /opt/layerd");
    let unit = fs::read_to_string(small.top.join("etc/systemd/system/layerd.service")).unwrap();
    assert!(
        unit.contains("\nExecStart=/opt/layerd/bin/layerd --config"),
        "{unit}"
    );
    let (ok, said) = small.install("");
    assert!(
        !ok && said.contains("/etc/systemd/system/layerd.service is of another installation"),
        "{said}"
    );
    let (ok, said) = small.install("--uninstall");
    assert!(
        !ok && said.contains("nothing was installed below /usr/local"),
        "{said}"
    );
    small.installed("--uninstall --prefix /opt/layerd");
    assert_no_trace(&before, &small.top);
    let tree = scratch.dir("tree");
    let script = small.archive.join("install.sh");
    let root = |more: &[&str]| {
        let mut command = Command::new(&script);
        output(
            command
                .arg("--root")
                .arg(&tree)
                .args(["--prefix", "/usr"])
                .args(more),
        )
    };
    root(&[]);
    assert!(tree.join("usr/lib/systemd/system/layerd.service").exists());
    root(&["--uninstall"]);
    assert!(names(&tree).is_empty(), "{:?}", names(&tree));
    for (arguments, wanted) in [
        (
            "--prefix usr",
            "--prefix is usr, and must be an absolute path",
        ),
        ("--prefix '/a b'", "may hold letters, digits"),
        ("--prefix /a/../b", "and no .."),
        ("--prefix /", "must be a directory below it"),
        ("--prefix", "--prefix needs a directory"),
        ("--purge", "--purge is no option"),
    ] {
        let (ok, said) = small.install(arguments);
        assert!(!ok && said.contains(wanted), "{arguments}: {said}");
    }
    assert_no_trace(&before, &small.top);
}

#[test]
fn root_archive_overwrites_nothing_of_others() {
    let scratch = Scratch::new();
    let small = Small::make(&scratch);
    let bin = small.top.join("usr/local/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("layerctl"), "mine").unwrap();
    std::os::unix::fs::symlink("/bin/busybox", bin.join("layerd")).unwrap();
    let before = names(&small.top);
    let (ok, said) = small.install("");
    assert!(!ok, "{said}");
    for name in ["layerctl", "layerd"] {
        let wanted = format!("/usr/local/bin/{name} is in the way");
        assert!(said.contains(&wanted), "{said}");
    }
    assert_no_trace(&before, &small.top);
    fs::remove_file(bin.join("layerctl")).unwrap();
    fs::remove_file(bin.join("layerd")).unwrap();
    fs::write(small.archive.join("files/usr/bin/layerd"), "damaged").unwrap();
    let (ok, said) = small.install("");
    assert!(!ok && said.contains("differ from SHA256SUMS"), "{said}");
}

#[test]
fn root_archive_keeps_what_an_administrator_changed() {
    let scratch = Scratch::new();
    let small = Small::make(&scratch);
    small.installed("");
    small.append(CONFIG);
    let there = names(&small.top);
    let said = small.installed("");
    assert!(!said.contains("kept"), "the default is the same: {said}");
    assert_eq!(names(&small.top), there);
    // The next release has another default, and no page of fsck.
    small.release(CONFIG, "# next\n");
    fs::remove_file(
        small
            .archive
            .join("files/usr/share/man/man8/layerd-fsck.8.gz"),
    )
    .unwrap();
    small.release("usr/bin/layerd", "#!/bin/sh\necho next\n");
    let said = small.installed("");
    assert!(
        said.contains("/etc/layerd/config.toml was changed and is kept"),
        "{said}"
    );
    let text = |path: &str| fs::read_to_string(small.top.join(path)).unwrap();
    assert!(text(CONFIG).ends_with("# mine\n"));
    assert_eq!(text("etc/layerd/config.toml.new"), "# next\n");
    assert_eq!(small.try_run("/usr/local/bin/layerd").1, "next\n");
    assert!(
        !small
            .top
            .join("usr/local/share/man/man8/layerd-fsck.8.gz")
            .exists()
    );
    small.append(UNIT);
    let (ok, said) = small.install("");
    assert!(
        !ok && said.contains(&format!("/{UNIT} is in the way")),
        "{said}"
    );
    let said = small.uninstalled();
    for path in [CONFIG, UNIT] {
        assert!(
            said.contains(&format!("/{path} was changed and stays")),
            "{said}"
        );
        assert!(text(path).ends_with("# mine\n"));
    }
    let left: Vec<_> = names(&small.top)
        .into_iter()
        .filter(|name| small.top.join(name).is_file())
        .collect();
    let ours = left
        .iter()
        .filter(|name| name.contains("layerd") && !name.starts_with("layerd-0.1.0"));
    assert_eq!(ours.collect::<Vec<_>>(), [CONFIG, UNIT]);
}

/// With the real programs, on a machine.
#[test]
fn root_archive_serves_under_systemd() {
    let scratch = Scratch::new();
    let top = copy_of_debian(&scratch, Debian::Bookworm);
    let archive = Forms::make().unpack(&top.join("root"));
    let real = unpacked(&scratch).join("usr/bin");
    let script = "cp \"$1\"/* \"$0/files/usr/bin/\"";
    let mut sh = Command::new("sh");
    output(sh.args(["-euc", script]).arg(&archive).arg(&real));
    new_sums(&archive);
    let machine = Machine::boot(&scratch, &top);
    let before = names(&top);
    let install = format!(
        "/root/{}/install.sh",
        archive.file_name().unwrap().to_str().unwrap()
    );
    machine.run(&install);
    let states = "systemctl is-active layerd.socket layerd-docker.socket layerd.service || true";
    assert_eq!(machine.run(states), "active\nactive\ninactive\n");
    machine.run("systemd-analyze verify --man=no layerd.service layerd.socket");
    machine.run("/usr/local/bin/layerctl snapshot prepare kept >/dev/null");
    assert_eq!(machine.run(states), "active\nactive\nactive\n");
    machine.run(&install);
    assert!(
        machine
            .run("/usr/local/bin/layerctl snapshot ls")
            .contains("kept")
    );
    let pid = machine.run("systemctl show --value -p MainPID layerd.service");
    let program = machine.run(&format!("readlink /proc/{}/exe", pid.trim()));
    assert_eq!(program, "/usr/local/bin/layerd\n");
    let said = machine.run("/usr/local/share/layerd/install.sh --uninstall");
    assert!(
        said.contains(&format!("layers and volumes stay in /{DATA}/")),
        "{said}"
    );
    assert!(!machine.path("/run/layerd").exists());
    let units = machine.run("systemctl list-units --all --plain --no-legend 'layerd*'");
    assert_eq!(units, "", "units");
    assert_no_trace(&before, &top);
}

/// Debian's rpm in a tree without systemd's first process.
#[test]
fn root_rpm_package_comes_and_goes() {
    let scratch = Scratch::new();
    let top = copy_of_debian(&scratch, Debian::Bookworm);
    let package = Forms::make().rpm();
    let rpm = |arguments: &[&str]| {
        let mut command = Command::new("rpm");
        command.arg("--root").arg(&top).args(arguments);
        output(&mut command)
    };
    let path = package.to_str().unwrap();
    rpm(&["--initdb"]);
    let before = names(&top);
    rpm(&["--install", "--nodeps", path]);
    assert_eq!(rpm(&["--verify", "--nodeps", "layerd"]), "");
    let said = output(Command::new("chroot").arg(&top).arg("layerctl"));
    assert_eq!(said, "layerctl 0.1.0\n");
    let config = top.join(CONFIG);
    let text = fs::read_to_string(&config).unwrap() + "# mine\n";
    fs::write(&config, &text).unwrap();
    rpm(&["--upgrade", "--nodeps", "--replacepkgs", path]);
    assert_eq!(fs::read_to_string(&config).unwrap(), text);
    let data = top.join(DATA).join("io.containerd.snapshotter.v1.layerd");
    fs::create_dir_all(&data).unwrap();
    let said = rpm(&["--erase", "layerd"]);
    assert!(said.contains("layers and volumes stay in"), "{said}");
    assert!(data.exists());
    let kept = Path::new(CONFIG).with_extension("toml.rpmsave");
    assert_eq!(fs::read_to_string(top.join(&kept)).unwrap(), text);
    fs::remove_file(top.join(kept)).unwrap();
    fs::remove_dir(top.join("etc/layerd")).unwrap();
    // Folders that packages share, and that are another's on a machine of rpm's own.
    let after = names(&top);
    let left = after
        .difference(&before)
        .filter(|name| !top.join(name).is_dir());
    assert_eq!(left.collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(before.is_subset(&after));
}
