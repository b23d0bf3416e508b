//! The daemon, its database, its disk and its trash, as the daemon describes them.

use layerd_proto::layerd::v1::{Finding as Problem, Health, InfoResponse};

use super::disk::{Holders, bytes, inodes, reserve_of_volumes};
use super::{Action, Finding, quoted, some_of};
use crate::human::age;

/// A wait for the disk that is longer than any write takes.
const STALL_SECONDS: u64 = 10;
/// An export comes a minute after the last change at the latest, and takes a while.
const EXPORT_LATE: i64 = 600;
/// A clock that is off by less than this harms nothing.
const CLOCK_OFF: i64 = 60;
/// No layerd was built before 2026.
const EARLIEST: i64 = 1_767_225_600;

const RESTART: &str = "systemctl restart layerd.service";

/// The daemon that answered. `own` is the version of this program.
pub(crate) fn version(info: &InfoResponse, own: &str) -> Finding {
    const CHECK: &str = "daemon";
    if info.version == own {
        let since = age(1_000_000_000, 1_000_000_000 + seconds(info.uptime_seconds));
        return Finding::ok(CHECK, format!("layerd {own} answers, started {since} ago"));
    }
    Finding::warning(
        CHECK,
        format!(
            "layerd {} answers, and this is layerctl {own}",
            info.version
        ),
        "One of the two was upgraded without the other. What only the newer one knows does not work.",
        Action::safe("restart-other-version", RESTART),
    )
}

/// All that the daemon says of itself; `now` in seconds since 1970.
pub(crate) fn findings(info: &InfoResponse, holders: &Holders, now: i64) -> Vec<Finding> {
    let Some(health) = &info.health else {
        return vec![lost(info)];
    };
    let mut found = vec![
        database(health),
        last_stop(health),
        export(health, info, now),
        bytes(info, health, holders),
        inodes(info, health, holders),
        trash(info, health),
        clock(health, now),
    ];
    found.extend(reserve_of_volumes(info, health));
    found.extend(deletions(health));
    found.extend(closed(health));
    found.extend(optional(health));
    found
}

/// Folders that chattr(1) closed.
fn closed(health: &Health) -> Option<Finding> {
    let all = &health.closed_folders;
    let words: Vec<String> = all.iter().map(|path| quoted(path)).collect();
    (!all.is_empty()).then(|| {
        Finding::error(
            "data directory",
            format!("immutable or append-only: {}", some_of(all)),
            "Nothing can be made or deleted there.",
            Action::safe(
                "open-closed-folders",
                format!("chattr -i -a {}", words.join(" ")),
            ),
        )
    })
}

/// Removed layers that stay.
fn deletions(health: &Health) -> Option<Finding> {
    let failed: Vec<String> = health
        .failed_deletions
        .iter()
        .map(|failed| {
            let kind = if failed.is_volume { "volume" } else { "layer" };
            format!("{kind} {}: {}", failed.id, failed.reason)
        })
        .collect();
    (!failed.is_empty()).then(|| {
        Finding::warning(
            "deletions",
            some_of(&failed),
            "What was removed holds its space. Deleting them is tried again, every five minutes at last.",
            Action::advice(
                "Remove the cause that is named: unmount what is mounted there, mend the disk; for `Operation not permitted`, the unit needs CAP_LINUX_IMMUTABLE.",
            ),
        )
    })
}

/// Services that storage does not depend on.
fn optional(health: &Health) -> Vec<Finding> {
    let failing = health.failing.iter();
    let finding = |(key, reason): (&String, &String)| {
        Finding::warning(
            key,
            format!("does not work: {reason}"),
            "Nothing is stored differently; only what this setting asks for is missing.",
            Action::advice(format!(
                "Start what is to answer there, or change `{key}` in layerd's configuration; `layerd check` compares it with the unit."
            )),
        )
    };
    failing.map(finding).collect()
}

/// Records that are lost: only then a daemon tells nothing of its health.
fn lost(info: &InfoResponse) -> Finding {
    let action = match info.newest_copy.is_empty() {
        true => Action::advice(
            "Put a backup back: `layerctl restore FILE` takes what `layerctl backup` wrote. Without one, the layers stay \
             where they are, but their names are lost.",
        ),
        false => Action::fix("restore-records", "layerctl restore"),
    };
    Finding::error(
        "database",
        some_of(&info.alarms),
        "The records are lost or damaged. layerd answers no client but layerctl, so that containerd waits.",
        action,
    )
}

fn database(health: &Health) -> Finding {
    const CHECK: &str = "database";
    if !health.database_failed && health.stalled_seconds >= STALL_SECONDS {
        return Finding::error(
            CHECK,
            format!(
                "a change has been waiting for the disk for {} s",
                health.stalled_seconds
            ),
            "Calls that change something wait for the disk, or end at their deadline. layerd goes on when the disk does.",
            Action::advice("`journalctl -k` may say why the disk does not answer."),
        );
    }
    if !health.database_failed {
        return Finding::ok(CHECK, "open, and takes changes");
    }
    Finding::error(
        CHECK,
        "takes no change",
        "A write failed. Only reads are answered until the database could be built anew beside the \
         old one, which is tried with every change.",
        Action::advice(
            "`journalctl -u layerd -p warning` names the write that failed; mend the disk.",
        ),
    )
}

