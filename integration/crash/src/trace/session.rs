//! Counts calls and decides what happens at each. Does no tracing itself.

use std::collections::HashMap;
use std::path::PathBuf;

use super::calls::Raw;
use super::plan::{Action, Call, End, Moment, Plan, Status, Times};
use super::tracee::Tracee;

/// Action on a thread that entered or left a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Let it go on.
    Pass,
    /// On entry: let the call do nothing.
    Skip,
    /// On exit: let the call return this.
    Answer(i64),
    /// Kill every traced process.
    Kill,
}

/// Between entry and exit of one call.
#[derive(Debug, Default)]
struct Inside {
    /// Its index in the list of calls.
    call: Option<usize>,
    answer: Option<i64>,
    kill: bool,
}

/// The state that the tracing thread and the one that takes orders share.
#[derive(Debug, Default)]
pub(crate) struct Session {
    plan: Option<Plan>,
    calls: Vec<Call>,
    fired: Option<usize>,
    inside: HashMap<i32, Inside>,
    end: Option<End>,
    trouble: Option<String>,
}

impl Session {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            plan: Some(plan),
            ..Self::default()
        }
    }

    /// Starts a new count. A call that is failing at this moment still fails.
    pub(crate) fn arm(&mut self, plan: Option<Plan>) {
        self.plan = plan;
        self.calls.clear();
        self.fired = None;
        for inside in self.inside.values_mut() {
            inside.call = None;
            inside.kill = false;
        }
    }

    pub(crate) fn status(&self) -> Status {
        Status {
            counted: self.calls.len() as u64,
            fired: self.fired.map(|index| self.calls[index].clone()),
            end: self.end,
            trouble: self.trouble.clone(),
        }
    }

    pub(crate) fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// True if a thread is inside a call that will be made to fail.
    pub(crate) fn is_failing(&self) -> bool {
        self.inside.values().any(|inside| inside.answer.is_some())
    }

    pub(crate) fn ended(&mut self, end: End) {
        self.end = Some(end);
    }

    pub(crate) fn trouble(&mut self, text: String) {
        self.trouble.get_or_insert(text);
    }

    /// A thread that starts, or restarts after a stop, is outside of any call.
    pub(crate) fn outside(&mut self, thread: i32) {
        self.inside.remove(&thread);
    }

    /// True if the next stop of this thread at a system call is the exit stop.
    pub(crate) fn is_inside(&self, thread: i32) -> bool {
        self.inside.contains_key(&thread)
    }

    pub(crate) fn enter(&mut self, thread: i32, raw: &Raw) -> Verdict {
        let mut inside = Inside::default();
        let verdict = self.decide(thread, raw, &mut inside);
        self.inside.insert(thread, inside);
        verdict
    }

    pub(crate) fn leave(&mut self, thread: i32, result: i64) -> Verdict {
        let inside = self.inside.remove(&thread).unwrap_or_default();
        if let Some(call) = inside.call.and_then(|index| self.calls.get_mut(index)) {
            call.result = Some(inside.answer.unwrap_or(result));
        }
        match inside.answer {
            _ if inside.kill => Verdict::Kill,
            Some(answer) => Verdict::Answer(answer),
            None => Verdict::Pass,
        }
    }

    fn decide(&mut self, thread: i32, raw: &Raw, inside: &mut Inside) -> Verdict {
        if !self.count(thread, raw) {
            return Verdict::Pass;
        }
        let index = self.calls.len() - 1;
        let number = self.calls[index].number;
        inside.call = Some(index);
        match self.plan.as_ref().map(|plan| &plan.action) {
            Some(Action::Kill { at, moment }) if number == *at => {
                inside.kill = *moment == Moment::After;
                self.fired = Some(index);
                if inside.kill {
                    Verdict::Pass
                } else {
                    Verdict::Kill
                }
            }
            Some(Action::Fail { at, errno, times })
                if number == *at || (number > *at && *times == Times::Onwards) =>
            {
                inside.answer = Some(-i64::from(*errno));
                self.fired.get_or_insert(index);
                Verdict::Skip
            }
            _ => Verdict::Pass,
        }
    }

    /// Adds the call to the list if the plan wants it counted.
    fn count(&mut self, thread: i32, raw: &Raw) -> bool {
        let Some(plan) = &self.plan else { return false };
        let tracee = Tracee(thread);
        let Some(known) = raw.classify(tracee) else {
            return false;
        };
        let is_named = plan.names.is_empty() || plan.names.iter().any(|name| name == known.name);
        if !plan.classes.contains(&known.class) || !is_named {
            return false;
        }
        let Some(paths) = raw.paths(&known, tracee) else {
            return false;
        };
        if !is_within(plan, &paths) {
            return false;
        }
        self.calls.push(Call {
            number: self.calls.len() as u64 + 1,
            thread,
            name: known.name.to_owned(),
            class: known.class,
            paths,
            arguments: raw.arguments,
            result: None,
        });
        true
    }
}

