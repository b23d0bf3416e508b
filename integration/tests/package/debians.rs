//! README's own commands on three releases of Debian, each with its own containerd from its own
//! package: from the installation to the last trace, with a container that runs all the time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use layerd_integration::peers::Debian;
use layerd_integration::process::{output, wait_until};
use layerd_integration::{Image, Scratch, image};

use super::machine::{Machine, copy_of_debian};
use super::{Transcript, next, package};

const README: &str = include_str!("../../../README.md");
const MAIN: &str = "etc/containerd/config.toml";
const IMAGE: &str = "docker.io/test/busybox:1";

/// The commands of the first console block after `sentence`.
fn commands(sentence: &str) -> Vec<&'static str> {
    let (_, rest) = README.split_once(sentence).expect(sentence);
    let (_, block) = rest.split_once("```console\n").expect("a console block");
    let (block, _) = block.split_once("```").expect("the end of the block");
    block
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .collect()
}

/// A machine with Debian's containerd, and layerd's packages where README has them.
pub(crate) struct World {
    pub(crate) machine: Machine,
    transcript: Transcript,
    /// Files below /etc/containerd before layerd is installed.
    before: BTreeMap<String, String>,
    _scratch: Scratch,
}

impl World {
    pub(crate) fn boot(release: Debian) -> Self {
        let scratch = Scratch::new();
        let top = copy_of_debian(&scratch, release);
        let old = package(&top);
        next(&top, &old);
        let layout = top.join("root/target/packages");
        fs::create_dir_all(&layout).unwrap();
        let mut move_old = Command::new("mv");
        output(
            move_old
                .arg(top.join(old.trim_start_matches('/')))
                .arg(&layout),
        );
        let mut copy = Command::new("cp");
        output(
            copy.arg("-aT")
                .arg(release.containerd_packages())
                .arg(top.join("root/debs")),
        );
        let busybox = Image::build(scratch.path(), IMAGE, &[image::busybox()]);
        fs::copy(busybox.archive(), top.join("root/busybox.tar")).unwrap();
        fs::copy("/bin/busybox", top.join("root/busybox")).unwrap();
        let machine = Machine::boot(&scratch, &top);
        machine.run("apt-get install -q /root/debs/*.deb; systemctl is-active containerd");
        Self {
            before: files(machine.top()),
            machine,
            transcript: Transcript::default(),
            _scratch: scratch,
        }
    }

    /// Runs each command as it stands, from the top of a checkout.
    fn follow(&mut self, what: &str, commands: &[&str]) -> String {
        self.transcript.say(what);
        let run = |command: &&str| {
            self.transcript
                .run(&self.machine, &format!("cd /root; {command}"))
        };
        commands.iter().map(run).collect()
    }

    pub(crate) fn install(&mut self) {
        let all = commands("On Debian, make a package and install it");
        assert_eq!((all[0], all.len()), ("make package", 4), "{all:?}");
        let said = self.follow("README: install it.", &all[1..]);
        assert!(said.contains("+imports = "), "the change is shown: {said}");
    }

    /// True if the running containerd has layerd.
    fn has_layerd(&self) -> bool {
        let plugins = self.machine.run("ctr plugins ls");
        plugins
            .lines()
            .any(|line| line.contains(" layerd ") && line.trim_end().ends_with("ok"))
    }

    /// Without a share of processors: the machine may have no such controller.
    fn run_container(&self) {
        self.machine
            .run("ctr images import --snapshotter layerd /root/busybox.tar");
        self.machine.run(&format!(
            "ctr run --detach --cpu-shares 0 --snapshotter layerd {IMAGE} web /bin/busybox sleep 1000"
        ));
        self.assert_container_runs();
    }

    fn assert_container_runs(&self) {
        let tasks = self.machine.run("ctr tasks ls");
        assert!(tasks.contains("RUNNING"), "{tasks}");
        // ctr 1.6 may end before it has read what a short process said.
        let inside = "ctr tasks exec --exec-id look web /bin/busybox echo inside";
        wait_until("a process to speak", Duration::from_secs(30), || {
            self.machine.run(inside) == "inside\n"
        });
    }

    fn remove_container(&self) {
        self.machine.run(&format!(
            "ctr tasks kill -s KILL web; sleep 1; ctr containers rm web; ctr images rm --sync {IMAGE}"
        ));
        let left = self
            .machine
            .run("ctr snapshots --snapshotter layerd ls | tail -n +2");
        assert_eq!(left, "");
    }
}