fn last_stop(health: &Health) -> Finding {
    const CHECK: &str = "last stop";
    if health.ended_uncleanly {
        let impact = "The start checked everything. Unless it was killed on purpose, `journalctl -u layerd` says why it ended.";
        return Finding::info(CHECK, "layerd was killed, or the power was cut", impact);
    }
    Finding::ok(CHECK, "orderly")
}

fn export(health: &Health, info: &InfoResponse, now: i64) -> Finding {
    const CHECK: &str = "export";
    let (found, since) = match health.exported_at {
        None => (
            "there is no second copy of the records".to_owned(),
            now.saturating_sub(seconds(info.uptime_seconds)),
        ),
        Some(made) => (
            format!(
                "the second copy of the records is {} old",
                age(made.seconds, now)
            ),
            made.seconds,
        ),
    };
    if !health.export_is_behind || now.saturating_sub(since) < EXPORT_LATE {
        return Finding::ok(CHECK, found);
    }
    Finding::warning(
        CHECK,
        format!("{found}, and records were changed since"),
        "If the database is lost now, what is newer than the copy is lost with it.",
        Action::advice(
            "`journalctl -u layerd -p warning` names what keeps exports from being written; until that is mended, \
             `layerctl backup FILE` writes one elsewhere.",
        ),
    )
}

fn trash(info: &InfoResponse, health: &Health) -> Finding {
    const CHECK: &str = "trash";
    let count = match info.trash {
        0 => "empty".to_owned(),
        some => format!("{some} removed snapshots are still on disk"),
    };
    if health.guard.is_empty() {
        return Finding::ok(CHECK, count);
    }
    let (impact, advice) = if health.records_are_older {
        (
            "Snapshots that were taken back from the trash after the backup count as removed again. Nothing is \
             deleted until a person says what is still needed.",
            "`layerctl trash ls` lists them. Take back what is needed with `layerctl trash restore KEY`, then let the rest go \
             with `layerctl trash empty`.",
        )
    } else {
        (
            "So many removals at once look like a containerd that has lost its metadata. Nothing is deleted until \
             a person says whether they were meant.",
            "`layerctl trash ls` lists them. If they were meant, run `layerctl trash empty`, else `layerctl trash restore --all`.",
        )
    };
    Finding::error(
        CHECK,
        format!("the mass-removal guard is on: {}", health.guard),
        impact,
        Action::advice(advice),
    )
}

fn clock(health: &Health, now: i64) -> Finding {
    const CHECK: &str = "clock";
    let action =
        || Action::advice("Set the clock (`timedatectl status` says whether it is synchronised).");
    let newest = health.newest_at.unwrap_or_default().seconds;
    if now < EARLIEST {
        return Finding::warning(
            CHECK,
            "it stands before 2026",
            "Records get wrong times. It may be mended when the network is up.",
            action(),
        );
    }
    if newest > now.saturating_add(CLOCK_OFF) {
        return Finding::warning(
            CHECK,
            format!("it went back: a record is {} ahead of it", age(now, newest)),
            "Ages are wrong until it has caught up. Nothing is deleted too early because of it.",
            action(),
        );
    }
    Finding::ok(CHECK, "not behind the records")
}

/// Records against directories.
pub(crate) fn records(problems: &[Problem]) -> Vec<Finding> {
    const CHECK: &str = "records and disk";
    // The check of volumes tells those.
    let told = problems.iter().filter(|problem| !problem.is_volume_missing);
    let texts = |is_wanted: &dyn Fn(&Problem) -> bool| -> Vec<String> {
        let some = told.clone().filter(|problem| is_wanted(problem));
        some.map(|problem| problem.problem.clone()).collect()
    };
    let damaged = texts(&|problem| problem.quarantined);
    let advised = texts(&|problem| problem.is_advice);
    let other = texts(&|problem| !problem.quarantined && !problem.is_advice);
    let mut findings = Vec::new();
    if !advised.is_empty() {
        let is_named = |problem: &&Problem| problem.is_advice;
        let mut fixes: Vec<String> = told
            .clone()
            .filter(is_named)
            .map(|one| one.fix.clone())
            .collect();
        fixes.sort();
        fixes.dedup();
        findings.push(Finding::warning(
            CHECK,
            some_of(&advised),
            "layerd cannot repair it, and leaves it as it is.",
            Action::advice(format!("For each: {}.", some_of(&fixes))),
        ));
    }
    if !damaged.is_empty() {
        findings.push(Finding::error(
            CHECK,
            some_of(&damaged),
            "These snapshots answer DATA_LOSS, and what stands on them cannot start; no other suffers.",
            Action::advice(
                "Remove the containers and images that use them (`layerctl why KEY` names them), then pull or create them again.",
            ),
        ));
    }
    if !other.is_empty() {
        findings.push(Finding::warning(
            CHECK,
            some_of(&other),
            "No snapshot suffers from it. What layerd does not know is moved to lost/, never deleted.",
            Action::safe("repair-records", "layerctl fsck --repair"),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "they agree"));
    }
    findings
}

fn seconds(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
