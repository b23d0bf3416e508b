//! Every system call of volumes and attachments is a crash point.
//!
//! Mounts stay where they are when the daemon is killed: it shares the mount namespace of the
//! test, which is to be one of its own.

mod action;
pub(crate) mod client;
pub(crate) mod disk;
mod errors;
mod home;
mod host;
mod made;
mod power;
pub(crate) mod state;
mod worker;

use std::path::Path;

use layerd_crash::disk::Filesystem;
use layerd_crash::trace::{Call, Moment, Plan};
use layerd_integration::Snapshots;
use tonic::{Code, Status};

use crate::Verdict;
use crate::home::look;
use crate::model::{Content, compare};
use crate::process::Layerd;
use crate::sweep::{EVERY, Outcome, Points, Sweep, describe, ended};
use action::{Action, Item};
use client::Client;
use home::Rooms;
use state::State;

/// Those of [`volume_cases`] that leave something to make good: Clone, Delete, Prune and emptying
/// the trash.
const RECOVERED: [usize; 4] = [1, 6, 8, 9];

/// An operation during which the daemon may die, and the operations before it.
struct Case {
    name: &'static str,
    before: Vec<Action>,
    action: Action,
}

/// Where the daemon was killed, and what may exist then.
struct Crash {
    fired: Option<Call>,
    candidates: Vec<State>,
}

impl Case {
    fn new(name: &'static str, action: Action) -> Self {
        Self {
            name,
            before: Vec::new(),
            action,
        }
    }

    fn after(mut self, action: Action) -> Self {
        self.before.push(action);
        self
    }

    /// Kills the daemon at one point of the action and looks at what is left.
    fn strike(&self, rooms: &Rooms, number: u64, moment: Moment) -> Verdict<Outcome> {
        let crash = self.crash(rooms, number, moment)?;
        let told = |why: String| {
            let log = rooms.home.site.tail();
            format!("{}: {why}; log:\n{log}", describe(crash.fired.as_ref()))
        };
        self.examine(rooms, &crash.candidates, number)
            .map_err(told)?;
        Ok(if crash.fired.is_some() {
            Outcome::Struck
        } else {
            Outcome::Finished
        })
    }

    fn crash(&self, rooms: &Rooms, number: u64, moment: Moment) -> Verdict<Crash> {
        rooms.reset();
        let site = &rooms.home.site;
        let _ = std::fs::remove_file(&site.log);
        let mut layerd = Layerd::start(site)?;
        let mut client = Client::connect(&site.socket);
        let mut known = rooms.look(&mut client, None)?;
        rooms.state.check(&known)?;
        for action in &self.before {
            known = perform(action, rooms, &mut client, &known)?;
        }
        let plan = Plan::kill_at(number, moment).within(&site.root);
        let mut tracer = layerd.trace(&plan.within(&rooms.host.path));
        let answer = self.action.perform(&mut client, &known);
        if answer.is_ok() {
            self.action.settle(&mut client, &site.root);
        }
        let fired = ended(&mut tracer, &mut layerd)?;
        if answer.is_ok() || fired.is_none() {
            expect(&self.action, &answer, &known)?;
        }
        let mut candidates = self.action.outcomes(&known);
        if answer.is_ok() && !self.action.is_lasting() {
            candidates.drain(..candidates.len() - 1);
        }
        Ok(Crash { fired, candidates })
    }

    /// Number of system calls of a complete run.
    fn count(&self, rooms: &Rooms) -> Verdict<u64> {
        rooms.reset();
        let site = &rooms.home.site;
        let layerd = Layerd::start(site)?;
        let mut client = Client::connect(&site.socket);
        let known = rooms.look(&mut client, None)?;
        let mut tracer = layerd.trace(&Plan::count().within(&site.root));
        perform(&self.action, rooms, &mut client, &known)?;
        tracer.counted().map_err(|error| format!("tracer: {error}"))
    }

    /// Starts the daemon anew, repeats the action, starts it once more and lets everything go.
    /// `odd` numbers stop it in between, others kill.
    fn examine(&self, rooms: &Rooms, candidates: &[State], odd: u64) -> Verdict {
        let site = &rooms.home.site;
        let layerd = Layerd::start(site)?;
        let mut client = Client::connect(&site.socket);
        let found = rooms.look(&mut client, Some(&self.action))?;
        choose(candidates, &found)?;
        let known = perform(&self.action, rooms, &mut client, &found)
            .map_err(|why| format!("repeated, {why}"))?;
        refuses_to_delete(&mut client, &known)?;
        // A stop waits a moment for connections to end.
        drop(client);
        if odd % 2 == 1 {
            layerd.stop()?;
        } else {
            layerd.kill();
        }
        let layerd = Layerd::start(site)?;
        let mut client = Client::connect(&site.socket);
        known.check(&rooms.look(&mut client, None)?)?;
        lets_go(rooms, &mut client, &known)?;
        let found = look(&mut Snapshots::connect(&site.socket), site)?;
        compare(&found, &rooms.home.world, &site.root, Content::Every)?;
        layerd.kill();
        Ok(())
    }
}

