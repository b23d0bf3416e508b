//! Mount flags and attachments, without a runtime.

use std::path::{Path, PathBuf};
use std::process::Command;

use layerd_integration::process::output;
use serde_json::{Value, json};

use super::{World, text};

const OWNER: [&str; 2] = ["--owner", "container:web"];

/// Answer of a call, without the fields that only the first call sets.
fn settled(mut all: Vec<Value>) -> Vec<Value> {
    for one in &mut all {
        one["created"] = json!(false);
        one["filled"] = json!(false);
    }
    all
}

fn by_id(mut all: Vec<Value>) -> Vec<Value> {
    all.sort_by_key(|one| text(one, "id").parse::<u64>().unwrap());
    all
}

#[test]
fn root_flags_are_normalised() {
    let world = World::new();
    let flags = [
        ["--tmpfs", "/run:size=64m"],
        ["-v", "./src:/data/src:ro"],
        ["-v", "data:/data"],
        ["--mount", "type=volume,src=other,dst=/other"],
    ];
    let flags: Vec<&str> = flags.concat();
    let parse = ["mount", "parse", "--base-dir", "/srv"];
    let parsed = world.json(&[&parse[..], &flags].concat());
    let find = |target: &str| parsed.iter().find(|one| one["target"] == target).unwrap();
    assert_eq!(parsed.len(), 4);
    assert_eq!(
        (
            text(find("/data/src"), "source"),
            text(find("/data/src"), "type")
        ),
        ("/srv/src".to_owned(), "bind".to_owned())
    );
    assert_eq!(
        (&find("/data")["on_missing"], &find("/data")["access"]),
        (&json!("create"), &json!("rw"))
    );
    assert_eq!(find("/other")["on_missing"], "fail");
    let place = |target: &str| parsed.iter().position(|one| one["target"] == target);
    assert!(place("/data") < place("/data/src"), "parents first");
    for one in &parsed {
        let canonical = text(one, "canonical");
        let again = world.run(&["mount", "parse", "--mount", &canonical]);
        assert_eq!(again.trim_end(), canonical);
    }
    let docker = [
        "mount",
        "parse",
        "--dialect",
        "docker",
        "--mount",
        "type=volume,src=other,dst=/other",
    ];
    assert_eq!(world.one(&docker)["on_missing"], "create");
    let here = world.one(&["mount", "parse", "-v", "./src:/src"]);
    let here_dir = std::env::current_dir().unwrap().join("src");
    assert_eq!(text(&here, "source"), here_dir.to_str().unwrap());
    let error = world.fail(6, &["mount", "parse", "-v", "data:data"]);
    assert!(
        error.contains("-v") && error.contains("data:data"),
        "{error}"
    );
    world.fail(2, &["mount", "parse"]);
}

#[test]
fn root_check_says_what_attaching_would_do() {
    let world = World::new();
    world.run(&["volume", "create", "there"]);
    let missing = "type=volume,src=missing,dst=/c";
    let flags = ["-v", "there:/a", "-v", "new:/b", "--mount", missing];
    let ended = world.ctl(&[&["-o", "json", "mount", "check"], &flags[..]].concat());
    assert_eq!(ended.code, 3, "{ended:?}");
    let decisions: Vec<String> = ended
        .out
        .lines()
        .map(|line| text(&serde_json::from_str(line).unwrap(), "decision"))
        .collect();
    assert_eq!(decisions, ["use", "create", "fail"]);
    assert_eq!(world.names(&[]), ["there"], "nothing was made");
}

