//! Every error is injected into calls of volumes and attachments.

use std::thread;
use std::time::{Duration, Instant};

use layerd_crash::disk::Filesystem;
use layerd_crash::trace::{Class, Plan, Times};
use tonic::Status;

use super::client::Client;
use super::disk;
use super::home::Rooms;
use super::state::{State, observe};
use super::{Case, attach_cases, choose, lets_go, perform, volume_cases};
use crate::Verdict;
use crate::errors::Fault;
use crate::process::{Layerd, Site};

/// Longest time until the daemon works again once the cause of its errors is gone.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);

/// Answers of a call that was refused one of its calls.
#[derive(Debug, Default)]
struct Tally {
    injected: u64,
    refused: u64,
    bad: Vec<String>,
}

impl Case {
    /// Lets one call of the action fail. Answers whether there was such a call, and if so, whether
    /// the action was refused.
    fn refuse(&self, rooms: &Rooms, fault: Fault, number: u64) -> Verdict<Option<bool>> {
        rooms.reset();
        let site = &rooms.home.site;
        let _ = std::fs::remove_file(&site.log);
        let mut layerd = Layerd::start(site)?;
        let mut client = Client::connect(&site.socket);
        let mut known = rooms.look(&mut client, None)?;
        for action in &self.before {
            known = perform(action, rooms, &mut client, &known)?;
        }
        let plan = Plan::fail_at(number, fault.errno, fault.times)
            .of(&[fault.class])
            .within(&site.root)
            .within(&rooms.host.path);
        let mut tracer = layerd.trace(&plan);
        let answer = self.action.perform(&mut client, &known);
        let status = tracer.status().map_err(|error| error.to_string())?;
        drop(tracer);
        let Some(call) = status.fired else {
            return answer.map(|_| None).map_err(|status| status.to_string());
        };
        let told = |why: String| {
            let log = site.tail();
            format!("{} {:?}: {why}; log:\n{log}", call.name, call.paths)
        };
        let (candidates, refused) = self.possible(&known, &answer, fault).map_err(told)?;
        revive(&mut layerd, site).map_err(told)?;
        drop(client);
        let mut client = Client::connect(&site.socket);
        // What was removed may be deleted at this moment.
        let found = disk::settled(|| observe(&mut client, &site.root)).map_err(told)?;
        choose(&candidates, &found).map_err(told)?;
        self.recovers(rooms, &mut layerd, &found).map_err(told)?;
        Ok(Some(refused))
    }

    /// States allowed after the answer; true for a refusal, which must tell the error.
    fn possible(
        &self,
        known: &State,
        answer: &Result<String, Status>,
        fault: Fault,
    ) -> Verdict<(Vec<State>, bool)> {
        let all = self.action.outcomes(known);
        let mut left = all.clone();
        left.extend(self.action.taken_back(known));
        match answer {
            Err(status) if !fault.explains(status) => Err(format!("wrong status: {status}")),
            Err(_) => Ok((left, true)),
            Ok(said) if self.action.answer(known).as_ref() == Ok(said) => {
                let first = match self.action.is_lasting() {
                    true => 0,
                    false => all.len() - 1,
                };
                Ok((all[first..].to_vec(), false))
            }
            // Prune and Reconcile say what they could not do.
            Ok(said) if said.starts_with("skipped") => Ok((all, true)),
            Ok(said) => Err(format!("{:?} answers {said}", self.action)),
        }
    }

    /// With the cause gone, the action succeeds, nothing is lost, and after a restart nothing is
    /// half there.
    fn recovers(&self, rooms: &Rooms, layerd: &mut Layerd, found: &State) -> Verdict {
        let site = &rooms.home.site;
        let begun = Instant::now();
        loop {
            revive(layerd, site)?;
            let mut client = Client::connect(&site.socket);
            let now = disk::settled(|| observe(&mut client, &site.root))?;
            let wanted = self.action.answer(&now);
            let answer = self.action.perform(&mut client, &now);
            let given = answer.as_ref().map_err(Status::code);
            if given == wanted.as_ref().map_err(|code| *code) {
                self.action.settle(&mut client, &site.root);
                break;
            }
            if begun.elapsed() > RECOVERY_LIMIT {
                return Err(format!("still answers {answer:?}, not {wanted:?}"));
            }
            thread::sleep(Duration::from_millis(30));
        }
        layerd.terminate_hard();
        let layerd = Layerd::start(site)?;
        let mut client = Client::connect(&site.socket);
        let last = self.action.apply(found);
        let found = rooms.look(&mut client, None)?;
        last.check(&found)?;
        lets_go(rooms, &mut client, &found)?;
        layerd.kill();
        Ok(())
    }
}

