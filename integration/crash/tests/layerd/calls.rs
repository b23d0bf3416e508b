//! Every system call is a crash point.

use std::thread;
use std::time::Duration;

use layerd_crash::trace::{Call, Moment, Plan};
use tonic::{Code, Status};

use crate::Verdict;
use crate::home::{Home, Ids, check_tidy, look};
use crate::model::{Content, World, choose, compare};
use crate::operation::{Operation, commit, labels, prepare, remove, view};
use crate::process::Layerd;
use crate::sweep::{EVERY, Outcome, Points, Sweep, describe, ended};

/// An operation during which the daemon may die, and the conditions afterwards.
struct Case {
    home: Home,
    operation: Operation,
}

impl Case {
    fn new(operation: Operation) -> Self {
        Self {
            home: Home::furnished(),
            operation,
        }
    }

    /// Kills the daemon at one point of the operation and looks at what is left.
    fn strike(&self, plan: &Plan, odd: u64) -> Verdict<Outcome> {
        let (acknowledged, fired) = self.crash(plan)?;
        let after = self.operation.apply(&self.home.world).unwrap();
        let candidates = if acknowledged {
            vec![after]
        } else {
            vec![self.home.world.clone(), after]
        };
        let described = |why: String| format!("{}: {why}", describe(fired.as_ref()));
        self.examine(&candidates, odd).map_err(described)?;
        Ok(if fired.is_some() {
            Outcome::Struck
        } else {
            Outcome::Finished
        })
    }

    /// True if the operation was acknowledged, with the call at which the daemon was killed.
    fn crash(&self, plan: &Plan) -> Verdict<(bool, Option<Call>)> {
        self.home.reset();
        let mut layerd = Layerd::start(&self.home.site)?;
        let mut client = self.home.site.client();
        check_tidy(&mut client, &self.home.site, &self.home.world)?;
        let mut tracer = layerd.trace(&plan.clone().within(&self.home.site.root));
        let answer = self.operation.perform(&mut client);
        if answer.is_ok() {
            self.settle(&mut client);
        }
        let fired = ended(&mut tracer, &mut layerd)?;
        if let (Err(status), None) = (&answer, &fired) {
            return Err(format!("refused without a reason: {status}"));
        }
        Ok((answer.is_ok(), fired))
    }

    /// The system calls of a complete run.
    fn calls(&self) -> Verdict<Vec<Call>> {
        self.home.reset();
        let layerd = Layerd::start(&self.home.site)?;
        let mut client = self.home.site.client();
        check_tidy(&mut client, &self.home.site, &self.home.world)?;
        let mut tracer = layerd.trace(&Plan::count().within(&self.home.site.root));
        let answer = self.operation.perform(&mut client);
        answer.map_err(|status| format!("{:?}: {status}", self.operation))?;
        self.settle(&mut client);
        tracer.calls().map_err(|error| format!("tracer: {error}"))
    }

    /// Waits for what the operation sets off behind its answer. Errors mean that the daemon died.
    fn settle(&self, client: &mut layerd_integration::Snapshots) {
        let after = self.operation.apply(&self.home.world).unwrap();
        if let Operation::Commit { name, .. } = &self.operation {
            let _ = client.usage(name);
        }
        if let Operation::Remove { key } = &self.operation {
            let root = &self.home.site.root;
            let own = self.home.world.get(key).and_then(|snap| snap.own.as_ref());
            for _ in 0..40 {
                let tidy = own.is_none_or(|own| !root.join(own).exists())
                    && crate::home::names(&root.join("t")).is_empty();
                if client.cleanup().is_err()
                    || (tidy
                        && look(client, &self.home.site)
                            .is_ok_and(|found| found.len() == after.len()))
                {
                    break;
                }
                thread::sleep(Duration::from_millis(5));
            }
            // The records of what was deleted are dropped after that.
            thread::sleep(Duration::from_millis(30));
        }
    }

