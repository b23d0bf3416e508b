//! Tells a disk that is slow from a database that hangs.
//!
//! sled waits for its own log threads without a limit, and a log write that failed leaves it
//! waiting for ever: only a new process helps then. A disk that stalls looks the same from the
//! outside, and a new process would be no help at all. So sled's silence is measured in writes
//! that the disk takes meanwhile: a probe writes to the file system of the records and makes that
//! durable, over and over. However long the disk stalls, sled may wait for it.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// Time without an answer before the disk is probed.
const STEP: Duration = Duration::from_secs(1);
/// Pause between two probes.
const PAUSE: Duration = Duration::from_millis(100);
/// Interval of logging a wait for the disk.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// Makes a write to the disk durable; an error is an answer, too.
pub(crate) type Probe = Box<dyn Fn() + Send>;

/// A probe of the file system of a folder: a page of a file without a name.
pub(crate) fn probe(folder: &Path) -> Probe {
    let folder = folder.to_owned();
    Box::new(move || {
        let written = || -> io::Result<()> {
            let mut file = tempfile::tempfile_in(&folder)?;
            file.write_all(&[1; 4096])?;
            file.sync_all()
        };
        // A full or failed disk is not a slow one.
        let _ = written();
    })
}

/// Waits for an answer; `None` if it will not come: its sender is gone, or has been silent for
/// `limit`, as far as the disk answered within it. Lasts as long as the disk stalls.
pub(crate) fn wait<R>(answer: &Receiver<R>, limit: Duration, probe: Probe) -> Option<R> {
    // What answers at once, as nearly all does, needs no thread.
    match answer.recv_timeout(STEP.min(limit)) {
        Err(RecvTimeoutError::Timeout) => {}
        ended => return ended.ok(),
    }
    let Some(probes) = probe_on(probe) else {
        return answer.recv_timeout(limit).ok();
    };
    let enough = u32::try_from(limit.as_millis() / PAUSE.as_millis()).unwrap_or(u32::MAX);
    let begun = Instant::now();
    let mut warned = None;
    loop {
        match answer.recv_timeout(PAUSE) {
            Err(RecvTimeoutError::Timeout) => {}
            ended => {
                if warned.is_some() {
                    info!("the database goes on after a stall");
                }
                return ended.ok();
            }
        }
        if probes.load(Ordering::Acquire) >= enough {
            return None;
        }
        let last = warned.map_or(begun, |(time, _)| time);
        let pause = warned.map_or(limit, |(_, pause)| pause);
        if last.elapsed() >= pause {
            warned = Some((Instant::now(), WARN_EVERY));
            let waited_s = begun.elapsed().as_secs();
            warn!(
                waited_s,
                "the disk is slow or stalls; changes of records wait for it"
            );
        }
    }
}

/// Probes on a thread of its own for as long as the number of probes that have ended is held. None
/// if there is no thread to be had.
fn probe_on(probe: Probe) -> Option<Arc<AtomicU32>> {
    let ended = Arc::new(AtomicU32::new(0));
    let held = Arc::downgrade(&ended);
    let run = move || {
        while held.strong_count() > 0 {
            probe();
            if let Some(ended) = held.upgrade() {
                ended.fetch_add(1, Ordering::AcqRel);
            }
            thread::sleep(PAUSE);
        }
    };
    let thread = thread::Builder::new().name("store-probe".into()).spawn(run);
    thread.ok().map(|_| ended)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    #[test]
    fn an_answer_is_waited_for_while_the_disk_stalls() {
        let (sender, answer) = channel();
        // The answer comes when the probe does: both wait for the same disk.
        let (end, stalled) = channel::<()>();
        let probe = Box::new(move || assert!(stalled.recv().is_err()));
        let disk = thread::spawn(move || {
            thread::sleep(LIMIT * 6);
            sender.send(7).unwrap();
            drop(end);
        });
        assert_eq!(wait(&answer, LIMIT, probe), Some(7));
        disk.join().unwrap();
    }

    #[test]
    fn what_hangs_while_the_disk_answers_is_given_up() {
        let (_sender, answer) = channel::<()>();
        let begun = Instant::now();
        assert_eq!(wait(&answer, LIMIT, Box::new(|| ())), None);
        assert!(begun.elapsed() >= LIMIT);
    }

    #[test]
    fn what_panicked_is_not_waited_for() {
        let (sender, answer) = channel::<()>();
        drop(sender);
        let never = Box::new(|| panic!("nothing is probed"));
        assert_eq!(wait(&answer, LIMIT, never), None);
    }

    #[test]
    fn a_folder_is_probed_and_nothing_is_left_in_it() {
        let folder = tempfile::tempdir().unwrap();
        probe(folder.path())();
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}
