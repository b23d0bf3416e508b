//! One of the clients: what it does next, and what it makes of the answers.
//!
//! An answer that was lost with its daemon is asked for again, as containerd's users do: the calls
//! are made so that this is safe, and the second answer says what became of the first.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use layerd_integration::Snapshots;
use layerd_proto::containerd::services::snapshots::v1::Kind;
use tonic::{Code, Status};

use super::desk::Desk;
use super::lives::Lives;
use super::wrong;
use crate::Verdict;
use crate::content::Layer;
use crate::home::{furnish, note};
use crate::operation::{Operation, prepare, remove};
use crate::process::Site;
use crate::volumes::client::Client as Volumes;
use crate::worker::Worker;

/// Attempts to look at something while daemons come and go.
const LOOKS: u32 = 20;

/// Codes that a daemon never answers, however wrong the call is.
const NEVER: [Code; 4] = [Code::Unknown, Code::Internal, Code::DataLoss, Code::Aborted];

/// Its connections, which are made at the first call and made again when they broke.
#[derive(Debug)]
pub(super) struct Wire {
    /// The daemon that was there, or about to come, when it connected.
    life: u64,
    pub(super) snapshots: Snapshots,
    pub(super) volumes: Volumes,
}

impl Wire {
    fn new(site: &Site, life: u64) -> Self {
        Self {
            life,
            snapshots: site.client(),
            volumes: Volumes::connect(&site.socket),
        }
    }
}

#[derive(Debug)]
pub(super) struct Client<'a> {
    /// Its expectation of snapshots.
    pub(super) worker: Worker,
    /// Its expectation of volumes and attachments.
    pub(super) desk: Desk,
    /// Snapshots that it began to make or to fill before it hung up: they may be there or not.
    pub(super) abandoned: BTreeSet<String>,
    /// Answers by call and code.
    pub(super) tally: BTreeMap<(&'static str, String), u64>,
    pub(super) site: &'a Site,
    wire: Option<Wire>,
    lives: &'a Lives,
    archive: Arc<Vec<u8>>,
}

impl<'a> Client<'a> {
    pub(super) fn new(
        number: u64,
        site: &'a Site,
        scratch: &Path,
        lives: &'a Lives,
        archive: Arc<Vec<u8>>,
    ) -> Self {
        Self {
            worker: Worker::new(number, 7, 4),
            desk: Desk::new(number, scratch),
            abandoned: BTreeSet::new(),
            tally: BTreeMap::new(),
            site,
            wire: None,
            lives,
            archive,
        }
    }

    /// Closes its connections.
    pub(super) fn hang_up(&mut self) {
        self.wire = None;
    }

    /// Does the next thing.
    pub(super) fn step(&mut self) -> Verdict {
        match self.worker.chance.below(100) {
            0..=39 => self.change(),
            40..=59 => self.read(),
            60..=79 => self.work_on_volumes(),
            80..=84 => self.unpack(),
            85..=94 => wrong::ask(self),
            _ => wrong::lose_patience(self),
        }
    }

    /// Makes a call. None if its answer was lost with the daemon.
    pub(super) fn ask<T>(
        &mut self,
        what: &'static str,
        call: impl FnOnce(&mut Wire) -> Result<T, Status>,
    ) -> Verdict<Option<Result<T, Status>>> {
        let (life, site) = (self.lives.now(), self.site);
        self.wire.take_if(|wire| wire.life != life);
        let wire = self.wire.get_or_insert_with(|| Wire::new(site, life));
        let answer = call(wire);
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        if let Err(status) = &answer
            && (status.source().is_some() || code == Code::Unavailable)
        {
            self.count(what, "lost".into());
            self.hang_up();
            let lost = |why| format!("{what}: the answer was lost ({status:?}), {why}");
            self.lives.wait_past(life).map_err(lost)?;
            return Ok(None);
        }
        self.count(what, format!("{code:?}"));
        if let Err(status) = &answer
            && NEVER.contains(&code)
        {
            return Err(format!("{what} was answered with {status:?}"));
        }
        Ok(Some(answer))
    }

    /// As [`ask`](Self::ask), again until there is an answer; says too whether one was lost.
    pub(super) fn insist<T>(
        &mut self,
        what: &'static str,
        mut call: impl FnMut(&mut Wire) -> Result<T, Status>,
    ) -> Verdict<(Result<T, Status>, bool)> {
        let mut was_lost = false;
        loop {
            match self.ask(what, &mut call)? {
                Some(answer) => return Ok((answer, was_lost)),
                None => was_lost = true,
            }
        }
    }

    fn count(&mut self, what: &'static str, answer: String) {
        *self.tally.entry((what, answer)).or_default() += 1;
    }

    /// A change of snapshots that may be refused.
    fn change(&mut self) -> Verdict {
        let operation = self.worker.next_operation();
        let is_made = self.perform(&operation)?;
        if let (true, Operation::Prepare { key, .. }) = (is_made, &operation) {
            let made = self.worker.made;
            furnish(&self.site.root, &mut self.worker.world, key, made, 4);
        }
        Ok(())
    }