#[test]
fn root_a_missing_volume_is_named_with_what_would_create_it() {
    let world = World::new();
    let attach = |mount: &'static str| [&["attach"][..], &OWNER, &["--mount", mount]].concat();
    let missing = attach("type=volume,src=nodata,dst=/data");
    let error = world.fail(3, &missing);
    for part in ["nodata", "on-missing=create", "-v nodata:/data"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let nothing = (world.names(&[]).len(), world.json(&["attachments"]).len());
    assert_eq!(nothing, (0, 0));
    world.fail(3, &attach("type=bind,src=/nowhere/at-all,dst=/data"));
    assert!(!Path::new("/nowhere").exists());
    world.fail(3, &attach("type=image,src=none,dst=/data"));
    // One that fails takes the others with it.
    world.run(&["volume", "create", "there"]);
    world.fail(3, &[&missing[..], &["-v", "there:/a"]].concat());
    assert_eq!(world.json(&["attachments"]).len(), 0);
    world.run(&attach(
        "type=volume,src=nodata,dst=/data,on-missing=create",
    ));
    assert_eq!(world.names(&[]), ["there", "nodata"]);
}

#[test]
fn root_attachments_survive_kills_and_are_answered_again() {
    let mut world = World::new();
    world.commit_image();
    let (seen, bound) = (world.scratch.dir("seen"), world.scratch.dir("bound"));
    let target = format!("/data={}", seen.display());
    let bind = format!("{}:/bound:ro", bound.display());
    let attach = [
        &["attach"][..],
        &OWNER,
        &["-v", "data:/data", "-v", &bind, "-v", "/anonymous"],
        &["--mount", "type=image,src=image,dst=/tools"],
        &["--target", &target],
    ]
    .concat();
    let first = world.json(&attach);
    assert_eq!(first.len(), 4);
    assert!(
        first.iter().all(|one| one["state"] == "attached"),
        "{first:?}"
    );
    let first = settled(first);
    std::fs::write(seen.join("file"), "through the mount").unwrap();
    assert_eq!(world.read("data"), "through the mount");
    let mounts = world.mounts();
    assert!(mounts.contains(&seen), "{mounts:?}");
    let volumes = world.names(&[]);
    assert_eq!(volumes.len(), 2);
    for round in 0..3 {
        world.crash();
        assert_eq!(world.mounts(), mounts, "round {round}");
        assert_eq!(
            by_id(settled(world.json(&["attachments"]))),
            by_id(first.clone())
        );
        assert_eq!(world.json(&attach), first, "nothing is made twice");
        assert_eq!(world.names(&[]), volumes);
        assert_eq!(world.mounts(), mounts, "round {round}");
        world.fail(5, &["volume", "rm", "data"]);
    }
    world.daemon.stop();
    assert_eq!(world.mounts(), mounts);
    world.daemon.restart();
    let detached = world.run(&["detach", "--owner", "container:web"]);
    assert_eq!(detached.lines().count(), 4);
    assert_eq!(world.mounts(), [] as [PathBuf; 0]);
    world.crash();
    assert_eq!(world.json(&["attachments"]).len(), 0);
    for again in [&["--owner", "container:web"][..], &["container:web:/data"]] {
        let error = world.fail(3, &[&["detach"], again].concat());
        assert!(error.contains("container:web"), "{error}");
        assert_eq!(world.run(&[&["detach", "-f"], again].concat()), "");
    }
    assert_eq!(world.read("data"), "through the mount");
    world.run(&["volume", "rm", "data"]);
}

#[test]
fn root_a_key_stands_for_one_thing() {
    let world = World::new();
    let attach =
        |more: [&'static str; 2]| [&["attach"][..], &OWNER, &["--key", "mine"], &more].concat();
    let first = world.one(&attach(["-v", "data:/data"]));
    assert_eq!(text(&first, "key"), "mine:/data");
    let error = world.fail(4, &attach(["-v", "other:/data"]));
    assert!(
        error.contains("mine:/data") && error.contains("mount"),
        "{error}"
    );
    world.fail(4, &attach(["-v", "data:/data:ro"]));
    let other = [
        "attach",
        "--owner",
        "pod:x",
        "--key",
        "mine",
        "-v",
        "data:/data",
    ];
    world.fail(4, &other);
    assert_eq!(world.names(&[]), ["data"], "a refused one makes nothing");
    world.fail(6, &["attach", "--owner", "unknown:x", "-v", "data:/data"]);
    world.fail(2, &["attach", "--owner", "container", "-v", "data:/data"]);
    let path = world.json(&["attachments", "--owner", "container:web"]);
    assert_eq!(path.len(), 1);
    assert_eq!(world.json(&["attachments", "--owner", "pod:x"]).len(), 0);
    assert_eq!(world.json(&["attachments", "--volume", "data"]).len(), 1);
    world.fail(3, &["who-uses", "nothing"]);
    let nowhere = [
        "attach",
        "--owner",
        "pod:x",
        "-v",
        "data:/data",
        "--target",
        "/other=/mnt",
    ];
    world.fail(6, &nowhere);
}

#[test]
fn root_a_busy_mount_is_not_taken_away() {
    let world = World::new();
    let seen = world.scratch.dir("seen");
    let target = format!("/data={}", seen.display());
    let attach = [
        &["attach"][..],
        &OWNER,
        &["-v", "data:/data", "--target", &target],
    ]
    .concat();
    world.run(&attach);
    let mut user = Command::new("sleep")
        .arg("600")
        .current_dir(&seen)
        .spawn()
        .unwrap();
    let refused = world.ctl(&["detach", "--owner", "container:web"]);
    let lazily = world.ctl(&["detach", "--owner", "container:web", "--lazy"]);
    user.kill().unwrap();
    user.wait().unwrap();
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(
        refused.error.contains(&user.id().to_string()),
        "names who: {refused:?}"
    );
    assert_eq!(
        (lazily.code, lazily.out.as_str()),
        (0, "container:web:/data\n"),
        "{lazily:?}"
    );
    assert_eq!(world.mounts(), [] as [PathBuf; 0]);
}

#[test]
fn root_a_mount_of_another_program_stays_where_it_is() {
    let world = World::new();
    let seen = world.scratch.dir("seen");
    let mut mount = Command::new("mount");
    output(mount.args(["-t", "tmpfs", "theirs"]).arg(&seen));
    std::fs::write(seen.join("file"), "theirs").unwrap();
    let target = format!("/data={}", seen.display());
    let flags = ["-v", "new:/new", "-v", "data:/data", "--target", &target];
    let error = world.fail(5, &[&["attach"][..], &OWNER, &flags].concat());
    assert!(error.contains("seen"), "{error}");
    assert_eq!(std::fs::read(seen.join("file")).unwrap(), b"theirs");
    let nothing = (world.names(&[]).len(), world.json(&["attachments"]).len());
    assert_eq!(nothing, (0, 0));
}

#[test]
fn root_an_empty_volume_is_filled_from_the_image_once() {
    let world = World::new();
    world.commit_image();
    let attach = |key: &'static str, mount: &'static str| {
        let flags = ["--key", key, "--fill-from", "image", "--mount", mount];
        [&["attach"][..], &OWNER, &flags].concat()
    };
    let seeded = attach("a", "type=volume,src=seeded,dst=/seed,on-missing=create");
    assert_eq!(world.one(&seeded)["filled"], true);
    assert_eq!(world.read("seeded"), "from the image");
    let stat = output(
        Command::new("stat")
            .args(["-c", "%u %g %a"])
            .arg(world.path("seeded")),
    );
    assert_eq!(stat.trim(), "5 6 750", "the folder itself, too");
    std::fs::write(world.path("seeded").join("file"), "mine").unwrap();
    assert_eq!(world.one(&seeded)["filled"], false);
    world.run(&["detach", "a:/seed"]);
    let again = attach("b", "type=volume,src=seeded,dst=/seed");
    assert_eq!(world.one(&again)["filled"], false);
    assert_eq!(world.read("seeded"), "mine");
    let bare = attach(
        "c",
        "type=volume,src=bare,dst=/seed,on-missing=create,volume-nocopy",
    );
    assert_eq!(world.one(&bare)["filled"], false);
    assert_eq!(std::fs::read_dir(world.path("bare")).unwrap().count(), 0);
}

#[test]
fn root_what_cannot_be_mounted_is_said_before_anything_is_made() {
    let world = World::new();
    let access = |flag: &str| text(&world.one(&["mount", "parse", "-v", flag]), "access");
    assert_eq!(access("/srv:/x:ro"), "ro-if-possible");
    assert_eq!(access("/srv:/x:ro,rslave"), "ro", "only the top, for good");
    let private = world.scratch.dir("private");
    let mut mount = Command::new("mount");
    output(mount.args(["-t", "tmpfs", "private"]).arg(&private));
    let slave = format!("{}:/x:ro,rslave", private.display());
    let inside = format!("{}:/x", world.daemon.root().join("meta").display());
    for (flag, why) in [(&slave, "which is private"), (&inside, "data directory")] {
        let error = world.ctl(&[&["attach"][..], &OWNER, &["-v", flag]].concat());
        assert!(error.code != 0 && error.error.contains(why), "{error:?}");
        let checked = world.ctl(&["mount", "check", "-v", flag]);
        assert_eq!(checked.code, 3, "{checked:?}");
        assert!(checked.out.contains(why), "{checked:?}");
    }
    let root = world.daemon.root().display();
    let holder = world.scratch.path().display();
    for target in ["/", &format!("{root}/volumes"), &format!("{holder}")] {
        let target = format!("/new={target}");
        let attach = [
            &["attach"][..],
            &OWNER,
            &["-v", "new:/new", "--target", &target],
        ];
        let error = world.fail(6, &attach.concat());
        assert!(error.contains("target_path"), "{error}");
    }
    let nothing = (world.names(&[]).len(), world.json(&["attachments"]).len());
    assert_eq!(nothing, (0, 0));
}

#[test]
fn root_nested_targets_come_and_go_together() {
    let world = World::new();
    let outer = world.create_with("outer", "outer");
    std::fs::create_dir(outer.join("inner")).unwrap();
    let seen = world.scratch.dir("seen");
    let targets = [
        format!("/a={}", seen.join("inner").display()),
        format!("/b/c={}", seen.display()),
    ];
    let flags = [
        "-v",
        "inner:/a",
        "-v",
        "outer:/b/c",
        "--target",
        &targets[0],
        "--target",
        &targets[1],
    ];
    let attach = [&["attach"][..], &OWNER, &flags].concat();
    for _ in 0..2 {
        world.run(&attach);
        world.run(&attach);
        assert_eq!(world.mounts(), [seen.clone(), seen.join("inner")]);
        let detached = world.run(&["detach", "--owner", "container:web"]);
        assert_eq!(detached.lines().count(), 2);
        assert_eq!(world.mounts(), [] as [PathBuf; 0]);
    }
}

/// A mount at the target, or above it, shows something else to those who look there.
#[test]
fn root_what_another_mount_hides_is_not_attached() {
    let world = World::new();
    let data = world.create_with("data", "content");
    let (above, seen) = (world.scratch.dir("above"), world.scratch.dir("above/seen"));
    let target = format!("/data={}", seen.display());
    let flags = ["-v", "data:/data", "--target", &target];
    let attach = [&["attach"], &OWNER[..], &flags].concat();
    world.run(&attach);
    for hidden in [&seen, &above] {
        output(
            Command::new("mount")
                .args(["-t", "tmpfs", "none"])
                .arg(hidden),
        );
        std::fs::create_dir_all(&seen).unwrap();
        world.fail(5, &attach);
        output(Command::new("umount").arg(hidden));
        world.run(&attach);
        assert!(seen.join("file").exists() == data.join("file").exists());
        let at_target = world.mounts();
        assert_eq!(at_target.iter().filter(|path| **path == seen).count(), 1);
    }
}