fn is_within(plan: &Plan, paths: &[PathBuf]) -> bool {
    let below = |path: &PathBuf| {
        plan.within
            .iter()
            .any(|directory| path.starts_with(directory))
    };
    plan.within.is_empty() || paths.is_empty() || paths.iter().any(below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::plan::Class;

    const SYNC: Raw = Raw {
        number: libc::SYS_sync,
        arguments: [0; 6],
    };
    const QUIET: Raw = Raw {
        number: libc::SYS_getpid,
        arguments: [0; 6],
    };

    #[test]
    fn kill_strikes_at_its_number_only() {
        let mut session = Session::new(Plan::kill_at(2, Moment::Before));
        let verdicts = [1, 2, 3].map(|_| {
            let verdict = session.enter(7, &SYNC);
            session.leave(7, 0);
            verdict
        });
        assert_eq!(verdicts, [Verdict::Pass, Verdict::Kill, Verdict::Pass]);
        assert_eq!(session.status().fired.map(|call| call.number), Some(2));
    }

    #[test]
    fn late_kill_waits_for_the_exit() {
        let mut session = Session::new(Plan::kill_at(1, Moment::After));
        assert_eq!(session.enter(7, &SYNC), Verdict::Pass);
        assert_eq!(session.enter(8, &QUIET), Verdict::Pass);
        assert_eq!(session.leave(8, 0), Verdict::Pass);
        assert_eq!(session.leave(7, 0), Verdict::Kill);
        assert_eq!(session.calls()[0].result, Some(0));
    }

    #[test]
    fn failure_lasts_as_long_as_it_should() {
        for (times, third) in [
            (Times::Once, Verdict::Pass),
            (Times::Onwards, Verdict::Skip),
        ] {
            let plan = Plan::fail_at(2, libc::EIO, times).of(&[Class::Sync]);
            let mut session = Session::new(plan);
            session.enter(7, &SYNC);
            assert_eq!(session.leave(7, 0), Verdict::Pass);
            assert_eq!(session.enter(7, &SYNC), Verdict::Skip);
            assert_eq!(session.leave(7, -38), Verdict::Answer(-5));
            assert_eq!(session.enter(7, &SYNC), third);
        }
    }

    #[test]
    fn arming_anew_keeps_a_failure_under_way() {
        let mut session = Session::new(Plan::fail_at(1, libc::ENOSPC, Times::Once));
        session.enter(7, &SYNC);
        session.arm(Some(Plan::count()));
        assert!(session.is_failing());
        assert_eq!(session.leave(7, -38), Verdict::Answer(-28));
        assert_eq!(session.status().counted, 0);
    }

    #[test]
    fn other_names_do_not_count() {
        let mut session = Session::new(Plan::count().named("syncfs"));
        session.enter(7, &SYNC);
        assert_eq!(session.status().counted, 0);
        session.arm(Some(Plan::count().named("syncfs").named("sync")));
        session.leave(7, 0);
        session.enter(7, &SYNC);
        assert_eq!(session.status().counted, 1);
    }

    #[test]
    fn other_classes_do_not_count() {
        let mut session = Session::new(Plan::count().of(&[Class::Rename]));
        session.enter(7, &SYNC);
        assert_eq!(session.status().counted, 0);
    }
}
