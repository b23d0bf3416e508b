//! layerd as systemd knows it, from `systemctl show`, and its process as the kernel does.

use super::Action;
use super::Finding;

const CHECK: &str = "unit";
/// The units, and what is asked of each.
pub(crate) const ARGUMENTS: [&str; 5] = [
    "show",
    "--property=Id,LoadState,ActiveState,SubState,Result,ExecMainCode,ExecMainStatus,UnitFileState,NRestarts,\
     NeedDaemonReload,MainPID,Restart,WatchdogUSec,CapabilityBoundingSet",
    "layerd.service",
    "layerd.socket",
    DOCKER,
];
/// Holds the socket of the volume plugin, which instances have none of.
pub(crate) const DOCKER: &str = "layerd-docker.socket";
const ENABLE: &str = "systemctl enable layerd.socket layerd.service";
const RESTART: &str = "systemctl restart layerd.service";
/// Capabilities in deploy/layerd.service, which explains each.
const CAPABILITIES: [&str; 9] = [
    "cap_sys_admin",
    "cap_dac_override",
    "cap_fowner",
    "cap_linux_immutable",
    "cap_chown",
    "cap_fsetid",
    "cap_setfcap",
    "cap_mknod",
    "cap_sys_resource",
];
/// New starts after which one that is under way is no accident.
const MANY_RESTARTS: u64 = 3;
/// Statuses of a process that systemd could not make into the service, and the step that failed, as
/// systemd.exec(5) names it.
const STEPS: [(&str, &str); 12] = [
    ("200", "CHDIR"),
    ("203", "EXEC"),
    ("205", "LIMITS"),
    ("216", "GROUP"),
    ("217", "USER"),
    ("218", "CAPABILITIES"),
    ("219", "CGROUP"),
    ("226", "NAMESPACE"),
    ("227", "NO_NEW_PRIVILEGES"),
    ("228", "SECCOMP"),
    ("233", "RUNTIME_DIRECTORY"),
    ("238", "STATE_DIRECTORY"),
];
/// Descriptors that the unit asks for, and below which connections are refused under load.
const DESCRIPTORS: u64 = 65_536;
const FEW_DESCRIPTORS: u64 = 4096;
/// Settings of a unit that give it a mount namespace of its own, with the values that do not.
const OWN_MOUNTS: [&str; 18] = [
    "PrivateMounts=no",
    "PrivateTmp=no",
    "PrivateDevices=no",
    "ProtectSystem=no",
    "ProtectHome=no",
    "ProtectKernelTunables=no",
    "ProtectKernelModules=no",
    "ProtectKernelLogs=no",
    "ProtectControlGroups=no",
    "ProtectProc=default",
    "ProcSubset=all",
    "ReadWritePaths=",
    "ReadOnlyPaths=",
    "InaccessiblePaths=",
    "TemporaryFileSystem=",
    "BindPaths=",
    "BindReadOnlyPaths=",
    "RootDirectory=",
];

/// The daemon's process; none of it is known while it does not run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    /// Set if its mount namespace differs from the first process's.
    pub(crate) has_own_mounts: bool,
    /// Set if the program that it runs was replaced.
    pub(crate) is_replaced: bool,
    /// Descriptors that it may have.
    pub(crate) descriptors: Option<u64>,
    /// Descriptors that it could be given without more rights: its hard limit.
    pub(crate) most_descriptors: Option<u64>,
}

/// One unit.
#[derive(Debug, Default)]
struct Unit<'a>(&'a str);

impl Unit<'_> {
    fn value(&self, name: &str) -> &str {
        let mut lines = self.0.lines();
        let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default()
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.value(name) == value
    }
}

/// The daemon's process id.
pub(crate) fn main_pid(output: &str) -> Option<u32> {
    let pid = unit(output, "layerd.service")
        .value("MainPID")
        .parse()
        .ok()?;
    (pid > 0).then_some(pid)
}

