//! The protocol, call by call.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use layerd_integration::plugin::SOCKET;
use layerd_integration::process::output;
use serde_json::json;

use super::World;

#[test]
fn root_every_method_answers_as_the_protocol_has_it() {
    let world = World::new();
    let plugin = world.plugin();
    let activated = plugin.send("POST", "/Plugin.Activate", b"");
    assert_eq!(
        (activated.status, &activated.body),
        (200, &json!({ "Implements": ["VolumeDriver"] }))
    );
    assert_eq!(
        activated.content_type,
        "application/vnd.docker.plugins.v1.2+json"
    );
    assert_eq!(
        plugin.ok("Capabilities", &json!({})),
        json!({ "Capabilities": { "Scope": "local" } })
    );
    assert_eq!(
        fs::metadata(SOCKET).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let data = json!({ "Name": "data" });
    assert_eq!(plugin.refused("Get", &data), "no such volume: data");
    assert_eq!(plugin.refused("Path", &data), "no such volume: data");
    assert_eq!(plugin.refused("Remove", &data), "no such volume: data");
    assert!(
        plugin
            .refused("Mount", &json!({ "Name": "data", "ID": "a" }))
            .contains("data")
    );
    assert_eq!(plugin.names(), Vec::<String>::new());

    plugin.ok("Create", &json!({ "Name": "data", "Opts": null }));
    plugin.ok("Create", &data);
    let got = plugin.ok("Get", &data);
    let volume = &got["Volume"];
    assert_eq!(volume["Name"], "data");
    assert!(
        volume["CreatedAt"].as_str().unwrap().starts_with("20"),
        "{volume}"
    );
    let path = volume["Mountpoint"].as_str().unwrap().to_owned();
    assert!(Path::new(&path).is_dir());
    assert_eq!(volume["Status"]["holders"], json!([]));
    assert_eq!(plugin.names(), ["data"]);

    ids_are_a_set(&world, &path);
}

/// Mount and Unmount of a volume `data` at `path`, which is gone then.
fn ids_are_a_set(world: &World, path: &str) {
    let (plugin, data) = (world.plugin(), json!({ "Name": "data" }));
    let mount = |id: &str| plugin.ok("Mount", &json!({ "Name": "data", "ID": id }));
    let unmount = |id: &str| plugin.ok("Unmount", &json!({ "Name": "data", "ID": id }));
    for id in ["a", "a", "b"] {
        assert_eq!(mount(id)["Mountpoint"], path);
    }
    assert_eq!(plugin.ok("Path", &data)["Mountpoint"], path);
    assert_eq!(
        world.holders("data"),
        ["plugin:docker/mount/a", "plugin:docker/mount/b"],
        "ids are a set"
    );
    let refused = plugin.refused("Remove", &data);
    assert!(
        refused.contains("in use by plugin docker/mount/a"),
        "{refused}"
    );
    world.refuses_removal("data", "docker/mount/a");
    for id in ["a", "a", "never"] {
        unmount(id);
    }
    assert_eq!(world.holders("data"), ["plugin:docker/mount/b"]);
    unmount("b");
    plugin.ok("Remove", &data);
    assert_eq!(plugin.refused("Get", &data), "no such volume: data");
    // What is gone is not held.
    unmount("b");
    assert!(
        world
            .layerctl(&["volume", "ls", "--deleted"])
            .contains("data")
    );
    world.daemon.assert_no_errors_logged();
}

/// Requests that break a rule: verb, path, body, status and a part of the error.
const BAD: [(&str, &str, &str, u16, &str); 14] = [
    (
        "POST",
        "/VolumeDriver.Resize",
        "{}",
        404,
        "\"/VolumeDriver.Resize\" is not one of /Plugin.Activate",
    ),
    (
        "GET",
        "/VolumeDriver.List",
        "",
        405,
        "GET of /VolumeDriver.List is not POST",
    ),
    (
        "POST",
        "/VolumeDriver.Create",
        "{",
        400,
        "the request is no JSON",
    ),
    (
        "POST",
        "/VolumeDriver.Create",
        "[]",
        400,
        "it must be a JSON object",
    ),
    (
        "POST",
        "/VolumeDriver.Create",
        "{}",
        400,
        "Name: is missing",
    ),
    (
        "POST",
        "/VolumeDriver.Create",
        r#"{"Name":"../x"}"#,
        400,
        "Name: \"../x\" is no name of a volume",
    ),
    (
        "POST",
        "/VolumeDriver.Create",
        r#"{"Name":"x"}"#,
        400,
        "at least two characters",
    ),
    (
        "POST",
        "/VolumeDriver.Get",
        r#"{"Name":"a/b"}"#,
        400,
        "no name of a volume",
    ),
    (
        "POST",
        "/VolumeDriver.Mount",
        r#"{"Name":"xx"}"#,
        400,
        "ID: is missing",
    ),
    (
        "POST",
        "/VolumeDriver.Create",
        r#"{"Name":"xx","Opts":{"o":"ro"}}"#,
        400,
        "Opts[\"o\"]: is unknown; there are size",
    ),
    (
        "POST",
        "/VolumeDriver.Create",
        r#"{"Name":"xx","Opts":{"size":"big"}}"#,
        400,
        "\"big\" is not a size",
    ),
    (
        "POST",
        "/VolumeDriver.Create",
        r#"{"Name":"xx","Opts":{"uid":"root"}}"#,
        400,
        "\"root\" is not a user id",
    ),
    (
        "POST",
        "/VolumeDriver.Create",
        r#"{"Name":"xx","Opts":{"clone":"none"}}"#,
        500,
        "none",
    ),
    (
        "POST",
        "/VolumeDriver.Create",
        r#"{"Name":"xx","Opts":{"nocopy":"perhaps"}}"#,
        400,
        "\"perhaps\" is not true",
    ),
];

#[test]
fn root_bad_requests_are_refused_in_words_and_change_nothing() {
    let world = World::new();
    let plugin = world.plugin();
    let large = format!("{{\"Name\":\"{}\"}}", "a".repeat(1 << 17));
    let large = (
        "POST",
        "/VolumeDriver.Create",
        large.as_str(),
        413,
        "has over 65536 bytes",
    );
    for (verb, path, body, status, wanted) in BAD.into_iter().chain([large]) {
        let answer = plugin.send(verb, path, body.as_bytes());
        assert_eq!(
            answer.status,
            status,
            "{path} {}: {answer:?}",
            &body[..body.len().min(80)]
        );
        assert!(answer.error().contains(wanted), "{path}: {answer:?}");
    }
    assert_eq!(plugin.names(), Vec::<String>::new());
}

#[test]
fn root_options_do_what_they_say_and_no_more() {
    let world = World::new();
    let plugin = world.plugin();
    let create = |name: &str, options: serde_json::Value| json!({ "Name": name, "Opts": options });
    plugin.ok(
        "Create",
        &create(
            "data",
            json!({ "uid": "5", "gid": "6", "mode": "2750", "size": "10g" }),
        ),
    );
    let got = plugin.ok("Get", &json!({ "Name": "data" }));
    let path = Path::new(got["Volume"]["Mountpoint"].as_str().unwrap()).to_owned();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o7777),
        (5, 6, 0o2750)
    );
    let size = &got["Volume"]["Status"]["size"];
    assert_eq!(
        size,
        &json!({ "bytes": 10_737_418_240_u64, "limit": "enforced by an image" })
    );

    // The same in other words; then something else.
    plugin.ok("Create", &create("data", json!({ "size": "10GiB" })));
    let drift = plugin.refused("Create", &create("data", json!({ "size": "11g" })));
    assert!(
        drift.contains("size") && drift.contains("10737418240"),
        "{drift}"
    );

    fs::write(path.join("file"), "content").unwrap();
    plugin.ok("Create", &create("copy", json!({ "clone": "data" })));
    world.layerctl(&["volume", "snapshot", "data", "monday"]);
    let no_snapshot = plugin.refused("Create", &create("back", json!({ "snapshot": "data" })));
    assert!(
        no_snapshot.contains("volume data is no snapshot; clone=data"),
        "{no_snapshot}"
    );
    plugin.ok("Create", &create("back", json!({ "snapshot": "monday" })));
    for (name, from) in [("copy", "volume data"), ("back", "volume monday")] {
        let volume = &plugin.ok("Get", &json!({ "Name": name }))["Volume"];
        assert_eq!(volume["Status"]["filled_from"], from);
        let copied = Path::new(volume["Mountpoint"].as_str().unwrap()).join("file");
        assert_eq!(fs::read_to_string(copied).unwrap(), "content");
    }
    let read_only = plugin.refused("Mount", &json!({ "Name": "monday", "ID": "a" }));
    assert!(read_only.contains("-o snapshot=monday"), "{read_only}");
    assert_eq!(world.holders("monday"), Vec::<String>::new());

    plugin.ok("Create", &create("kept", json!({ "nocopy": "" })));
    let kept = plugin.ok("Get", &json!({ "Name": "kept" }));
    let status = kept["Volume"]["Status"]["nocopy"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(status.contains("volume-nocopy"), "{status}");
}

