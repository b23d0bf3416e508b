//! The calls that change volumes and attachments, and what each makes of what exists.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use layerd_proto::layerd::v1::{AttachSpec, CreateVolumeRequest, Owner};
use tonic::{Code, Status};

use super::client::Client;
use super::state::{Held, State, Vol};
use crate::content::Layer;
use crate::home::names;

/// One call.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Create {
        name: String,
    },
    Clone {
        name: String,
        of: String,
    },
    Snapshot {
        name: String,
        of: String,
    },
    Import {
        name: String,
        archive: Arc<Archive>,
    },
    Label {
        name: String,
    },
    Rename {
        name: String,
        to: String,
    },
    Delete {
        name: String,
    },
    Undelete {
        name: String,
        to: String,
    },
    Prune,
    EmptyTrash,
    Attach(Vec<Item>),
    Detach(Vec<String>),
    /// Keeps these.
    Reconcile(Vec<String>),
}

use Action::{
    Attach, Clone as Copy, Create, Delete, Detach, EmptyTrash, Import, Label, Prune, Reconcile,
    Rename, Snapshot, Undelete,
};

/// An archive, and what it holds.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) bytes: Vec<u8>,
    pub(crate) content: Arc<Layer>,
}

/// One mount of an Attach.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) key: String,
    /// `type`, `src` and `dst` of `--mount`.
    pub(crate) kind: &'static str,
    pub(crate) source: String,
    pub(crate) target: &'static str,
    /// The rest of the value of `--mount`.
    pub(crate) more: &'static str,
    /// Where it is to be mounted; empty for nowhere.
    pub(crate) place: String,
    /// Source for an empty volume: the snapshot, and its content at the target.
    pub(crate) fill: Option<(String, Arc<Layer>)>,
}

/// Of all attachments.
pub(crate) fn owner() -> Owner {
    Owner {
        kind: "container".into(),
        id: "web".into(),
    }
}

impl Item {
    fn message(&self) -> AttachSpec {
        let source = match self.source.as_str() {
            "" => String::new(),
            source => format!(",src={source}"),
        };
        AttachSpec {
            key: self.key.clone(),
            mount: format!(
                "type={}{source},dst={}{}",
                self.kind, self.target, self.more
            ),
            target_path: self.place.clone(),
            fill_from: self
                .fill
                .as_ref()
                .map(|(from, _)| from.clone())
                .unwrap_or_default(),
            ..AttachSpec::default()
        }
    }

    /// States after each of its steps.
    fn steps(&self, before: &State) -> Vec<State> {
        let mut states = Vec::new();
        let mut state = before.clone();
        let is_there = state.held.get(&self.key);
        if is_there.is_some_and(|held| held.is_attached == Some(true)) {
            return states;
        }
        if self.kind == "volume" {
            let new = || Vol::new(&self.source);
            state.volumes.entry(self.source.clone()).or_insert_with(new);
            states.push(state.clone());
        }
        let held = Held {
            id: is_there.and_then(|held| held.id.clone()),
            what: format!("{} {} {}", self.kind, self.source, self.target),
            target: self.place.clone(),
            is_attached: Some(false),
            place: String::new(),
        };
        state.held.insert(self.key.clone(), held);
        states.push(state.clone());
        self.fill_steps(&mut state, &mut states);
        if let Some(held) = state.held.get_mut(&self.key) {
            held.is_attached = Some(true);
        }
        states.push(state);
        states
    }

    fn fill_steps(&self, state: &mut State, states: &mut Vec<State>) {
        let (Some((from, content)), Some(vol)) =
            (&self.fill, state.volumes.get_mut(self.source.as_str()))
        else {
            return;
        };
        if vol.content.is_some() {
            return;
        }
        vol.content = Some(content.clone());
        states.push(state.clone());
        if let Some(vol) = state.volumes.get_mut(self.source.as_str()) {
            vol.filled_from = format!("image {from} {}", self.target);
        }
        states.push(state.clone());
    }
}

