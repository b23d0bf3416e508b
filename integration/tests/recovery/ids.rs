//! An id that is shown anywhere is the name of its folder.

use std::path::Path;

use serde_json::Value;

use super::{World, layer_dir};

/// Name of the last folder of a path.
fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap()
}

impl World {
    /// A layer on another whose id is `1a`, which is no decimal number; its id.
    fn lettered(&mut self) -> String {
        self.commit("base", "");
        for number in 2..46 {
            self.client.prepare(&format!("k{number}"), "", &[]).unwrap();
        }
        let dir = layer_dir(&self.client.prepare("look", "base", &[]).unwrap());
        let id = name(&dir).to_owned();
        assert!(id.contains(char::is_alphabetic), "{id}");
        id
    }
}

#[test]
fn root_ids_of_layers_name_their_folders() {
    let mut world = World::new("");
    let id = world.lettered();
    let shown = world.json(&["snapshot", "inspect", "look"]).remove(0);
    let options = shown["mounts"][0]["options"].as_array().unwrap();
    let mut options = options.iter().filter_map(Value::as_str);
    let upper = options.find_map(|one| one.strip_prefix("upperdir="));
    assert_eq!(name(Path::new(upper.unwrap())), id);
    world.sh(&format!("rm -r w/{id}"));
    let found = world.json_of(&["fsck"]);
    let problem = format!("layer {id} of snapshot \"look\" has no work directory");
    assert_eq!(text(&found[0], "problem"), problem);
    world.ctl(&["fsck", "--repair"]);
    let log = world.daemon.log();
    assert!(log.contains(&format!("layer {id} of snapshot")), "{log}");
    world.client.remove("look").unwrap();
    let removed = world.json(&["trash", "ls"]).remove(0);
    assert_eq!(
        (text(&removed, "id"), text(&removed, "key")),
        (&*id, "look")
    );
    world.sh(&format!("test -d l/{id}"));
    assert_eq!(world.run(&["trash", "restore", &id]), "look\n");
}

#[test]
fn root_ids_of_volumes_and_attachments_name_their_folders() {
    let mut world = World::new("");
    world.lettered();
    let made = world.json(&["volume", "create", "data"]).remove(0);
    let id = text(&made, "id").to_owned();
    assert!(id.contains(char::is_alphabetic), "{id}");
    world.sh(&format!("test -d volumes/{id}/data"));
    let bind = "type=bind,src=/usr,dst=/usr";
    let held = world.json(&["attach", "--owner", "person:me", "--mount", bind]);
    assert_eq!(
        name(Path::new(text(&held[0], "mounted_at"))),
        text(&held[0], "id")
    );
    world.run(&["detach", "--owner", "person:me"]);
    let gone = world.json(&["volume", "rm", "data"]).remove(0);
    assert_eq!(text(&gone, "id"), id);
    let log = world.daemon.log();
    assert!(log.contains(&format!("id={id}")), "{log}");
    world.sh(&format!("test -d volumes/.trash/{id}"));
    assert_eq!(
        world.run(&["volume", "ls", "--deleted", "-q"]),
        format!("{id}\n")
    );
    assert_eq!(world.run(&["volume", "undelete", &id]), "data\n");
}

/// Ids have letters, and so may a name be another volume's id.
#[test]
fn root_an_id_that_another_volume_had_as_its_name_is_refused() {
    let mut world = World::new("");
    world.lettered();
    let made = world.json(&["volume", "create", "data"]).remove(0);
    let id = text(&made, "id");
    world.run(&["volume", "create", id]);
    world.run(&["volume", "rm", "data", id]);
    for command in [
        &["volume", "purge", "--force", id][..],
        &["volume", "undelete", id],
    ] {
        let refused = world.ctl(command);
        assert_eq!(refused.code, 6, "{refused:?}");
        assert!(
            refused.error.contains("\"data\" by that name"),
            "{refused:?}"
        );
    }
    assert_eq!(world.run(&["volume", "undelete", "data"]), "data\n");
    assert_eq!(world.run(&["volume", "undelete", id]), format!("{id}\n"));
}