    /// Makes a change and requires the answer that the model gives. Answers whether it was made.
    pub(super) fn perform(&mut self, operation: &Operation) -> Verdict<bool> {
        let perform = |wire: &mut Wire| operation.perform(&mut wire.snapshots);
        let (answer, was_lost) = self.insist(operation.name(), perform)?;
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        match operation.apply(&self.worker.world) {
            Ok(after) if code == Code::Ok || (was_lost && code == operation.repeated()) => {
                self.worker.world = after;
                self.note(operation)?;
                Ok(true)
            }
            Err(wanted) if wanted == code => Ok(false),
            wanted => {
                let wanted = wanted.map(drop);
                Err(format!("{operation:?}: {answer:?}, should be {wanted:?}"))
            }
        }
    }

    /// Looks at what was made, again if the daemon goes meanwhile.
    fn note(&mut self, operation: &Operation) -> Verdict {
        let (site, mut world) = (self.site, self.worker.world.clone());
        let mut last = String::new();
        for _ in 0..LOOKS {
            let looked = self.ask("look", |wire| {
                let noted = note(&mut wire.snapshots, &site.root, &mut world, operation);
                noted.map_err(|why| {
                    last = why;
                    Status::unavailable("the daemon may be away")
                })
            });
            let looked = looked.map_err(|why| format!("{why}: {last}"))?;
            if looked.is_some() {
                self.worker.world = world;
                return Ok(());
            }
        }
        Err(last)
    }

    /// Reads, and compares with the model.
    fn read(&mut self) -> Verdict {
        let names: Vec<String> = self.worker.world.keys().cloned().collect();
        let missing = format!("{}missing", self.worker.prefix);
        let name = names.get(self.worker.chance.below(names.len() + 1));
        let name = name.unwrap_or(&missing);
        match self.worker.chance.below(5) {
            0 => self.stat(name),
            1 => self.mounts(name),
            2 => self.usage(name),
            3 => self.list(&names),
            _ => {
                let (answer, _) = self.insist("Cleanup", |wire| wire.snapshots.cleanup())?;
                answer.map_err(|status| format!("Cleanup: {status}"))
            }
        }
    }

    fn stat(&mut self, name: &str) -> Verdict {
        let (answer, _) = self.insist("Stat", |wire| wire.snapshots.stat(name))?;
        let wanted = self.worker.world.get(name).map(|snap| &snap.info);
        match (answer, wanted) {
            (Ok(info), Some(wanted)) if info == *wanted => Ok(()),
            (Err(status), None) if status.code() == Code::NotFound => Ok(()),
            (answer, wanted) => Err(format!("Stat of {name}: {answer:?}, not {wanted:?}")),
        }
    }

    fn mounts(&mut self, name: &str) -> Verdict {
        let (answer, _) = self.insist("Mounts", |wire| wire.snapshots.mounts(name))?;
        let wanted = match self.worker.world.get(name) {
            None => Code::NotFound,
            Some(snap) if snap.is(Kind::Committed) => Code::FailedPrecondition,
            Some(_) => Code::Ok,
        };
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        if code == wanted {
            return Ok(());
        }
        Err(format!("Mounts of {name}: {answer:?}, not {wanted:?}"))
    }

    fn usage(&mut self, name: &str) -> Verdict {
        let (answer, _) = self.insist("Usage", |wire| wire.snapshots.usage(name))?;
        let is_there = self.worker.world.contains_key(name);
        match answer {
            Ok(usage) if is_there && usage.size >= 0 => Ok(()),
            Err(status) if !is_there && status.code() == Code::NotFound => Ok(()),
            answer => Err(format!("Usage of {name}: {answer:?}")),
        }
    }

    fn list(&mut self, wanted: &[String]) -> Verdict {
        let filter = format!("name~=^{}", self.worker.prefix);
        let (answer, _) = self.insist("List", |wire| wire.snapshots.names(&[&filter]))?;
        let mut found = answer.map_err(|status| format!("List: {status}"))?;
        found.retain(|name| !self.abandoned.contains(name));
        if found == wanted {
            return Ok(());
        }
        Err(format!("List of {filter}: {found:?}, not {wanted:?}"))
    }

    /// Has a layer unpacked into a new snapshot. One of which the answer was lost is removed.
    fn unpack(&mut self) -> Verdict {
        let key = self.worker.fresh_name();
        if !self.perform(&prepare(&key, ""))? {
            return Ok(());
        }
        let archive = self.archive.clone();
        match self.ask("Apply", |wire| wire.volumes.unpack(&key, &archive))? {
            Some(Ok(())) => {
                let snap = self.worker.world.get_mut(&key).unwrap();
                let top = self.site.root.join(snap.own.as_ref().unwrap());
                snap.layer = Some(Arc::new(Layer::read(&top)));
                Ok(())
            }
            None => self.perform(&remove(&key)).map(drop),
            Some(Err(status)) => Err(format!("Apply to {key}: {status:?}")),
        }
    }

    fn work_on_volumes(&mut self) -> Verdict {
        let action = self.desk.next(&mut self.worker.chance);
        let perform = |wire: &mut Wire| action.perform(&mut wire.volumes);
        let (answer, was_lost) = self.insist(action.name(), perform)?;
        self.desk.take(&action, answer, was_lost)
    }

    /// Half an archive.
    pub(super) fn half_an_archive(&self) -> Vec<u8> {
        // Within the first header: behind the content of a member an archive may end.
        self.archive[..256].to_vec()
    }

    /// Time that it waits for an answer that it does not need.
    pub(super) fn patience(&mut self) -> Duration {
        Duration::from_micros(self.worker.chance.next() % 3000)
    }
}
