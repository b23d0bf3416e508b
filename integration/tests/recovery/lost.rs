//! The database is lost or damaged, and comes back with one command.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use layerd_integration::process::wait_until;
use layerd_integration::snapshots::channel;

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{World, layer_dir};

#[test]
fn root_a_lost_database_comes_back() {
    loses_and_gets_back("rm -r meta/db", None);
}

#[test]
fn root_a_truncated_database_comes_back() {
    loses_and_gets_back("for f in $(find meta/db -type f); do : > $f; done", None);
}

#[test]
fn root_a_garbled_database_comes_back() {
    let garble = "for f in $(find meta/db -type f -size +0); do
        head -c 65536 /dev/urandom | dd of=$f conv=notrunc status=none; done";
    loses_and_gets_back(garble, None);
}

/// The database itself is whole then, and has what no export has.
#[test]
fn root_a_garbled_format_file_takes_nothing_along() {
    keeps_all("head -c 9 /dev/urandom > meta/format");
}

/// Without the number of the last commit the database cannot vouch for its end.
#[test]
fn root_a_lost_sequence_file_takes_nothing_along() {
    keeps_all("rm meta/sequence");
}

fn keeps_all(loss: &str) {
    let mut world = World::new("");
    world.furnish();
    world.daemon.stop();
    world.restart();
    make_newer(&mut world);
    let before = world.sh("ls l");
    world.sh(loss);
    world.restart();
    let refused = world.client.stat("top").unwrap_err();
    assert!(
        refused.message().contains("still holds") && refused.message().contains("nothing on disk"),
        "{refused:?}"
    );
    let text = world.run(&["restore"]);
    assert!(
        text.contains("are back: 6, from the records that the damaged database still holds"),
        "{text}"
    );
    assert_eq!(world.sh("ls l"), before);
    wait_until("the client to dial again", Duration::from_secs(5), || {
        world.client.stat("newer").is_ok()
    });
    assert_eq!(world.run(&["fsck"]), "No problems.\n");
}

/// A restore goes back; how far is said before it is asked for.
#[test]
fn root_a_database_lost_with_its_format_says_what_a_restore_gives_up() {
    let mut world = World::new("");
    world.furnish();
    world.daemon.stop();
    let export = world.sh("ls meta | grep export | sort -t . -k 2n | tail -n 1");
    world.restart();
    world.commit("newer", "top");
    world.make_volume("younger");
    world.kill();
    world.sh(&format!(
        "for file in meta/export.*; do [ $file = meta/{export} ] || rm $file; done
        rm -r meta/db meta/format meta/sequence; touch -d '5 hours ago' meta/{export}",
        export = export.trim()
    ));
    world.restart();
    let info = &world.json(&["info"])[0];
    let alarm = info["alarms"][0].as_str().unwrap();
    let says =
        "goes back to the newest export, 5 h old; 1 layers (which go to lost/) and 1 volumes";
    assert!(alarm.contains(says), "{alarm}");
}

#[test]
fn root_a_lost_metadata_folder_comes_back_from_a_backup() {
    loses_and_gets_back("rm -r meta", Some("backup"));
}

/// Stops in order on request, with lost records too.
fn stop_and_restart(world: &mut World) {
    world.daemon.stop();
    assert!(!world.daemon.socket().exists());
    world.restart();
    assert_rescue(world);
}

fn loses_and_gets_back(loss: &str, backup: Option<&str>) {
    let mut world = World::new("");
    world.furnish();
    let file = backup.map(|name| world.scratch.path().join(name));
    let file = file.as_ref().map(|path| path.to_str().unwrap());
    if let Some(file) = file {
        world.run(&["backup", file]);
    }
    let before = world.state();
    world.daemon.stop(); // which writes the last export
    world.restart();
    let newer = make_newer(&mut world);
    world.sh(loss);
    world.restart();

    // Someone who says nothing, and someone who asks and keeps the connection.
    let _idle = UnixStream::connect(world.daemon.socket()).unwrap();
    assert_rescue(&mut world);
    stop_and_restart(&mut world);
    if let Some(file) = file {
        let none = world.ctl(&["restore"]);
        assert_eq!(none.code, 3, "{none:?}");
        assert!(none.error.contains("layerctl restore FILE"), "{none:?}");
        assert_rescue(&mut world);
        let wrong = world.scratch.path().join("config.toml");
        let wrong = world.ctl(&["restore", wrong.to_str().unwrap()]);
        assert_eq!(wrong.code, 6, "{wrong:?}");
        assert!(wrong.error.contains("is no backup"), "{wrong:?}");
        let text = world.run(&["restore", file]);
        assert!(
            text.contains(&format!("are back: 5, from {file}")),
            "{text}"
        );
    } else {
        let text = world.run(&["restore"]);
        assert!(
            text.contains("are back: 5, from the newest export"),
            "{text}"
        );
        assert!(
            text.contains("aside: 1, newer") && text.contains("/lost"),
            "{text}"
        );
    }

    // The same client goes on. It read nothing from its old connection meanwhile, so it hears
    // only with its next call that this one ends.
    wait_until("the client to dial again", Duration::from_secs(5), || {
        world.client.stat("top").is_ok()
    });
    assert_eq!(world.state(), before);
    let lost = world.daemon.root().join(format!("lost/l-{newer}"));
    assert_eq!(std::fs::read(lost.join("newer")).unwrap(), b"newer\n");
    assert_works(&mut world, &newer);
    assert_eq!(world.run(&["fsck"]), "No problems.\n");
    let again = world.ctl(&["restore"]);
    assert_eq!(again.code, 5, "{again:?}");
    assert!(again.error.contains("records are sound"), "{again:?}");
    world.daemon.stop();
    world.restart();
    assert_eq!(world.state(), before);
    assert!(
        !world.daemon.log().contains("panicked at"),
        "{}",
        world.daemon.log()
    );
}