    /// Starts the daemon anew, twice, and compares. `odd` numbers stop it in between, others kill.
    fn examine(&self, candidates: &[World], odd: u64) -> Verdict {
        let site = &self.home.site;
        let mut ids = Ids::default();
        ids.note(&site.root);
        let layerd = Layerd::start(site)?;
        let mut client = site.client();
        let found = look(&mut client, site)?;
        let (which, mut world) = choose(&found, candidates, &site.root, Content::Every)?;
        check_tidy(&mut client, site, &world)?;
        let done = which == candidates.len() - 1;
        let wanted = if done {
            self.operation.repeated()
        } else {
            Code::Ok
        };
        let answer = self.operation.perform(&mut client);
        let given = answer.as_ref().err().map_or(Code::Ok, Status::code);
        if given != wanted {
            return Err(format!(
                "repeated, it answers {answer:?} in place of {wanted:?}"
            ));
        }
        if given == Code::Ok {
            let after = match self.operation {
                Operation::Commit { .. } if done => world.clone(),
                _ => self.operation.apply(&world).unwrap(),
            };
            world = compare(
                &look(&mut client, site)?,
                &after,
                &site.root,
                Content::Every,
            )?;
        }
        if !done && let Some(own) = new_directory(&self.operation, &world) {
            ids.check_new(own)?;
        }
        check_tidy(&mut client, site, &world)?;
        if odd % 2 == 1 {
            layerd.stop()?;
        } else {
            layerd.kill();
        }
        verify(&self.home, &world)
    }
}

/// The directory that a Prepare or View made.
fn new_directory<'w>(operation: &Operation, world: &'w World) -> Option<&'w std::path::Path> {
    let (Operation::Prepare { key, .. } | Operation::View { key, .. }) = operation else {
        return None;
    };
    let own = world[key].own.as_deref()?;
    own.file_name().map(|_| own)
}

/// Starts the daemon, requires exactly this state, that a new snapshot can be made, and that it
/// ends in order.
fn verify(home: &Home, world: &World) -> Verdict {
    let site = &home.site;
    let mut ids = Ids::default();
    ids.note(&site.root);
    let layerd = Layerd::start(site)?;
    let mut client = site.client();
    compare(&look(&mut client, site)?, world, &site.root, Content::Every)?;
    check_tidy(&mut client, site, world)?;
    let extra = prepare("afterwards", "");
    let made = extra.perform(&mut client);
    made.map_err(|status| format!("afterwards: {status}"))?;
    let after = extra.apply(world).unwrap();
    let after = compare(
        &look(&mut client, site)?,
        &after,
        &site.root,
        Content::Every,
    )?;
    ids.check_new(after["afterwards"].own.as_ref().unwrap())?;
    layerd.stop()
}

fn calls() -> Vec<(&'static str, Operation)> {
    let update = Operation::Update {
        key: "live".into(),
        labels: labels(&[("changed", "yes"), ("containerd.io/gc.root", "other")]),
    };
    vec![
        ("Prepare", prepare("new", "")),
        ("Prepare on a parent", prepare("new", "middle")),
        ("View without a parent", view("new", "")),
        ("View of one layer", view("new", "base")),
        ("View of two layers", view("new", "middle")),
        ("Commit", commit("new", "live")),
        ("Remove of a layer and reaping", remove("unused")),
        ("Remove of an active snapshot and reaping", remove("live")),
        ("Remove of a view", remove("look")),
        ("Update", update),
    ]
}

#[test]
fn root_short_calls_are_crash_points() {
    let mut sweep = Sweep::default();
    for (name, operation) in calls() {
        let case = Case::new(operation);
        let calls = case.calls().unwrap();
        sweep.kinds(name, &calls, |plan, odd| case.strike(plan, odd));
    }
    sweep.finish();
}

