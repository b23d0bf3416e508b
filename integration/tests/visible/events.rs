//! `layerctl events` and `volume watch`: each event reaches its subscribers, and a slow one delays no
//! operation.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use layerd_integration::metrics::get;
use layerd_integration::plugin::own_run;
use layerd_integration::process::output;
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;
use serde_json::Value;

use super::World;

/// Longer than anything here takes, on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A command that goes on, and what it has shown. Killed when dropped.
struct Watcher {
    child: Child,
    lines: Receiver<String>,
}

impl Watcher {
    /// Starts it and waits until it watches: until it shows what is done again and again.
    fn start(world: &mut World, arguments: &[&str]) -> Self {
        let mut command = world.command(&[&["-o", "json"], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        // Ends with the command.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _gone = sender.send(line);
            }
        });
        let mut watcher = Self { child, lines };
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    world.ctl(&["snapshot", "prepare", "tick"]);
                    world.ctl(&["snapshot", "rm", "tick"]);
                    world.ctl(&["volume", "create", "tick"]);
                    world.ctl(&["volume", "rm", "tick"]);
                }
            });
            watcher.any();
            done.store(true, Ordering::Relaxed);
        });
        watcher
    }

    fn any(&mut self) -> Value {
        let line = self.lines.recv_timeout(LIMIT).expect("it goes on");
        serde_json::from_str(&line).unwrap()
    }

    /// The next that is no consequence of the start.
    fn next(&mut self) -> Value {
        loop {
            let event = self.any();
            let is_reaped = event["topic"] == "trash" && event["what"] == "deleted";
            if event["subject"] != "tick" && !is_reaped {
                return event;
            }
        }
    }

    /// The next so many, as `topic what subject`.
    fn told(&mut self, count: usize) -> Vec<String> {
        let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
        let one = |event: Value| {
            ["topic", "what", "subject"]
                .map(|field| text(&event, field))
                .join(" ")
        };
        (0..count).map(|_| one(self.next())).collect()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Fails only where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(world: &World, arguments: &[&str]) {
    let ended = world.ctl(arguments);
    assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
}

#[test]
fn root_everything_that_changes_is_told_in_order() {
    let mut world = World::new("");
    let mut watcher = Watcher::start(&mut world, &["events"]);
    let archive = world.scratch.path().join("layer.tar");
    output(
        Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .args(["-C", "/etc", "hostname"]),
    );
    let archive = archive.to_str().unwrap();
    for arguments in [
        &["snapshot", "prepare", "key"][..],
        &["layer", "apply", "key", archive],
        &["snapshot", "commit", "base", "key"],
        &["snapshot", "label", "base", "a=b"],
        &["snapshot", "view", "look", "base"],
        &["snapshot", "rm", "look"],
        &["trash", "restore", "look"],
        &["volume", "create", "data"],
        &["attach", "--owner", "container:web", "-v", "data:/data"],
        &["detach", "--owner", "container:web"],
        &["volume", "rm", "data"],
        &["trash", "empty", "--yes"],
    ] {
        run(&world, arguments);
    }
    let wanted = [
        "snapshot prepared key",
        "layer unpacked key",
        "snapshot committed base",
        "snapshot updated base",
        "snapshot viewed look",
        "snapshot removed look",
        "snapshot restored look",
        "volume created data",
        "attachment attached container:web:/data",
        "attachment detached container:web:/data",
        "volume deleted data",
        "trash emptied on demand",
    ];
    assert_eq!(watcher.told(wanted.len()), wanted);
    let event = watcher.any();
    assert_eq!(
        (&event["topic"], &event["what"]),
        (&"trash".into(), &"deleted".into())
    );
    assert!(event["at"].as_str().unwrap().ends_with('Z'), "{event}");
    assert_eq!(event["missed"], 0);
}

#[test]
fn root_a_volume_that_fills_up_is_told_and_measured() {
    let more = "metrics.address = \"unix:/run/layerd-metrics.sock\"";
    own_run();
    let mut world = World::new(more);
    let mut watcher = Watcher::start(&mut world, &["events", "--topic", "volume"]);
    run(&world, &["volume", "create", "--size", "16m", "data"]);
    run(&world, &["volume", "create", "free"]);
    assert_eq!(
        watcher.told(2),
        ["volume created data", "volume created free"]
    );
    let volume = world.daemon.root().join("volumes/by-name/data");
    let inside = statvfs(&volume).unwrap();
    let size = inside.blocks() * inside.fragment_size();
    for (file, percent, told) in [
        ("one", 82, "volume 80_percent_full data"),
        ("two", 15, "volume 95_percent_full data"),
    ] {
        let content = vec![1; usize::try_from(size * percent / 100).unwrap()];
        fs::write(volume.join(file), content).unwrap();
        assert_eq!(watcher.told(1), [told]);
    }
    let listed = world.ctl(&["volume", "ls", "--size"]).out;
    let mut lines = listed.lines().filter(|line| line.contains('%'));
    let line = lines.next().unwrap();
    assert!(line.contains(" 9") && line.ends_with("  data"), "{listed}");
    assert!(
        listed.contains("FULL") && lines.next().is_none(),
        "{listed}"
    );
    let page = get(Path::new("/run/layerd-metrics.sock"), "/metrics").1;
    let of = |name: &str| {
        let name = format!("layerd_volume_{name}{{volume=\"data\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert!(of("limit_bytes") == size && of("limit_inodes") > 0);
    assert!(of("used_bytes") * 100 >= of("limit_bytes") * 95, "{page}");
    assert!(!page.contains("volume=\"free\""), "it was never measured");
    fs::write(volume.join("one"), "").unwrap();
    fs::write(volume.join("two"), "").unwrap();
    assert_eq!(watcher.told(1), ["volume below_80_percent data"]);

    // Who unmounts it, to check it for one, is not undone by a look.
    let content = volume.canonicalize().unwrap();
    output(Command::new("umount").arg(&content));
    let page = get(Path::new("/run/layerd-metrics.sock"), "/metrics").1;
    assert!(!page.contains("layerd_volume_limit_bytes"), "{page}");
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_eq!(
        device(&content),
        device(content.parent().unwrap()),
        "not mounted"
    );
    run(&world, &["volume", "rm", "data"]);
    let page = get(Path::new("/run/layerd-metrics.sock"), "/metrics").1;
    assert!(!page.contains("layerd_volume_"), "{page}");
}

#[test]
fn root_a_limited_layer_that_fills_up_is_told_and_measured() {
    let more = "metrics.address = \"unix:/run/layerd-metrics.sock\"";
    own_run();
    let mut world = World::new(more);
    world.fill();
    let mut watcher = Watcher::start(&mut world, &["events", "--topic", "snapshot"]);
    let limit = &[("containerd.io/snapshot/layerd.size", "16m")];
    let mounts = world.client.prepare("one", "top", limit).unwrap();
    let options = mounts[0].options.iter();
    let mut upper = options.filter_map(|option| option.strip_prefix("upperdir="));
    let upper = PathBuf::from(upper.next().unwrap());
    assert_eq!(watcher.told(1), ["snapshot prepared one"]);
    let inside = statvfs(&upper).unwrap();
    let size = inside.blocks() * inside.fragment_size();
    for (file, percent, told) in [
        ("one", 82, "snapshot 80_percent_full one"),
        ("two", 15, "snapshot 95_percent_full one"),
    ] {
        let content = vec![1; usize::try_from(size * percent / 100).unwrap()];
        fs::write(upper.join(file), content).unwrap();
        assert_eq!(watcher.told(1), [told]);
    }
    let page = || get(Path::new("/run/layerd-metrics.sock"), "/metrics").1;
    let of = |name: &str| {
        let name = format!("layerd_snapshot_{name}{{snapshot=\"one\"}} ");
        let page = page();
        let line = page.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap().parse::<u64>().unwrap()
    };
    let (limit, used) = (of("limit_bytes"), of("used_bytes"));
    assert!(limit == size && used * 100 >= limit * 95, "{used}");
    assert!(of("limit_inodes") > of("used_inodes") && of("used_inodes") > 2);
    assert!(!page().contains("snapshot=\"work\""), "it has no limit");

    for command in [&["snapshot", "ls", "--usage"][..], &["du"]] {
        let rows = world.json(command);
        let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
        assert_eq!(row("one")["fullness"]["limit_bytes"], limit);
        assert_eq!(row("one")["fullness"]["used_bytes"], used);
        assert_eq!(row("work")["fullness"], Value::Null);
        let text = world.ctl(command).out;
        let line = text.lines().find(|line| line.ends_with(" one")).unwrap();
        let percent = format!(" {}% ", used * 100 / limit);
        assert!(text.contains("FULL") && line.contains(&percent), "{text}");
    }
    let shown = world.ctl(&["snapshot", "inspect", "one"]).out;
    assert!(shown.contains("Limit: 16m\nUsed of it: "), "{shown}");

    fs::write(upper.join("one"), "").unwrap();
    fs::write(upper.join("two"), "").unwrap();
    assert_eq!(watcher.told(1), ["snapshot below_80_percent one"]);
    // What was unmounted is not mounted for a look.
    let image = upper.parent().unwrap();
    output(Command::new("umount").arg(image));
    assert!(!page().contains("layerd_snapshot_limit_bytes"));
    assert!(!upper.exists(), "not mounted");
    world.client.remove("one").unwrap();
    assert_eq!(watcher.told(1), ["snapshot removed one"]);
    assert!(!page().contains("snapshot=\"one\""));
}

#[test]
fn root_events_of_before_can_be_asked_for() {
    let mut world = World::new("");
    let key = "k".to_owned();
    world.client.prepare(&key, "", &[]).unwrap();
    run(&world, &["volume", "create", "data"]);
    let since = |time: &str, count: &str| {
        let arguments = ["-o", "json", "events", "--since", time, "-n", count];
        let events = world.ctl(&arguments).json();
        let text =
            |event: &Value| format!("{} {}", event["what"], event["subject"]).replace('"', "");
        events.iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(since("1h", "2"), ["prepared k", "created data"]);
    assert_eq!(since("2000-01-01T00:00:00Z", "1"), ["prepared k"]);
    let of_volumes = ["events", "--since", "1h", "-t", "volume", "-n", "1"];
    assert!(world.ctl(&of_volumes).out.ends_with("  data\n"));
    let refused = world.ctl(&["events", "--since", "yesterday"]);
    assert_eq!(refused.code, 2, "{refused:?}");
}

#[test]
fn root_the_guard_is_told() {
    let mut world = World::guarded();
    for key in ["a", "b", "c"] {
        world.client.prepare(key, "", &[]).unwrap();
    }
    let mut watcher = Watcher::start(
        &mut world,
        &["events", "--topic", "trash", "--topic", "volume"],
    );
    // The ticks of the start may have held it.
    run(&world, &["trash", "empty", "--yes"]);
    while watcher.any()["what"] != "emptied" {}
    for key in ["a", "b", "c"] {
        world.client.remove(key).unwrap();
    }
    let held = watcher.next();
    assert_eq!(
        (&held["topic"], &held["what"]),
        (&"trash".into(), &"held".into())
    );
    assert!(
        held["subject"].as_str().unwrap().starts_with("3 snapshots"),
        "{held}"
    );
    run(&world, &["trash", "empty", "--release-only", "--yes"]);
    assert_eq!(watcher.told(1), ["trash released the mass-removal guard"]);
}

#[test]
fn root_only_what_was_asked_for_is_told() {
    let mut world = World::new("");
    let arguments = ["events", "--topic", "snapshot", "--prefix", "t", "-n", "0"];
    let mut watcher = Watcher::start(&mut world, &arguments);
    run(&world, &["volume", "create", "two"]);
    world.client.prepare("one", "", &[]).unwrap();
    world.client.prepare("two", "", &[]).unwrap();
    assert_eq!(watcher.told(1), ["snapshot prepared two"]);
    let refused = world.ctl(&["events", "--topic", "weather"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    // It ends with the daemon.
    world.daemon.stop();
    let ended = watcher.child.wait().unwrap();
    assert_eq!(ended.code(), Some(7), "unavailable");
}

/// The keys are long, so that what the connection holds is soon full.
#[test]
fn root_a_stopped_watcher_delays_no_operation_and_is_told_its_missed_events() {
    let mut world = World::new("");
    let key = "k".repeat(4000);
    world.client.prepare(&key, "", &[]).unwrap();
    let mut watcher = Watcher::start(&mut world, &["events"]);
    watcher.signal(Signal::SIGSTOP);
    const CHANGES: u64 = 2000;
    for number in 0..CHANGES {
        let number = number.to_string();
        world.client.relabel(&key, &[("n", &number)], None).unwrap();
    }
    watcher.signal(Signal::SIGCONT);
    let (mut told, mut missed) = (0, 0);
    while told + missed < CHANGES {
        let event = watcher.next();
        missed += event["missed"].as_u64().unwrap();
        told += u64::from(event["what"] == "updated");
    }
    assert!(missed > 0 && told >= 1024, "{told} told, {missed} missed");
    assert_eq!(told + missed, CHANGES);
    world.client.remove(&key).unwrap();
    assert_eq!(watcher.next()["what"], "removed");
}

#[test]
fn root_volumes_have_a_watch_of_their_own() {
    let mut world = World::new("");
    let mut watcher = Watcher::start(&mut world, &["volume", "watch", "--progress"]);
    run(&world, &["volume", "create", "data"]);
    run(&world, &["volume", "rename", "data", "kept"]);
    for wanted in [("created", "data"), ("renamed", "kept")] {
        let event = watcher.next();
        assert_eq!(
            (&event["what"], &event["subject"]),
            (&wanted.0.into(), &wanted.1.into())
        );
    }
}