fn choose(candidates: &[State], found: &State) -> Verdict {
    let mut reasons = Vec::new();
    for wanted in candidates {
        match wanted.check(found) {
            Ok(()) => return Ok(()),
            Err(why) => reasons.push(why),
        }
    }
    Err(reasons.join("\n  nor is it another state: "))
}

/// Where there are volumes, and how to see all of them.
trait Place {
    fn root(&self) -> &Path;

    /// Asks for everything and requires that the disk is as it says.
    fn look(&self, client: &mut Client) -> Verdict<State>;
}

impl Place for Rooms {
    fn root(&self) -> &Path {
        &self.home.site.root
    }

    fn look(&self, client: &mut Client) -> Verdict<State> {
        Rooms::look(self, client, None)
    }
}

/// Performs an action whose answer and outcome must be the right ones; answers what is there then.
fn perform(
    action: &Action,
    place: &dyn Place,
    client: &mut Client,
    known: &State,
) -> Verdict<State> {
    let answer = action.perform(client, known);
    expect(action, &answer, known)?;
    action.settle(client, place.root());
    let found = place.look(client)?;
    action
        .apply(known)
        .check(&found)
        .map_err(|why| format!("after {action:?}: {why}"))?;
    Ok(found)
}

fn expect(action: &Action, answer: &Result<String, Status>, known: &State) -> Verdict {
    let wanted = action.answer(known);
    let given = answer.as_ref().map_err(|status| status.code());
    if given == wanted.as_ref().map_err(|code| *code) {
        Ok(())
    } else {
        Err(format!("{action:?} answers {answer:?}, not {wanted:?}"))
    }
}

/// Checks that attached volumes cannot be deleted.
fn refuses_to_delete(client: &mut Client, known: &State) -> Verdict {
    for held in known.held.values() {
        let mut words = held.what.split(' ');
        let (Some("volume"), Some(name)) = (words.next(), words.next()) else {
            continue;
        };
        match client.delete(name) {
            Err(status) if status.code() == Code::FailedPrecondition => {}
            other => {
                return Err(format!(
                    "Delete of {name}, which is held, answers {other:?}"
                ));
            }
        }
    }
    Ok(())
}

/// Detaches everything; then nothing is mounted, and all volumes can be deleted and taken back.
fn lets_go(place: &dyn Place, client: &mut Client, known: &State) -> Verdict<State> {
    let keys: Vec<String> = known.held.keys().cloned().collect();
    let mut known = match keys.is_empty() {
        true => known.clone(),
        false => perform(&Action::Detach(keys), place, client, known)?,
    };
    // Those in the trash are told by their names.
    let names = known
        .volumes
        .keys()
        .filter(|name| !known.trash.contains_key(*name));
    let names: Vec<String> = names.cloned().collect();
    for name in names.into_iter().filter(|name| !name.contains(' ')) {
        let to = name.clone();
        known = perform(&Action::Delete { name: to.clone() }, place, client, &known)?;
        known = perform(&Action::Undelete { name, to }, place, client, &known)?;
    }
    Ok(known)
}

fn volume_cases(rooms: &Rooms) -> Vec<Case> {
    let (new, data) = (|| "new".to_owned(), || "data".to_owned());
    let copy = Action::Clone {
        name: new(),
        of: data(),
    };
    let snapshot = Action::Snapshot {
        name: new(),
        of: data(),
    };
    let import = Action::Import {
        name: new(),
        archive: rooms.archive.clone(),
    };
    let rename = Action::Rename {
        name: data(),
        to: new(),
    };
    let undelete = Action::Undelete {
        name: "gone".into(),
        to: new(),
    };
    vec![
        Case::new("Create", Action::Create { name: new() }),
        Case::new("Clone", copy),
        Case::new("Snapshot", snapshot),
        Case::new("Import", import),
        Case::new("Update", Action::Label { name: data() }),
        Case::new("Rename", rename),
        Case::new("Delete", Action::Delete { name: data() }),
        Case::new("Undelete", undelete),
        Case::new("Prune", Action::Prune),
        Case::new("Emptying the trash", Action::EmptyTrash),
    ]
}

fn attach_cases(rooms: &Rooms) -> Vec<Case> {
    let attach = |item: &Item| Action::Attach(vec![item.clone()]);
    let detach = |items: &[Item]| {
        let keys = items.iter().map(|item| item.key.clone());
        Action::Detach(keys.collect())
    };
    let (unplaced, placed) = (
        rooms.host.volume("v", "data", ""),
        rooms.host.volume("v", "data", "a"),
    );
    let (filled, made) = (
        rooms.host.filling("f", "empty", ""),
        rooms.host.filling("f", "new", "a"),
    );
    let (bind, image) = (rooms.host.bind("bound"), rooms.host.image("i"));
    // In the order in which they are attached: the deepest target last.
    let four = [
        rooms.host.tmpfs("quick", "b"),
        bind.clone(),
        rooms.host.volume("read", "data", "c"),
        rooms.host.filling("fill", "made", "a"),
    ];
    let set = || Action::Attach(four.to_vec());
    vec![
        Case::new("Attach of a volume", attach(&unplaced)),
        Case::new("Attach of a volume at a place", attach(&placed)),
        Case::new("Attach with copy-up", attach(&filled)),
        Case::new("Attach with creation and copy-up", attach(&made)),
        Case::new("Attach of a folder", attach(&bind)),
        Case::new("Attach of a tmpfs", attach(&four[0])),
        Case::new("Attach of an image", attach(&image)),
        Case::new("Attach of four", set()),
        Case::new("Detach of a volume", detach(std::slice::from_ref(&placed)))
            .after(attach(&placed)),
        Case::new("Detach of an image", detach(std::slice::from_ref(&image))).after(attach(&image)),
        Case::new("Detach of four", detach(&four)).after(set()),
        Case::new("Reconcile", Action::Reconcile(vec!["read".to_owned()])).after(set()),
    ]
}

