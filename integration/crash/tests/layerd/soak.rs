//! Many clients for a long time, each in a part of the names of its own, with valid and invalid
//! calls, and a daemon that is ended again and again: nothing may be lost, and nothing may grow.
//!
//! The clients share a socket that outlives the daemon, as under systemd, so that a connection made
//! while it is away is served by the next one. Two thirds of the time it is ended at random
//! moments, in order or not; for the rest one process serves, whose memory is watched. Now and then
//! all clients rest, and everything that is there is held against what each of them believes.

mod client;
mod desk;
mod lives;
mod probe;
mod rest;
mod wrong;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use layerd_integration::image::write_layer;
use layerd_integration::{Entry, Scratch, Snapshots};
use nix::sys::signal::Signal;

use crate::Verdict;
use crate::process::Site;
use crate::worker::Chance;
use client::Client;
use lives::{Keeper, Lives};
use probe::Figures;

/// Allowed growth of a process's memory from its first rest to its last: so many KiB, and
/// so many bytes for each call between. Threads come and go with the load, and their freed memory is
/// scattered over malloc's arenas: with constant allocations by heaptrack, resident
/// memory grew by about 100 bytes a call. A leaked request, key or record is larger.
const GROWTH_KIB: u64 = 16 * 1024;
const GROWTH_PER_CALL: u64 = 128;
/// Descriptors more than at start, at most: a scan of the reaper may be under way.
const DESCRIPTORS_MORE_MAX: usize = 4;
/// Longest time between two restarts, in milliseconds.
const PAUSE_MAX: u64 = 3000;

/// Order to the clients.
const WORK: u8 = 0;
const REST: u8 = 1;
const END: u8 = 2;

/// Extent of the run.
#[derive(Debug)]
struct Plan {
    time: Duration,
    clients: u64,
    /// In each of the two parts.
    rests: u32,
}

/// State shared by all threads.
struct Soak<'a> {
    site: &'a Site,
    scratch: &'a Path,
    clients: Vec<Mutex<Client<'a>>>,
    phase: AtomicU8,
    /// Passed twice at each rest: when all have stopped, and when they may go on.
    barrier: Barrier,
    failures: Mutex<Vec<String>>,
}

impl<'a> Soak<'a> {
    fn new(plan: &Plan, site: &'a Site, scratch: &'a Path, lives: &'a Lives) -> Self {
        let file = scratch.join("layer");
        let layer = [Entry::directory("etc"), Entry::file("etc/motd", "hello\n")];
        write_layer(&file, &layer);
        let archive = Arc::new(std::fs::read(&file).unwrap());
        let client = |number| Client::new(number, site, scratch, lives, archive.clone());
        let clients: Vec<_> = (0..plan.clients).map(client).map(Mutex::new).collect();
        Self {
            site,
            scratch,
            barrier: Barrier::new(clients.len() + 1),
            clients,
            phase: AtomicU8::new(WORK),
            failures: Mutex::new(Vec::new()),
        }
    }

    /// One client's thread: works until all is over, or something is wrong.
    fn work(&self, client: &Mutex<Client<'a>>) {
        let mut is_well = true;
        loop {
            match self.phase.load(Ordering::SeqCst) {
                WORK if is_well => {
                    let step = AssertUnwindSafe(|| lock(client).step());
                    let panicked = |_| Err("a client panicked".to_owned());
                    if let Err(why) = catch_unwind(step).unwrap_or_else(panicked) {
                        lock(&self.failures).push(why);
                        is_well = false;
                    }
                }
                WORK => thread::sleep(Duration::from_millis(20)),
                REST => {
                    lock(client).hang_up();
                    self.barrier.wait();
                    self.barrier.wait();
                }
                _ => return,
            }
        }
    }

    /// Has all clients rest, and compares everything with what they believe.
    fn rest(&self, keeper: &mut Keeper<'_>) -> Verdict<Figures> {
        self.phase.store(REST, Ordering::SeqCst);
        self.barrier.wait();
        let examined = self.examine(keeper);
        self.phase.store(WORK, Ordering::SeqCst);
        self.barrier.wait();
        examined
    }

    fn examine(&self, keeper: &mut Keeper<'_>) -> Verdict<Figures> {
        if let Some(why) = lock(&self.failures).first() {
            return Err(why.clone());
        }
        keeper.check()?;
        let mut clients: Vec<_> = self.clients.iter().map(lock).collect();
        let records = rest::check(self.site, self.scratch, &mut clients)?;
        drop(clients);
        let calls = self.tally().values().sum();
        let figures = Figures::take(self.site, self.scratch, keeper.pid(), calls)?;
        println!("at rest: {records}; {figures}");
        Ok(figures)
    }

    /// Lets the clients work, while the daemon is ended now and then if there is a chance for it.
    fn go_on(
        &self,
        time: Duration,
        keeper: &mut Keeper<'_>,
        mut chance: Option<&mut Chance>,
    ) -> Verdict {
        let begun = Instant::now();
        while begun.elapsed() < time && lock(&self.failures).is_empty() {
            let Some(chance) = &mut chance else {
                thread::sleep(Duration::from_millis(50));
                continue;
            };
            thread::sleep(Duration::from_millis(chance.next() % PAUSE_MAX));
            let signals = [Signal::SIGTERM, Signal::SIGKILL];
            keeper.replace(signals[chance.below(2)])?;
        }
        Ok(())
    }

