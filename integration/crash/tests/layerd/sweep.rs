//! One experiment, repeated with a kill at each system call that changes something.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::os::unix::process::ExitStatusExt;

use layerd_crash::trace::{Call, Moment, Plan, Tracer};
use nix::sys::signal::{Signal, kill};

use crate::Verdict;
use crate::process::{LIMIT, Layerd};

/// Which of the points of an operation are tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Points {
    pub(crate) first: u64,
    pub(crate) step: u64,
    /// Number of successive runs without a crash after which the operation counts as covered:
    /// background threads make the count vary.
    pub(crate) finishes: u32,
}

pub(crate) const EVERY: Points = Points {
    first: 1,
    step: 1,
    finishes: 2,
};

/// Bad points after which the others need not be visited.
const ENOUGH: usize = 30;

/// Outcome at one point.
pub(crate) enum Outcome {
    Struck,
    Finished,
}

/// Repeats an experiment at many points, killing before and after the call. All that is wrong is
/// collected, so that one run shows all of it.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    visited: u64,
    /// Number of operations whose kinds of calls were visited.
    turn: u64,
    bad: Vec<String>,
}

impl Sweep {
    pub(crate) fn run(
        &mut self,
        name: &str,
        points: Points,
        mut experiment: impl FnMut(u64, Moment) -> Verdict<Outcome>,
    ) {
        let before = self.visited;
        let mut through = 0;
        let mut number = points.first;
        while through < points.finishes {
            let mut struck = false;
            for moment in [Moment::Before, Moment::After] {
                match experiment(number, moment) {
                    Ok(Outcome::Struck) => struck = true,
                    Ok(Outcome::Finished) => break,
                    Err(why) => {
                        struck = true;
                        self.bad
                            .push(format!("{name}, {moment:?} call {number}: {why}"));
                    }
                }
                self.visited += u64::from(struck);
            }
            through = if struck { 0 } else { through + 1 };
            number += points.step;
            assert!(number < 5000, "{name} never gets through");
            assert!(self.bad.len() < ENOUGH, "{}", self.bad.join("\n\n"));
        }
        println!("{name}: {} points", self.visited - before);
        assert!(self.visited > before, "{name}: nothing was struck");
    }

    /// Kills at one call of each kind (`openat`, `fdatasync`, ...) that `calls`, of a complete run, names:
    /// before the first of it or after it, in turn. Threads reach the kernel in no fixed order, so that a plan
    /// counts the calls of one kind alone; one that a background thread made may not come again.
    pub(crate) fn kinds(
        &mut self,
        name: &str,
        calls: &[Call],
        mut experiment: impl FnMut(&Plan, u64) -> Verdict<Outcome>,
    ) {
        let kinds: BTreeSet<&str> = calls.iter().map(|call| &*call.name).collect();
        let before = self.visited;
        for (number, kind) in (self.turn..).zip(&kinds) {
            let moment = match number % 2 {
                0 => Moment::Before,
                _ => Moment::After,
            };
            match experiment(&Plan::kill_at(1, moment).named(kind), number) {
                Ok(Outcome::Struck) => self.visited += 1,
                Ok(Outcome::Finished) => println!("{name}: no {kind} this time"),
                Err(why) => self.bad.push(format!("{name}, {moment:?} {kind}: {why}")),
            }
        }
        // The next operation meets the same kinds from the other side.
        self.turn += 1;
        println!("{name}: {} of {kinds:?}", self.visited - before);
        assert!(
            self.visited > before || !self.bad.is_empty(),
            "{name}: nothing was struck"
        );
    }

    pub(crate) fn finish(self) {
        let bad = self.bad.len();
        println!("crash points visited: {}, bad: {bad}", self.visited);
        assert!(bad == 0, "{}", self.bad.join("\n\n"));
    }
}

/// Where the daemon died by the plan; none if it lives, which it then does no longer.
pub(crate) fn ended(tracer: &mut Tracer, layerd: &mut Layerd) -> Verdict<Option<Call>> {
    let trouble = |error| format!("tracer: {error}");
    if tracer.status().map_err(trouble)?.fired.is_none() {
        // It counts as through at this moment; what its threads do from now on is not meant.
        tracer.arm(&Plan::count()).map_err(trouble)?;
        // SIGKILL may have been on its way in between.
        if let Some(status) = layerd.ended().filter(|status| status.signal() != Some(9)) {
            return Err(format!("layerd ended by itself: {status}"));
        }
        let _ = kill(layerd.pid(), Signal::SIGKILL);
        layerd.await_end()?;
        return Ok(None);
    }
    let status = tracer.wait_end(LIMIT).map_err(trouble)?;
    layerd.await_end()?;
    Ok(status.fired)
}

/// Outcome of a run whose tracer has fired or not: an error needs a kill, and `examine` is told whether
/// the operation was acknowledged.
pub(crate) fn conclude<T, E: Display>(
    fired: Option<&Call>,
    answer: &Result<T, E>,
    examine: impl FnOnce(bool) -> Verdict,
) -> Verdict<Outcome> {
    if let (Err(status), None) = (answer, fired) {
        return Err(format!("refused without a reason: {status}"));
    }
    let described = |why: String| format!("{}: {why}", describe(fired));
    examine(answer.is_ok()).map_err(described)?;
    Ok(match fired {
        Some(_) => Outcome::Struck,
        None => Outcome::Finished,
    })
}

pub(crate) fn describe(call: Option<&Call>) -> String {
    call.map_or("not struck".into(), |call| {
        format!("{} {:?} (call {})", call.name, call.paths, call.number)
    })
}
