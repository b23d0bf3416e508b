//! Each state of a daemon and what is said of it.

use super::super::Severity;
use super::*;
use layerd_proto::layerd::v1::{FailedDeletion, Reserve};
use prost_types::Timestamp;

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

fn well() -> InfoResponse {
    InfoResponse {
        version: "1.0".to_owned(),
        driver: "overlayfs".to_owned(),
        disk_bytes: 100 << 30,
        disk_free_bytes: 50 << 30,
        uptime_seconds: 3600,
        health: Some(Health {
            settings: [("trash.min_free_percent".to_owned(), "10".to_owned())].into(),
            exported_at: at(NOW - 60),
            low_bytes: 4 << 20,
            enough_bytes: 24 << 20,
            low_inodes: 16,
            enough_inodes: 64,
            inodes: 1000,
            inodes_free: 500,
            newest_at: at(NOW),
            ..Health::default()
        }),
        ..InfoResponse::default()
    }
}

fn reserve(bytes_kept: u64, inodes_kept: u64, level: &str) -> Reserve {
    Reserve {
        level: level.to_owned(),
        bytes_kept,
        inodes_kept,
        ..Reserve::default()
    }
}

/// The one finding that is not well after `change`.
fn after(change: impl Fn(&mut InfoResponse, &mut Health)) -> Finding {
    let mut info = well();
    let mut health = info.health.take().unwrap();
    change(&mut info, &mut health);
    info.health = Some(health);
    let found = findings(&info, &[], NOW);
    let mut bad = found.into_iter().filter(|one| one.severity != Severity::Ok);
    let first = bad.next().unwrap();
    assert_eq!(bad.next(), None);
    first
}

#[test]
fn a_daemon_that_is_well_has_nothing_to_mend() {
    let found = findings(&well(), &[], NOW);
    assert_eq!(found.len(), 7);
    for finding in found {
        assert_eq!(finding.severity, Severity::Ok, "{finding:?}");
    }
}

type Change = fn(&mut InfoResponse, &mut Health);

#[test]
fn every_trouble_is_named_once() {
    let table: [(&str, Severity, Change); 12] = [
        ("inodes", Severity::Warning, |_, health| {
            health.inodes_free = 20
        }),
        ("deletions", Severity::Warning, |_, health| {
            health.failed_deletions = vec![FailedDeletion {
                id: "7".to_owned(),
                reason: "delete /r/t/7/x: Operation not permitted".to_owned(),
                is_volume: false,
            }]
        }),
        ("metrics.address", Severity::Warning, |_, health| {
            let reason = "listen at 127.0.0.1:1: Address already in use";
            health.failing = [("metrics.address".to_owned(), reason.to_owned())].into();
        }),
        ("database", Severity::Error, |_, health| {
            health.database_failed = true
        }),
        ("last stop", Severity::Info, |_, health| {
            health.ended_uncleanly = true
        }),
        ("export", Severity::Warning, |_, health| {
            health.export_is_behind = true;
            health.exported_at = at(NOW - 3600);
        }),
        ("space", Severity::Error, |info, _| {
            info.disk_free_bytes = 1 << 20
        }),
        ("space", Severity::Error, |info, health| {
            info.disk_free_bytes = 20 << 20;
            health.is_full = true;
        }),
        ("space", Severity::Warning, |info, _| {
            info.disk_free_bytes = 9 << 30
        }),
        ("inodes", Severity::Error, |_, health| {
            health.inodes_free = 3
        }),
        ("trash", Severity::Error, |_, health| {
            health.guard = "700 gone".to_owned()
        }),
        ("clock", Severity::Warning, |_, health| {
            health.newest_at = at(NOW + 7200);
        }),
    ];
    named_once(&table);
}

#[test]
fn a_reserve_is_named_once() {
    let table: [(&str, Severity, Change); 4] = [
        ("space", Severity::Warning, |_, health| {
            health.reserves = vec![reserve(40 << 30, 0, "near")];
        }),
        ("space", Severity::Error, |_, health| {
            health.reserves = vec![reserve(51 << 30, 0, "reached")];
        }),
        ("inodes", Severity::Error, |_, health| {
            health.reserves = vec![reserve(0, 501, "reached")];
        }),
        ("space of volumes", Severity::Error, |_, health| {
            let path = "/r/volumes".to_owned();
            health.reserves = vec![Reserve {
                path,
                ..reserve(1, 1, "reached")
            }];
        }),
    ];
    named_once(&table);
}

fn named_once(table: &[(&str, Severity, Change)]) {
    for (check, severity, change) in table {
        let finding = after(change);
        assert_eq!(
            (finding.check.as_str(), finding.severity),
            (*check, *severity)
        );
        assert_one_fix(&finding);
        assert!(!finding.impact.is_empty(), "{finding:?}");
    }
}

/// Requires a fix or an advice, not both, of a finding that is trouble.
fn assert_one_fix(finding: &Finding) {
    let fixes = usize::from(!finding.fix.is_empty()) + usize::from(!finding.advice.is_empty());
    let wanted = usize::from(finding.is_trouble());
    assert_eq!(fixes, wanted, "one or the other: {finding:?}");
}

