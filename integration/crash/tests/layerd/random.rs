//! Random clients, and kills at random moments.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Verdict;
use crate::home::{Home, Ids, check_tidy};
use crate::model::{Content, World, choose, observe};
use crate::operation::{prepare, remove};
use crate::process::{Layerd, Site};
use crate::worker::{Chance, Stop, Worker};

const WORKERS: u64 = 3;

/// Works until the daemon is gone.
fn work(worker: &mut Worker, site: &Site, over: &AtomicBool) -> Verdict<u64> {
    let mut client = site.client();
    let mut done = 0;
    loop {
        match worker.step(&mut client, &site.root, || ()) {
            Ok(_) => done += 1,
            Err(Stop::Call(_)) if over.load(Ordering::SeqCst) => return Ok(done),
            Err(Stop::Call(why) | Stop::Wrong(why)) => return Err(why),
        }
    }
}

/// Lets all workers work until the daemon is ended, by a kill or now and then in order.
fn round(workers: &mut [Worker], site: &Site, chance: &mut Chance) -> Verdict<u64> {
    let layerd = Layerd::start(site)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let working: Vec<_> = workers
            .iter_mut()
            .map(|worker| scope.spawn(|| work(worker, site, &over)))
            .collect();
        thread::sleep(Duration::from_millis(chance.next() % 400));
        over.store(true, Ordering::SeqCst);
        let ended = if chance.below(5) == 0 {
            layerd.stop()
        } else {
            layerd.kill();
            Ok(())
        };
        let done = working.into_iter().map(|thread| thread.join().unwrap());
        let done: Verdict<u64> = done.sum();
        ended.and(done)
    })
}

/// Starts the daemon and compares what it has with what each worker believes.
fn settle(workers: &mut [Worker], site: &Site, ids: &mut Ids) -> Verdict {
    ids.note(&site.root);
    let layerd = Layerd::start(site)?;
    let mut client = site.client();
    let found = observe(&mut client, &site.root)?;
    let mut world = World::new();
    for worker in workers {
        let own = worker.own(&found);
        let (_, state) = choose(&own, &worker.candidates(), &site.root, Content::Every)?;
        world.extend(state.clone());
        (worker.world, worker.pending) = (state, None);
    }
    if world.len() != found.len() {
        return Err(format!("snapshots that no call made: {:?}", found.keys()));
    }
    check_tidy(&mut client, site, &world)?;
    let made = prepare("extra", "").perform(&mut client);
    made.map_err(|status| format!("extra: {status}"))?;
    let found = observe(&mut client, &site.root)?;
    ids.check_new(found["extra"].own.as_ref().unwrap())?;
    let removed = remove("extra").perform(&mut client);
    removed.map_err(|status| format!("extra: {status}"))?;
    layerd.kill();
    Ok(())
}

fn survive(seed: u64, limit: Duration) {
    let home = Home::empty();
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|number| Worker::new(number, seed, 64))
        .collect();
    let (mut chance, mut ids) = (Chance(seed), Ids::default());
    let (mut rounds, mut steps) = (0u64, 0);
    let begun = Instant::now();
    // A loaded machine does less in the time: it goes on until there is enough.
    while begun.elapsed() < limit || rounds < 4 || steps < 31 {
        rounds += 1;
        let told = |why| format!("seed {seed}, round {rounds}: {why}\n{}", home.site.tail());
        steps += round(&mut workers, &home.site, &mut chance)
            .map_err(told)
            .unwrap_or_else(|why| panic!("{why}"));
        settle(&mut workers, &home.site, &mut ids)
            .map_err(told)
            .unwrap_or_else(|why| panic!("{why}"));
    }
    println!("random calls: {steps}, kills and stops: {rounds}, bad: 0");
}

#[test]
fn root_short_random_calls_and_kills() {
    survive(1, Duration::from_secs(10));
}

#[test]
fn root_full_random_calls_and_kills() {
    for seed in 100..110 {
        survive(seed, Duration::from_secs(60));
    }
}