/// Makes a snapshot and crashes before it is exported. Answers the name of its directory.
fn make_newer(world: &mut World) -> String {
    let exports = world.sh("ls meta | grep export");
    world.commit("newer", "top");
    let slot = world.sh("ls l | sort | tail -n 1").trim().to_owned();
    world.sh(&format!("grep -q newer l/{slot}/newer"));
    world.kill();
    for export in world.sh("ls meta | grep export").lines() {
        if !exports.contains(export) {
            world.sh(&format!("rm meta/{export}"));
        }
    }
    slot
}

/// It is named, and exports go on beside it.
#[test]
fn root_a_broken_export_of_a_higher_number_is_logged() {
    let mut world = World::new("");
    world.furnish();
    world.daemon.stop();
    world.sh("head -c 4096 /dev/urandom > meta/export.999999");
    world.restart();
    let log = world.daemon.log();
    let named = log.lines().filter(|line| {
        line.contains(" WARN ")
            && line.contains("an export is of no use")
            && line.contains("export.999999")
    });
    assert!(named.count() > 0, "{log}");
    let exports = "ls meta | grep '^export.' | grep -v 999999";
    let before = world.sh(exports);
    world.client.prepare("more", "top", &[]).unwrap();
    world.daemon.stop();
    assert_ne!(world.sh(exports), before, "a new one was written");
    world.sh("test -e meta/export.999999");
}

fn health(world: &World) -> ServingStatus {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut client = HealthClient::new(channel(world.daemon.socket().to_owned()));
        let reply = client.check(HealthCheckRequest::default()).await;
        reply.unwrap().into_inner().status()
    })
}

fn assert_rescue(world: &mut World) {
    assert_eq!(health(world), ServingStatus::NotServing);
    let refused = world.client.stat("top").unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(
        refused.message().contains("`layerctl restore"),
        "{refused:?}"
    );
    let refused = world.client.prepare("x", "top", &[]).unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let commands: [&[&str]; 6] = [
        &["snapshot", "ls"],
        &["trash", "ls"],
        &["trash", "empty", "--yes"],
        &["trash", "restore", "--all"],
        &["fsck"],
        &["backup", "-"],
    ];
    for command in commands {
        let ended = world.ctl(command);
        assert_eq!(ended.code, 7, "{command:?}: {ended:?}");
        assert!(
            ended.error.contains(refused.message()),
            "all of it: {ended:?}"
        );
    }
    let text = world.run(&["info"]);
    assert!(
        text.starts_with(&format!("ALARM: {}", refused.message())),
        "{text}"
    );
    let info = &world.json(&["info"])[0];
    assert_eq!(info["alarms"][0], refused.message());
    assert_eq!(info["driver"], "");
}

/// A client can go on as if nothing had happened, and no id is used twice.
fn assert_works(world: &mut World, newer: &str) {
    let mounts = world.client.prepare("next", "top", &[]).unwrap();
    let dir = layer_dir(&mounts);
    let slot = dir.file_name().unwrap().to_str().unwrap();
    let number = |slot: &str| u64::from_str_radix(slot, 36).unwrap();
    assert!(number(slot) > number(newer), "{slot} is used again");
    std::fs::write(dir.join("next"), "next").unwrap();
    world.client.commit("next-layer", "next", &[]).unwrap();
    world.client.remove("next-layer").unwrap();
}
