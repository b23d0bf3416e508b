//! Everything is removed at once, as a collector does that has lost its own records.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use layerd_integration::process::wait_until;

use super::{Ended, State, World, end, programs};

const GUARD: &str = "keep_secs = 2\nguard_min = 3";
/// Longer than removed layers are kept.
const LONG: Duration = Duration::from_secs(4);
/// Children before parents.
const ALL: [&str; 5] = ["look", "work", "lone", "top", "base"];

/// Coming back counts as a change of its time.
fn timeless(mut state: State) -> State {
    for info in &mut state.list {
        info.updated_at = None;
    }
    state
}

fn remove_all(world: &mut World) -> State {
    let before = world.state();
    for key in ALL {
        world.client.remove(key).unwrap();
    }
    assert_eq!(world.client.list(), []);
    before
}

/// Nothing is deleted and everybody can see why.
fn assert_held(world: &World) {
    world.sh("for id in 1 2 3 4; do test -d l/$id; done; grep -q base l/1/base");
    let text = world.run(&["info"]);
    assert!(text.starts_with("ALARM: "), "{text}");
    assert!(text.contains("layerctl trash empty"), "{text}");
    assert_eq!(
        world.json(&["info"])[0]["alarms"].as_array().unwrap().len(),
        1
    );
    assert_eq!(world.json(&["trash", "ls"]).len(), ALL.len());
}

#[test]
fn root_the_guard_holds_and_everything_comes_back() {
    let mut world = World::new(GUARD);
    world.furnish();
    assert_eq!(world.json(&["info"])[0]["alarms"], serde_json::json!([]));
    let before = remove_all(&mut world);
    thread::sleep(LONG);
    assert_held(&world);
    world.daemon.stop();
    world.restart();
    thread::sleep(LONG);
    assert_held(&world);
    world.kill();
    world.restart();
    thread::sleep(LONG);
    assert_held(&world);

    let text = world.run(&["trash", "restore", "--all"]);
    let mut back: Vec<&str> = text.lines().collect();
    back.sort_unstable();
    let mut all = ALL;
    all.sort_unstable();
    assert_eq!(back, all);
    assert_eq!(timeless(world.state()), timeless(before));
    assert_eq!(world.run(&["fsck"]), "No problems.\n");
}

#[test]
fn root_the_trash_can_be_let_go() {
    let mut world = World::new(GUARD);
    world.furnish();
    remove_all(&mut world);
    thread::sleep(LONG);
    let refused = world.ctl(&["trash", "empty"]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.error.contains("--force"), "{refused:?}");
    assert_held(&world);
    assert_eq!(world.json(&["trash", "empty", "--yes"])[0]["layers"], 5);
    world.daemon.assert_empty();
    let text = world.run(&["info"]);
    assert!(!text.contains("ALARM"), "{text}");
    assert_eq!(world.json(&["trash", "ls"]).len(), 0);
}

#[test]
fn root_the_guard_can_be_released_alone() {
    let mut world = World::new(GUARD);
    world.furnish();
    remove_all(&mut world);
    world.run(&["trash", "restore", "--all"]);
    world.run(&["trash", "empty", "--release-only", "--yes"]);
    assert!(!world.run(&["info"]).contains("ALARM"));
    assert_eq!(world.client.list().len(), ALL.len(), "what is back stays");
    world.client.remove("lone").unwrap();
    thread::sleep(LONG);
    // Two more could follow within the minute.
    world.sh("test -d l/4");
    assert!(!world.run(&["info"]).contains("ALARM"));
    assert_eq!(world.json(&["trash", "empty", "--yes"])[0]["layers"], 1);
    wait_until("layer 4 is deleted", Duration::from_secs(15), || {
        world.json(&["trash", "ls"]).is_empty()
    });
    world.sh("test ! -e t/4 && test ! -e l/4");
}

#[test]
fn root_single_snapshots_come_back_by_key_and_id() {
    let mut world = World::new("");
    world.furnish();
    let before = remove_all(&mut world);
    let missing = world.ctl(&["trash", "restore", "missing"]);
    assert_eq!(missing.code, 3, "{missing:?}");
    let orphan = world.ctl(&["trash", "restore", "top"]);
    assert_eq!(orphan.code, 5, "its parent was removed too: {orphan:?}");
    assert!(orphan.error.contains("--all"), "{orphan:?}");
    // In any order, by key and by id.
    assert_eq!(world.run(&["trash", "restore", "top", "1"]), "base\ntop\n");
    world.client.prepare("lone", "", &[]).unwrap();
    let taken = world.ctl(&["trash", "restore", "lone", "work", "look"]);
    assert_eq!(
        (taken.code, taken.out.as_str()),
        (5, "work\nlook\n"),
        "{taken:?}"
    );
    world.client.remove("lone").unwrap();
    let twice = world.ctl(&["trash", "restore", "lone"]);
    assert_eq!(twice.code, 6, "two had that key: {twice:?}");
    assert!(twice.error.contains("by its id: 4, "), "{twice:?}");
    let back = &world.json(&["trash", "restore", "4"])[0];
    assert_eq!((&back["id"], &back["key"]), (&"4".into(), &"lone".into()));
    assert_eq!(timeless(world.state()), timeless(before));
}

#[test]
fn root_emptying_asks_on_a_terminal() {
    let mut world = World::new("");
    world.furnish();
    remove_all(&mut world);
    let no = on_terminal(&world, "n\n");
    assert_eq!(no.code, 5, "{no:?}");
    assert!(no.out.contains("Delete 5 removed snapshots"), "{no:?}");
    assert_eq!(world.json(&["trash", "ls"]).len(), 5);
    let yes = on_terminal(&world, "y\n");
    assert_eq!(yes.code, 0, "{yes:?}");
    world.daemon.assert_empty();
}

/// Runs `trash empty` on a terminal of its own and types `answer`.
fn on_terminal(world: &World, answer: &str) -> Ended {
    let (program, socket) = (programs().join("layerctl"), world.daemon.socket());
    let line = format!(
        "{} --address {} trash empty",
        program.display(),
        socket.display()
    );
    let mut typist = Command::new("sh")
        .args(["-c", "sleep 1; cat; sleep 1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    typist
        .stdin
        .take()
        .unwrap()
        .write_all(answer.as_bytes())
        .unwrap();
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]);
    command.stdin(typist.stdout.take().unwrap());
    let ended = end(&mut command);
    assert!(typist.wait().unwrap().success());
    ended
}
