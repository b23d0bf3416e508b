//! Volumes and attachments of one client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use layerd_proto::layerd::v1::{AttachSpec, CreateVolumeRequest, Owner};
use tonic::{Code, Status};

use crate::Verdict;
use crate::volumes::client::Client;
use crate::worker::Chance;

/// Volumes of a client, at most.
const VOLUMES: usize = 4;
const HELD: usize = 3;

/// One call. Made twice, each does what it does once.
#[derive(Debug, Clone)]
pub(super) enum Action {
    Create {
        name: String,
    },
    Label {
        name: String,
        value: String,
    },
    Delete {
        name: String,
    },
    Attach {
        key: String,
        name: String,
        place: String,
    },
    Detach {
        key: String,
    },
}

use Action::{Attach, Create, Delete, Detach, Label};

/// Something attached.
#[derive(Debug, Clone)]
pub(super) struct Held {
    volume: String,
    /// Where it is mounted; empty for nowhere.
    place: String,
}

/// Volumes and attachments, as the client expects them.
#[derive(Debug)]
pub(super) struct Desk {
    number: u64,
    folder: PathBuf,
    /// Labels by name.
    pub(super) volumes: BTreeMap<String, BTreeMap<String, String>>,
    /// By key.
    pub(super) held: BTreeMap<String, Held>,
    made: u64,
}

impl Held {
    /// As the daemon words it.
    pub(super) fn what(&self) -> String {
        format!("volume {} /data", self.volume)
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }
}

impl Desk {
    /// Its places to mount at are below `scratch`.
    pub(super) fn new(number: u64, scratch: &Path) -> Self {
        let folder = scratch.join(format!("places/{number}"));
        for place in 0..HELD {
            std::fs::create_dir_all(folder.join(place.to_string())).unwrap();
        }
        Self {
            number,
            folder,
            volumes: BTreeMap::new(),
            held: BTreeMap::new(),
            made: 0,
        }
    }

    /// The next action, sometimes one that is refused.
    pub(super) fn next(&mut self, chance: &mut Chance) -> Action {
        let names: Vec<String> = self.volumes.keys().cloned().collect();
        let keys: Vec<String> = self.held.keys().cloned().collect();
        let missing = format!("soak{}-missing", self.number);
        let mut pick = |from: &[String]| {
            let picked = from.get(chance.below(from.len() + 1)).cloned();
            picked.unwrap_or_else(|| missing.clone())
        };
        let (name, key) = (pick(&names), pick(&keys));
        match chance.below(10) {
            0..=2 if names.len() < VOLUMES => {
                self.made += 1;
                let name = format!("soak{}-{}", self.number, self.made % 7);
                Create { name }
            }
            3..=4 => Label {
                name,
                value: chance.next().to_string(),
            },
            5..=6 if self.volumes.contains_key(&name) => self.attach(name, chance),
            7..=8 => Detach { key },
            _ => Delete { name },
        }
    }

    fn attach(&self, name: String, chance: &mut Chance) -> Action {
        let place = chance.below(HELD);
        let key = format!("soak{}-{place}", self.number);
        if self.held.contains_key(&key) {
            return Detach { key };
        }
        let place = match chance.below(2) {
            0 => String::new(),
            _ => self.folder.join(place.to_string()).to_str().unwrap().into(),
        };
        Attach { key, name, place }
    }

    /// Requires the answer that the model gives, and changes the model.
    pub(super) fn take(
        &mut self,
        action: &Action,
        answer: Result<bool, Status>,
        was_lost: bool,
    ) -> Verdict {
        let wanted = self.wanted(action);
        let given = answer.as_ref().map_err(Status::code).copied();
        // What the first call changed, the second does not change again.
        let is_right = given == wanted || (was_lost && given.is_ok() && wanted.is_ok());
        if !is_right {
            return Err(format!("{action:?}: {answer:?}, should be {wanted:?}"));
        }
        if given.is_ok() {
            self.apply(action);
        }
        Ok(())
    }

    /// True if it changes something; the error is the code of its refusal.
    fn wanted(&self, action: &Action) -> Result<bool, Code> {
        match action {
            Create { name } => Ok(!self.volumes.contains_key(name)),
            Label { name, .. } if !self.volumes.contains_key(name) => Err(Code::NotFound),
            Label { .. } | Attach { .. } => Ok(true),
            Delete { name } if self.holds(name) => Err(Code::FailedPrecondition),
            Delete { name } => Ok(self.volumes.contains_key(name)),
            Detach { key } => Ok(self.held.contains_key(key)),
        }
    }

    fn holds(&self, name: &str) -> bool {
        self.held.values().any(|held| held.volume == name)
    }

    fn apply(&mut self, action: &Action) {
        match action.clone() {
            Create { name } => {
                self.volumes.entry(name).or_default();
            }
            Label { name, value } => {
                let labels = self.volumes.entry(name).or_default();
                labels.insert("changed".into(), value);
            }
            Delete { name } => {
                self.volumes.remove(&name);
            }
            Attach { key, name, place } => {
                let volume = name;
                self.held.insert(key, Held { volume, place });
            }
            Detach { key } => {
                self.held.remove(&key);
            }
        }
    }
}

impl Action {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Create { .. } => "Volumes.Create",
            Label { .. } => "Volumes.Update",
            Delete { .. } => "Volumes.Delete",
            Attach { .. } => "Attach",
            Detach { .. } => "Detach",
        }
    }

    /// Makes the call; answers whether something changed.
    pub(super) fn perform(&self, client: &mut Client) -> Result<bool, Status> {
        match self {
            Create { name } => {
                let request = CreateVolumeRequest {
                    name: name.clone(),
                    ..CreateVolumeRequest::default()
                };
                client.create(request).map(|(_, created)| created)
            }
            Label { name, value } => client.update(name, ("changed", value)).map(|()| true),
            Delete { name } => client.delete(name),
            Attach { key, name, place } => {
                let spec = AttachSpec {
                    key: key.clone(),
                    mount: format!("type=volume,src={name},dst=/data"),
                    target_path: place.clone(),
                    ..AttachSpec::default()
                };
                let owner = Owner {
                    kind: "container".into(),
                    id: key.clone(),
                };
                let all = client.attach(&owner, vec![spec])?;
                Ok(all.iter().all(|one| one.state == "attached"))
            }
            Detach { key } => Ok(!client.detach(std::slice::from_ref(key))?.is_empty()),
        }
    }
}