#[test]
fn root_full_calls_are_crash_points() {
    let mut sweep = Sweep::default();
    for (name, operation) in calls() {
        let case = Case::new(operation);
        sweep.run(name, EVERY, |number, moment| {
            case.strike(&Plan::kill_at(number, moment), number)
        });
    }
    sweep.finish();
}

/// Starts a daemon that is killed at one of its calls until it is up and at rest.
fn strike_start(home: &Home, plan: &Plan) -> Verdict<Outcome> {
    home.reset();
    let plan = plan.clone().within(&home.site.root);
    let (mut layerd, mut tracer) = Layerd::start_traced(&home.site, &plan);
    if layerd.await_ready().is_ok() {
        let mut client = home.site.client();
        // Fails if it dies now.
        let _ = check_tidy(&mut client, &home.site, &home.world);
    }
    let fired = ended(&mut tracer, &mut layerd)?;
    let described = |why: String| format!("{}: {why}", describe(fired.as_ref()));
    verify(home, &home.world).map_err(described)?;
    Ok(if fired.is_some() {
        Outcome::Struck
    } else {
        Outcome::Finished
    })
}

/// A root that a daemon left at one point of an operation, as the state to go back to.
fn crashed(operation: Operation, number: u64, moment: Moment) -> Home {
    let mut case = Case::new(operation);
    let (acknowledged, fired) = case.crash(&Plan::kill_at(number, moment)).unwrap();
    assert!(fired.is_some(), "{:?} has no call {number}", case.operation);
    case.home.keep();
    // Which of the two states it is does not change any more.
    let layerd = Layerd::start(&case.home.site).unwrap();
    let found = look(&mut case.home.site.client(), &case.home.site).unwrap();
    drop(layerd);
    let after = case.operation.apply(&case.home.world).unwrap();
    let candidates = [case.home.world.clone(), after];
    let from = usize::from(acknowledged);
    let root = &case.home.site.root;
    let chosen = choose(&found, &candidates[from..], root, Content::Every);
    case.home.world = chosen.unwrap().1;
    case.home
}

/// The system calls of a start until it is up and at rest.
fn calls_of_start(home: &Home) -> Verdict<Vec<Call>> {
    home.reset();
    let plan = Plan::count().within(&home.site.root);
    let (mut layerd, mut tracer) = Layerd::start_traced(&home.site, &plan);
    layerd.await_ready()?;
    check_tidy(&mut home.site.client(), &home.site, &home.world)?;
    tracer.calls().map_err(|error| format!("tracer: {error}"))
}

/// Visits the calls of a start: those that `points` name, or one of each kind.
fn start(sweep: &mut Sweep, name: &str, home: &Home, points: Option<Points>) {
    match points {
        Some(points) => sweep.run(name, points, |number, moment| {
            strike_start(home, &Plan::kill_at(number, moment))
        }),
        None => {
            let calls = calls_of_start(home).unwrap();
            sweep.kinds(name, &calls, |plan, _| strike_start(home, plan));
        }
    }
}

fn starts(sweep: &mut Sweep, points: Option<Points>) {
    start(sweep, "First start", &Home::empty(), points);
    start(sweep, "Start", &Home::furnished(), points);
}

fn recoveries(
    sweep: &mut Sweep,
    points: Option<Points>,
    crashes: &[(&str, Operation, u64, Moment)],
) {
    for (name, operation, number, moment) in crashes {
        let home = crashed(operation.clone(), *number, *moment);
        start(sweep, &format!("Recovery from {name}"), &home, points);
    }
}

/// Crashes whose recovery is then killed too.
fn crashes() -> Vec<(&'static str, Operation, u64, Moment)> {
    vec![
        (
            "Prepare, directories made",
            prepare("new", "middle"),
            2,
            Moment::After,
        ),
        (
            "Prepare, log written",
            prepare("new", "middle"),
            5,
            Moment::After,
        ),
        ("Remove, log written", remove("live"), 2, Moment::After),
        ("Remove, in the trash", remove("unused"), 5, Moment::After),
        ("Commit", commit("new", "live"), 2, Moment::After),
    ]
}

