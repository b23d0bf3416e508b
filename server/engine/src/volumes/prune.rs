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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use layerd_drivers::Memory;
    use layerd_mounts::fake::FakeMounter;
    use layerd_store::{Labels, VolumeName};

    use super::{PLANS, Plan, Pruned};
    use crate::volumes::CreateVolume;
    use crate::{Engine, Options};

    /// An engine with the volumes `named`, `labelled` (with a label), and one without a name.
    fn engine() -> (Engine, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let (driver, mounter) = (Arc::new(Memory::new()), Arc::new(FakeMounter::new()));
        let engine = Engine::open(dir.path(), driver, mounter, Options::default()).unwrap();
        let gold = Labels::parse([("tier".to_owned(), "gold".to_owned())].into());
        for (text, labels) in [
            (Some("named"), Labels::default()),
            (Some("labelled"), gold.unwrap()),
            (None, Labels::default()),
        ] {
            let volume = CreateVolume {
                name: text.map(name),
                labels,
                ..CreateVolume::default()
            };
            engine.volumes.create_volume(&volume).unwrap();
        }
        (engine, dir)
    }

    fn name(text: &str) -> VolumeName {
        VolumeName::parse("name", text).unwrap()
    }

    fn plan(engine: &Engine) -> Plan {
        let planned = engine.volumes.plan_prune(true, Vec::new(), |_| true);
        planned.unwrap()
    }

    /// Names of volumes that were passed over, with the reason.
    fn passed_over(pruned: Vec<Pruned>) -> Vec<(String, String)> {
        let skipped = pruned.into_iter().filter(|one| !one.skipped.is_empty());
        skipped
            .map(|one| (one.name.as_str().to_owned(), one.skipped))
            .collect()
    }

    #[test]
    fn a_plan_lists_what_it_was_asked_for_with_the_reason() {
        let (engine, _dir) = engine();
        let reasons = |include_named, labels: &[&str], spared: &str| {
            let labels = labels.iter().map(|&label| label.to_owned()).collect();
            let planned = engine.volumes.plan_prune(include_named, labels, |volume| {
                volume.name.as_str() != spared
            });
            let candidates = planned.unwrap().candidates.into_iter();
            let mut reasons: Vec<_> = candidates.map(|one| one.reason).collect();
            reasons.sort();
            reasons
        };
        let (anonymous, unheld) = ("anonymous, and nothing holds it", "nothing holds it");
        assert_eq!(reasons(false, &[], ""), [anonymous]);
        assert_eq!(reasons(true, &[], ""), [anonymous, unheld, unheld]);
        assert_eq!(reasons(true, &[], "named"), [anonymous, unheld]);
        assert_eq!(reasons(true, &["tier=gold"], ""), [unheld]);
        assert_eq!(reasons(false, &["tier=gold"], ""), [""; 0]);
    }

    #[test]
    fn a_prune_deletes_what_was_planned_and_only_once() {
        let (engine, _dir) = engine();
        let plan = plan(&engine);
        assert_eq!(plan.candidates.len(), 3);
        let pruned = engine.volumes.execute_prune(&plan.id).unwrap();
        assert_eq!((pruned.len(), passed_over(pruned)), (3, Vec::new()));
        assert!(engine.volumes.volumes(&Default::default()).is_empty());
        let again = engine.volumes.execute_prune(&plan.id).unwrap_err();
        assert!(again.to_string().contains(&plan.id), "{again}");
    }

    #[test]
    fn what_changed_or_went_since_is_passed_over_and_a_measurement_is_no_change() {
        let (engine, _dir) = engine();
        let volumes = &engine.volumes;
        let plan = plan(&engine);
        volumes.volume_usage(&name("named"), true).unwrap();
        volumes
            .rename_volume(&name("labelled"), name("renamed"))
            .unwrap();
        let anonymous = plan
            .candidates
            .iter()
            .find(|one| one.reason.starts_with("anonymous"));
        let gone = anonymous.unwrap().name.clone();
        volumes.delete_volume(&gone).unwrap();
        let mut skipped = passed_over(volumes.execute_prune(&plan.id).unwrap());
        skipped.sort();
        let mut wanted = [
            ("labelled", "it changed since the plan was made"),
            (gone.as_str(), "it is gone already"),
        ]
        .map(|(name, why)| (name.to_owned(), why.to_owned()));
        wanted.sort();
        assert_eq!(skipped, wanted);
        assert!(volumes.volume(&name("renamed")).is_ok());
        assert!(volumes.volume(&name("named")).is_err(), "it was deleted");
    }

    #[test]
    fn the_oldest_plan_gives_way() {
        let (engine, _dir) = engine();
        let plans: Vec<Plan> = (0..=PLANS).map(|_| plan(&engine)).collect();
        let execute = |plan: &Plan| engine.volumes.execute_prune(&plan.id);
        assert!(execute(&plans[0]).is_err());
        assert!(
            execute(&plans[1]).is_ok(),
            "as many are kept as there may be"
        );
    }
}
