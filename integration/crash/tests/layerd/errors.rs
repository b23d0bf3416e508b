//! Every error is injected.

use std::thread;
use std::time::{Duration, Instant};

use layerd_crash::trace::{Class, Plan, Times, Tracer};
use layerd_integration::Snapshots;
use tonic::{Code, Status};

use crate::Verdict;
use crate::home::{Home, check_tidy, look};
use crate::model::{Content, World, choose, compare};
use crate::operation::{Operation, commit, labels, prepare, remove, view};
use crate::process::{Layerd, Site};

/// Limit for the daemon to work again once the cause of its errors is gone.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);

/// A daemon that is started anew when it ends by itself, as systemd does.
pub(crate) struct Kept<'s> {
    site: &'s Site,
    layerd: Layerd,
    pub(crate) client: Snapshots,
    pub(crate) restarts: u32,
}

impl<'s> Kept<'s> {
    pub(crate) fn start(site: &'s Site) -> Verdict<Self> {
        Ok(Self {
            site,
            layerd: Layerd::start(site)?,
            client: site.client(),
            restarts: 0,
        })
    }

    /// Starts it anew if it ended. One that gave up must say so by its exit status.
    pub(crate) fn revive(&mut self) -> Verdict {
        if let Some(status) = self.layerd.ended() {
            if status.success() {
                return Err("layerd ended with 0 without being asked to".into());
            }
            self.layerd = Layerd::start(self.site)?;
            self.client = self.site.client();
            self.restarts += 1;
        }
        Ok(())
    }

    pub(crate) fn kill_and_start(&mut self) -> Verdict {
        // The old one is killed when it is replaced; it must be gone before.
        self.layerd.terminate_hard();
        self.layerd = Layerd::start(self.site)?;
        self.client = self.site.client();
        Ok(())
    }

    /// Repeats an operation until it succeeds.
    pub(crate) fn insist(&mut self, operation: &Operation) -> Verdict {
        let begun = Instant::now();
        loop {
            self.revive()?;
            let Err(status) = operation.perform(&mut self.client) else {
                return Ok(());
            };
            if begun.elapsed() > RECOVERY_LIMIT {
                let tail = self.site.tail();
                return Err(format!(
                    "{operation:?} still answers {status}; log:\n{tail}"
                ));
            }
            thread::sleep(Duration::from_millis(30));
        }
    }

    pub(crate) fn trace(&self, plan: &Plan) -> Tracer {
        self.layerd.trace(plan)
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.layerd.ended().is_some()
    }

    pub(crate) fn stop(self) -> Verdict {
        self.layerd.stop()
    }
}

/// System calls that fail, with their error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) errno: i32,
    pub(crate) class: Class,
    pub(crate) times: Times,
}

impl Fault {
    /// True if a status tells the client the error. Where sled hangs or panics over an error, its kind
    /// is unknown, and trying again is the right advice.
    pub(crate) fn explains(self, status: &Status) -> bool {
        let code = status.code();
        if status.message().contains("the database hangs or panicked") {
            return code == Code::Unavailable;
        }
        if [libc::ENOSPC, libc::EDQUOT, libc::EMFILE].contains(&self.errno) {
            // Content that was written before and then found no place is lost.
            code == Code::ResourceExhausted || (self.class == Class::Sync && code == Code::DataLoss)
        } else {
            let is_closed = self.errno == libc::EROFS && code == Code::FailedPrecondition;
            is_closed || [Code::Unavailable, Code::Internal, Code::DataLoss].contains(&code)
        }
    }
}

/// Counts of one test.
#[derive(Debug, Default)]
struct Tally {
    injected: u64,
    refused: u64,
    restarts: u32,
    bad: Vec<String>,
}

impl Tally {
    /// Lets the first call and each `step`-th after it fail until the operation makes no further such call.
    fn sweep(&mut self, home: &Home, operation: &Operation, fault: Fault, step: usize) {
        for number in (1..200).step_by(step) {
            match self.strike(home, operation, fault, number) {
                Ok(true) => {}
                Ok(false) => return,
                Err(why) => {
                    let what = format!("{operation:?}, {fault:?}, call {number}");
                    self.bad.push(format!("{what}: {why}"));
                }
            }
        }
    }

    /// Answers whether there was such a call.
    fn strike(
        &mut self,
        home: &Home,
        operation: &Operation,
        fault: Fault,
        number: u64,
    ) -> Verdict<bool> {
        home.reset();
        let mut kept = Kept::start(&home.site)?;
        check_tidy(&mut kept.client, &home.site, &home.world)?;
        let plan = Plan::fail_at(number, fault.errno, fault.times)
            .of(&[fault.class])
            .within(&home.site.root);
        let mut tracer = kept.trace(&plan);
        let answer = operation.perform(&mut kept.client);
        if answer.is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
        let status = tracer.status().map_err(|error| error.to_string())?;
        let Some(call) = status.fired else {
            return answer.map(|()| false).map_err(|status| status.to_string());
        };
        self.injected += 1;
        self.refused += u64::from(answer.is_err());
        let told = |why| format!("{} {:?}: {why}", call.name, call.paths);
        let candidates = possible(home, operation, &answer);
        // Before a restart only one of them is possible.
        reads_work(&mut kept, home, &candidates[0]).map_err(told)?;
        drop(tracer);
        wrong_status(&answer, fault).map_err(told)?;
        recovers(&mut kept, home, &candidates).map_err(told)?;
        self.restarts += kept.restarts;
        kept.stop().map_err(told)?;
        Ok(true)
    }

