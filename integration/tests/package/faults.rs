//! `layerctl doctor` on a machine that is broken on purpose: each fault is found, what it prints as
//! its fix is run by a shell exactly as printed, and the fault is gone.

#[path = "faults/containerd.rs"]
mod containerd;
#[path = "faults/daemon.rs"]
mod daemon;
#[path = "faults/data.rs"]
mod data;
#[path = "faults/fixes.rs"]
mod fixes;
#[path = "faults/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use layerd_integration::peers::Debian;
use serde_json::Value;

use super::debians::World;
use super::machine::Machine;
use table::{BEFORE, Fault, PRELUDE};

/// Findings after `fault`, and after its end; a row of the table of both.
struct Patient<'a> {
    machine: &'a Machine,
    report: String,
}

impl Patient<'_> {
    fn sh(&self, script: &str) -> Result<(), String> {
        let (ok, said) = self.machine.try_run(&format!("{PRELUDE}\n{script}"));
        ok.then_some(())
            .ok_or_else(|| format!("`{script}`: {said}"))
    }

    /// Errors and warnings.
    fn troubles(&self) -> Vec<Value> {
        let said = self
            .machine
            .run("layerctl doctor --quiet -o json || [ $? -lt 3 ]");
        let parsed = said
            .lines()
            .map(|line| serde_json::from_str(line).expect(line));
        parsed.collect()
    }

    /// Why it was not as it must be, if so.
    fn suffers(&mut self, fault: &Fault) -> Result<(), String> {
        self.sh(fault.inject)?;
        let found = self.troubles();
        let is_it = |one: &&Value| {
            let said = one["found"].as_str().unwrap_or_default();
            one["check"] == fault.check && said.contains(fault.found)
        };
        let Some(finding) = found.iter().find(is_it) else {
            return Err(format!("not found: {found:#?}"));
        };
        for one in &found {
            let has = |key: &str| one[key].as_str().is_some_and(|text| !text.is_empty());
            if has("fix") == has("advice") {
                return Err(format!("a mixture, or nothing to do: {one}"));
            }
        }
        let fix = finding["fix"].as_str().unwrap_or_default();
        if finding["fix_name"] != fault.fix || fix.is_empty() != fault.fix.is_empty() {
            return Err(format!("another action: {finding}"));
        }
        if !fix.is_empty() {
            let (ok, said) = self.machine.try_run(fix);
            let left = self.troubles();
            if !ok || left.iter().any(|one| is_it(&one)) {
                return Err(format!("`{fix}`: {said}\nleft: {left:#?}"));
            }
        }
        self.note(fault, finding);
        Ok(())
    }

    fn note(&mut self, fault: &Fault, finding: &Value) {
        let text = |key: &str| finding[key].as_str().unwrap_or_default();
        let action = match text("fix") {
            "" => format!("advice: {}", text("advice")),
            fix => format!("$ {fix}\n  gone ({})", fault.fix),
        };
        let (severity, found) = (text("severity"), text("found"));
        let name = fault.name;
        let _ = writeln!(
            self.report,
            "{name}\n  {severity}: {}: {found}\n  {action}",
            fault.check
        );
    }
}

fn suffer(world: &World, before: &str, faults: &[Fault]) -> String {
    let mut patient = Patient {
        machine: &world.machine,
        report: String::new(),
    };
    patient.sh(before).unwrap();
    assert_eq!(patient.troubles(), Vec::<Value>::new(), "before any fault");
    let mut failures = String::new();
    for fault in faults {
        let outcome = patient.suffers(fault);
        let outcome = outcome.and(patient.sh(fault.after));
        let left = patient.troubles();
        let outcome = outcome.and_then(|()| match left.is_empty() {
            true => Ok(()),
            false => Err(format!("not as before: {left:#?}")),
        });
        if let Err(failed) = outcome {
            let _ = writeln!(failures, "{}: {failed}", fault.name);
        }
    }
    assert!(failures.is_empty(), "{failures}");
    patient.report
}

/// All together are docs/evidence/doctor.txt, which `make evidence` writes.
fn save(report: &str, name: &str) {
    layerd_integration::transcript::save(&format!("doctor-{name}.txt"), report);
}

fn machine(release: Debian) -> World {
    let mut world = World::boot(release);
    world.install();
    world
}

