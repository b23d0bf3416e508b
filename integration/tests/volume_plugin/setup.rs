//! `layerctl setup docker` and `setup podman`.

use std::fs;

use layerd_integration::plugin::SOCKET;

use super::World;

/// Docker finds the usual socket by itself; what is written goes again, unless it was edited.
#[test]
fn root_setup_writes_what_docker_and_podman_need_and_takes_it_back() {
    let world = World::new();
    let dir = world.scratch.dir("etc");
    let setup = |program: &str, more: &[&str]| {
        let fixed = ["setup", program, "--dir", dir.to_str().unwrap()];
        world.try_layerctl(&[&fixed[..], more].concat())
    };
    let said = |program: &str, more: &[&str]| {
        let ended = setup(program, more);
        assert!(ended.status.success(), "{ended:?}");
        String::from_utf8(ended.stdout).unwrap()
    };
    assert!(said("docker", &["--write"]).contains(&format!("Docker finds {SOCKET} by itself")));
    let spec = dir.join("layerd.spec");
    assert!(!spec.exists());
    let other = ["--socket", "/run/layerd/docker.sock"];
    assert_eq!(said("docker", &other), "unix:///run/layerd/docker.sock\n");
    said("docker", &[&other[..], &["--write"]].concat());
    assert_eq!(
        fs::read_to_string(&spec).unwrap(),
        "unix:///run/layerd/docker.sock\n"
    );
    fs::write(&spec, "tcp://elsewhere:1\n").unwrap();
    assert!(
        !setup("docker", &["--remove"]).status.success(),
        "it was edited"
    );
    fs::write(&spec, "unix:///run/layerd/docker.sock\n").unwrap();
    said("docker", &["--remove"]);
    assert!(!spec.exists());

    let printed = said("podman", &[]);
    let wanted = format!("[engine.volume_plugins]\nlayerd = \"{SOCKET}\"\n");
    assert!(printed.contains(&wanted), "{printed}");
    said("podman", &["--write"]);
    let drop_in = dir.join("layerd.conf");
    assert_eq!(fs::read_to_string(&drop_in).unwrap(), printed);
    assert!(said("podman", &["--write"]).contains("is up to date"));
    fs::write(&drop_in, format!("{printed}# mine\n")).unwrap();
    for more in ["--write", "--remove"] {
        assert!(
            !setup("podman", &[more]).status.success(),
            "{more}: it was edited"
        );
    }
    fs::write(&drop_in, &printed).unwrap();
    said("podman", &["--remove"]);
    assert!(!drop_in.exists());
    assert!(said("podman", &["--remove"]).contains("There is no"));

    let doctor = world.try_layerctl(&["-o", "json", "doctor"]);
    let found = String::from_utf8(doctor.stdout).unwrap();
    let of_plugin = found
        .lines()
        .find(|line| line.contains("\"volume plugin\""));
    assert!(
        of_plugin.is_some_and(|line| line.contains("\"ok\"")),
        "{found}"
    );
}
