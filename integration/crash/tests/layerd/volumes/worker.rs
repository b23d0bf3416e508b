//! A client that does one random thing with volumes and attachments after another, and keeps the
//! model of it.
//!
//! Each worker has names and keys with a prefix of its own, so that several at a time do not change
//! each other's.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use super::action::{Action, Archive, Item};
use super::client::Client;
use super::expect;
use super::host::Host;
use super::state::{State, observe_some};
use crate::Verdict;
use crate::process::Site;
use crate::worker::Chance;

/// Deleted volumes of one worker at a time: while the trash is emptied, each of them may be gone or
/// not, and every combination is a state.
const TRASH_MAX: usize = 6;

/// State shared by all workers.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) site: Site,
    pub(crate) host: Host,
    pub(crate) archive: Arc<Archive>,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Prefix of its names; the worker without one has all names without a known prefix.
    prefix: Option<String>,
    /// Whatever was acknowledged.
    pub(crate) known: State,
    /// The n-th: all states that may be found once its n-th call was acknowledged and the next one
    /// was not.
    pub(crate) history: Vec<Vec<State>>,
    pub(crate) items: BTreeMap<String, Item>,
    chance: Chance,
    made: u64,
}

impl Worker {
    pub(crate) fn new(number: u64, seed: u64) -> Self {
        Self {
            prefix: (number > 0).then(|| format!("w{number}-")),
            known: State::default(),
            history: Vec::new(),
            items: BTreeMap::new(),
            chance: Chance(seed.wrapping_mul(31).wrapping_add(number)),
            made: 0,
        }
    }

    pub(crate) fn owns(&self, name: &str) -> bool {
        match &self.prefix {
            Some(prefix) => name.starts_with(prefix),
            None => !name.starts_with('w'),
        }
    }

    /// The part of what was found that is this worker's.
    pub(crate) fn own(&self, found: &State) -> State {
        let mut own = found.clone();
        own.volumes.retain(|name, _| self.owns(name));
        own.trash.retain(|name, _| self.owns(name));
        own.held.retain(|key, _| self.owns(key));
        own
    }

    /// Does the next thing; `acknowledged` is called the moment it was answered.
    pub(crate) fn step(
        &mut self,
        client: &mut Client,
        ground: &Ground,
        acknowledged: impl FnOnce(),
    ) -> Verdict {
        let action = self.next_action(&ground.host, &ground.archive);
        self.begin(&action);
        let answer = action.perform(client, &self.known);
        expect(&action, &answer, &self.known)?;
        acknowledged();
        let root = &ground.site.root;
        let found = observe_some(client, root, &|name| self.owns(name))?;
        self.end(&action, found)
    }

    /// Notes what may be found while `action` is under way.
    pub(crate) fn begin(&mut self, action: &Action) {
        self.history.push(action.outcomes(&self.known));
    }

    /// Takes what was found of this worker's after `action`, if that is right.
    pub(crate) fn end(&mut self, action: &Action, found: State) -> Verdict {
        let after = action.apply(&self.known).check(&found);
        after.map_err(|why| format!("after {action:?}: {why}"))?;
        self.known = found;
        Ok(())
    }

    fn name(&mut self) -> String {
        self.made += 1;
        let prefix = self.prefix.as_deref().unwrap_or_default();
        format!("{prefix}{}", self.made)
    }

    fn next_action(&mut self, host: &Host, archive: &Arc<Archive>) -> Action {
        loop {
            let chosen = match self.chance.below(18) {
                0..=1 => Some(Action::Create { name: self.name() }),
                2..=3 => self.copy(),
                4 => Some(Action::Import {
                    name: self.name(),
                    archive: archive.clone(),
                }),
                5 => self.free().map(|name| Action::Label { name }),
                6 => self.free().map(|name| Action::Rename {
                    name,
                    to: self.name(),
                }),
                7..=8 if self.known.trash.len() < TRASH_MAX => {
                    self.free().map(|name| Action::Delete { name })
                }
                9..=10 => self.deleted().map(|name| Action::Undelete {
                    name,
                    to: self.name(),
                }),
                7..=8 => None,
                11..=14 => Some(self.attach(host)),
                _ => self.detach(),
            };
            if let Some(action) = chosen {
                return action;
            }
        }
    }

    fn copy(&mut self) -> Option<Action> {
        let of = self.filled()?;
        let name = self.name();
        Some(match self.chance.below(2) {
            0 => Action::Clone { name, of },
            _ => Action::Snapshot { name, of },
        })
    }

    fn attach(&mut self, host: &Host) -> Action {
        let key = self.name();
        fs::create_dir_all(host.path.join(&key)).unwrap();
        let new = self.name();
        let place = [key.as_str(), ""][self.chance.below(2)];
        let mut items = vec![match self.chance.below(5) {
            0 => host.bind(&key),
            1 => host.tmpfs(&key, &key),
            2 => host.image(&key),
            3 => match self.usable() {
                Some(volume) => host.volume(&key, &volume, place),
                None => host.filling(&key, &new, place),
            },
            _ => host.filling(&key, &new, place),
        }];
        if self.chance.below(3) == 0 {
            let (key, new) = (self.name(), self.name());
            items.push(Item {
                target: "/var/lib/more",
                fill: None,
                ..host.filling(&key, &new, "")
            });
        }
        // In the order in which they are attached.
        items.sort_by_key(|item| item.target.matches('/').count());
        for item in &items {
            self.items.insert(item.key.clone(), item.clone());
        }
        Action::Attach(items)
    }

    fn detach(&mut self) -> Option<Action> {
        let keys: Vec<String> = self.known.held.keys().cloned().collect();
        let key = self.chance.pick(&keys)?;
        let more = (self.chance.below(3) == 0).then(|| self.chance.pick(&keys));
        let mut keys = vec![key];
        keys.extend(more.flatten().filter(|more| *more != keys[0]));
        Some(Action::Detach(keys))
    }

    /// A volume that is not attached.
    fn free(&mut self) -> Option<String> {
        let is_free = |name: &&String| !self.is_held(name);
        let free: Vec<String> = self.known.volumes.keys().filter(is_free).cloned().collect();
        self.chance.pick(&free)
    }

    fn is_held(&self, name: &str) -> bool {
        let mut held = self.known.held.values();
        held.any(|held| held.what.split(' ').nth(1) == Some(name))
    }

    /// One that can be attached to be written.
    fn usable(&mut self) -> Option<String> {
        let usable = self.known.volumes.iter();
        let usable = usable.filter(|(_, vol)| vol.snapshot_of.is_empty());
        let usable: Vec<String> = usable.map(|(name, _)| name.clone()).collect();
        self.chance.pick(&usable)
    }

    fn filled(&mut self) -> Option<String> {
        let filled = self.known.volumes.iter();
        let filled = filled.filter(|(_, vol)| vol.content.is_some());
        let filled: Vec<String> = filled.map(|(name, _)| name.clone()).collect();
        self.chance.pick(&filled)
    }

    fn deleted(&mut self) -> Option<String> {
        let deleted: Vec<String> = self.known.trash.keys().cloned().collect();
        self.chance.pick(&deleted)
    }
}
