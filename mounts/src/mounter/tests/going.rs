//! Mounts that go, and those that must not.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::Ground;
use crate::mounter::{
    Attached, BindOptions, DetachMode, Detached, Holds, MountError, Mounter, PrivateRoot,
    TmpfsOptions, table,
};
use crate::sys;

/// A process that sleeps in a directory, ended when dropped.
struct Sleeper(Child);

impl Sleeper {
    fn new(mut command: Command, dir: &Path) -> Self {
        let child = command.current_dir(dir).spawn();
        Self(child.expect("coreutils and util-linux are there"))
    }

    fn plain(dir: &Path) -> Self {
        let mut command = Command::new("sleep");
        command.arg("60");
        Self::new(command, dir)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn attached(ground: &Ground, source: &Path, target: &Path) -> Attached {
    ground.attach(ground.bind(source, &BindOptions::default()), target)
}

#[test]
fn root_another_mount_at_the_same_place_stays() {
    let ground = Ground::new();
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    let ours = attached(&ground, &source, &target);
    ground.detach(&target, &ours);
    fs::write(ground.foreign("target").join("precious"), "x").expect("write");
    for mode in [DetachMode::Normal, DetachMode::Lazy] {
        let gone = ground.mounter.detach(&target, &ours, mode);
        assert_eq!(gone.expect("it is gone"), Detached::AlreadyGone);
        assert!(target.join("precious").exists(), "{mode:?}");
    }
    if !table::is_unique(ours.id) {
        return; // there the same source at the same place cannot be told apart
    }
    let same = attached(&ground, &source, &target);
    let gone = ground.mounter.detach(&target, &ours, DetachMode::Normal);
    let gone = gone.expect("even the same source is another mount");
    assert_eq!(gone, Detached::AlreadyGone);
    ground.detach(&target, &same);
}

#[test]
fn root_a_mount_of_another_process_inside_or_on_top_stays() {
    let ground = Ground::new();
    let source = ground.dir("source");
    ground.dir("source/inside");
    let target = ground.dir("target");
    for place in ["target", "target/inside"] {
        let ours = attached(&ground, &source, &target);
        let foreign = ground.foreign(place);
        fs::write(foreign.join("precious"), "x").expect("write");
        for mode in [DetachMode::Normal, DetachMode::Lazy] {
            let refused = ground.mounter.detach(&target, &ours, mode);
            assert!(
                matches!(&refused, Err(MountError::Covered { path, .. }) if *path == foreign),
                "{mode:?}: {refused:?}"
            );
            assert!(foreign.join("precious").exists(), "{mode:?}");
        }
        nix::mount::umount2(&foreign, nix::mount::MntFlags::empty()).expect("unmount");
        ground.detach(&target, &ours);
    }
}

#[test]
fn root_an_older_mount_that_was_put_inside_later_stays() {
    let ground = Ground::new();
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    ground.foreign("source/along");
    ground.dir("source/inside");
    for recursive in [false, true] {
        let older = ground.mounter.tmpfs(&TmpfsOptions::default());
        let options = BindOptions {
            recursive,
            ..BindOptions::default()
        };
        let ours = ground.attach(ground.bind(&source, &options), &target);
        let inside = target.join("inside");
        let theirs = ground.attach(older.expect("a tmpfs"), &inside);
        assert!(theirs.id < ours.id, "it was made before");
        fs::write(inside.join("precious"), "x").expect("write");
        for mode in [DetachMode::Normal, DetachMode::Lazy] {
            let refused = ground.mounter.detach(&target, &ours, mode);
            assert!(
                matches!(refused, Err(MountError::Covered { other, .. }) if other == theirs.id),
                "{mode:?}: {refused:?}"
            );
            assert!(inside.join("precious").exists(), "{mode:?}");
        }
        ground.detach(&inside, &theirs);
        ground.detach(&target, &ours);
    }
}

#[test]
fn root_what_came_along_goes_along() {
    let ground = Ground::new();
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    for name in ["source/a b", "source/a b/deep", "source/line\nfeed"] {
        fs::write(ground.foreign(name).join("mark"), "").expect("write");
    }
    let recursive = BindOptions {
        recursive: true,
        ..BindOptions::default()
    };
    for mode in [DetachMode::Normal, DetachMode::Lazy] {
        let ours = ground.attach(ground.bind(&source, &recursive), &target);
        assert!(target.join("a b/deep/mark").exists());
        assert_eq!(ground.mounter.mounts_below(&target).expect("list").len(), 3);
        assert!(ours.last_id > ours.id);
        let gone = ground.mounter.detach(&target, &ours, mode).expect("detach");
        assert_eq!(gone, Detached::Now);
        assert_eq!(ground.mounter.mounts_below(&target).expect("list"), []);
        assert!(source.join("a b/deep/mark").exists(), "the origin stays");
        assert!(source.join("line\nfeed/mark").exists(), "the origin stays");
    }
}

#[test]
fn root_files_are_mounted_on_files() {
    let ground = Ground::new();
    let source = ground.dir("source").join("file");
    let target = ground.dir("target").join("file");
    fs::write(&source, "source").expect("write");
    fs::write(&target, "target").expect("write");
    let ours = attached(&ground, &source, &target);
    assert_eq!(fs::read(&target).expect("read"), b"source");
    ground.detach(&target, &ours);
    assert_eq!(fs::read(&target).expect("read"), b"target");
}

#[test]
fn root_a_busy_mount_stays_and_its_users_are_named() {
    let ground = Ground::new();
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    fs::write(source.join("file"), "x").expect("write");
    let ours = attached(&ground, &source, &target);
    let sleeper = Sleeper::plain(&target);
    let open = File::open(target.join("file")).expect("open");
    let refused = ground.mounter.detach(&target, &ours, DetachMode::Normal);
    let Err(error) = refused else {
        unreachable!("it is in use: {refused:?}");
    };
    let text = error.to_string();
    assert!(text.contains("(sleep)"), "{text}");
    let MountError::Busy { holders, .. } = error else {
        unreachable!("it is in use: {text}");
    };
    let held: Vec<_> = holders.found.iter().map(|h| (h.pid, &h.holds)).collect();
    assert!(
        held.contains(&(sleeper.0.id(), &Holds::WorkingDirectory)),
        "{held:?}"
    );
    let ours_too = |(pid, holds): &(u32, &Holds)| {
        *pid == std::process::id() && matches!(holds, Holds::File { .. })
    };
    assert!(held.iter().any(ours_too), "{held:?}");
    assert_eq!(held.len(), 2, "and no other: {held:?}");
    assert!(target.join("file").exists());
    drop((sleeper, open));
    ground.detach(&target, &ours);
}

#[test]
fn root_a_tree_in_use_stays_whole() {
    let ground = Ground::new();
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    for name in ["source/a", "source/a/deep", "source/b"] {
        fs::write(ground.foreign(name).join("mark"), "").expect("write");
    }
    let recursive = BindOptions {
        recursive: true,
        ..BindOptions::default()
    };
    let ours = ground.attach(ground.bind(&source, &recursive), &target);
    for used in ["", "a", "a/deep", "b"] {
        let sleeper = Sleeper::plain(&target.join(used));
        let refused = ground.mounter.detach(&target, &ours, DetachMode::Normal);
        let text = refused.expect_err("it is in use").to_string();
        assert!(text.contains("(sleep)"), "{text}");
        let all = ground.mounter.mounts_below(&target).expect("list");
        assert_eq!(all.len(), 3, "while {used:?} is used");
        drop(sleeper);
    }
    ground.detach(&target, &ours);
    assert!(source.join("a/deep/mark").exists(), "the origin stays");
}

#[test]
fn root_a_busy_mount_goes_lazily() {
    let ground = Ground::new();
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    fs::write(source.join("file"), "x").expect("write");
    let ours = attached(&ground, &source, &target);
    let open = File::open(target.join("file")).expect("open");
    let gone = ground.mounter.detach(&target, &ours, DetachMode::Lazy);
    assert_eq!(gone.expect("lazily"), Detached::Now);
    assert!(!target.join("file").exists());
    assert!(open.metadata().is_ok(), "who has it open keeps it");
}

#[test]
fn root_a_mount_in_another_namespace_is_found() {
    let ground = Ground::new();
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    let ours = attached(&ground, &source, &target);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sleep", "60"]);
    let sleeper = Sleeper::new(command, Path::new("/"));
    let directory = ground.open(&source);
    let minute = Duration::from_secs(60);
    let end = Instant::now() + minute;
    loop {
        let holders = ground.mounter.holders(&directory, &[ours.id], minute);
        let found = holders.expect("look").found;
        let theirs = found.iter().find(|holder| holder.pid == sleeper.0.id());
        if let Some(holder) = theirs {
            assert!(
                matches!(&holder.holds, Holds::Mount { target: at, .. } if *at == target),
                "{holder:?}"
            );
            break;
        }
        assert!(Instant::now() < end, "unshare never got there: {found:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    ground.detach(&target, &ours);
    let found = ground
        .mounter
        .holders(&directory, &[], minute)
        .expect("look");
    assert_eq!(found.found.len(), 1, "the other namespace keeps its copy");
    drop(sleeper);
    let found = ground
        .mounter
        .holders(&directory, &[], minute)
        .expect("look");
    assert_eq!(found.found, [], "until it ends");
}

#[test]
fn root_unique_numbers_are_never_used_again() {
    let ground = Ground::new();
    if !sys::has_unique_ids() {
        return; // what layerd goes by instead is in the test below
    }
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    let mut seen = HashSet::new();
    for _ in 0..500 {
        let ours = attached(&ground, &source, &target);
        assert!(table::is_unique(ours.id));
        assert!(seen.insert(ours.id), "{} was used before", ours.id);
        ground.detach(&target, &ours);
        assert!(!ground.mounter.is_mounted(&target, &ours).expect("look"));
    }
}

/// A mount of the table's number but at another place, or of something else, is not taken for it,
/// wherever the kernel's numbers come from.
#[test]
fn root_a_number_alone_does_not_tell_a_mount() {
    let ground = Ground::new();
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    let (other, elsewhere) = (ground.dir("other"), ground.dir("elsewhere"));
    let ours = attached(&ground, &source, &target);
    let impostor = Attached {
        inode: ours.inode + 1,
        ..ours
    };
    if !table::is_unique(ours.id) {
        let is_mounted = |at, what| ground.mounter.is_mounted(at, what).expect("look");
        assert!(is_mounted(&target, &ours));
        assert!(!is_mounted(&target, &impostor) && !is_mounted(&elsewhere, &ours));
        let gone = ground
            .mounter
            .detach(&elsewhere, &ours, DetachMode::Normal)
            .expect("nothing of ours stands there");
        assert_eq!(gone, Detached::AlreadyGone);
    }
    let gone = ground
        .mounter
        .detach(&target, &impostor, DetachMode::Normal)
        .expect("it is another one");
    assert_eq!(gone, Detached::AlreadyGone);
    ground.detach(&target, &ours);
    // The next mount gets the lowest free id.
    let next = attached(&ground, &other, &elsewhere);
    let gone = ground
        .mounter
        .detach(&target, &ours, DetachMode::Normal)
        .expect("it is gone");
    assert_eq!(gone, Detached::AlreadyGone);
    assert!(!ground.mounter.is_mounted(&target, &ours).expect("look"));
    ground.detach(&elsewhere, &next);
}

#[test]
fn root_both_tables_say_the_same() {
    let ground = Ground::new();
    let (source, target) = (ground.dir("source"), ground.dir("odd \\ \t name"));
    let ours = attached(&ground, &source, &target);
    let facts = |entries: Vec<super::super::MountEntry>| {
        let fact = |e: super::super::MountEntry| (e.target, e.device, e.root);
        let mut facts: Vec<_> = entries.into_iter().map(fact).collect();
        facts.sort();
        facts
    };
    let new = facts(table::all().expect("by number"));
    let old = facts(table::old().expect("from mountinfo"));
    assert_eq!(new, old);
    assert!(new.iter().any(|fact| fact.0 == target));
    ground.detach(&target, &ours);
}

/// Two threads put mounts on one place and take them away again; each must only ever take its own.
#[test]
fn root_no_call_takes_the_mount_of_another() {
    const ROUNDS: u32 = 500;
    const MEETINGS: u32 = 20;
    let ground = Ground::new();
    let target = ground.dir("target");
    let sources = [ground.dir("one"), ground.dir("two")];
    let met = AtomicU32::new(0);
    let fight = |source: &Path| {
        let mut rounds = 0;
        while rounds < ROUNDS || met.load(Ordering::Relaxed) < MEETINGS {
            rounds += 1;
            let ours = attached(&ground, source, &target);
            loop {
                match ground.mounter.detach(&target, &ours, DetachMode::Normal) {
                    Ok(Detached::Now) => break,
                    Err(MountError::Covered { .. } | MountError::Busy { .. }) => {
                        met.fetch_add(1, Ordering::Relaxed);
                    }
                    other => {
                        met.store(MEETINGS, Ordering::Relaxed); // the other must not wait
                        unreachable!("another call took {}: {other:?}", ours.id);
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let fights = sources
            .each_ref()
            .map(|source| scope.spawn(|| fight(source)));
        for fight in fights {
            fight.join().expect("no mount was lost");
        }
    });
    let left = ground.mounter.mounts_below(ground.disk.path());
    assert_eq!(left.expect("list"), []);
}

#[test]
fn root_two_thousand_binds() {
    const COUNT: usize = 2000;
    let ground = Ground::new();
    let (source, root) = (ground.dir("source"), ground.dir("root"));
    assert_eq!(
        ground.mounter.private_root(&root).expect("root"),
        PrivateRoot::Made
    );
    let places: Vec<_> = (0..COUNT)
        .map(|n| ground.dir(&format!("root/{n}")))
        .collect();
    let count = u32::try_from(COUNT).expect("it is small");
    let start = Instant::now();
    let ours: Vec<_> = places
        .iter()
        .map(|at| attached(&ground, &source, at))
        .collect();
    println!("{COUNT} binds: {:?} each", start.elapsed() / count);
    let start = Instant::now();
    let seen = ground.mounter.mounts_below(&root).expect("list");
    println!("listed in {:?}", start.elapsed());
    let seen: Vec<_> = seen.iter().map(|entry| entry.id).collect();
    assert_eq!(seen, ours.iter().map(|a| a.id).collect::<Vec<_>>());
    let start = Instant::now();
    for (place, ours) in places.iter().zip(&ours) {
        ground.detach(place, ours);
    }
    println!("{COUNT} detached: {:?} each", start.elapsed() / count);
    let gone = ground.mounter.release_private_root(&root).expect("root");
    assert_eq!(gone, Detached::Now);
}