/// All files below /etc/containerd with their text.
fn files(top: &Path) -> BTreeMap<String, String> {
    let mut find = Command::new("find");
    find.arg(top.join("etc/containerd"))
        .args(["-type", "f", "-printf", "%P\n"]);
    let names = output(&mut find);
    let text = |name: &str| fs::read_to_string(top.join("etc/containerd").join(name)).unwrap();
    names
        .lines()
        .map(|name| (name.to_owned(), text(name)))
        .collect()
}

fn readme_holds_on(release: Debian) {
    let mut world = World::boot(release);
    world.install();
    assert!(world.has_layerd(), "containerd does not know layerd");
    world.machine.run("layerctl doctor || [ $? = 1 ]");
    metrics_stop_nothing(&world.machine);
    world.run_container();
    let before = world.machine.run("layerctl snapshot ls -q");
    let [upgrade, downgrade] = &commands("Upgrade, and go back to an older package")[..] else {
        panic!("two commands");
    };
    world.machine.run("mv /root/target/packages/*.deb /root/layerd_OLD.deb; mv /packages/*.deb /root/target/packages/");
    world.follow("README: upgrade it.", &[upgrade]);
    world.assert_container_runs();
    assert!(world.has_layerd());
    world.follow("README: go back to the old package.", &[downgrade]);
    world.assert_container_runs();
    assert_eq!(world.machine.run("layerctl snapshot ls -q"), before);
    world.remove_container();
    let back = commands("Kubernetes: `k8s.io`). Then:");
    world.follow("README: go back.", &back);
    assert!(!world.has_layerd());
    assert_eq!(files(world.machine.top()), world.before);
    purged_with_the_drop_in(&mut world);
}

/// A setting that the unit does not allow: it is named, by the journal with its priority, and what
/// `layerd check` prints mends it.
fn metrics_stop_nothing(machine: &Machine) {
    machine.run(
        "cp /etc/layerd/config.toml /root/kept
        sed -i '/^.metrics.$/,/^#address/s/^#address = .*/address = \"127.0.0.1:9100\"/' /etc/layerd/config.toml
        systemctl restart layerd.service
        layerctl snapshot ls",
    );
    let warnings = machine.run("journalctl -q -o cat -u layerd -p warning");
    assert!(warnings.contains("metrics are not served"), "{warnings}");
    let all = machine.run("journalctl -q -o cat -u layerd -p info");
    let own = all.lines().filter(|line| line.contains("layerd::"));
    assert!(
        own.clone().all(|line| line.starts_with("layerd::")),
        "no second time: {all}"
    );
    assert!(own.count() > 0, "{all}");
    let check = "layerd check --config /etc/layerd/config.toml";
    let said = machine.run(check);
    let warned = said.lines().find(|line| line.starts_with("warn unit: "));
    let fix = warned.and_then(|line| line.split_once("(RestrictAddressFamilies=); "));
    machine.run(fix.expect(&said).1);
    assert!(!machine.run(check).contains("warn"));
    machine.run("layerctl info | grep -v ALARM >/dev/null; ! layerctl info | grep ALARM");
    machine.run(
        "mv /root/kept /etc/layerd/config.toml
        rm -r /etc/systemd/system/layerd.service.d
        systemctl daemon-reload
        systemctl restart layerd.service",
    );
}

/// Purges the package without the documented steps.
fn purged_with_the_drop_in(world: &mut World) {
    world.machine.run("mv /root/layerd_OLD.deb /root/target/packages/layerd_0.1.0-1_all.deb; rm -f /root/target/packages/*0.1.1*");
    world.install();
    assert!(world.has_layerd());
    let said = world.follow(
        "Purged without a word to containerd.",
        &["apt-get purge layerd"],
    );
    assert!(said.contains("systemctl restart containerd"), "{said}");
    assert_eq!(files(world.machine.top()), world.before);
    world
        .machine
        .run("systemctl restart containerd; systemctl is-active containerd");
    assert!(!world.has_layerd());
    world.machine.run("ctr images import /root/busybox.tar");
    assert!(world.machine.top().join(MAIN).exists());
}

#[test]
fn root_readme_holds_on_debian_12_with_containerd_1_6() {
    readme_holds_on(Debian::Bookworm);
}

#[test]
fn root_readme_holds_on_debian_13_with_containerd_1_7() {
    readme_holds_on(Debian::Trixie);
}

#[test]
fn root_readme_holds_on_debian_forky_with_containerd_2_1() {
    readme_holds_on(Debian::Forky);
}