/// Each case on a file system of its own choice.
fn sweep(cases: fn(&Rooms) -> Vec<Case>, points: impl Fn(u64, Filesystem) -> Option<Points>) {
    let mut sweep = Sweep::default();
    for filesystem in Filesystem::ALL {
        let rooms = Rooms::furnished(filesystem);
        for (index, case) in (0..).zip(cases(&rooms)) {
            let Some(points) = points(index, filesystem) else {
                continue;
            };
            let name = format!("{} on {filesystem:?}", case.name);
            sweep.run(&name, points, |number, moment| {
                case.strike(&rooms, number, moment)
            });
        }
    }
    sweep.finish();
}

/// Starts a daemon that is killed at one of its calls until it is up.
fn strike_start(rooms: &Rooms, number: u64, moment: Moment) -> Verdict<Outcome> {
    rooms.reset();
    let site = &rooms.home.site;
    let plan = Plan::kill_at(number, moment).within(&site.root);
    let (mut layerd, mut tracer) = Layerd::start_traced(site, &plan);
    if layerd.await_ready().is_ok() {
        // Fails if it dies now.
        let _ = Client::connect(&site.socket).list(true);
    }
    let fired = ended(&mut tracer, &mut layerd)?;
    let layerd = Layerd::start(site)?;
    let mut client = Client::connect(&site.socket);
    let described = |why: String| format!("{}: {why}", describe(fired.as_ref()));
    let found = rooms.look(&mut client, None).map_err(described)?;
    rooms.state.check(&found).map_err(described)?;
    lets_go(rooms, &mut client, &found).map_err(described)?;
    layerd.kill();
    Ok(if fired.is_some() {
        Outcome::Struck
    } else {
        Outcome::Finished
    })
}

/// Kills the daemon at about each of `shares`, in hundredths, of the calls of some of
/// [`volume_cases`], and then the one that recovers from it.
fn recoveries(cases: &[usize], shares: &[u64], points: Points) {
    let mut sweep = Sweep::default();
    for (index, share) in cases
        .iter()
        .flat_map(|index| shares.iter().map(move |share| (index, share)))
    {
        let mut rooms = Rooms::furnished(Filesystem::Ext4WithoutJournal);
        let case = volume_cases(&rooms).swap_remove(*index);
        let calls = case.count(&rooms).unwrap();
        let number = 1 + (calls - 1) * share / 100;
        let crash = case.crash(&rooms, number, Moment::After).unwrap();
        assert!(crash.fired.is_some(), "{} has no call {number}", case.name);
        rooms.keep_crashed();
        let name = format!("Recovery from {} at call {number} of {calls}", case.name);
        sweep.run(&name, points, |number, moment| {
            strike_start(&rooms, number, moment)
        });
    }
    sweep.finish();
}

/// Few of them, but other ones of each case, each on one of the file systems.
fn few(index: u64, filesystem: Filesystem) -> Option<Points> {
    let all = Filesystem::ALL;
    let chosen = all[usize::try_from(index).unwrap() % all.len()];
    (chosen == filesystem).then_some(Points {
        first: 1 + index % 3,
        step: 97,
        finishes: 1,
    })
}

/// Every call on one of the file systems: of each case a quarter of the calls on each of them.
fn every(_: u64, filesystem: Filesystem) -> Option<Points> {
    let all = Filesystem::ALL;
    let first = all.iter().position(|one| *one == filesystem)?;
    Some(Points {
        first: first as u64 + 1,
        step: all.len() as u64,
        finishes: 2,
    })
}

#[test]
fn root_short_volumes_are_crash_points() {
    sweep(volume_cases, few);
}

#[test]
fn root_short_attachments_are_crash_points() {
    sweep(attach_cases, few);
}

#[test]
fn root_full_volumes_are_crash_points() {
    sweep(volume_cases, every);
}

#[test]
fn root_full_attachments_are_crash_points() {
    sweep(attach_cases, every);
}

#[test]
fn root_short_volume_recoveries_are_crash_points() {
    let points = Points {
        first: 5,
        step: 61,
        finishes: 1,
    };
    recoveries(&RECOVERED[3..], &[60], points);
}

#[test]
fn root_full_volume_recoveries_are_crash_points() {
    recoveries(&RECOVERED, &[35, 85], Points { step: 3, ..EVERY });
}