    /// The whole run. Answers the figures of the last process, which served for a third of it.
    fn run(&self, plan: &Plan, keeper: &mut Keeper<'_>) -> Verdict<Vec<Figures>> {
        let (storm, calm) = (plan.time * 2 / 3 / plan.rests, plan.time / 3 / plan.rests);
        let mut chance = Chance(plan.time.as_secs());
        for _ in 0..plan.rests {
            self.go_on(storm, keeper, Some(&mut chance))?;
            self.rest(keeper)?;
        }
        keeper.calm_down();
        let mut figures = Vec::new();
        for _ in 0..plan.rests {
            self.go_on(calm, keeper, None)?;
            figures.push(self.rest(keeper)?);
        }
        Ok(figures)
    }

    /// Number of answers by call and code.
    fn tally(&self) -> BTreeMap<(&'static str, String), u64> {
        let mut all = BTreeMap::new();
        for client in &self.clients {
            for (what, count) in &lock(client).tally {
                *all.entry(what.clone()).or_insert(0) += count;
            }
        }
        all
    }
}

/// A client that panicked has told so.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the daemon serves, and answers what it has when there is nothing.
fn at_start(site: &Site, scratch: &Path, keeper: &Keeper<'_>) -> Verdict<Figures> {
    let mut client: Snapshots = site.client();
    let listed = client.names(&[]);
    listed.map_err(|status| format!("the first List: {status}"))?;
    drop(client);
    // The connection's end reaches the daemon a moment later.
    thread::sleep(Duration::from_millis(500));
    Figures::take(site, scratch, keeper.pid(), 0)
}

fn soak(plan: &Plan) -> Verdict {
    let scratch = Scratch::new();
    let site = Site::new(scratch.path().join("root"), scratch.path());
    let lives = Lives::default();
    let mut keeper = Keeper::new(&site, &lives);
    let idle = at_start(&site, scratch.path(), &keeper)?;
    println!("at start: {idle}");
    let soak = Soak::new(plan, &site, scratch.path(), &lives);
    let run = thread::scope(|scope| {
        for client in &soak.clients {
            scope.spawn(|| soak.work(client));
        }
        let run = soak.run(plan, &mut keeper);
        if let Err(why) = &run {
            // Clients that wait for an answer may wait long.
            eprintln!("{why}");
        }
        keeper.calm_down();
        soak.phase.store(END, Ordering::SeqCst);
        run
    });
    print_tally(&soak);
    let calm = run.map_err(|why| format!("{why}; log:\n{}", site.tail()))?;
    let (terminated, killed) = (keeper.terminated, keeper.killed);
    println!("restarts: {terminated} by SIGTERM, {killed} by SIGKILL");
    check_growth(&idle, &calm)?;
    keeper.end()?;
    check_log(&site)
}

fn print_tally(soak: &Soak<'_>) {
    let mut lines = BTreeMap::<&str, Vec<String>>::new();
    let mut sum = 0;
    for ((what, answer), count) in soak.tally() {
        sum += count;
        lines
            .entry(what)
            .or_default()
            .push(format!("{answer} {count}"));
    }
    for (what, answers) in lines {
        println!("{what}: {}", answers.join(", "));
    }
    println!("calls: {sum} of {} clients", soak.clients.len());
}

/// Nothing that one process holds may grow with the calls that it served.
fn check_growth(idle: &Figures, calm: &[Figures]) -> Verdict {
    let (Some(first), Some(last)) = (calm.first(), calm.last()) else {
        return Err("no client rested".into());
    };
    let (from, to) = (first.memory, last.memory);
    let calls = last.calls - first.calls;
    let bound = from + GROWTH_KIB + GROWTH_PER_CALL * calls / 1024;
    println!(
        "memory of one process: {from} KiB at its first rest, {to} KiB {calls} calls later, allowed {bound} KiB"
    );
    if to > bound {
        return Err(format!("{from} KiB of memory became {to} KiB"));
    }
    let most = calm.iter().map(|rest| rest.descriptors).max().unwrap_or(0);
    println!(
        "descriptors: {} at start, at most {most} at rest",
        idle.descriptors
    );
    if most > idle.descriptors + DESCRIPTORS_MORE_MAX {
        return Err(format!("{most} descriptors, {} at start", idle.descriptors));
    }
    Ok(())
}

/// Fails on any line that a daemon logged as an error, however it was ended.
fn check_log(site: &Site) -> Verdict {
    let log = std::fs::read(&site.log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log).into_owned();
    let is_bad = |line: &&str| line.contains(" ERROR ") || line.contains("panicked");
    match log.lines().find(is_bad) {
        None => Ok(()),
        Some(line) => Err(format!("layerd logged: {line}")),
    }
}

/// Seconds from the environment, for a run that is longer or shorter.
fn seconds(usual: u64) -> Duration {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test has no configuration file; `make soak SOAK_SECONDS=...` sets it"
    )]
    let given = std::env::var("SOAK_SECONDS").ok();
    let given = given.map(|text| text.parse().expect("SOAK_SECONDS is a number"));
    Duration::from_secs(given.unwrap_or(usual))
}

#[test]
fn root_short_soak() {
    let short = Plan {
        time: Duration::from_secs(5),
        clients: 16,
        rests: 2,
    };
    soak(&short).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn root_full_soak() {
    let full = Plan {
        time: seconds(1800),
        clients: 64,
        rests: 5,
    };
    soak(&full).unwrap_or_else(|why| panic!("{why}"));
}
