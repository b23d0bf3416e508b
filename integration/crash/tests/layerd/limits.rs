//! Layers that are held to a size, when the daemon is killed at any call of Prepare, Commit or a removal:
//! what was acknowledged is there, with its content, and neither a mount nor a loop device stays behind.

use std::fs;
use std::path::PathBuf;

use layerd_crash::trace::{Moment, Plan};
use layerd_integration::Snapshots;
use layerd_integration::scratch::mounts_below;

use crate::Verdict;
use crate::home::{Home, names, reap, reap_all};
use crate::operation::{Operation, commit, labels, prepare, remove, view};
use crate::process::{Layerd, Site};
use crate::sweep::{Outcome, Points, Sweep, conclude, ended};

/// Layers that were made ahead are in no count.
const SETTINGS: &str = "overlayfs.spare_layers = 0\n";
const CONTENT: &str = "content";

fn limited() -> Operation {
    Operation::Prepare {
        key: "one".into(),
        parent: "base".into(),
        labels: labels(&[("containerd.io/snapshot/layerd.size", "4m")]),
    }
}

/// The upper directory of the layer, mounted.
fn upper(client: &mut Snapshots) -> Verdict<PathBuf> {
    let mounts = client.mounts("one");
    let mounts = mounts.map_err(|status| format!("Mounts: {status}"))?;
    let mut options = mounts[0].options.iter();
    let upper = options.find_map(|option| option.strip_prefix("upperdir="));
    let upper = PathBuf::from(upper.ok_or("no upper directory")?);
    match upper.is_dir() {
        true => Ok(upper),
        false => Err(format!("{} is not there", upper.display())),
    }
}

/// Performs what must succeed.
fn perform(operation: &Operation, client: &mut Snapshots) -> Verdict {
    let done = operation.perform(client);
    done.map_err(|status| format!("{operation:?}: {status}"))
}

fn read(path: PathBuf) -> Verdict {
    match fs::read_to_string(&path) {
        Ok(text) if text == CONTENT => Ok(()),
        other => Err(format!("{}: {other:?}", path.display())),
    }
}

/// Devices of images below the root.
fn loop_devices(site: &Site) -> Vec<PathBuf> {
    let all = fs::read_dir("/sys/block").unwrap();
    let files = all.filter_map(|entry| {
        let file = entry.unwrap().path().join("loop/backing_file");
        Some(PathBuf::from(fs::read_to_string(file).ok()?.trim()))
    });
    files.filter(|file| file.starts_with(&site.root)).collect()
}

/// Removes everything, which leaves nothing.
fn empty(site: &Site, client: &mut Snapshots) -> Verdict {
    for key in ["look", "one", "done", "base"] {
        if client.stat(key).is_ok() {
            perform(&remove(key), client)?;
        }
    }
    reap_all(client, || {
        let left = ["l", "w", "t", "c"].map(|folder| names(&site.root.join(folder)));
        let held = (mounts_below(&site.root), loop_devices(site));
        let is_empty = left.iter().all(|names| names.is_empty());
        let is_empty = is_empty && held.0.is_empty() && held.1.is_empty();
        (!is_empty).then(|| format!("{left:?}, {held:?}"))
    })
}

struct Case {
    home: Home,
    operation: Operation,
}

impl Case {
    fn new(operation: Operation) -> Self {
        let home = Home::empty();
        home.site.configure(SETTINGS);
        let layerd = Layerd::start(&home.site).unwrap();
        let mut client = home.site.client();
        perform(&prepare("base-active", ""), &mut client).unwrap();
        perform(&commit("base", "base-active"), &mut client).unwrap();
        layerd.stop().unwrap();
        home.keep();
        Self { home, operation }
    }

    fn is_prepare(&self) -> bool {
        matches!(self.operation, Operation::Prepare { .. })
    }

    fn strike(&self, number: u64, moment: Moment) -> Verdict<Outcome> {
        self.home.reset();
        let site = &self.home.site;
        let mut layerd = Layerd::start(site)?;
        let mut client = site.client();
        if !self.is_prepare() {
            perform(&limited(), &mut client)?;
            let file = upper(&mut client)?.join("file");
            fs::write(file, CONTENT).map_err(|cause| cause.to_string())?;
        }
        let plan = Plan::kill_at(number, moment).within(&site.root);
        let mut tracer = layerd.trace(&plan);
        let answer = self.operation.perform(&mut client);
        if answer.is_ok() && matches!(self.operation, Operation::Remove { .. }) {
            // The reaper is what is to be killed.
            reap(&mut client, &site.root.join("c"));
        }
        let fired = ended(&mut tracer, &mut layerd)?;
        conclude(fired.as_ref(), &answer, |acknowledged| {
            self.examine(acknowledged)
        })
    }

    fn examine(&self, acknowledged: bool) -> Verdict {
        let site = &self.home.site;
        let layerd = Layerd::start(site)?;
        let mut client = site.client();
        let is_there = client.stat("one").is_ok();
        let is_done = client.stat("done").is_ok();
        match &self.operation {
            Operation::Prepare { .. } if acknowledged && !is_there => {
                return Err("the layer is gone".to_owned());
            }
            Operation::Commit { .. } if is_there == is_done || acknowledged && !is_done => {
                return Err(format!("active: {is_there}, committed: {is_done}"));
            }
            Operation::Remove { .. } if acknowledged && is_there => {
                return Err("the layer is back".to_owned());
            }
            _ => {}
        }
        if is_there {
            let upper = upper(&mut client)?;
            if !self.is_prepare() {
                read(upper.join("file"))?;
                perform(&commit("done", "one"), &mut client)?;
            }
        }
        if client.stat("done").is_ok() {
            perform(&view("look", "done"), &mut client)?;
            let mounts = client.mounts("look").map_err(|status| status.to_string())?;
            let options = mounts[0].options.join(",");
            let lower = options
                .split(',')
                .find_map(|option| option.strip_prefix("lowerdir="));
            let top = lower.and_then(|lower| lower.split(':').next());
            read(PathBuf::from(top.ok_or("no lower directory")?).join("file"))?;
        }
        empty(site, &mut client)?;
        layerd.stop()
    }
}

/// Kills at every call that the steps lead to, of Prepare, Commit and the removal.
fn sweep(steps: [u64; 3], finishes: u32) {
    let mut sweep = Sweep::default();
    let operations = [limited(), commit("done", "one"), remove("one")];
    for ((first, operation), step) in (1..).zip(operations).zip(steps) {
        let label = operation.name();
        let case = Case::new(operation);
        let points = Points {
            first,
            step,
            finishes,
        };
        sweep.run(label, points, |number, moment| case.strike(number, moment));
    }
    sweep.finish();
}

#[test]
fn root_limited_layers_outlive_kills() {
    sweep([15, 9, 3], 1);
}

#[test]
fn root_full_limited_layers_outlive_every_kill() {
    sweep([1, 1, 1], 2);
}
