use super::super::Severity;
use super::*;

const WELL: &str = "Id=layerd.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n\
                    NRestarts=0\nNeedDaemonReload=no\nMainPID=7\nRestart=always\nWatchdogUSec=1min\n\
                    CapabilityBoundingSet=cap_chown cap_dac_override cap_fowner cap_linux_immutable cap_fsetid cap_sys_admin cap_mknod \
                    cap_setfcap cap_sys_resource\n\n\
                    Id=layerd.socket\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no\n";

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
        (
            "service\nLoadState=loaded",
            "service\nLoadState=masked",
            "is masked",
        ),
        (
            "NeedDaemonReload=no",
            "NeedDaemonReload=yes",
            "were changed",
        ),
        ("Restart=always", "Restart=no", "has Restart=no"),
        (
            "Id=layerd.service",
            "Id=layerd-docker.socket\nActiveState=failed\nUnitFileState=enabled\n\nId=layerd.service",
            "layerd-docker.socket is enabled and not active",
        ),
        ("WatchdogUSec=1min", "WatchdogUSec=0", "no WatchdogSec="),
        ("cap_fowner ", "", "lacks CAP_FOWNER in"),
    ];
    for (from, to, wanted) in table {
        let found = findings(&WELL.replacen(from, to, 1), &Process::default());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            found[0].severity == Severity::Ok,
            wanted.is_empty(),
            "{found:?}"
        );
        assert!(found[0].found.contains(wanted), "{found:?}");
    }
}

#[test]
fn a_service_that_does_not_start_is_told_with_its_last_end() {
    let table = [
        (
            "ActiveState=activating\nSubState=auto-restart\nResult=exit-code\nExecMainCode=1\nExecMainStatus=203\nNRestarts=7",
            "does not start: systemd cannot run it (status 203, EXEC); systemd started it anew 7 times",
        ),
        (
            "ActiveState=activating\nSubState=auto-restart\nResult=signal\nExecMainCode=2\nExecMainStatus=31\nNRestarts=1",
            "does not start: signal 31 ended it",
        ),
        (
            "ActiveState=failed\nResult=exit-code\nExecMainCode=1\nExecMainStatus=2\nNRestarts=0",
            "does not start: it ended with status 2",
        ),
        (
            "ActiveState=activating\nSubState=start\nResult=success\nNRestarts=3",
            "does not start: it has not become ready yet",
        ),
    ];
    let running = "ActiveState=active\nUnitFileState=enabled\nNRestarts=0";
    for (state, wanted) in table {
        let output = WELL.replacen(running, &format!("{state}\nUnitFileState=enabled"), 1);
        let found = findings(&output, &Process::default());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            is_down(&output) && found[0].found.contains(wanted),
            "{found:?}"
        );
    }
    assert!(!is_down(WELL) && !is_down(""));
}

#[test]
fn without_an_answer_nothing_is_installed() {
    assert!(
        findings("", &Process::default())[0]
            .found
            .contains("not installed")
    );
    assert_eq!(main_pid(""), None);
    assert_eq!(main_pid(WELL), Some(7));
}

#[test]
fn the_process_is_judged_too() {
    let table = [
        (
            Process {
                has_own_mounts: true,
                ..Process::default()
            },
            "namespace of its own",
            "PrivateMounts=no",
        ),
        (
            Process {
                descriptors: Some(1024),
                ..Process::default()
            },
            "1024 file descriptors",
            "LimitNOFILE=65536",
        ),
        (
            Process {
                is_replaced: true,
                ..Process::default()
            },
            "was replaced",
            "systemctl restart",
        ),
    ];
    for (process, wanted, fix) in table {
        let found = findings(WELL, &process);
        assert!(
            found[0].found.contains(wanted) && found[0].fix.contains(fix),
            "{found:?}"
        );
    }
}

#[test]
fn a_process_is_given_what_its_hard_limit_allows() {
    for (most, wanted) in [
        (Some(20_000), "prlimit --pid 7 --nofile=20000:"),
        (Some(1_048_576), "prlimit --pid 7 --nofile=65536:"),
        (Some(1024), "prlimit --pid 7 --nofile=65536"),
    ] {
        let process = Process {
            descriptors: Some(1024),
            most_descriptors: most,
            ..Process::default()
        };
        assert_eq!(few_of_process(7, &process).unwrap().fix, wanted);
    }
}

/// Each capability of the unit is missed when it is taken away.
#[test]
fn the_capabilities_are_the_unit_s() {
    let unit = include_str!("../../../../../deploy/layerd.service");
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let given = line.unwrap().to_lowercase();
    let given: Vec<&str> = given.split(' ').collect();
    assert_eq!(given, CAPABILITIES);
}
