//! Deleting many volumes at once: a plan that a person can read, then that plan and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use layerd_store::{Volume, VolumeId, VolumeName};
use parking_lot::Mutex;

use super::VolumeFilter;
use crate::{Error, VolumeError, Volumes};

/// Validity of a plan.
const VALID: Duration = Duration::from_secs(600);
/// Plans kept; the oldest gives way.
const PLANS: usize = 64;

/// Plan of a prune.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Names it.
    pub id: String,
    /// Volumes to delete.
    pub candidates: Vec<Candidate>,
}

/// A volume that would go.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The volume.
    pub id: VolumeId,
    /// Its name.
    pub name: VolumeName,
    /// Why it may go.
    pub reason: String,
    /// Bytes of disk, if known.
    pub bytes: Option<u64>,
    /// As it was when the plan was made.
    planned: Arc<Volume>,
}

/// Outcome for a candidate.
#[derive(Debug, Clone)]
pub struct Pruned {
    /// The volume.
    pub id: VolumeId,
    /// Its name.
    pub name: VolumeName,
    /// Why it was passed over; empty if it is in the trash.
    pub skipped: String,
}

/// Plans that were made and not executed.
#[derive(Debug, Default)]
pub(crate) struct Plans(Mutex<BTreeMap<String, (Instant, Plan)>>);

impl Plans {
    fn keep(&self, plan: Plan) {
        let mut plans = self.0.lock();
        plans.retain(|_, (made, _)| made.elapsed() < VALID);
        if plans.len() >= PLANS {
            let oldest = plans
                .iter()
                .min_by_key(|(_, (made, _))| *made)
                .map(|(id, _)| id.clone());
            oldest.map(|id| plans.remove(&id));
        }
        plans.insert(plan.id.clone(), (Instant::now(), plan));
    }

    fn take(&self, id: &str) -> Option<Plan> {
        let mut plans = self.0.lock();
        let (made, plan) = plans.remove(id)?;
        (made.elapsed() < VALID).then_some(plan)
    }
}

impl Volumes {
    /// Lists what a prune would delete and why: volumes that nothing holds, the anonymous ones
    /// only unless `include_named`, and those alone that `may_go`. Deletes nothing.
    ///
    /// # Errors
    /// [`Error::Store`] if no id can be had.
    pub fn plan_prune(
        &self,
        include_named: bool,
        labels: Vec<String>,
        may_go: impl Fn(&Volume) -> bool,
    ) -> Result<Plan, Error> {
        let filter = VolumeFilter {
            labels,
            dangling: Some(true),
            ..VolumeFilter::default()
        };
        let dangling = self.volumes(&filter).into_iter().map(|entry| entry.volume);
        let wanted =
            dangling.filter(|volume| (include_named || volume.anonymous) && may_go(volume));
        let candidates = wanted.map(|volume| Candidate {
            id: volume.id,
            name: volume.name.clone(),
            reason: reason(volume.anonymous).to_owned(),
            bytes: volume.usage.map(|(usage, _)| usage.bytes),
            planned: volume,
        });
        let plan = Plan {
            candidates: candidates.collect(),
            id: format!("prune-{}", self.root.store.volume_id()?),
        };
        self.plans.keep(plan.clone());
        Ok(plan)
    }

    /// Deletes what a plan lists and nothing else. What was attached, changed or replaced since is
    /// passed over, and said.
    ///
    /// # Errors
    /// `Refused` if there is no such plan, or no longer.
    pub fn execute_prune(&self, id: &str) -> Result<Vec<Pruned>, Error> {
        let plan = self
            .plans
            .take(id)
            .ok_or_else(|| Error::Volume(VolumeError::NoPlan { id: id.to_owned() }))?;
        Ok(plan
            .candidates
            .into_iter()
            .map(|candidate| self.prune(candidate))
            .collect())
    }

    fn prune(&self, candidate: Candidate) -> Pruned {
        let skipped = match self.hold_volume_id(candidate.id) {
            None => "it is gone already".to_owned(),
            Some(held) if is_changed(&held.volume, &candidate.planned) => {
                "it changed since the plan was made".to_owned()
            }
            Some(held) => self
                .mark_volume_removed(held)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default(),
        };
        Pruned {
            id: candidate.id,
            name: candidate.name,
            skipped,
        }
    }
}

/// True if anything but the last usage differs. Times do not count: the clock may have gone back.
fn is_changed(volume: &Volume, planned: &Volume) -> bool {
    let usage = planned.usage;
    *planned
        != Volume {
            usage,
            ..volume.clone()
        }
}

fn reason(anonymous: bool) -> &'static str {
    if anonymous {
        "anonymous, and nothing holds it"
    } else {
        "nothing holds it"
    }
}
