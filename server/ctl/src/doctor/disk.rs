//! The disks under the data directory: what is free, what is to stay free, and who holds the most.

use layerd_proto::layerd::v1::{Health, InfoResponse};

use super::{Action, Finding, quoted};
use crate::human::size;

/// Users of the disk with their usage in bytes, the largest first.
pub(crate) type Holders = [(String, u64)];

/// The disk alone.
pub(crate) fn disk(info: &InfoResponse, health: &Health) -> Vec<Finding> {
    vec![bytes(info, health, &[]), inodes(info, health, &[])]
}

pub(super) fn bytes(info: &InfoResponse, health: &Health, holders: &Holders) -> Finding {
    let (free, total) = (info.disk_free_bytes, info.disk_bytes);
    let reserve = health.reserves.iter().find(|one| one.path == info.root);
    let kept = reserve.map_or(0, |reserve| reserve.bytes_kept);
    let space = Space {
        check: "space",
        shown: format!("{} of {} are free", size(free), size(total)),
        free,
        total,
        low: (health.low_bytes, size(health.low_bytes)),
        enough: (health.enough_bytes, size(health.enough_bytes)),
        kept: (kept, size(kept)),
        wanted: setting(health, "trash.min_free_percent"),
    };
    // A list of those that hold next to nothing would send people the wrong way.
    let held: u64 = holders.iter().map(|(_, bytes)| bytes).sum();
    let holders = match held < total.saturating_sub(free) / HELD_PART {
        true => &[],
        false => holders,
    };
    space.finding(health, || room(info, health, holders))
}

pub(super) fn inodes(info: &InfoResponse, health: &Health, holders: &Holders) -> Finding {
    const CHECK: &str = "inodes";
    let (free, total) = (health.inodes_free, health.inodes);
    if total == 0 {
        return Finding::ok(CHECK, "this file system makes them as they are needed");
    }
    let reserve = health.reserves.iter().find(|one| one.path == info.root);
    let kept = reserve.map_or(0, |reserve| reserve.inodes_kept);
    let space = Space {
        check: CHECK,
        shown: format!("{free} of {total} are free"),
        free,
        total,
        low: (health.low_inodes, health.low_inodes.to_string()),
        enough: (health.enough_inodes, health.enough_inodes.to_string()),
        kept: (kept, kept.to_string()),
        wanted: setting(health, "trash.min_free_percent").min(FEW_INODES),
    };
    space.finding(health, || room(info, health, holders))
}

/// Share of the used space, as a divisor, below which layerd's largest are not what fills a disk.
const HELD_PART: u64 = 20;
/// Free share of the inodes, in percent, that is too small. Deleting early brings few back.
const FEW_INODES: u64 = 5;

/// Free and total amount of a resource of a disk, with words for the figures.
struct Space {
    check: &'static str,
    shown: String,
    free: u64,
    total: u64,
    low: (u64, String),
    enough: (u64, String),
    /// Amount that nothing new may take, and its words.
    kept: (u64, String),
    /// Free share, in percent, that is too small.
    wanted: u64,
}

impl Space {
    fn finding(&self, health: &Health, room: impl Fn() -> Action) -> Finding {
        let (check, shown) = (self.check, &self.shown);
        if self.free < self.low.0 || (health.is_full && self.free < self.enough.0) {
            let (low, enough) = (&self.low.1, &self.enough.1);
            return Finding::error(
                check,
                format!(
                    "{shown}; nothing new is taken below {low}, and not until {enough} are free again"
                ),
                "Nothing can be pulled or started: layerd takes removals only, on the space that it keeps for them.",
                room(),
            );
        }
        let kept = &self.kept.1;
        if self.free < self.kept.0 {
            return Finding::error(
                check,
                format!("{shown}, less than the reserve of {kept} (limits.keep_free_percent)"),
                "Nothing new is made: no snapshot, no volume, no layer is unpacked. Removals and what is there go on.",
                room(),
            );
        }
        if u128::from(self.free) * 100 < u128::from(self.wanted) * u128::from(self.total) {
            return Finding::warning(
                check,
                format!("{shown}, less than {} %", self.wanted),
                "Removed layers are deleted at once (trash.min_free_percent), so that `layerctl trash restore` finds \
                 nothing. When the disk is full, nothing new is taken.",
                room(),
            );
        }
        if self.free < self.kept.0.saturating_add(self.kept.0 / 2) {
            return Finding::warning(
                check,
                format!("{shown}, close to the reserve of {kept} (limits.keep_free_percent)"),
                "Once it is reached nothing new is made. Removed layers are deleted at once until then.",
                room(),
            );
        }
        Finding::ok(check, shown)
    }
}

/// Levels of a reserve, as the daemon names them.
const NEAR: &str = "near";
const REACHED: &str = "reached";

/// Volumes on a file system of their own, whose reserve is near or reached.
pub(super) fn reserve_of_volumes(info: &InfoResponse, health: &Health) -> Option<Finding> {
    let apart = health.reserves.iter().find(|one| one.path != info.root)?;
    let shown = format!(
        "{} of {} and {} of {} inodes are free, {} and {} are to stay free (limits.keep_free_percent)",
        size(apart.bytes_free),
        size(apart.bytes),
        apart.inodes_free,
        apart.inodes,
        size(apart.bytes_kept),
        apart.inodes_kept
    );
    let advice = || {
        Action::advice(format!(
            "Remove volumes that are not needed, or enlarge the disk of {}: `layerctl volume ls --size` shows the largest, \
             `layerctl volume prune --dry-run` those that nothing uses.",
            apart.path
        ))
    };
    const CHECK: &str = "space of volumes";
    match apart.level.as_str() {
        REACHED => Some(Finding::error(
            CHECK,
            shown,
            "No volume is created, filled, copied or imported. Removals and what is there go on.",
            advice(),
        )),
        NEAR => Some(Finding::warning(
            CHECK,
            shown,
            "Once it is reached no volume is created, filled, copied or imported.",
            advice(),
        )),
        _ => None,
    }
}

/// Action for a full disk: the trash is emptied first.
fn room(info: &InfoResponse, health: &Health, holders: &Holders) -> Action {
    if info.trash > 0 && health.guard.is_empty() && health.failed_deletions.is_empty() {
        return Action::fix("empty-trash", "layerctl trash empty --yes");
    }
    let held: Vec<String> = holders
        .iter()
        .take(3)
        .map(|(name, bytes)| format!("{} {}", size(*bytes), quoted(name)))
        .collect();
    let held = match held.is_empty() {
        true => {
            "layerd holds little of it; `du -x --max-depth=1` on the mount point finds who does"
                .to_owned()
        }
        false => format!("the most is held by {}", held.join(", ")),
    };
    Action::advice(format!(
        "Remove images and containers that are not needed, or enlarge the disk: {held}. `layerctl du` and `layerctl volume \
         usage` list all, `layerctl volume prune --dry-run` the volumes that nothing uses."
    ))
}

/// A setting that is a number, as the daemon says it; 0 if it does not.
pub(super) fn setting(health: &Health, key: &str) -> u64 {
    let value = health.settings.get(key);
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_default()
}