/// Output of `systemctl show` about the units of an instance, with the names of those without one.
pub(crate) fn without_instance(output: &str) -> String {
    let line = |line: &str| match line.strip_prefix("Id=layerd@") {
        Some(rest) => format!("Id=layerd.{}", rest.rsplit('.').next().unwrap_or_default()),
        None => line.to_owned(),
    };
    output.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// A finding about the units of an instance, whose texts name those without one.
pub(crate) fn of_instance(finding: &mut Finding, name: &str) {
    let texts = [
        &mut finding.found,
        &mut finding.impact,
        &mut finding.fix,
        &mut finding.advice,
    ];
    for text in texts {
        for kind in ["service", "socket"] {
            let own = format!("layerd@{name}.{kind}");
            *text = text.replace(&format!("layerd.{kind}"), &own);
        }
        *text = text.replace("-u layerd ", &format!("-u layerd@{name} "));
        *text = text.replace("-u layerd`", &format!("-u layerd@{name}`"));
    }
}

/// `systemctl show` prints lines of `NAME=VALUE` for each unit, and an empty line between units.
fn unit<'a>(output: &'a str, id: &str) -> Unit<'a> {
    let wanted = format!("Id={id}");
    let mut blocks = output.split("\n\n");
    let block = blocks.find(|block| block.lines().any(|line| line == wanted));
    Unit(block.unwrap_or_default())
}

/// True if systemd starts layerd in vain.
pub(crate) fn is_down(output: &str) -> bool {
    not_starting(&unit(output, "layerd.service")).is_some()
}

pub(crate) fn findings(output: &str, process: &Process) -> Vec<Finding> {
    let (service, socket) = (
        unit(output, "layerd.service"),
        unit(output, "layerd.socket"),
    );
    if let Some(finding) = masked(&service, &socket) {
        return vec![finding];
    }
    if !service.is("LoadState", "loaded") {
        return vec![Finding::warning(
            CHECK,
            "layerd.service is not installed",
            "Nothing starts layerd with the machine, or again after a crash.",
            Action::advice(
                "Install the package, or deploy/layerd.service and deploy/layerd.socket as README says.",
            ),
        )];
    }
    let found = [
        not_reloaded(&service, &socket),
        not_enabled(&service),
        no_socket(&service, &socket),
        no_plugin(&unit(output, DOCKER)),
        not_starting(&service).or_else(|| restarted(&service)),
        not_kept_alive(&service),
        unwatched(&service),
        incapable(&service),
        own_mounts(process),
        few_descriptors(process),
        replaced(process),
    ];
    let found: Vec<Finding> = found.into_iter().flatten().collect();
    if found.is_empty() {
        return vec![Finding::ok(
            CHECK,
            "layerd.service and layerd.socket are enabled, and limit nothing that layerd needs",
        )];
    }
    found
}

fn masked(service: &Unit<'_>, socket: &Unit<'_>) -> Option<Finding> {
    let is_masked = |unit: &Unit<'_>| unit.is("LoadState", "masked");
    (is_masked(service) || is_masked(socket)).then(|| {
        let impact = "Nothing can start layerd: containerd's calls fail once it has stopped.";
        let fix = format!(
            "systemctl unmask layerd.socket layerd.service && {ENABLE} && systemctl restart layerd.socket layerd.service"
        );
        Finding::error(CHECK, "layerd.service or layerd.socket is masked", impact, Action::safe("unmask", fix))
    })
}

fn not_reloaded(service: &Unit<'_>, socket: &Unit<'_>) -> Option<Finding> {
    let is_stale = |unit: &Unit<'_>| unit.is("NeedDaemonReload", "yes");
    (is_stale(service) || is_stale(socket)).then(|| {
        let impact =
            "systemd goes on with the old ones, and takes the new ones at some later moment.";
        let fix = format!("systemctl daemon-reload && {RESTART}");
        Finding::warning(
            CHECK,
            "the units were changed since systemd read them",
            impact,
            Action::safe("reload-units", fix),
        )
    })
}

fn not_enabled(service: &Unit<'_>) -> Option<Finding> {
    (!service.is("UnitFileState", "enabled")).then(|| {
        let impact = "layerd starts with its first caller only, not with the machine.";
        Finding::warning(
            CHECK,
            "layerd.service is not enabled",
            impact,
            Action::safe("enable-service", ENABLE),
        )
    })
}

