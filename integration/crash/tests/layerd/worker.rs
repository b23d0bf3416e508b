//! A client that does one random thing after another and keeps the model of it.
//!
//! Each worker names its snapshots with a prefix of its own, so that several at a time do not
//! change each other's.

use std::path::Path;

use layerd_integration::Snapshots;
use layerd_proto::containerd::services::snapshots::v1::Kind;
use tonic::{Code, Status};

use crate::home::{furnish, note};
use crate::model::World;
use crate::operation::{Operation, commit, labels, prepare, remove, view};

/// A repeatable source of chance (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit as u64)).unwrap()
    }

    pub(crate) fn pick(&mut self, from: &[String]) -> Option<String> {
        (!from.is_empty()).then(|| from[self.below(from.len())].clone())
    }
}

/// One client.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) prefix: String,
    /// Acknowledged state.
    pub(crate) world: World,
    /// A requested operation without an answer.
    pub(crate) pending: Option<Operation>,
    pub(crate) chance: Chance,
    pub(crate) made: u64,
    /// Size of the layers it makes.
    kib: usize,
}

/// End of a worker.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A call had no answer, or not the one that it should have: if the daemon was not killed,
    /// this is a mistake of it.
    Call(String),
    /// The daemon did something wrong.
    Wrong(String),
}

impl Worker {
    pub(crate) fn new(number: u64, seed: u64, kib: usize) -> Self {
        Self {
            prefix: format!("{number}:"),
            world: World::new(),
            pending: None,
            chance: Chance(seed.wrapping_mul(31).wrapping_add(number)),
            made: 0,
            kib,
        }
    }

    /// Does the next thing; `acknowledged` is called the moment it was answered, if it changed
    /// something. Answers whether it did.
    pub(crate) fn step(
        &mut self,
        client: &mut Snapshots,
        root: &Path,
        acknowledged: impl FnOnce(),
    ) -> Result<bool, Stop> {
        let operation = self.next_operation();
        let Some(after) = self.perform(client, &operation)? else {
            return Ok(false);
        };
        acknowledged();
        self.world = after;
        note(client, root, &mut self.world, &operation).map_err(Stop::Call)?;
        if let Operation::Prepare { key, .. } = &operation {
            let kib = 1 + self.chance.below(self.kib);
            furnish(root, &mut self.world, key, self.made, kib);
        }
        Ok(true)
    }

    /// State afterwards; `None` if the call was refused as expected.
    fn perform(
        &mut self,
        client: &mut Snapshots,
        operation: &Operation,
    ) -> Result<Option<World>, Stop> {
        let code =
            |answer: &Result<(), Status>| answer.as_ref().err().map_or(Code::Ok, Status::code);
        let answer = operation.perform(client);
        match (operation.apply(&self.world), code(&answer)) {
            (Ok(after), Code::Ok) => Ok(Some(after)),
            (Err(wanted), given) if wanted == given => Ok(None),
            (Ok(_), _) => {
                self.pending = Some(operation.clone());
                Err(Stop::Call(format!("{operation:?}: {answer:?}")))
            }
            (Err(wanted), Code::Ok) => {
                let text = format!("{operation:?} should be refused with {wanted:?}");
                Err(Stop::Wrong(text))
            }
            (Err(_), _) => Err(Stop::Call(format!("{operation:?}: {answer:?}"))),
        }
    }

    /// Every state that may be found after a crash.
    pub(crate) fn candidates(&self) -> Vec<World> {
        let pending = self.pending.as_ref();
        let after = pending.and_then(|operation| operation.apply(&self.world).ok());
        std::iter::once(self.world.clone()).chain(after).collect()
    }

    /// The part of what was found that is this worker's.
    pub(crate) fn own(&self, found: &World) -> World {
        let own = found
            .iter()
            .filter(|(name, _)| name.starts_with(&self.prefix));
        own.map(|(name, snap)| (name.clone(), snap.clone()))
            .collect()
    }

    pub(crate) fn next_operation(&mut self) -> Operation {
        let committed = self.names(Kind::Committed);
        let active = self.names(Kind::Active);
        let all: Vec<String> = self.world.keys().cloned().collect();
        let crowded = all.len() > 12;
        match self.chance.below(20) {
            0..=5 if !crowded => self.create(&committed, prepare),
            6..=7 if !crowded => self.create(&committed, view),
            8..=12 => match self.chance.pick(&active) {
                Some(key) => commit(&self.fresh_name(), &key),
                None => self.create(&committed, prepare),
            },
            13..=15 => self.update(&all),
            // Some have children and are refused.
            _ => match self.chance.pick(&all) {
                Some(key) => remove(&key),
                None => self.create(&committed, prepare),
            },
        }
    }

    fn create(&mut self, committed: &[String], make: fn(&str, &str) -> Operation) -> Operation {
        let parent = match self.chance.below(4) {
            0 => None,
            _ => self.chance.pick(committed),
        };
        // Now and then a key that is taken.
        let taken = self.world.keys().next().cloned();
        let key = match (self.chance.below(20), taken) {
            (0, Some(key)) => key,
            _ => self.fresh_name(),
        };
        make(&key, &parent.unwrap_or_default())
    }

    fn update(&mut self, all: &[String]) -> Operation {
        let Some(key) = self.chance.pick(all) else {
            return remove(&format!("{}missing", self.prefix));
        };
        // Some are so large that a few of them fill a segment of the database's log.
        let size = if self.chance.below(3) == 0 { 3500 } else { 20 };
        let value = format!("{:0>size$}", self.chance.next());
        let label = format!("label-{}", self.chance.below(4));
        Operation::Update {
            key,
            labels: labels(&[(&label, &value), ("last", &label)]),
        }
    }

    pub(crate) fn fresh_name(&mut self) -> String {
        self.made += 1;
        // Every third name was used before and is free again.
        let number = if self.made.is_multiple_of(3) {
            self.made / 3
        } else {
            self.made
        };
        let name = format!("{}{number}", self.prefix);
        if self.world.contains_key(&name) {
            format!("{}{}'", self.prefix, self.made)
        } else {
            name
        }
    }

    fn names(&self, kind: Kind) -> Vec<String> {
        let of_kind = self.world.iter().filter(|(_, snap)| snap.is(kind));
        of_kind.map(|(name, _)| name.clone()).collect()
    }
}
