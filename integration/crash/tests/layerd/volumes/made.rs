//! The path of the host that an attach makes for a bind whose source is missing, as `-v HOST:CONTAINER`
//! asks for: no kill leaves one that no record names, and none is taken from an attachment that was
//! acknowledged.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use layerd_crash::disk::Filesystem;
use layerd_crash::trace::{Moment, Plan};
use tonic::Status;

use super::action::Action;
use super::client::Client;
use super::home::Rooms;
use super::state::State;
use crate::Verdict;
use crate::process::Layerd;
use crate::sweep::{EVERY, Outcome, Points, Sweep, describe, ended};

const KEY: &str = "bound";
/// Keys of a volume that is mounted, and of a mount within it for which the whole call fails.
const OUTER: &str = "outer";
const LATE: &str = "late";

/// The call during which the daemon is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Struck {
    Attach,
    /// An attach that fails after the path was made.
    FailedAttach,
    Detach,
}

/// The next call about the attachment.
#[derive(Debug, Clone, Copy)]
enum Next {
    Attach,
    Detach,
}

/// Paths below a folder, relative to it.
fn tree(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            found.insert(name);
            if path.symlink_metadata().unwrap().is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

fn attach(rooms: &Rooms, client: &mut Client) -> Result<(), Status> {
    let action = Action::Attach(vec![rooms.host.bind(KEY)]);
    action.perform(client, &State::default()).map(drop)
}

fn detach(client: &mut Client, key: &str) -> Verdict {
    let detached = client.detach(&[key.to_owned()]);
    detached
        .map(drop)
        .map_err(|status| format!("detach of {key}: {status}"))
}

impl Struck {
    fn perform(self, rooms: &Rooms, client: &mut Client) -> Result<(), Status> {
        match self {
            Self::Attach => attach(rooms, client),
            Self::FailedAttach => {
                // That the volume has no such folder is seen when it is mounted, and not before.
                let all = vec![
                    rooms.host.bind(KEY),
                    rooms.host.volume(OUTER, "data", "shared"),
                    rooms.host.tmpfs(LATE, "shared/none"),
                ];
                Action::Attach(all)
                    .perform(client, &State::default())
                    .map(drop)
            }
            Self::Detach => client.detach(&[KEY.to_owned()]).map(drop),
        }
    }

    /// Kills the daemon at one point of the call that the plan counts, and looks at what is left before
    /// and after the next call.
    fn strike(self, rooms: &Rooms, plan: &Plan, next: Next) -> Verdict<Outcome> {
        rooms.reset();
        let site = &rooms.home.site;
        let before = tree(&rooms.host.path);
        let mut layerd = Layerd::start(site)?;
        let mut client = Client::connect(&site.socket);
        if self == Self::Detach {
            attach(rooms, &mut client).map_err(|status| status.to_string())?;
        }
        let mut tracer = layerd.trace(plan);
        let answer = self.perform(rooms, &mut client);
        let fired = ended(&mut tracer, &mut layerd)?;
        let is_right = answer.is_ok() != (self == Self::FailedAttach);
        if fired.is_none() && !is_right {
            return Err(format!("{self:?} answers {answer:?}"));
        }
        drop(client);
        let layerd = Layerd::start(site)?;
        let mut client = Client::connect(&site.socket);
        let told = |why| format!("{}, then {next:?}: {why}", describe(fired.as_ref()));
        self.examine(rooms, &before, &mut client, next)
            .map_err(told)?;
        drop(client);
        layerd.kill();
        Ok(match fired {
            Some(_) => Outcome::Struck,
            None => Outcome::Finished,
        })
    }

    fn examine(
        self,
        rooms: &Rooms,
        before: &BTreeSet<String>,
        client: &mut Client,
        next: Next,
    ) -> Verdict {
        let whole: BTreeSet<String> = ["made", "made/below"].map(String::from).into();
        let whole: BTreeSet<String> = before.union(&whole).cloned().collect();
        let now = || tree(&rooms.host.path);
        // What they show is not of the host.
        detach(client, LATE)?;
        detach(client, OUTER)?;
        let all = client.attached().map_err(|status| status.to_string())?;
        let state = all.into_iter().find(|one| one.key == KEY);
        let state = state.map(|one| one.state);
        // An attachment that was acknowledged leaves its source when it goes.
        let was_acknowledged = self == Self::Detach;
        if state.is_none() && !was_acknowledged && now() != *before {
            return Err(format!("no record names one of {:?}", now()));
        }
        match next {
            Next::Attach => {
                attach(rooms, client).map_err(|status| format!("attach: {status}"))?;
                same(&now(), &whole)?;
                detach(client, KEY)?;
                same(&now(), &whole)?;
            }
            Next::Detach => {
                detach(client, KEY)?;
                let is_kept = was_acknowledged
                    || state.is_some_and(|state| state == "attached" || state == "waiting");
                same(&now(), if is_kept { &whole } else { before })?;
            }
        }
        let left = client.attached().map_err(|status| status.to_string())?;
        match left.is_empty() {
            true => Ok(()),
            false => Err(format!("still attached: {left:?}")),
        }
    }
}

fn same(found: &BTreeSet<String>, wanted: &BTreeSet<String>) -> Verdict {
    match found == wanted {
        true => Ok(()),
        false => Err(format!("on the host: {found:?}, should be {wanted:?}")),
    }
}

/// Calls that change something on the host: of an attach every second one, as after a call is before the
/// next, and fewer of an attach that fails.
#[test]
fn root_short_host_paths_are_crash_points() {
    let rooms = Rooms::furnished(Filesystem::ALL[0]);
    let mut sweep = Sweep::default();
    for (struck, step) in [(Struck::Attach, 2), (Struck::FailedAttach, 5)] {
        let points = Points {
            first: 1,
            step,
            finishes: 1,
        };
        sweep.run(&format!("{struck:?}"), points, |number, moment| {
            let plan = Plan::kill_at(number, moment).within(&rooms.host.path);
            let is_attached = (number / 2 % 2 == 0) == (moment == Moment::After);
            let next = if is_attached {
                Next::Attach
            } else {
                Next::Detach
            };
            struck.strike(&rooms, &plan, next)
        });
    }
    sweep.finish();
}

/// Each call that changes something on the host or in the data directory, and each next call.
#[test]
fn root_full_host_paths_are_crash_points() {
    let mut sweep = Sweep::default();
    for filesystem in Filesystem::ALL {
        let rooms = Rooms::furnished(filesystem);
        for struck in [Struck::Attach, Struck::FailedAttach, Struck::Detach] {
            for next in [Next::Attach, Next::Detach] {
                let name = format!("{struck:?}, then {next:?}, on {filesystem:?}");
                sweep.run(&name, EVERY, |number, moment| {
                    let plan = Plan::kill_at(number, moment).within(&rooms.home.site.root);
                    let plan = plan.within(&rooms.host.path);
                    struck.strike(&rooms, &plan, next)
                });
            }
        }
    }
    sweep.finish();
}