#[test]
fn root_faults_of_the_daemon_are_found_and_their_fixes_end_them() {
    let world = machine(Debian::Forky);
    let report = suffer(&world, BEFORE, &daemon::FAULTS);
    save(&report, "daemon");
    only_what_is_safe_is_run(&world.machine);
}

/// `--fix` asks, and leaves what gives something up to a person.
fn only_what_is_safe_is_run(machine: &Machine) {
    let patient = Patient {
        machine,
        report: String::new(),
    };
    let faults = "chmod 777 $R; systemctl disable layerd.service; layerctl snapshot prepare web kept >/dev/null
        mkdir -p /root/web; layerctl snapshot mount --rw web /root/web; layerctl snapshot rm web >/dev/null";
    patient.sh(faults).unwrap();
    let (ok, said) = machine.try_run("layerctl doctor --fix </dev/null");
    assert!(!ok && said.contains("Say --yes"), "{said}");
    assert_eq!(patient.troubles().len(), 3);
    let (ok, said) = machine.try_run("layerctl doctor --fix --yes --quiet");
    assert!(!ok && said.contains("$ chmod 0755 "), "{said}");
    let left = patient.troubles();
    assert_eq!(
        (left.len(), &left[0]["safe"]),
        (1, &false.into()),
        "{left:#?}"
    );
    let fix = left[0]["fix"].as_str().unwrap();
    assert!(fix.starts_with("umount "), "{fix}");
    machine.run(fix);
    assert_eq!(machine.run("layerctl doctor --quiet"), "");
}

#[test]
fn root_faults_of_the_data_are_found_and_their_fixes_end_them() {
    let world = machine(Debian::Forky);
    let mut report = suffer(&world, BEFORE, &data::FAULTS);
    report.push_str(&suffer(&world, data::SMALL, &data::FULL));
    save(&report, "data");
}

#[test]
fn root_faults_of_containerd_are_found_and_their_fixes_end_them() {
    let report = suffer(&machine(Debian::Forky), BEFORE, &containerd::FAULTS);
    save(&report, "containerd");
}

/// containerd 1.6 ends with a panic on a proxy that later ones know.
#[test]
fn root_a_drop_in_for_a_later_containerd_is_found_and_replaced() {
    let world = machine(Debian::Bookworm);
    let report = suffer(
        &world,
        "restart_often; conf trash min_free_percent 0",
        &containerd::ON_1_6,
    );
    save(&report, "old-containerd");
}

/// All faults, in the order of the table of docs/evidence/doctor.txt.
fn all_faults() -> Vec<&'static Fault> {
    let tables: [&'static [Fault]; 5] = [
        &daemon::FAULTS,
        &data::FAULTS,
        &data::FULL,
        &containerd::FAULTS,
        &containerd::ON_1_6,
    ];
    tables.into_iter().flatten().collect()
}

/// A fix without a fault above was never seen to help.
#[test]
fn each_fix_in_the_sources_ends_a_fault_here() {
    let named = fixes::named();
    let mut tried: BTreeSet<String> = all_faults()
        .iter()
        .map(|fault| fault.fix.to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    // The machines have no chattr(1).
    let elsewhere = "open-closed-folders";
    assert!(include_str!("../recovery/closed.rs").contains(elsewhere));
    tried.insert(elsewhere.to_owned());
    let differing: Vec<_> = named.symmetric_difference(&tried).collect();
    assert!(
        differing.is_empty(),
        "on one side alone, of the sources and the faults: {differing:?}"
    );
}

/// The table in the documentation is of these faults, and says of each fix that the fault was gone.
#[test]
fn the_evidence_is_of_these_faults() {
    let table = include_str!("../../../docs/evidence/doctor.txt");
    let (_, rows) = table.split_once("\n\n").unwrap();
    let names: Vec<&str> = rows.lines().filter(|line| !line.starts_with(' ')).collect();
    let faults = all_faults();
    let wanted: Vec<&str> = faults.iter().map(|fault| fault.name).collect();
    assert_eq!(names, wanted, "make evidence");
    let gone = rows
        .lines()
        .filter_map(|line| line.strip_prefix("  gone (")?.strip_suffix(')'));
    let gone: Vec<&str> = gone.collect();
    let fixed = faults.iter().map(|fault| fault.fix);
    let fixed: Vec<&str> = fixed.filter(|name| !name.is_empty()).collect();
    assert_eq!(gone, fixed, "make evidence");
}
