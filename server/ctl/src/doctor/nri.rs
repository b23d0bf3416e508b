//! `layerd-nri`, as systemd and the configuration of containerd know it.

use super::{Action, Finding};
use crate::containerd::nri::State;

const CHECK: &str = "nri";
/// The unit, and the properties that are asked for.
pub(crate) const ARGUMENTS: [&str; 3] = [
    "show",
    "--property=LoadState,ActiveState,UnitFileState,StatusText",
    "layerd-nri.service",
];
/// Beginning of the status that `layerd-nri` tells while a runtime calls it.
const REGISTERED: &str = "registered";
const IMPACT: &str =
    "Containers with the annotation volumes.layerd.io/... are created without those mounts.";

/// Checks the unit by the output of `systemctl show`, and NRI in containerd, if that is known. None where the
/// plugin is not used.
pub(crate) fn finding(unit: &str, containerd: Option<&State>) -> Option<Finding> {
    let value = |name: &str| {
        let mut lines = unit.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    };
    let is_active = value("ActiveState") == Some("active");
    if value("LoadState") != Some("loaded")
        || (!is_active && value("UnitFileState") != Some("enabled"))
    {
        return None;
    }
    let status = value("StatusText").unwrap_or_default();
    Some(match (is_active, containerd) {
        (false, _) => Finding::error(
            CHECK,
            "layerd-nri.service is enabled and not active",
            IMPACT,
            Action::safe("start-nri", "systemctl restart layerd-nri.service"),
        ),
        (true, _) if status.starts_with(REGISTERED) => {
            Finding::ok(CHECK, format!("layerd-nri is {status}"))
        }
        (true, Some(State::Off)) => Finding::error(
            CHECK,
            "layerd-nri runs, and containerd's configuration has NRI off",
            IMPACT,
            Action::safe(
                "turn-on-nri",
                "layerctl setup nri --write && systemctl restart containerd",
            ),
        ),
        (true, Some(State::Unknown)) => Finding::error(
            CHECK,
            "layerd-nri runs, and this containerd has no NRI",
            IMPACT,
            Action::advice(
                "Install containerd 1.7 or later, or use the OCI hooks of docs/runtimes.md.",
            ),
        ),
        (true, Some(State::Barred)) => Finding::error(
            CHECK,
            "layerd-nri runs, and containerd's `disabled_plugins` names nri",
            IMPACT,
            Action::advice("Take nri out of that list and restart containerd."),
        ),
        (true, Some(State::On) | None) => Finding::error(
            CHECK,
            format!("layerd-nri runs, and no runtime calls it: {status}"),
            IMPACT,
            Action::advice(
                "Restart the runtime if its configuration was changed; `journalctl -u layerd-nri` has more.",
            ),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn a_plugin_that_is_wanted_and_not_called_is_a_trouble() {
        let off = Some(State::Off);
        for (unit, containerd, wanted) in [
            ("not-found inactive -", None, None),
            ("loaded inactive disabled", off.clone(), None),
            ("loaded failed enabled", None, Some("restart layerd-nri")),
            ("loaded activating enabled", None, Some("restart")),
            ("loaded active disabled", Some(State::On), Some("")),
            ("loaded active enabled", off, Some("setup nri --write")),
            ("loaded active enabled", Some(State::Unknown), Some("")),
            ("loaded active enabled", Some(State::Barred), Some("")),
            ("loaded active enabled", None, Some("")),
        ] {
            let names = ["LoadState", "ActiveState", "UnitFileState"];
            let values = names.iter().zip(unit.split(' '));
            let mut told: String = values
                .map(|(name, value)| format!("{name}={value}\n"))
                .collect();
            told.push_str("StatusText=not registered: why\n");
            let found = finding(&told, containerd.as_ref());
            assert_eq!(found.is_some(), wanted.is_some(), "{unit}: {found:?}");
            if let (Some(found), Some(fix)) = (found, wanted) {
                assert_eq!(found.severity, Severity::Error, "{unit}");
                assert!(found.fix.contains(fix), "{unit}: {found:?}");
            }
        }
    }

    #[test]
    fn a_plugin_that_is_called_is_well_whatever_the_files_say() {
        let unit = "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nStatusText=registered with containerd 2.1.4\n";
        let found = finding(unit, Some(&State::Off)).unwrap();
        assert_eq!(found.severity, Severity::Ok);
        assert!(found.found.contains("containerd 2.1.4"), "{found:?}");
    }
}
