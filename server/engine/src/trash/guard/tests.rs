use layerd_store::Timestamp;

use super::*;

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 24 * 3600 * SECOND;
const LAYER: Discarded = Discarded::Layer(LayerId(1));
const VOLUME: Discarded = Discarded::Volume(VolumeId(2));

fn trash(options: TrashOptions) -> (tempfile::TempDir, Trash) {
    let dir = tempfile::tempdir().unwrap();
    let trash = Trash::open(dir.path(), options, &Records::default(), SteadyTime(0));
    (dir, trash)
}

fn keeping(keep: Duration, guard_min: usize) -> TrashOptions {
    TrashOptions {
        keep,
        guard_min,
        ..TrashOptions::default()
    }
}

fn at(seconds: u64) -> Removal {
    Removal {
        time: Timestamp(0),
        steady: Some(SteadyTime(seconds * SECOND)),
    }
}

fn look(seconds: u64, live: usize) -> Look {
    Look {
        now: SteadyTime(seconds * SECOND),
        live,
        space_wanted: false,
    }
}

#[test]
fn the_time_of_day_decides_nothing() {
    let (_dir, trash) = trash(keeping(Duration::from_nanos(DAY), 600));
    let day = DAY / SECOND;
    let week = TrashOptions::default().keep_volumes.as_secs();
    for time in [i64::MIN, 0, i64::MAX] {
        let removed = Removal {
            time: Timestamp(time),
            ..at(5)
        };
        let due = |what, seconds| trash.due_in(what, removed, &look(seconds, 0));
        assert_eq!(due(LAYER, 5), Some(Duration::from_secs(day)));
        assert_eq!(due(LAYER, 4 + day), Some(Duration::from_secs(1)));
        assert_eq!(due(LAYER, 5 + day), Some(Duration::ZERO));
        assert_eq!(due(VOLUME, 5), Some(Duration::from_secs(week)));
        assert_eq!(due(VOLUME, 5 + week), Some(Duration::ZERO));
    }
    let unstamped = Removal {
        time: Timestamp(0),
        steady: None,
    };
    let due = trash.due_in(LAYER, unstamped, &look(9 * day, 0));
    assert_eq!(due, Some(Duration::from_secs(day)), "it has no age yet");
}

#[test]
fn what_was_let_go_is_one_removal_and_not_the_next() {
    let (_dir, trash) = trash(keeping(Duration::from_nanos(DAY), 600));
    trash.release(vec![(LAYER, at(5)), (VOLUME, at(5))]);
    for what in [LAYER, VOLUME] {
        let due = |removed| trash.due_in(what, removed, &look(6, 0));
        assert_eq!(due(at(5)), Some(Duration::ZERO));
        assert!(due(at(6)) > Some(Duration::ZERO), "removed again");
        assert!(due(at(4)) > Some(Duration::ZERO), "whatever the clock said");
        trash.restored(what);
        assert!(due(at(5)) > Some(Duration::ZERO), "restored");
    }
}

/// Removes as many layers as it takes for the guard to act, all at one time.
fn engage(trash: &Trash, seconds: u64, count: u64) {
    for id in 0..count {
        let engaged = trash
            .removal()
            .done(LayerId(100 + id), Some(at(seconds)), 0);
        assert_eq!(engaged.is_some(), id + 1 == count);
    }
}

#[test]
fn while_nothing_is_deleted_neither_layers_nor_volumes_are() {
    let (_dir, trash) = trash(keeping(Duration::ZERO, 3));
    let later = look(30 * DAY / SECOND, 0);
    for what in [LAYER, VOLUME] {
        assert_eq!(trash.due_in(what, at(0), &later), Some(Duration::ZERO));
    }
    engage(&trash, 30 * DAY / SECOND, 3);
    for what in [LAYER, VOLUME] {
        // It was due when the pass of the reaper was planned.
        assert!(!trash.begin(what, at(0), &later));
        assert_eq!(trash.due_in(what, at(0), &later), None);
    }
    assert!(trash.release(Vec::new()));
    assert!(trash.begin(LAYER, at(0), &later));
}

#[test]
fn what_could_be_counted_waits_whatever_the_settings() {
    let (_dir, trash) = trash(keeping(Duration::ZERO, 10));
    let full = |seconds, live| Look {
        space_wanted: true,
        ..look(seconds, live)
    };
    let window = WINDOW.as_secs();
    for look in [look, full] {
        let due = |seconds, live| trash.due_in(LAYER, at(5), &look(seconds, live));
        assert_eq!(due(5, 9), Some(Duration::ZERO), "9 are no mass");
        assert_eq!(due(5, 10), Some(WINDOW));
        assert_eq!(due(4 + window, 10), Some(Duration::from_secs(1)));
        assert_eq!(due(5 + window, 10), Some(Duration::ZERO));
    }
    let pending = trash.removal();
    assert_eq!(trash.due_in(LAYER, at(5), &look(5, 9)), Some(WINDOW));
    drop(pending);
    let (_dir, off) = self::trash(TrashOptions {
        guard_percent: 0,
        ..keeping(Duration::ZERO, 10)
    });
    assert_eq!(off.due_in(LAYER, at(5), &look(5, 10)), Some(Duration::ZERO));
}

#[test]
fn what_is_deleted_is_not_counted() {
    let (_dir, trash) = trash(keeping(Duration::ZERO, 3));
    assert_eq!(trash.removal().done(LayerId(1), Some(at(5)), 1), None);
    assert!(trash.begin(LAYER, at(5), &look(5, 1)));
    for id in [2, 3] {
        assert_eq!(trash.removal().done(LayerId(id), Some(at(6)), 0), None);
    }
    assert!(trash.guard().is_none());
    // Nor what was taken back, nor what went before the window.
    trash.restored(Discarded::Layer(LayerId(2)));
    assert_eq!(trash.removal().done(LayerId(4), Some(at(7)), 0), None);
    let late = 8 + WINDOW.as_secs();
    assert_eq!(trash.removal().done(LayerId(5), Some(at(late)), 0), None);
}

/// After a power cut without a journal, or by an operator's hand, the name stands for anything.
#[test]
fn a_guard_that_cannot_be_read_holds_and_can_be_released() {
    let made: [&dyn Fn(&Path); 4] = [
        &|path| std::fs::write(path, b"\xff").unwrap(),
        &|path| std::fs::create_dir(path).unwrap(),
        &|path| std::os::unix::fs::symlink("nowhere", path).unwrap(),
        &|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap(),
    ];
    let dir = tempfile::tempdir().unwrap();
    for made in made {
        made(&dir.path().join(GUARD));
        let open = || {
            Trash::open(
                dir.path(),
                keeping(Duration::ZERO, 600),
                &Records::default(),
                SteadyTime(0),
            )
        };
        let trash = open();
        assert_eq!(trash.due_in(LAYER, at(0), &look(9, 0)), None);
        assert!(trash.release(Vec::new()));
        assert_eq!(open().guard(), None);
        hold_older(dir.path()).unwrap();
        assert!(open().is_held_for_older());
        open().release(Vec::new());
    }
}
