//! Stops and kills in the middle of the work of 32 clients.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use layerd_integration::process::wait_until;
use layerd_integration::wire::Answer;
use layerd_integration::{Daemon, Scratch, Snapshots};
use layerd_proto::containerd::services::snapshots::v1::Kind;
use nix::sys::signal::{Signal, kill};

const CLIENTS: usize = 32;

/// Keys of a client: acknowledged ones, and those requested when the daemon ended.
#[derive(Debug, Default)]
struct Known {
    acknowledged: BTreeMap<String, Kind>,
    /// The key, and what it becomes if the call was done after all.
    open: Option<(String, Option<Kind>)>,
}

impl Known {
    fn call(&mut self, key: &str, after: Option<Kind>, call: impl FnOnce() -> Answer<()>) -> bool {
        self.open = Some((key.to_owned(), after));
        if call().is_err() {
            return false;
        }
        self.open = None;
        match after {
            Some(kind) => drop(self.acknowledged.insert(key.to_owned(), kind)),
            None => drop(self.acknowledged.remove(key)),
        }
        true
    }
}

/// Prepares, commits some and removes some, until a call fails.
fn work(client: &mut Snapshots, number: usize, done: &AtomicUsize) -> Known {
    let mut known = Known::default();
    for round in 0.. {
        let key = format!("{number}/{round}");
        let made = known.call(&key, Some(Kind::Active), || {
            client.prepare(&key, "base", &[("by", "load")]).map(drop)
        });
        if !made {
            return known;
        }
        done.fetch_add(1, Ordering::Relaxed);
        let gone = round % 5 == 4 && !known.call(&key, None, || client.remove(&key));
        if gone {
            return known;
        }
        if round % 3 == 2 && round % 5 != 4 {
            // Committed under its own key's name with a suffix; the key goes.
            let name = format!("{key}/done");
            known.open = Some((key.clone(), None));
            if client.commit(&name, &key, &[]).is_err() {
                return known;
            }
            known.open = None;
            known.acknowledged.remove(&key);
            known.acknowledged.insert(name, Kind::Committed);
        }
    }
    known
}

/// Runs the load, ends the daemon with `end` in the middle, and answers what the clients know.
fn interrupted(daemon: &mut Daemon, end: impl FnOnce(&mut Daemon)) -> Vec<Known> {
    let done = AtomicUsize::new(0);
    let ended = AtomicBool::new(false);
    let mut clients: Vec<Snapshots> = (0..CLIENTS).map(|_| daemon.snapshots()).collect();
    std::thread::scope(|scope| {
        let (done, ended) = (&done, &ended);
        let workers: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(number, client)| scope.spawn(move || work(client, number, done)))
            .collect();
        wait_until("the load", Duration::from_secs(30), || {
            done.load(Ordering::Relaxed) > 20 * CLIENTS
        });
        end(daemon);
        ended.store(true, Ordering::Relaxed);
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect()
    })
}

/// Acknowledged snapshots exist; others exist whole, or not at all.
fn assert_kept(daemon: &Daemon, known: &[Known]) {
    let mut client = daemon.snapshots();
    let listed = client.list();
    let mut there: BTreeMap<String, Kind> = listed
        .iter()
        .map(|info| (info.name.clone(), info.kind()))
        .collect();
    assert_eq!(there.remove("base"), Some(Kind::Committed));
    let mut acknowledged = 0;
    for client in known {
        for (key, kind) in &client.acknowledged {
            let open = client.open.as_ref().filter(|(name, _)| name == key);
            let now = there.remove(key);
            match open {
                // A removal or commit that was not answered may have been done.
                Some((_, after)) => assert!(now == Some(*kind) || now == *after, "{key}: {now:?}"),
                None => assert_eq!(now, Some(*kind), "{key} was acknowledged"),
            }
            acknowledged += 1;
        }
        if let Some((key, _)) = &client.open {
            there.remove(key);
            there.remove(&format!("{key}/done"));
        }
    }
    assert!(there.is_empty(), "never requested: {there:?}");
    eprintln!("{acknowledged} acknowledged, {} listed", listed.len());
    assert_whole(daemon, &mut client);
}

/// Every record has its directories, every directory its record, once the reaper has passed.
fn assert_whole(daemon: &Daemon, client: &mut Snapshots) {
    let listed = client.list();
    for info in &listed {
        if info.kind() == Kind::Active {
            for option in &client.mounts(&info.name).unwrap()[0].options {
                let parts = ["upperdir=", "workdir="];
                for dir in parts.iter().filter_map(|part| option.strip_prefix(part)) {
                    assert!(std::path::Path::new(dir).is_dir(), "{}: {dir}", info.name);
                }
            }
        }
        client.usage(&info.name).unwrap();
    }
    wait_until("orphans to go", Duration::from_secs(20), || {
        client.cleanup().unwrap();
        let trash = std::fs::read_dir(daemon.root().join("t")).unwrap().count();
        daemon.problems().is_none() && trash == 0
    });
    for info in listed.iter().filter(|info| info.name != "base") {
        client.remove(&info.name).unwrap();
    }
    client.remove("base").unwrap();
    daemon.assert_empty();
}

#[test]
fn root_sigterm_under_load_loses_nothing() {
    let scratch = Scratch::new();
    let mut daemon = crate::without_trash(&scratch);
    daemon.snapshots().committed("base", "").unwrap();
    let known = interrupted(&mut daemon, Daemon::stop);
    daemon.restart();
    assert_kept(&daemon, &known);
    crate::assert_quiet(&daemon);
}

#[test]
fn root_kill_under_load_loses_nothing() {
    let scratch = Scratch::new();
    let mut daemon = crate::without_trash(&scratch);
    for round in 0..2 {
        daemon.snapshots().committed("base", "").unwrap();
        let known = interrupted(&mut daemon, Daemon::kill9);
        daemon.restart();
        eprintln!("round {round}");
        assert_kept(&daemon, &known);
    }
    crate::assert_quiet(&daemon);
}

/// A second SIGTERM, or one during the start, changes nothing.
#[test]
fn root_signals_may_come_at_any_time() {
    let scratch = Scratch::new();
    let mut daemon = crate::without_trash(&scratch);
    for _ in 0..5 {
        kill(daemon.pid(), Signal::SIGINT).unwrap();
        daemon.stop();
        daemon.restart();
    }
    crate::assert_quiet(&daemon);
}
