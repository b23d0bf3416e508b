//! Sentences about what needs a person's attention, from what the daemon says of itself.

use layerd_proto::layerd::v1::{Health, InfoResponse, Reserve};

/// Seconds after which a wait for the disk is called a stall.
const STALL_SECONDS: u64 = 10;

/// One sentence for each fault that a person has to look at, with what to do; none if all is well.
/// Faults of optional services are not among them.
pub(super) fn of(info: &InfoResponse) -> Vec<String> {
    let health = info.health.clone().unwrap_or_default();
    let found = [
        guard(&health),
        quarantined(info),
        database(&health),
        read_only(info, &health),
        volumes_read_only(info, &health),
        bytes(info, &health),
        inodes(&health),
        deletions(&health),
        closed(&health),
    ];
    let reserves = health.reserves.iter().filter_map(|one| reserve(one, info));
    found.into_iter().flatten().chain(reserves).collect()
}

/// A reserve that is near or reached. On a disk that takes no records at all there is an alarm already.
fn reserve(reserve: &Reserve, info: &InfoResponse) -> Option<String> {
    let health = info.health.clone().unwrap_or_default();
    let is_told =
        reserve.path == info.root && (bytes(info, &health).is_some() || inodes(&health).is_some());
    let figures = format!(
        "of {} bytes of {} {} are free, {} are to stay free (inodes: {} of {} and {})",
        reserve.bytes,
        reserve.path,
        reserve.bytes_free,
        reserve.bytes_kept,
        reserve.inodes_free,
        reserve.inodes,
        reserve.inodes_kept
    );
    match reserve.level.as_str() {
        "reached" if !is_told => Some(format!(
            "the reserve is reached, so that nothing new is made: {figures}; remove what is not needed \
             (`layerctl du`), or enlarge the disk (limits.keep_free_percent)"
        )),
        "near" if !is_told => Some(format!(
            "the reserve is near, and nothing new is made once it is reached: {figures}; `layerctl du` shows \
             who holds the bytes"
        )),
        _ => None,
    }
}

fn guard(health: &Health) -> Option<String> {
    (!health.guard.is_empty()).then(|| {
        format!(
            "{}: nothing is deleted until `layerctl trash empty` or `layerctl trash restore` decides",
            health.guard
        )
    })
}

fn quarantined(info: &InfoResponse) -> Option<String> {
    (info.quarantined > 0).then(|| {
        format!(
            "{} snapshots are damaged and answer DATA_LOSS; `layerctl fsck` lists them",
            info.quarantined
        )
    })
}

fn database(health: &Health) -> Option<String> {
    if health.database_failed {
        return Some("the database takes no change; the log says why".to_owned());
    }
    (health.stalled_seconds >= STALL_SECONDS).then(|| {
        format!(
            "the disk stalls: changes of records have been waiting for it for {} s; `journalctl -k` may say why",
            health.stalled_seconds
        )
    })
}

fn read_only(info: &InfoResponse, health: &Health) -> Option<String> {
    health.read_only.then(|| {
        format!(
            "the file system of {} is read-only: nothing can be stored or removed; `journalctl -k` says why, and \
             after a repair `mount -o remount,rw` makes it writable",
            info.root
        )
    })
}

fn volumes_read_only(info: &InfoResponse, health: &Health) -> Option<String> {
    health.volumes_read_only.then(|| {
        format!(
            "the file system of {}/volumes is read-only: no volume can be made, changed or removed; layers are not \
             concerned",
            info.root
        )
    })
}

fn bytes(info: &InfoResponse, health: &Health) -> Option<String> {
    let (free, low) = (info.disk_free_bytes, health.low_bytes);
    is_short(free, low, health.enough_bytes, health).then(|| {
        format!("the disk is full: {free} bytes are free, and below {low} nothing new is taken; make room")
    })
}

fn inodes(health: &Health) -> Option<String> {
    let (free, low) = (health.inodes_free, health.low_inodes);
    let is_counted = health.inodes > 0;
    (is_counted && is_short(free, low, health.enough_inodes, health)).then(|| {
        format!("the disk has no inodes left: {free} are free, and below {low} nothing new is taken; remove files")
    })
}