/// A volume made through one API is visible through the others, which can hold but not delete it.
#[test]
fn root_all_ways_lead_to_the_same_volumes() {
    let world = World::new();
    let plugin = world.plugin();
    world.layerctl(&["volume", "create", "data", "--label", "app=shop"]);
    assert_eq!(plugin.names(), ["data"]);
    let got = plugin.ok("Get", &json!({ "Name": "data" }));
    assert_eq!(got["Volume"]["Status"]["labels"], json!({ "app": "shop" }));
    world.layerctl(&["attach", "--owner", "pod:p1", "-v", "data:/srv"]);
    let refused = plugin.refused("Remove", &json!({ "Name": "data" }));
    assert!(refused.contains("pod p1"), "{refused}");
    plugin.ok("Mount", &json!({ "Name": "data", "ID": "a" }));
    world.layerctl(&["detach", "--owner", "pod:p1"]);
    world.refuses_removal("data", "docker/mount/a");
    let got = plugin.ok("Get", &json!({ "Name": "data" }));
    assert_eq!(
        got["Volume"]["Status"]["holders"][0]["owner"],
        "plugin docker/mount/a"
    );
    plugin.ok("Unmount", &json!({ "Name": "data", "ID": "a" }));
    world.layerctl(&["volume", "rm", "data"]);
    assert_eq!(plugin.names(), Vec::<String>::new());
}