impl Action {
    /// Makes the call; answers in short what was answered.
    pub(crate) fn perform(&self, client: &mut Client, known: &State) -> Result<String, Status> {
        let nothing = |()| String::new();
        match self {
            Create { name } => client
                .create(settings(name))
                .map(|(_, created)| created.to_string()),
            Copy { name, of } => {
                let request = CreateVolumeRequest {
                    name: name.clone(),
                    clone_of: of.clone(),
                    ..CreateVolumeRequest::default()
                };
                client
                    .create(request)
                    .map(|(_, created)| created.to_string())
            }
            Snapshot { name, of } => client.snapshot(of, name).map(nothing),
            Import { name, archive } => client.import(name, &archive.bytes).map(nothing),
            Label { name } => client.update(name, ("changed", "yes")).map(nothing),
            Rename { name, to } => client.rename(name, to).map(nothing),
            Delete { name } => client.delete(name).map(|existed| existed.to_string()),
            Undelete { name, to } => {
                let id = known.trash.get(name).and_then(|vol| vol.id.as_deref());
                client.undelete(id.unwrap_or("none"), to).map(nothing)
            }
            Prune => {
                let plan = client.plan_prune()?;
                let outcomes = client.execute_prune(&plan)?;
                let skipped = outcomes.iter().find(|one| !one.skipped.is_empty());
                match skipped {
                    Some(skipped) => Ok(format!("skipped: {}", skipped.skipped)),
                    None => Ok(outcomes.len().to_string()),
                }
            }
            EmptyTrash => client.empty_trash().map(nothing),
            Attach(items) => {
                let messages = items.iter().map(Item::message).collect();
                let all = client.attach(&owner(), messages)?;
                let said = all.iter().map(|one| format!("{} {}", one.key, one.state));
                Ok(said.collect::<Vec<_>>().join(", "))
            }
            Detach(keys) => client.detach(keys).map(|keys| keys.join(", ")),
            Reconcile(keys) => client.reconcile(&owner(), keys).map(|keys| keys.join(", ")),
        }
    }

    /// Its answer in this state.
    pub(crate) fn answer(&self, state: &State) -> Result<String, Code> {
        let there = |name: &String| state.volumes.contains_key(name);
        let unless = |refused: bool, code| {
            if refused {
                Err(code)
            } else {
                Ok(String::new())
            }
        };
        match self {
            Create { name } | Copy { name, .. } => Ok((!there(name)).to_string()),
            Snapshot { name, .. } | Import { name, .. } => unless(there(name), Code::AlreadyExists),
            Label { name } | Rename { name, .. } => unless(!there(name), Code::NotFound),
            Delete { name } => Ok(there(name).to_string()),
            Undelete { name, .. } => unless(!state.trash.contains_key(name), Code::NotFound),
            Prune => Ok(anonymous(state).len().to_string()),
            EmptyTrash => Ok(String::new()),
            Attach(items) => {
                let all = items.iter().map(|item| format!("{} attached", item.key));
                Ok(all.collect::<Vec<_>>().join(", "))
            }
            Detach(keys) => {
                let there = keys.iter().filter(|key| state.held.contains_key(*key));
                Ok(there.cloned().collect::<Vec<_>>().join(", "))
            }
            Reconcile(kept) => Ok(released(state, kept).join(", ")),
        }
    }

    /// States allowed once it was begun, in order; the last one is required once it is answered.
    pub(crate) fn outcomes(&self, before: &State) -> Vec<State> {
        let mut states = vec![before.clone()];
        match self {
            Attach(items) => {
                for item in items {
                    let last = states[states.len() - 1].clone();
                    states.extend(item.steps(&last));
                }
            }
            Detach(keys) => let_go(&mut states, keys),
            Reconcile(kept) => let_go(&mut states, &released(before, kept)),
            Prune => one_by_one(&mut states, &anonymous(before), retire),
            EmptyTrash => {
                let names: Vec<String> = before.trash.keys().cloned().collect();
                one_by_one(&mut states, &names, |state, name| {
                    state.trash.remove(name);
                });
            }
            _ => {
                if self.answer(before).is_ok() {
                    let mut after = before.clone();
                    self.change(&mut after);
                    states.push(after);
                }
            }
        }
        states
    }

    /// Further states allowed if it was refused: of its steps, attachments are undone
    /// and volumes that it made are in the trash, or could not be moved there.
    pub(crate) fn taken_back(&self, before: &State) -> Vec<State> {
        let Attach(_) = self else { return Vec::new() };
        let undone = self.outcomes(before).into_iter().map(|mut state| {
            state.held.clone_from(&before.held);
            state
        });
        let both = undone.flat_map(|state| {
            let mut retired = state.clone();
            let made = state.volumes.keys();
            for name in made.filter(|name| !before.volumes.contains_key(*name)) {
                retire(&mut retired, name);
            }
            [state, retired]
        });
        both.collect()
    }

    /// State after it: the last of its [`outcomes`](Self::outcomes), of which there are two to the
    /// power of what goes.
    pub(crate) fn apply(&self, before: &State) -> State {
        let mut after = before.clone();
        match self {
            Detach(keys) => after.held.retain(|key, _| !keys.contains(key)),
            Reconcile(kept) => after.held.retain(|key, _| kept.contains(key)),
            Prune => {
                for name in &anonymous(before) {
                    retire(&mut after, name);
                }
            }
            EmptyTrash => after.trash.clear(),
            _ => return self.outcomes(before).pop().unwrap_or_default(),
        }
        after
    }