/// True if no new record is taken. On a full disk that goes on until there is enough.
fn is_short(free: u64, low: u64, enough: u64, health: &Health) -> bool {
    free < low || (health.is_full && free < enough)
}

fn closed(health: &Health) -> Option<String> {
    let all = &health.closed_folders;
    (!all.is_empty()).then(|| {
        let all = all.join(" ");
        format!("nothing can be made or deleted in what `chattr` closed: {all}; `chattr -i -a` on each opens it")
    })
}

fn deletions(health: &Health) -> Option<String> {
    let first = health.failed_deletions.first()?;
    let count = health.failed_deletions.len();
    let kind = if first.is_volume { "volume" } else { "layer" };
    Some(format!(
        "what was removed cannot be deleted and holds its space ({count}, tried again): {kind} {}: {}",
        first.id, first.reason
    ))
}

#[cfg(test)]
mod tests {
    use layerd_proto::layerd::v1::FailedDeletion;

    use super::*;

    type Fault = fn(&mut InfoResponse, &mut Health);

    fn sound() -> InfoResponse {
        InfoResponse {
            root: "/r".to_owned(),
            disk_bytes: 1000,
            disk_free_bytes: 500,
            health: Some(Health {
                low_bytes: 10,
                low_inodes: 10,
                enough_bytes: 100,
                enough_inodes: 100,
                inodes: 1000,
                inodes_free: 500,
                ..Health::default()
            }),
            ..InfoResponse::default()
        }
    }

    #[test]
    fn each_fault_is_an_alarm() {
        assert_eq!(of(&sound()), [""; 0]);
        let reserve = |level: &str| Reserve {
            path: "/r".to_owned(),
            level: level.to_owned(),
            ..Reserve::default()
        };
        let mut info = sound();
        let health = info.health.as_mut().unwrap();
        health.reserves = vec![reserve("enough"), reserve("near"), reserve("reached")];
        let alarms = of(&info);
        assert!(
            alarms.len() == 2 && alarms[0].contains("near"),
            "{alarms:?}"
        );
        assert!(alarms[1].contains("is reached"), "{alarms:?}");
        info.disk_free_bytes = 9;
        assert_eq!(of(&info).len(), 1, "a full disk is told once");
        let cases: [(&str, Fault); 11] = [
            ("closed: /r/l;", |_, health| {
                health.closed_folders = vec!["/r/l".to_owned()];
            }),
            ("layerctl trash", |_, health| health.guard = "held".into()),
            ("DATA_LOSS", |info, _| info.quarantined = 1),
            ("takes no change", |_, health| health.database_failed = true),
            ("for 12 s", |_, health| health.stalled_seconds = 12),
            ("of /r is read-only", |_, health| health.read_only = true),
            ("of /r/volumes is read-only", |_, health| {
                health.volumes_read_only = true;
            }),
            ("9 bytes", |info, _| info.disk_free_bytes = 9),
            ("99 bytes", |info, health| {
                (info.disk_free_bytes, health.is_full) = (99, true);
            }),
            ("no inodes", |_, health| health.inodes_free = 9),
            ("(1, tried again): layer 7: busy", |_, health| {
                health.failed_deletions = vec![FailedDeletion {
                    id: "7".to_owned(),
                    reason: "busy".into(),
                    is_volume: false,
                }];
            }),
        ];
        for (wanted, fault) in cases {
            let mut info = sound();
            let mut health = info.health.take().unwrap();
            fault(&mut info, &mut health);
            info.health = Some(health);
            let alarms = of(&info);
            assert!(
                alarms.len() == 1 && alarms[0].contains(wanted),
                "{wanted}: {alarms:?}"
            );
        }
    }

    #[test]
    fn a_short_wait_and_a_disk_without_a_table_of_inodes_are_no_alarms() {
        let mut info = sound();
        let health = info.health.as_mut().unwrap();
        (health.stalled_seconds, health.inodes, health.inodes_free) = (9, 0, 0);
        assert_eq!(of(&info), [""; 0]);
        // A disk too small for the reserve, on which new snapshots are taken.
        info.disk_free_bytes = 99;
        assert_eq!(of(&info), [""; 0]);
    }
}