#[test]
fn root_short_starts_are_crash_points() {
    let mut sweep = Sweep::default();
    starts(&mut sweep, None);
    recoveries(&mut sweep, None, &crashes()[..1]);
    sweep.finish();
}

#[test]
fn root_full_first_starts_are_crash_points() {
    let mut sweep = Sweep::default();
    starts(&mut sweep, Some(EVERY));
    sweep.finish();
}

#[test]
fn root_full_recoveries_are_crash_points() {
    let mut sweep = Sweep::default();
    let points = Points { step: 3, ..EVERY };
    recoveries(&mut sweep, Some(points), &crashes());
    sweep.finish();
}

/// Kills a daemon that was asked to end, at one of its calls.
fn strike_stop(home: &Home, number: u64, moment: Moment) -> Verdict<Outcome> {
    home.reset();
    let site = &home.site;
    let mut layerd = Layerd::start(site)?;
    let mut client = site.client();
    let update = calls().pop().unwrap().1;
    let answer = update.perform(&mut client);
    answer.map_err(|status| format!("Update: {status}"))?;
    let plan = Plan::kill_at(number, moment).within(&site.root);
    let mut tracer = layerd.trace(&plan);
    layerd.terminate();
    let status = layerd.await_end()?;
    let fired = tracer
        .status()
        .map_err(|error| format!("tracer: {error}"))?
        .fired;
    if fired.is_none() && !status.success() {
        return Err(format!("the stop ends with {status}"));
    }
    let described = |why: String| format!("{}: {why}", describe(fired.as_ref()));
    let after = update.apply(&home.world).unwrap();
    verify(home, &after).map_err(described)?;
    Ok(if fired.is_some() {
        Outcome::Struck
    } else {
        Outcome::Finished
    })
}

#[test]
fn root_short_stop_is_a_crash_point() {
    let mut sweep = Sweep::default();
    let home = Home::furnished();
    let points = Points {
        step: 5,
        finishes: 1,
        ..EVERY
    };
    sweep.run("Stop with export", points, |number, moment| {
        strike_stop(&home, number, moment)
    });
    sweep.finish();
}

#[test]
fn root_full_stop_is_a_crash_point() {
    let mut sweep = Sweep::default();
    let home = Home::furnished();
    sweep.run("Stop with export", EVERY, |number, moment| {
        strike_stop(&home, number, moment)
    });
    sweep.finish();
}

/// Kills a daemon that exports its records because nothing has changed for a while.
fn strike_export(home: &Home, number: u64, moment: Moment) -> Verdict<Outcome> {
    home.reset();
    let site = &home.site;
    let mut layerd = Layerd::start(site)?;
    let mut client = site.client();
    let update = calls().pop().unwrap().1;
    let answer = update.perform(&mut client);
    answer.map_err(|status| format!("Update: {status}"))?;
    let plan = Plan::kill_at(number, moment).within(site.root.join("meta"));
    let mut tracer = layerd.trace(&plan);
    // Longer than the two seconds of quiet that the daemon waits for.
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(4) && layerd.ended().is_none() {
        thread::sleep(Duration::from_millis(20));
    }
    let fired = ended(&mut tracer, &mut layerd)?;
    let described = |why: String| format!("{}: {why}", describe(fired.as_ref()));
    let after = update.apply(&home.world).unwrap();
    verify(home, &after).map_err(described)?;
    Ok(if fired.is_some() {
        Outcome::Struck
    } else {
        Outcome::Finished
    })
}

#[test]
fn root_full_export_is_a_crash_point() {
    let mut sweep = Sweep::default();
    let home = Home::furnished();
    sweep.run("Export", EVERY, |number, moment| {
        strike_export(&home, number, moment)
    });
    sweep.finish();
}
