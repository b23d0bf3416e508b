//! One more layerd beside the first, with a driver of its own: `layerd@NAME.service`.

use serde_json::Value;

use super::Transcript;
use super::machine::Machine;

const ADDRESS: &str = "--address /run/layerd/copies.sock";
const PID: &str = "systemctl show --value -p MainPID layerd@copies.service";

fn json(machine: &Machine, command: &str) -> Vec<Value> {
    let said = machine.run(&format!("layerctl {ADDRESS} -o json {command}"));
    let values = said.lines().map(serde_json::from_str);
    values.collect::<Result<_, _>>().unwrap()
}

/// Starts it, and answers its process.
pub(crate) fn begun(machine: &Machine, transcript: &mut Transcript) -> String {
    transcript.say("A second layerd, with another driver, socket and data.");
    let (is_started, _) = machine.try_run("systemctl start layerd@copies.service");
    assert!(!is_started, "it has no configuration");
    transcript.run(
        machine,
        "echo 'driver = \"native\"' >/etc/layerd/copies.toml",
    );
    transcript.run(machine, "systemctl enable --now layerd@copies.service");
    let said =
        machine.run("systemd-analyze verify --man=no layerd@copies.service layerd@copies.socket");
    assert_eq!(said, "", "systemd-analyze");
    machine.run(&format!("layerctl {ADDRESS} snapshot prepare copied"));
    transcript.run(machine, &format!("layerctl {ADDRESS} snapshot ls"));
    let info = json(machine, "info").remove(0);
    assert_eq!(info["driver"], "native", "{info}");
    let root = info["root"].as_str().unwrap();
    assert!(root.ends_with(".v1.layerd-copies"), "{root}");
    let of_first = machine.run("layerctl snapshot ls");
    assert!(!of_first.contains("copied"), "{of_first}");
    let (_, found) = machine.try_run(&format!("layerctl {ADDRESS} -o json doctor"));
    let found = found
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let found: Vec<Value> = found.collect();
    let unit = found.iter().find(|one| one["check"] == "unit").unwrap();
    let wanted = "layerd@copies.service and layerd@copies.socket are enabled, and limit nothing that layerd needs";
    assert_eq!(unit["found"], wanted, "{unit}");
    let setup = found
        .iter()
        .find(|one| one["check"] == "containerd's drop-in");
    let fix = setup.unwrap()["fix"].as_str().unwrap();
    assert!(fix.contains(" --instance copies"), "{fix}");
    machine.run(PID)
}

/// An upgrade restarts it, too, and its snapshots are there.
pub(crate) fn upgraded(machine: &Machine, before: &str) {
    assert_ne!(machine.run(PID), before, "it is another one");
    let kept = machine.run(&format!("layerctl {ADDRESS} snapshot ls"));
    assert!(kept.contains("copied"), "{kept}");
}

/// A removal of the package ends it; its configuration is the administrator's.
pub(crate) fn removed(machine: &Machine) {
    let state =
        machine.run("systemctl is-active layerd@copies.service layerd@copies.socket || true");
    assert_eq!(state, "inactive\ninactive\n");
    machine.run("rm /etc/layerd/copies.toml");
}