#[test]
fn an_export_that_is_due_soon_is_no_trouble() {
    let mut info = well();
    let health = info.health.as_mut().unwrap();
    (health.export_is_behind, health.exported_at) = (true, None);
    info.uptime_seconds = 30;
    let found = findings(&info, &[], NOW);
    assert!(
        found.iter().all(|one| one.severity == Severity::Ok),
        "{found:?}"
    );
}

#[test]
fn a_file_system_without_a_table_of_inodes_lacks_none() {
    let mut info = well();
    let health = info.health.as_mut().unwrap();
    (health.inodes, health.inodes_free) = (0, 0);
    assert_eq!(findings(&info, &[], NOW)[4].severity, Severity::Ok);
}

/// The trash is emptied first; then the largest users are named.
#[test]
fn a_full_disk_says_what_makes_room() {
    let full = |trash: u64| InfoResponse {
        disk_free_bytes: 1 << 20,
        trash,
        ..well()
    };
    let holders = [("k8s.io/7/big image".to_owned(), 5 << 30)];
    let found = &findings(&full(3), &holders, NOW)[3];
    assert_eq!(found.fix, "layerctl trash empty --yes");
    let found = &findings(&full(0), &holders, NOW)[3];
    assert!(
        found.advice.contains("5.00GiB 'k8s.io/7/big image'"),
        "{found:?}"
    );
    // Others fill this disk.
    let little = [("web".to_owned(), 4096)];
    let found = &findings(&full(0), &little, NOW)[3];
    assert!(
        found.advice.contains("layerd holds little of it") && !found.advice.contains("web"),
        "{found:?}"
    );
}

#[test]
fn lost_records_are_told_from_an_old_daemon() {
    let mut lost = InfoResponse {
        alarms: vec!["the database is damaged".to_owned()],
        newest_copy: "the newest export, 3 h old".to_owned(),
        ..InfoResponse::default()
    };
    let found = findings(&lost, &[], NOW);
    assert_eq!((found.len(), found[0].severity), (1, Severity::Error));
    assert_eq!(found[0].fix, "layerctl restore");
    // There is nothing to go back to.
    lost.newest_copy.clear();
    let found = &findings(&lost, &[], NOW)[0];
    assert!(
        found.fix.is_empty() && found.advice.contains("layerctl restore FILE"),
        "{found:?}"
    );
}

#[test]
fn damaged_snapshots_come_before_what_can_be_repaired() {
    let problem = |text: &str, quarantined| Problem {
        problem: text.to_owned(),
        quarantined,
        ..Problem::default()
    };
    let found = records(&[problem("a", false), problem("b", true)]);
    let told: Vec<_> = found
        .iter()
        .map(|one| (one.severity, one.found.as_str()))
        .collect();
    assert_eq!(told, [(Severity::Error, "b"), (Severity::Warning, "a")]);
    assert_eq!(records(&[])[0].severity, Severity::Ok);
}

/// A command is printed for what it ends alone, and each fault once.
#[test]
fn what_repair_leaves_to_a_person_is_advice() {
    let hold = Problem {
        problem: "attachment \"a\" holds a volume that is not there".to_owned(),
        fix: "detach it".to_owned(),
        is_advice: true,
        ..Problem::default()
    };
    let folder = Problem {
        problem: "the folder of volume data is missing".to_owned(),
        is_advice: true,
        is_volume_missing: true,
        ..Problem::default()
    };
    let link = Problem {
        is_volume_missing: true,
        ..Problem::default()
    };
    let found = records(&[hold, folder.clone()]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].fix.as_str(), found[0].safe), ("", false));
    assert!(found[0].advice.contains("detach it"), "{found:?}");
    assert!(!found[0].found.contains("folder"), "{found:?}");
    // The check of volumes tells of both.
    assert_eq!(records(&[folder, link])[0].severity, Severity::Ok);
}

#[test]
fn two_releases_do_not_fit() {
    assert_eq!(version(&well(), "1.0").severity, Severity::Ok);
    assert_eq!(version(&well(), "1.1").severity, Severity::Warning);
}

#[test]
fn a_hold_of_the_trash_is_explained_by_its_reason() {
    let impact = |older: bool| {
        let held = after(|_, health| {
            health.guard = "held".to_owned();
            health.records_are_older = older;
        });
        held.impact
    };
    assert!(impact(false).contains("So many removals"));
    assert!(impact(true).contains("after the backup"));
}

#[test]
fn a_disk_that_stalls_is_an_error_of_the_database() {
    let stalled = after(|_, health| health.stalled_seconds = 12);
    assert_eq!(
        (stalled.check.as_str(), stalled.severity),
        ("database", Severity::Error)
    );
}

#[test]
fn closed_folders_are_opened_by_one_command() {
    let found = after(|_, health| health.closed_folders = vec!["/r/l".into(), "/r/a b".into()]);
    assert_eq!(found.fix, "chattr -i -a /r/l '/r/a b'");
    assert!(found.safe && found.severity == Severity::Error, "{found:?}");
}