    fn finish(self) {
        println!(
            "errors injected: {}, operations refused: {}, restarts: {}, bad: {}",
            self.injected,
            self.refused,
            self.restarts,
            self.bad.len()
        );
        assert!(
            self.injected > 0 && self.refused > 0,
            "nothing was injected"
        );
        assert!(self.bad.is_empty(), "{}", self.bad.join("\n\n"));
    }
}

/// States allowed after the answer; first the one visible right after it.
fn possible(home: &Home, operation: &Operation, answer: &Result<(), Status>) -> Vec<World> {
    let (before, after) = (home.world.clone(), operation.apply(&home.world).unwrap());
    match (answer, operation) {
        (Ok(()), _) => vec![after],
        (Err(status), Operation::Commit { key, .. }) if status.code() == Code::DataLoss => {
            let mut damaged = before.clone();
            damaged.get_mut(key).unwrap().damaged = true;
            vec![damaged, before]
        }
        _ => vec![before, after],
    }
}

/// Reads go on while every write fails, as long as the process runs.
fn reads_work(kept: &mut Kept<'_>, home: &Home, visible: &World) -> Verdict {
    match look(&mut kept.client, &home.site) {
        Ok(found) => compare(&found, visible, &home.site.root, Content::Every).map(drop),
        Err(_) if kept.has_ended() => Ok(()),
        Err(why) => {
            // Its end may come between the two.
            thread::sleep(Duration::from_millis(300));
            if kept.has_ended() {
                Ok(())
            } else {
                Err(format!("reads: {why}"))
            }
        }
    }
}

fn wrong_status(answer: &Result<(), Status>, fault: Fault) -> Verdict {
    match answer {
        Err(status) if !fault.explains(status) => Err(format!("wrong status: {status}")),
        _ => Ok(()),
    }
}

/// With the cause gone, everything works again, nothing is lost and nothing is half there.
fn recovers(kept: &mut Kept<'_>, home: &Home, candidates: &[World]) -> Verdict {
    let extra = prepare("afterwards", "");
    kept.insist(&extra)?;
    let candidates: Vec<World> = candidates
        .iter()
        .map(|world| extra.apply(world).unwrap())
        .collect();
    let root = &home.site.root;
    let found = look(&mut kept.client, &home.site)?;
    let (_, world) = choose(&found, &candidates, root, Content::Every)?;
    check_tidy(&mut kept.client, &home.site, &world)?;
    kept.kill_and_start()?;
    let found = look(&mut kept.client, &home.site)?;
    compare(&found, &world, root, Content::Every)?;
    check_tidy(&mut kept.client, &home.site, &world)
}

fn operations() -> Vec<Operation> {
    vec![
        prepare("new", "middle"),
        view("new", ""),
        commit("new", "live"),
        remove("unused"),
        Operation::Update {
            key: "live".into(),
            labels: labels(&[("changed", "yes")]),
        },
    ]
}

fn faults(errnos: &[i32], times: &[Times]) -> Vec<Fault> {
    let classes = [
        Class::Write,
        Class::Sync,
        Class::Create,
        Class::Rename,
        Class::Remove,
    ];
    let mut faults = Vec::new();
    for errno in errnos {
        for class in classes {
            faults.extend(times.iter().map(|times| Fault {
                errno: *errno,
                class,
                times: *times,
            }));
        }
    }
    faults
}

/// Step of the short form: of each operation the first call of each class, and the ninth if there is one.
const FEW: usize = 8;

fn inject(faults: &[Fault], step: usize) {
    let home = Home::furnished();
    let mut tally = Tally::default();
    for operation in operations() {
        for fault in faults {
            tally.sweep(&home, &operation, *fault, step);
        }
    }
    tally.finish();
}

#[test]
fn root_short_disk_full_at_any_call() {
    inject(&faults(&[libc::ENOSPC], &[Times::Onwards]), FEW);
}

#[test]
fn root_short_disk_broken_at_any_call() {
    inject(&faults(&[libc::EIO], &[Times::Once]), FEW);
}

#[test]
fn root_full_errors_at_any_call() {
    let times = [Times::Once, Times::Onwards];
    let mut all = faults(&[libc::ENOSPC, libc::EIO], &times);
    all.extend(faults(&[libc::EDQUOT, libc::EROFS], &[Times::Onwards]));
    all.push(Fault {
        errno: libc::EMFILE,
        class: Class::Create,
        times: Times::Onwards,
    });
    inject(&all, 1);
}
