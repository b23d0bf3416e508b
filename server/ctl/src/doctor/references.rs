//! References between containerd and layerd, as `layerctl orphans` finds them.

use super::{Action, Finding, quoted, some_of};
use crate::orphans::{Difference, State};

const CHECK: &str = "snapshots in containerd";

pub(crate) fn findings(differences: &[Difference]) -> Vec<Finding> {
    let of = |state: State| -> Vec<&Difference> {
        let some = differences.iter().filter(|one| one.state == state);
        some.collect()
    };
    let mut found: Vec<Finding> = [missing(&of(State::Missing)), orphaned(&of(State::Orphan))]
        .into_iter()
        .flatten()
        .collect();
    if found.is_empty() {
        found.push(Finding::ok(CHECK, "containerd and layerd know the same"));
    }
    found
}

fn missing(missing: &[&Difference]) -> Option<Finding> {
    let names: Vec<String> = missing
        .iter()
        .map(|one| format!("{} in {}", quoted(&one.client_key), quoted(&one.namespace)))
        .collect();
    let ids: Option<Vec<String>> = missing.iter().map(|one| one.in_trash.clone()).collect();
    (!names.is_empty()).then(|| {
        Finding::error(
            CHECK,
            format!(
                "containerd needs what layerd does not have: {}",
                some_of(&names)
            ),
            "Pulls and starts of what needs them fail; containerd does not notice by itself.",
            match ids {
                Some(ids) => Action::safe(
                    "restore-missing-snapshots",
                    format!("layerctl trash restore {}", ids.join(" ")),
                ),
                None => Action::advice(
                    "`layerctl orphans` says for each what needs it and how it comes back.",
                ),
            },
        )
    })
}

/// One that was just forgotten is the collector's; hundreds are a loss of containerd's metadata.
fn orphaned(orphans: &[&Difference]) -> Option<Finding> {
    let names: Vec<String> = orphans.iter().map(|one| quoted(&one.key)).collect();
    (!names.is_empty()).then(|| {
        Finding::error(
            CHECK,
            format!("containerd has forgotten {}: {}", names.len(), some_of(&names)),
            "They hold space, and an import of the same image unpacks nothing. containerd's metadata are older than \
             layerd's data, unless its collector has not come round yet.",
            match orphans.iter().all(|one| one.is_free) {
                true => Action::fix("remove-forgotten-snapshots", format!("layerctl snapshot rm {}", names.join(" "))),
                false => Action::advice(
                    "Put containerd's metadata (io.containerd.metadata.v1.bolt/meta.db) of the same day back, or remove what \
                     stands on them first: `layerctl orphans` lists all in order.",
                ),
            },
        )
    })
}