/// The socket cannot be taken while a layerd serves at its own.
fn no_socket(service: &Unit<'_>, socket: &Unit<'_>) -> Option<Finding> {
    (!socket.is("LoadState", "loaded") || !socket.is("ActiveState", "active")).then(|| {
        let impact = "Calls fail while layerd restarts, instead of waiting in the socket.";
        let fix = format!("{ENABLE} && systemctl restart layerd.socket layerd.service");
        let found = match service.is("ActiveState", "active") {
            true => "layerd.socket is not active, and layerd.service is",
            false => "layerd.socket is not active",
        };
        Finding::warning(CHECK, found, impact, Action::safe("start-socket", fix))
    })
}

/// Systemd hands a socket over only when it starts the service.
fn no_plugin(socket: &Unit<'_>) -> Option<Finding> {
    (socket.is("UnitFileState", "enabled") && !socket.is("ActiveState", "active")).then(|| {
        Finding::warning(
            CHECK,
            format!("{DOCKER} is enabled and not active"),
            "Docker and Podman have no volume plugin layerd: containers with its volumes do not start.",
            Action::safe("start-plugin-socket", RESTART),
        )
    })
}

/// A service that ends each time before it serves, which no further start changes.
fn not_starting(service: &Unit<'_>) -> Option<Finding> {
    let is_over = service.is("ActiveState", "failed") || service.is("SubState", "auto-restart");
    // A start that follows another is a look between two ends.
    let restarts: u64 = service.value("NRestarts").parse().unwrap_or(0);
    let is_again = service.is("ActiveState", "activating") && restarts >= MANY_RESTARTS;
    (is_over || is_again).then(|| {
        let (how, advice) = end(service);
        Finding::error(
            CHECK,
            format!("layerd does not start: {how}; systemd started it anew {restarts} times"),
            "No container starts and no image is pulled; those that run go on.",
            Action::advice(advice),
        )
    })
}

/// End of the last process of a service, in words, and advice on finding its reason.
fn end(service: &Unit<'_>) -> (String, &'static str) {
    let own = "`journalctl -u layerd -n 50` has what it said last; `layerd check` tries the configuration and the host.";
    let status = service.value("ExecMainStatus");
    // CLD_EXITED of waitid(2).
    let is_exit = service.is("ExecMainCode", "1");
    let step = STEPS.iter().find(|(code, _)| is_exit && *code == status);
    match (step, service.value("Result")) {
        (Some((_, step)), _) => (
            format!("systemd cannot run it (status {status}, {step})"),
            "A setting of the unit, or a drop-in, does that: `systemctl cat layerd.service` shows them, `journalctl -u \
             layerd -n 20` names it. After the change: `systemctl daemon-reload`, then `systemctl restart layerd.service`.",
        ),
        (None, "" | "success") => ("it has not become ready yet".to_owned(), own),
        (None, "exit-code") => (format!("it ended with status {status}"), own),
        (None, "signal" | "core-dump") => (format!("signal {status} ended it"), own),
        (None, "timeout") => ("it was not ready within TimeoutStartSec=".to_owned(), own),
        (None, result) => (format!("it ended with the result {result}"), own),
    }
}

fn restarted(service: &Unit<'_>) -> Option<Finding> {
    let count: u64 = service.value("NRestarts").parse().unwrap_or(0);
    (count > 0).then(|| {
        Finding::warning(
            CHECK,
            format!("systemd started layerd anew {count} times"),
            "It crashed, or it was stuck for longer than the watchdog waits: `journalctl -u layerd -p warning` says \
             which. Once that is known, the count can begin anew.",
            Action::fix("reset-restart-count", "systemctl reset-failed layerd.service"),
        )
    })
}

fn not_kept_alive(service: &Unit<'_>) -> Option<Finding> {
    (!service.is("Restart", "always")).then(|| {
        Finding::warning(
            CHECK,
            format!("layerd.service has Restart={}", service.value("Restart")),
            "After a crash layerd stays away until the next call, or for good.",
            Action::safe("set-restart", change("restart", &["Restart=always"])),
        )
    })
}

