//! Everything that root of a user namespace cannot have is refused by name.

use std::process::Output;

use layerd_integration::scratch::profile;

use super::{World, text};

const NAMED: &str = "layerd runs in a user namespace";

#[test]
fn root_limits_and_mappings_are_refused() {
    let world = World::new();
    world.layerctl(&["snapshot", "prepare", "a"]);
    world.layerctl(&["snapshot", "commit", "base", "a"]);
    let label = |name: &str| format!("containerd.io/snapshot/{name}");
    let size = format!("{}=64m", label("layerd.size"));
    let said = world.refused(&["snapshot", "prepare", "b", "base", "--label", &size]);
    assert!(
        said.contains("layerd.size") && said.contains(NAMED),
        "{said}"
    );
    let ids = ["uidmapping", "gidmapping"].map(|name| format!("{}=0:1000:10", label(name)));
    let mapped = [
        "snapshot", "prepare", "b", "base", "--label", &ids[0], "--label", &ids[1],
    ];
    let said = world.refused(&mapped);
    assert!(
        said.contains("id mappings") && said.contains(NAMED),
        "{said}"
    );
    let said = world.refused(&["volume", "create", "--size", "64m", "data"]);
    assert!(said.contains("size") && said.contains(NAMED), "{said}");
    world.layerctl(&["snapshot", "rm", "base"]);
    world.daemon.assert_empty();
    world.daemon.assert_no_errors_logged();
}

#[test]
fn root_check_and_info_say_what_cannot_be() {
    let world = World::new();
    let (is_well, said) = check(&world, &[]);
    assert!(is_well, "{said}");
    for line in [
        "ok   user namespace: inside one, with users 0 to 65536, groups 0 to 65536; overlayfs keeps",
        "ok   devices in layers: left out and logged",
        "ok   id-mapped layers: refused",
        "ok   open_tree and move_mount: works",
        "ok   mount_setattr: works",
    ] {
        assert!(said.contains(line), "no {line}: {said}");
    }
    let info = world.layerctl(&["info"]);
    for part in [
        "userxattr: true",
        "user namespace: inside one",
        "limits: none: layerd runs in",
    ] {
        assert!(info.contains(part), "no {part}: {info}");
    }
    for driver in ["aufs", "btrfs", "devicemapper"] {
        let (is_well, said) = check(&world, &["--driver", driver]);
        let named = format!("{NAMED}, where the driver {driver} cannot work: ");
        assert!(!is_well && said.contains(&named), "{said}");
    }
    let images = world.scratch.path().join("images.toml");
    std::fs::write(&images, "[overlayfs]\nlayers = \"images\"\n").unwrap();
    let (is_well, said) = check(&world, &["--config", text(&images)]);
    assert!(
        !is_well && said.contains("FAIL layers: images cannot be mounted"),
        "{said}"
    );
    assert!(said.contains(NAMED), "{said}");
}

/// Runs `layerd check` on a root of its own. Answers whether it passed, and its output.
fn check(world: &World, arguments: &[&str]) -> (bool, String) {
    let root = super::owned(&world.scratch, "checked");
    let mut command = world.namespace.command(&profile().join("layerd"));
    command
        .args(["check", "--root", text(&root)])
        .args(arguments);
    let Output { status, stdout, .. } = command.output().unwrap();
    std::fs::remove_dir(&root).unwrap_or_default();
    (status.success(), String::from_utf8(stdout).unwrap())
}

/// Without paths in the settings those of the user count.
#[test]
fn root_a_user_has_default_paths_of_its_own() {
    let world = World::new();
    let home = text(world.scratch.path());
    let mut command = world.namespace.command(&profile().join("layerd"));
    command.args(["check", "--json"]);
    command
        .env_remove("XDG_DATA_HOME")
        .env_remove("XDG_CONFIG_HOME");
    command
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", format!("{home}/run"));
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    for (key, path) in [
        ("root", ".local/share/layerd"),
        ("socket.path", "run/layerd/layerd.sock"),
        ("containerd.address", "run/containerd/containerd.sock"),
        ("containerd.root", ".local/share/containerd"),
        ("docker.api", "run/docker.sock"),
    ] {
        let setting = format!("\"{key}\":\"{home}/{path}\"");
        assert!(said.contains(&setting), "no {setting}: {said}");
    }
}