/// Starts the daemon anew if it ended. One that gave up must say so by its exit status.
fn revive(layerd: &mut Layerd, site: &Site) -> Verdict {
    match layerd.ended() {
        None => Ok(()),
        Some(status) if status.success() => {
            Err("layerd ended with 0 without being asked to".into())
        }
        Some(_) => {
            *layerd = Layerd::start(site)?;
            Ok(())
        }
    }
}

/// Which calls of a case and of a class, by its place in the list, are refused, on which file system.
type Numbers = fn(usize, usize, Filesystem) -> Option<(u64, usize)>;

/// Lets calls fail: of each case and class those from the first on, by a step, that `numbers` says.
fn inject(errnos: &[(i32, Times)], numbers: Numbers) {
    let classes = [
        Class::Write,
        Class::Sync,
        Class::Create,
        Class::Rename,
        Class::Remove,
        Class::Attribute,
        Class::Mount,
    ];
    let mut tally = Tally::default();
    for filesystem in Filesystem::ALL {
        let rooms = Rooms::furnished(filesystem);
        let cases = volume_cases(&rooms).into_iter().chain(attach_cases(&rooms));
        for (index, case) in cases.enumerate() {
            for (of_class, class) in classes.into_iter().enumerate() {
                let Some((first, step)) = numbers(index, of_class, filesystem) else {
                    continue;
                };
                for (errno, times) in errnos.iter().copied() {
                    let fault = Fault {
                        errno,
                        class,
                        times,
                    };
                    tally.sweep(&case, &rooms, fault, (first..200).step_by(step));
                }
            }
        }
    }
    tally.finish();
}

impl Tally {
    fn sweep(
        &mut self,
        case: &Case,
        rooms: &Rooms,
        fault: Fault,
        numbers: impl Iterator<Item = u64>,
    ) {
        for number in numbers {
            match case.refuse(rooms, fault, number) {
                Ok(None) => return,
                Ok(Some(refused)) => {
                    self.injected += 1;
                    self.refused += u64::from(refused);
                }
                Err(why) => {
                    let bad = format!("{}, {fault:?}, call {number}: {why}", case.name);
                    self.bad.push(bad);
                }
            }
        }
    }

    fn finish(self) {
        println!(
            "errors injected: {}, calls refused: {}, bad: {}",
            self.injected,
            self.refused,
            self.bad.len()
        );
        assert!(self.bad.is_empty(), "{}", self.bad.join("\n\n"));
        assert!(
            self.injected > 0 && self.refused > 0,
            "nothing was injected"
        );
    }
}

const FULL: (i32, Times) = (libc::ENOSPC, Times::Onwards);
const BROKEN: (i32, Times) = (libc::EIO, Times::Once);

/// Its place in the list of file systems.
fn place(filesystem: Filesystem) -> usize {
    let all = Filesystem::ALL;
    all.iter().position(|one| *one == filesystem).unwrap()
}

/// One call of every second class, of every eighth case on each file system: on each of them all
/// classes, of each case half of them.
fn few(index: usize, class: usize, filesystem: Filesystem, offset: usize) -> Option<(u64, usize)> {
    let turn = index / 8;
    let chosen = (index + offset) % 8 == place(filesystem) && (turn + class).is_multiple_of(2);
    chosen.then_some((1 + turn as u64 % 2, 1000))
}

/// Every call, on one of the file systems each.
fn every(_: usize, _: usize, filesystem: Filesystem) -> Option<(u64, usize)> {
    Some((1 + place(filesystem) as u64, 4))
}

#[test]
fn root_short_disk_full_at_any_call() {
    inject(&[FULL], |index, class, filesystem| {
        few(index, class, filesystem, 0)
    });
}

#[test]
fn root_short_disk_broken_at_any_call() {
    inject(&[BROKEN], |index, class, filesystem| {
        few(index, class, filesystem, 4)
    });
}

#[test]
fn root_full_disk_full_at_any_call() {
    inject(&[FULL], every);
}

#[test]
fn root_full_disk_broken_at_any_call() {
    inject(&[BROKEN], every);
}