    /// True if its effects may go on after the answer.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, EmptyTrash)
    }

    /// Keys of the attachments that it undoes.
    pub(crate) fn undone(&self, state: &State) -> Vec<String> {
        match self {
            Detach(keys) => keys.clone(),
            Reconcile(kept) => released(state, kept),
            _ => Vec::new(),
        }
    }

    /// The keys that it attaches at places, and these.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&String, &String)> {
        let items = match self {
            Attach(items) => &items[..],
            _ => &[],
        };
        items.iter().map(|item| (&item.key, &item.place))
    }

    /// Waits for what goes on behind the answer. Errors mean that the daemon died.
    pub(crate) fn settle(&self, client: &mut Client, root: &Path) {
        if !self.is_lasting() {
            return;
        }
        let is_gone = |client: &mut Client| {
            let listed = client.list(true);
            let on_disk = names(&root.join("volumes/.trash"));
            listed.map_or(true, |all| all.is_empty() && on_disk.is_empty())
        };
        for _ in 0..200 {
            if is_gone(client) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn change(&self, state: &mut State) {
        let insert = |state: &mut State, vol: Vol| {
            state.volumes.entry(vol.name.clone()).or_insert(vol);
        };
        match self {
            Create { name } => insert(
                state,
                Vol {
                    labels: settings(name).labels,
                    options: settings(name).options,
                    ..Vol::new(name)
                },
            ),
            Copy { name, of } | Snapshot { name, of } => {
                let source = state.volumes[of].clone();
                let is_snapshot = matches!(self, Snapshot { .. });
                let copy = Vol {
                    content: source.content,
                    filled_from: format!("volume {of}"),
                    snapshot_of: source
                        .id
                        .clone()
                        .filter(|_| is_snapshot)
                        .unwrap_or_default(),
                    ..Vol::new(name)
                };
                insert(state, copy);
            }
            Import { name, archive } => insert(
                state,
                Vol {
                    content: Some(archive.content.clone()),
                    filled_from: "archive".into(),
                    ..Vol::new(name)
                },
            ),
            Label { name } => {
                if let Some(vol) = state.volumes.get_mut(name) {
                    vol.labels.insert("changed".into(), "yes".into());
                }
            }
            Rename { name, to } => {
                if let Some(mut vol) = state.volumes.remove(name) {
                    vol.name.clone_from(to);
                    insert(state, vol);
                }
            }
            Delete { name } => retire(state, name),
            Undelete { name, to } => {
                if let Some(mut vol) = state.trash.remove(name) {
                    vol.name.clone_from(to);
                    insert(state, vol);
                }
            }
            Prune | EmptyTrash | Attach(_) | Detach(_) | Reconcile(_) => {}
        }
    }
}

/// Keys that a reconciliation lets go.
fn released(state: &State, kept: &[String]) -> Vec<String> {
    let held = state.held.keys();
    held.filter(|key| !kept.contains(key)).cloned().collect()
}

fn let_go(states: &mut Vec<State>, keys: &[String]) {
    // One that is on its way out may be known to have lost its mount.
    for key in keys {
        if let Some(held) = states[0].held.get_mut(key) {
            held.is_attached = None;
        }
    }
    one_by_one(states, keys, |state, key| {
        state.held.remove(key);
    });
}

fn settings(name: &str) -> CreateVolumeRequest {
    let text = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    CreateVolumeRequest {
        name: name.into(),
        options: text(&[("uid", "5"), ("mode", "2770")]),
        labels: text(&[("made", "now")]),
        ..CreateVolumeRequest::default()
    }
}

fn anonymous(state: &State) -> Vec<String> {
    let marked = state.volumes.iter();
    let marked = marked.filter(|(_, vol)| vol.labels.contains_key("mark"));
    marked.map(|(name, _)| name.clone()).collect()
}

fn retire(state: &mut State, name: &String) {
    if let Some(vol) = state.volumes.remove(name) {
        state.trash.insert(name.clone(), vol);
    }
}

/// Adds every state in which some of `names` are changed and others are not, all of them last.
fn one_by_one(states: &mut Vec<State>, names: &[String], change: impl Fn(&mut State, &String)) {
    for name in names {
        let changed = states.iter().map(|state| {
            let mut state = state.clone();
            change(&mut state, name);
            state
        });
        let changed: Vec<State> = changed.collect();
        states.extend(changed);
    }
}
