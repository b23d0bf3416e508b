//! Making, finding and changing volumes, and what stays of them after a restart.

use std::os::unix::fs::MetadataExt;

use serde_json::json;

use super::{World, text};

#[test]
fn root_a_volume_is_created_once() {
    let world = World::new();
    let create = ["volume", "create", "data", "-l", "app=web"];
    let options = ["--opt", "uid=1000", "--opt", "gid=7", "--opt", "mode=1770"];
    let create = [&create[..], &options[..]].concat();
    let first = world.one(&create);
    assert_eq!(first["created"], true);
    assert_eq!(first["labels"], json!({"app": "web"}));
    let options = json!({"uid": "1000", "gid": "7", "mode": "1770"});
    assert_eq!(first["options"], options);
    assert_eq!(
        (&first["driver"], &first["attachments"]),
        (&json!("local"), &json!(0))
    );

    let path = world.path("data");
    let top = path.metadata().unwrap();
    assert_eq!(
        (top.uid(), top.gid(), top.mode() & 0o7777),
        (1000, 7, 0o1770)
    );
    assert!(path.starts_with(world.daemon.root().join("volumes")));

    let mut again = world.one(&create);
    assert_eq!(again["created"], false);
    again["created"] = json!(true);
    assert_eq!(again, first);
    assert_eq!(
        world.run(&["volume", "create", "data"]),
        "data\n",
        "as it is"
    );
    assert_eq!(world.names(&[]), ["data"]);
}

#[test]
fn root_other_settings_are_refused_and_named() {
    let world = World::new();
    world.run(&[
        "volume", "create", "data", "-l", "app=web", "--opt", "mode=700",
    ]);
    world.run(&["volume", "create", "other"]);
    let before = world.inspect("data");
    let table = [
        (["-l", "app=db"], "labels[\"app\"]"),
        (["-l", "new=1"], "labels[\"new\"]"),
        (["--opt", "mode=755"], "options[\"mode\"]"),
        (["--opt", "uid=5"], "options[\"uid\"]"),
        (["--clone-of", "other"], "clone_of"),
    ];
    for (more, field) in table {
        let error = world.fail(4, &[&["volume", "create", "data"], &more[..]].concat());
        assert!(error.contains(field), "{more:?}: {error}");
    }
    assert_eq!(world.inspect("data"), before);
}

#[test]
fn root_names_and_settings_follow_their_rules() {
    let world = World::new();
    let longest = "n".repeat(255);
    let good = ["ab", "a.b", "0-9", "A_b.c-d", "a..", &longest];
    for name in &good {
        world.run(&["volume", "create", name]);
        assert!(world.link(name).exists(), "{name}");
    }
    let too_long = "n".repeat(256);
    let bad = [
        "a", ".ab", "_ab", "a/b", "../etc", "a b", "é牛", "a\nb", "ab:ro", &too_long,
    ];
    for name in bad {
        let error = world.fail(6, &["volume", "create", name]);
        assert!(error.contains("name"), "{name:?}: {error}");
        world.fail(6, &["volume", "rename", good[0], name]);
    }
    world.fail(6, &["volume", "create", "--", "-ab"]);
    let settings = [
        ["--driver", "nfs", "driver"],
        ["--opt", "size=-1", "size"],
        ["--opt", "uid=-1", "uid"],
        ["--opt", "mode=778", "mode"],
        ["--opt", "mode=10000", "mode"],
    ];
    for [flag, value, field] in settings {
        let error = world.fail(6, &["volume", "create", "other", flag, value]);
        assert!(error.contains(field), "{value}: {error}");
    }
    assert_eq!(world.names(&[]), good, "nothing else came to be");
}

