//! `layerctl doctor` beside a real containerd.

use std::fs;
use std::path::PathBuf;

use layerd_integration::{Containerd, Version};
use serde_json::Value;

use super::World;

/// layerd, and a containerd that has it unpack, where that is possible. Dropped in this order.
pub(super) struct Both {
    pub(super) containerd: Containerd,
    pub(super) world: World,
    config: PathBuf,
}

impl Both {
    pub(super) fn new(version: Version) -> Self {
        Self::with_layers(version, "directories")
    }

    /// With layers of this form.
    pub(super) fn with_layers(version: Version, form: &str) -> Self {
        let world = World::new(&format!("overlayfs.layers = \"{form}\""));
        let dir = world.scratch.dir("c");
        let start = match version {
            Version::V1_6 => Containerd::start,
            _ => Containerd::start_unpacking,
        };
        let containerd = start(version, &dir, world.daemon.socket());
        let config = dir.join("containerd.toml");
        Self {
            containerd,
            world,
            config,
        }
    }

    /// Exit code, and what is not well.
    pub(super) fn doctor(&self, more: &[&str]) -> (i32, Vec<Value>) {
        let config = self.config.to_str().unwrap();
        let asked = ["-o", "json", "doctor", "--containerd-config", config];
        let ended = self.world.ctl(&[&asked[..], more].concat());
        let mut found = ended.json();
        found.retain(|one| one["severity"] != "ok" && one["severity"] != "info");
        (ended.code, found)
    }

    /// The one trouble there is.
    fn error(&self, check: &str, text: &str, more: &[&str]) {
        let (code, found) = self.doctor(more);
        assert_eq!((code, found.len()), (2, 1), "{found:#?}");
        assert_eq!(found[0]["check"], check, "{found:#?}");
        let said = found[0]["found"].as_str().unwrap();
        assert!(said.contains(text), "{said}");
        let told = |field: &str| found[0][field].as_str().unwrap().contains("containerd");
        assert!(told("fix") || told("advice"), "{found:#?}");
    }

    /// Replaces text in containerd's file; answers what was there.
    fn edit(&self, from: &str, to: &str) -> String {
        let before = fs::read_to_string(&self.config).unwrap();
        let after = before.replace(from, to);
        assert_ne!(before, after);
        fs::write(&self.config, after).unwrap();
        before
    }
}

#[test]
fn root_a_containerd_that_is_set_up_has_no_trouble() {
    for version in [Version::V1_6, Version::V1_7, Version::V2_1] {
        let both = Both::new(version);
        assert_eq!(both.doctor(&[]), (0, Vec::new()), "{version:?}");
    }
}

#[test]
fn root_each_mistake_about_containerd_is_named() {
    let mut both = Both::new(Version::V2_1);
    let socket = both.world.daemon.socket().display().to_string();
    both.error(
        "containerd's drop-in",
        "do not name elsewhere",
        &["--snapshotter", "elsewhere"],
    );

    // Changed after the start: the one that runs still has the old address.
    let good = both.edit(&socket, "/run/missing.sock");
    let (code, found) = both.doctor(&[]);
    assert_eq!(code, 2);
    let said: Vec<_> = found
        .iter()
        .map(|one| one["found"].as_str().unwrap())
        .collect();
    let names = format!("names the socket /run/missing.sock, and layerd serves {socket}");
    assert!(said.iter().any(|text| text.contains(&names)), "{said:#?}");
    assert!(
        said.iter().any(|text| text.contains("containerd calls")),
        "{said:#?}"
    );
    fs::write(&both.config, &good).unwrap();

    both.edit("snapshotter = \"layerd\"", "snapshotter = \"other\"");
    both.error(
        "containerd's transfer service",
        "has no entry for layerd",
        &[],
    );
    fs::write(&both.config, format!("{good}\nthis is no TOML")).unwrap();
    both.error("containerd's configuration", "containerd.toml", &[]);
    fs::write(&both.config, &good).unwrap();

    both.containerd.stop();
    both.error("containerd", "cannot reach containerd", &[]);
    fs::write(&both.config, "version = 3\n").unwrap();
    let (_, found) = both.doctor(&[]);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[1]["found"]
            .as_str()
            .unwrap()
            .contains("do not name layerd"),
        "{found:#?}"
    );
}

/// It was started before its file named layerd.
#[test]
fn root_a_containerd_that_was_not_restarted_is_named() {
    let both = Both::new(Version::V1_7);
    let added = format!(
        "\n[proxy_plugins.late]\ntype = \"snapshot\"\naddress = \"{}\"\n",
        both.world.daemon.socket().display()
    );
    let text = fs::read_to_string(&both.config).unwrap();
    fs::write(&both.config, text + &added).unwrap();
    let late = ["--snapshotter", "late"];
    both.error("containerd's plugin", "has not loaded late", &late);
}