/// Sends a request and prints the answer.
const CLIENT: &str = "
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(sys.argv[2].encode())
print(s.recv(65536).decode())
";

/// As dockerd with `PrivateMounts=`, or in a container.
#[test]
fn root_a_client_that_does_not_see_the_folder_is_told() {
    let world = World::new();
    world.plugin().ok("Create", &json!({ "Name": "data" }));
    let body = r#"{"Name":"data","ID":"a"}"#;
    let length = body.len();
    let request = format!(
        "POST /VolumeDriver.Mount HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let script = r#"mount -t tmpfs none "$0" && exec python3 -c "$@""#;
    let mut client = Command::new("unshare");
    client.args(["--mount", "sh", "-c", script]);
    client
        .arg(world.daemon.root())
        .args([CLIENT, SOCKET, &request]);
    let said = output(&mut client);
    assert!(
        said.contains("does not see") && said.contains("PrivateMounts="),
        "{said}"
    );
    assert_eq!(world.holders("data"), Vec::<String>::new());
}

/// A client that does not finish its request is not waited for; a stop takes a moment.
#[test]
fn root_half_a_request_does_not_keep_a_stop() {
    let mut world = World::new();
    for half in [
        "POST /VolumeDriver.List HTTP/1.1\r\nHost: x\r\n",
        "POST /VolumeDriver.List HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{",
    ] {
        let mut client = UnixStream::connect(SOCKET).unwrap();
        client.write_all(half.as_bytes()).unwrap();
        // Layerd has read it when it answers a later one.
        world.plugin().ok("List", &json!({}));
        let begun = Instant::now();
        world.daemon.stop();
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
        assert!(!Path::new(SOCKET).exists());
        world.daemon.restart();
    }
}

/// Acknowledged changes are durable, and a lost id can be released.
#[test]
fn root_answers_outlive_a_crash() {
    let mut world = World::new();
    let plugin = world.plugin();
    plugin.ok("Create", &json!({ "Name": "data" }));
    world.daemon.kill9();
    world.daemon.restart();
    let path = plugin.ok("Mount", &json!({ "Name": "data", "ID": "a" }))["Mountpoint"].clone();
    world.daemon.kill9();
    world.daemon.restart();
    assert_eq!(world.holders("data"), ["plugin:docker/mount/a"]);
    assert_eq!(
        plugin.ok("Mount", &json!({ "Name": "data", "ID": "a" }))["Mountpoint"],
        path,
        "the path is stable"
    );
    plugin.ok("Unmount", &json!({ "Name": "data", "ID": "a" }));
    world.daemon.kill9();
    world.daemon.restart();
    assert_eq!(world.holders("data"), Vec::<String>::new());
    plugin.ok("Remove", &json!({ "Name": "data" }));
    world.daemon.stop();
    assert!(!Path::new(SOCKET).exists(), "its own socket goes with it");
}

/// An empty list would tell Docker that its volumes are gone.
#[test]
fn root_lost_records_are_told_to_docker() {
    let mut world = World::new();
    let plugin = world.plugin();
    plugin.ok("Create", &json!({ "Name": "data" }));
    world.daemon.stop();
    let lost = world.scratch.path().join("lost");
    fs::rename(world.daemon.root().join("meta/db"), lost).unwrap();
    world.daemon.restart();
    assert_eq!(plugin.send("POST", "/Plugin.Activate", b"").status, 200);
    let refused = plugin.refused("List", &json!({}));
    assert!(refused.contains("layerctl restore"), "{refused}");
    world.layerctl(&["restore"]);
    layerd_integration::process::wait_until(
        "the plugin after a restore",
        std::time::Duration::from_secs(20),
        || plugin.call("List", &json!({})).status == 200,
    );
    assert_eq!(plugin.names(), ["data"]);
}