fn unwatched(service: &Unit<'_>) -> Option<Finding> {
    matches!(service.value("WatchdogUSec"), "0" | "infinity").then(|| {
        Finding::warning(
            CHECK,
            "layerd.service has no WatchdogSec=",
            "A layerd whose disk or database hangs is not started anew.",
            Action::safe("set-watchdog", change("watchdog", &["WatchdogSec=60s"])),
        )
    })
}

fn incapable(service: &Unit<'_>) -> Option<Finding> {
    let has = service.value("CapabilityBoundingSet");
    let lacks: Vec<String> = CAPABILITIES
        .iter()
        .filter(|name| !has.split(' ').any(|one| one == **name))
        .map(|name| name.to_uppercase())
        .collect();
    (!lacks.is_empty()).then(|| {
        let lacks = lacks.join(" ");
        Finding::error(
            CHECK,
            format!("layerd.service lacks {lacks} in CapabilityBoundingSet="),
            "Layers with other owners, modes or devices can be neither unpacked nor deleted, or limited volumes not grow.",
            Action::safe("give-capabilities", change("capabilities", &[&format!("CapabilityBoundingSet={lacks}")])),
        )
    })
}

fn own_mounts(process: &Process) -> Option<Finding> {
    process.has_own_mounts.then(|| {
        Finding::error(
            CHECK,
            "layerd has a mount namespace of its own, by PrivateMounts=, ProtectSystem= or the like",
            "It does not see what the host mounts and unmounts: removed layers stay busy, and volumes that it mounts are \
             seen by no container.",
            Action::safe("share-mounts", change("mounts", &OWN_MOUNTS)),
        )
    })
}

fn few_descriptors(process: &Process) -> Option<Finding> {
    let lines = [&*format!("LimitNOFILE={DESCRIPTORS}")];
    few(
        process,
        "Under load it can accept no connection and open no layer.",
        Action::safe("give-descriptors", change("descriptors", &lines)),
    )
}

/// Finding for a layerd that something else than systemd started.
pub(crate) fn few_of_process(pid: u32, process: &Process) -> Option<Finding> {
    few(
        process,
        "Under load it can accept no connection and open no layer. What starts it has to set the limit as well.",
        Action::safe(
            "give-process-descriptors",
            format!("prlimit --pid {pid} --nofile={}", limit(process)),
        ),
    )
}

/// A soft limit within the hard one where that is enough: raising the hard one takes CAP_SYS_RESOURCE.
fn limit(process: &Process) -> String {
    let most = process.most_descriptors.unwrap_or(DESCRIPTORS);
    match most < FEW_DESCRIPTORS {
        true => DESCRIPTORS.to_string(),
        false => format!("{}:", most.min(DESCRIPTORS)),
    }
}

fn few(process: &Process, impact: &str, fix: Action) -> Option<Finding> {
    let few = process
        .descriptors
        .filter(|count| *count < FEW_DESCRIPTORS)?;
    let found = format!("layerd may have {few} file descriptors");
    Some(Finding::warning(CHECK, found, impact, fix))
}

fn replaced(process: &Process) -> Option<Finding> {
    process.is_replaced.then(|| {
        Finding::warning(
            CHECK,
            "the program that layerd runs was replaced since it started",
            "What the new one mends is not mended yet.",
            Action::safe("start-replaced-program", RESTART),
        )
    })
}

/// A drop-in of the service that wins over others; its name says who made it.
fn change(name: &str, lines: &[&str]) -> String {
    let dir = "/etc/systemd/system/layerd.service.d";
    let lines = lines.iter().map(|line| format!(" '{line}'"));
    let lines: String = lines.collect();
    format!(
        "mkdir -p {dir} && printf '%s\\n' '[Service]'{lines} >{dir}/zz-doctor-{name}.conf && systemctl daemon-reload && {RESTART}"
    )
}

#[cfg(test)]
mod tests;
