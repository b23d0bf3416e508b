//! layerd as systemd knows it, from `systemctl show`.

use super::Finding;

const CHECK: &str = "unit";
/// The units, and what is asked of each.
pub(crate) const ARGUMENTS: [&str; 4] = [
    "show",
    "--property=Id,LoadState,ActiveState,UnitFileState,NRestarts",
    "layerd.service",
    "layerd.socket",
];
const ENABLE: &str = "systemctl enable --now layerd.socket layerd.service";

/// One unit.
#[derive(Debug, Default)]
struct Unit {
    is_installed: bool,
    is_active: bool,
    is_enabled: bool,
    restarts: u64,
}

/// Reads what `systemctl show` prints: for each unit lines of `NAME=VALUE`, and an empty line
/// between units.
pub(crate) fn findings(output: &str) -> Vec<Finding> {
    let unit = |id: &str| {
        let wanted = format!("Id={id}");
        let mut blocks = output.split("\n\n");
        let block = blocks.find(|block| block.lines().any(|line| line == wanted));
        read(block.unwrap_or_default())
    };
    let (service, socket) = (unit("layerd.service"), unit("layerd.socket"));
    if !service.is_installed {
        return vec![Finding::warning(
            CHECK,
            "layerd.service is not installed",
            "Nothing starts layerd with the machine, or again after a crash.",
            "install -m 644 deploy/layerd.service deploy/layerd.socket /etc/systemd/system/; \
             systemctl daemon-reload; systemctl enable --now layerd.socket layerd.service",
        )];
    }
    let found = [
        not_enabled(&service),
        no_socket(&socket),
        restarted(&service),
    ];
    let found: Vec<Finding> = found.into_iter().flatten().collect();
    if found.is_empty() {
        return vec![Finding::ok(
            CHECK,
            "layerd.service and layerd.socket are enabled",
        )];
    }
    found
}

fn not_enabled(service: &Unit) -> Option<Finding> {
    (!service.is_enabled).then(|| {
        let means = "layerd starts with its first caller only, not with the machine.";
        Finding::warning(CHECK, "layerd.service is not enabled", means, ENABLE)
    })
}

fn no_socket(socket: &Unit) -> Option<Finding> {
    (!socket.is_installed || !socket.is_active).then(|| {
        let means = "Calls fail while layerd restarts, instead of waiting in the socket.";
        Finding::warning(CHECK, "layerd.socket is not active", means, ENABLE)
    })
}

fn restarted(service: &Unit) -> Option<Finding> {
    (service.restarts > 0).then(|| {
        Finding::warning(
            CHECK,
            format!("systemd started layerd anew {} times", service.restarts),
            "It crashed, or its disk hung for longer than the watchdog waits.",
            "journalctl -u layerd -p warning; systemctl reset-failed layerd",
        )
    })
}

fn read(block: &str) -> Unit {
    let value = |name: &str| {
        let mut lines = block.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    };
    Unit {
        is_installed: value("LoadState") == Some("loaded"),
        is_active: value("ActiveState") == Some("active"),
        is_enabled: value("UnitFileState") == Some("enabled"),
        restarts: value("NRestarts")
            .and_then(|count| count.parse().ok())
            .unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::findings;

    const WELL: &str = "Id=layerd.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n\
                        NRestarts=0\n\nId=layerd.socket\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n";

    #[test]
    fn what_systemd_says_is_understood() {
        let table = [
            ("NRestarts=0", "NRestarts=0", ""),
            ("NRestarts=0", "NRestarts=3", "anew 3 times"),
            ("LoadState=loaded", "LoadState=not-found", "not installed"),
            (
                "UnitFileState=enabled\nNR",
                "UnitFileState=disabled\nNR",
                "service is not enabled",
            ),
            (
                "socket\nLoadState=loaded\nActiveState=active",
                "socket\nLoadState=loaded\nActiveState=inactive",
                "socket is not active",
            ),
        ];
        for (from, to, wanted) in table {
            let found = findings(&WELL.replacen(from, to, 1));
            assert_eq!(found.len(), 1, "{found:?}");
            let severity = if wanted.is_empty() {
                Severity::Ok
            } else {
                Severity::Warning
            };
            assert_eq!(found[0].severity, severity, "{found:?}");
            assert!(found[0].found.contains(wanted), "{found:?}");
        }
    }

    #[test]
    fn without_an_answer_nothing_is_installed() {
        assert!(findings("")[0].found.contains("not installed"));
    }
}