#[test]
fn root_a_volume_without_a_name_gets_one() {
    let world = World::new();
    let first = world.one(&["volume", "create"]);
    let name = text(&first, "name");
    assert!(name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(first["anonymous"], true);
    assert_ne!(world.run(&["volume", "create"]).trim(), name);
    world.run(&["volume", "create", "named"]);
    assert_eq!(world.inspect("named")["anonymous"], false);
}

#[test]
fn root_labels_are_set_and_removed() {
    let mut world = World::new();
    world.run(&["volume", "create", "data", "-l", "a=1", "-l", "b=2"]);
    let labels = world.run(&["volume", "label", "data", "c=3=3", "a=4", "-r", "b"]);
    assert_eq!(labels, "a=4\nc=3=3\n");
    world.crash();
    assert_eq!(
        world.inspect("data")["labels"],
        json!({"a": "4", "c": "3=3"})
    );
    world.fail(3, &["volume", "label", "nothing", "a=1"]);
}

#[test]
fn root_a_rename_leaves_the_data_where_it_is() {
    let mut world = World::new();
    let path = world.create_with("old", "kept");
    world.run(&["volume", "create", "taken"]);
    assert_eq!(world.run(&["volume", "rename", "old", "new"]), "new\n");
    assert_eq!(
        (world.path("new"), world.read("new")),
        (path.clone(), "kept".to_owned())
    );
    let error = world.fail(4, &["volume", "rename", "new", "taken"]);
    assert!(error.contains("taken"), "{error}");
    let error = world.fail(3, &["volume", "inspect", "old"]);
    assert!(error.contains("layerctl volume ls"), "{error}");
    world.crash();
    assert_eq!(world.path("new"), path);
    assert_eq!(world.names(&[]), ["new", "taken"]);
}

#[test]
fn root_lists_show_what_the_filters_let_through() {
    let world = World::new();
    world.run(&[
        "volume", "create", "web-data", "-l", "app=web", "-l", "tier=1",
    ]);
    world.run(&["volume", "create", "web-logs", "-l", "app=web"]);
    world.run(&["volume", "create", "db-data", "-l", "app=db"]);
    world.run(&["volume", "create", "gone"]);
    world.run(&["volume", "rm", "gone"]);
    let table: [(&[&str], &[&str]); 10] = [
        (&[], &["web-data", "web-logs", "db-data"]),
        (&["-f", "name=data"], &["web-data", "db-data"]),
        (&["-f", "label=app=web"], &["web-data", "web-logs"]),
        (&["-f", "label=tier"], &["web-data"]),
        (
            &["-f", "label=app=web", "-f", "label=tier=1"],
            &["web-data"],
        ),
        (&["-f", "label=app=web", "-f", "name=logs"], &["web-logs"]),
        (&["-f", "label=app=we"], &[]),
        (&["-f", "driver=local", "-f", "name=db"], &["db-data"]),
        (&["-f", "driver=nfs"], &[]),
        (&["-f", "dangling=false"], &[]),
    ];
    for (filters, wanted) in table {
        assert_eq!(world.names(filters), wanted, "{filters:?}");
    }
    assert_eq!(world.names(&["-f", "dangling=true"]).len(), 3);
    let listed = world.json(&["volume", "ls", "-f", "name=logs"]);
    assert_eq!(listed, [world.inspect("web-logs")]);
    let deleted = world.json(&["volume", "ls", "--deleted"]);
    assert_eq!(
        (deleted.len(), text(&deleted[0], "name")),
        (1, "gone".to_owned())
    );
    assert!(deleted[0]["deleted_at"].is_string());
    let either = ["-f", "name=logs", "-f", "name=db"];
    assert_eq!(world.names(&either), ["web-logs", "db-data"]);
    let others = ["-f", "label!=app=web", "-f", "until=0s", "--sort", "name"];
    assert_eq!(world.names(&others), ["db-data"]);
    assert_eq!(
        world.names(&["--sort", "name"]),
        ["db-data", "web-data", "web-logs"]
    );
    assert_eq!(world.names(&["-f", "until=1h"]), [] as [&str; 0]);
    world.fail(6, &["volume", "ls", "-f", "driver=a", "-f", "driver=b"]);
    let error = world.fail(2, &["volume", "ls", "-f", "size=3"]);
    assert!(error.contains("there is no filter \"size\""), "{error}");
    let sized = world.run(&["volume", "ls", "--size"]);
    assert!(
        sized.starts_with("USES  AGE  DRIVER  SIZE  NAME\n"),
        "{sized}"
    );
    let table = world.run(&["volume", "ls"]);
    assert!(table.starts_with("USES  AGE  DRIVER  NAME\n"), "{table}");
}

#[test]
fn root_volumes_are_shown_in_docker_s_words() {
    let world = World::new();
    world.run(&[
        "volume", "create", "data", "-l", "app=web", "--opt", "mode=700",
    ]);
    world.run(&["volume", "create", "other"]);
    let array = world.run(&["volume", "inspect", "data", "other"]);
    let array: serde_json::Value = serde_json::from_str(&array).unwrap();
    let path = world.path("data");
    assert_eq!(array.as_array().unwrap().len(), 2);
    assert_eq!(array[0]["Name"], "data");
    assert_eq!(array[0]["Mountpoint"], path.to_str().unwrap());
    assert_eq!(array[0]["Labels"], json!({"app": "web"}));
    assert_eq!(array[0]["Options"], json!({"mode": "700"}));
    assert_eq!(
        (&array[0]["Scope"], &array[0]["Driver"]),
        (&json!("local"), &json!("local"))
    );
    let ended = world.ctl(&["volume", "inspect", "gone", "other"]);
    assert_eq!(ended.code, 3);
    assert!(ended.out.contains("\"Name\": \"other\""), "{ended:?}");
    let field = world.run(&["volume", "inspect", "-f", "{{.Mountpoint}}", "data"]);
    assert_eq!(field.trim_end(), path.to_str().unwrap());

    let format = |template: &str| world.run(&["volume", "ls", "--format", template]);
    assert_eq!(format("{{.Name}}:{{.Labels.app}}"), "data:web\nother:\n");
    assert_eq!(
        format("table {{.Name}}\\t{{.Driver}}"),
        "NAME   DRIVER\ndata   local\nother  local\n"
    );
    let first = format("json").lines().next().unwrap().to_owned();
    let first: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!(
        (&first["Name"], &first["Size"]),
        (&json!("data"), &json!("N/A"))
    );
    let error = world.fail(6, &["volume", "ls", "--format", "{{.Nmae}}"]);
    assert!(
        error.contains("Nmae") && error.contains("Mountpoint"),
        "{error}"
    );
    let error = world.fail(2, &["volume", "ls", "--format", "{{range .}}"]);
    assert!(error.contains("range"), "{error}");

    let people = world.run(&["volume", "show", "data"]);
    assert!(people.starts_with("Name: data\n"), "{people}");
    let update = [
        "volume",
        "update",
        "data",
        "--label-add",
        "tier=1",
        "--label-rm",
        "app",
    ];
    assert_eq!(world.run(&update), "data\n");
    assert_eq!(world.inspect("data")["labels"], json!({"tier": "1"}));
    world.fail(2, &["volume", "update", "data"]);
}

#[test]
fn root_a_list_is_shown_again_and_again() {
    use std::io::{BufRead, BufReader};

    let world = World::new();
    world.run(&["volume", "create", "data"]);
    let mut command = world.command(&["volume", "ls", "-q", "--watch=50ms"]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!((next(), next()), ("data".to_owned(), "data".to_owned()));
    world.run(&["volume", "rename", "data", "other"]);
    while next() != "other" {}
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn root_more_volumes_than_one_message_holds_are_listed() {
    let world = World::new();
    let names: Vec<String> = (0..250).map(|number| format!("v{number}")).collect();
    let script = "for i in $(seq 0 249); do \"$0\" --address \"$1\" volume create v$i; done";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-euc", script]);
    shell
        .arg(world.command(&[]).get_program())
        .arg(world.daemon.socket());
    layerd_integration::process::output(&mut shell);
    assert_eq!(world.names(&[]), names);
}

#[test]
fn root_data_survives_restarts_and_kills() {
    let mut world = World::new();
    let path = world.create_with("data", "precious");
    let before = world.inspect("data");
    world.daemon.stop();
    assert_eq!(
        std::fs::read_to_string(path.join("file")).unwrap(),
        "precious"
    );
    world.daemon.restart();
    assert_eq!(
        (world.inspect("data"), world.read("data").as_str()),
        (before.clone(), "precious")
    );
    for round in 0..3 {
        std::fs::write(path.join("file"), format!("round {round}")).unwrap();
        world.crash();
        assert_eq!(world.inspect("data"), before);
        assert_eq!(world.read("data"), format!("round {round}"));
    }
    world.daemon.stop();
    world.daemon.assert_no_errors_logged();
}

#[test]
fn root_links_for_people_lead_to_the_data() {
    let mut world = World::new();
    world.create_with("data", "linked");
    let read =
        |world: &World, name: &str| std::fs::read_to_string(world.link(name).join("file")).ok();
    let linked = Some("linked".to_owned());
    assert_eq!(read(&world, "data"), linked);
    world.run(&["volume", "rename", "data", "other"]);
    assert_eq!(
        (read(&world, "data"), read(&world, "other")),
        (None, linked.clone())
    );
    world.run(&["volume", "rm", "other"]);
    assert!(world.link("other").symlink_metadata().is_err());
    world.run(&["volume", "undelete", "other"]);
    assert_eq!(read(&world, "other"), linked);
    // Nothing rests on them: lost ones come back, false ones go. What layerd would not have made
    // stays.
    std::fs::remove_file(world.link("other")).unwrap();
    std::os::unix::fs::symlink("../9/data", world.link("false")).unwrap();
    std::os::unix::fs::symlink("/etc", world.link("foreign")).unwrap();
    world.crash();
    assert_eq!(read(&world, "other"), linked);
    assert!(world.link("false").symlink_metadata().is_err());
    assert!(world.link("foreign").symlink_metadata().is_ok());
}
