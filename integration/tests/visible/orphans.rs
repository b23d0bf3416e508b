//! `layerctl orphans` beside a real containerd.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use layerd_integration::image;
use layerd_integration::process::wait_until;
use layerd_integration::{Image, Version};
use serde_json::Value;

use super::Ended;
use super::containerds::Both;

const NAME: &str = "docker.io/test/image:1";
/// As the harness has `ctr` use it.
const NAMESPACE: &str = "layerd-test";

impl Both {
    fn orphans(&self, more: &[&str]) -> Ended {
        self.world.ctl(&[&["-o", "json", "orphans"], more].concat())
    }

    /// State, key and command of each, all snapshots compared.
    fn differences(&self) -> Vec<Value> {
        let ended = self.orphans(&["--grace", "0"]);
        let found = ended.json();
        assert_eq!(
            ended.code,
            if found.is_empty() { 0 } else { 11 },
            "{ended:?}"
        );
        assert_eq!(ended.error, "");
        found
    }

    /// Makes two orphans and a foreign snapshot, of which `orphans rm` takes the orphans alone.
    fn remove_orphans(&mut self) {
        for key in ["gone/8/a", "gone/9/b", "by-hand"] {
            self.world.client.prepare(key, "", &[]).unwrap();
        }
        let rm = |more: &[&str]| self.orphans(&[&["--grace", "0", "rm"], more].concat());
        assert_eq!(rm(&[]).code, 5, "it asks first");
        assert_eq!(rm(&["-f", "by-hand"]).code, 3);
        assert_eq!(self.differences().len(), 3);
        let removed = rm(&["-f"]).json();
        let mut removed: Vec<&str> = removed
            .iter()
            .map(|one| one["removed"].as_str().unwrap())
            .collect();
        removed.sort_unstable();
        assert_eq!(removed, ["gone/8/a", "gone/9/b"]);
        assert_eq!(self.one()["key"], "by-hand");
        self.world.client.remove("by-hand").unwrap();
    }

    fn one(&self) -> Value {
        let found = self.differences();
        assert_eq!(found.len(), 1, "{found:#?}");
        found[0].clone()
    }

    /// An image, and a container of it that does not run.
    pub(super) fn furnish(&self) -> Image {
        let image = Image::build(&self.world.scratch.dir("image"), NAME, &image::tiny(2));
        let import = [
            "images",
            "import",
            "--snapshotter",
            "layerd",
            image.archive(),
        ];
        self.containerd.ctr(&import);
        self.containerd.ctr(&[
            "containers",
            "create",
            "--snapshotter",
            "layerd",
            NAME,
            "web",
        ]);
        image
    }

    /// Every layer has the name of its image, and what is not containerd's has none.
    fn images(&mut self, image: &Image) {
        let list = self.world.json(&["snapshot", "ls"]);
        assert_eq!(list.len(), 3, "two layers and a container: {list:?}");
        assert!(
            list.iter()
                .all(|one| one["images"] == serde_json::json!([NAME])),
            "{list:?}"
        );
        self.world.client.prepare("mine", "", &[]).unwrap();
        for command in [&["snapshot", "ls"][..], &["du"]] {
            let text = self.world.ctl(command).out;
            assert!(text.lines().next().unwrap().contains(" IMAGE "), "{text}");
            let mut lines = text.lines();
            let mine = lines.find(|line| line.ends_with(" mine")).unwrap();
            assert!(mine.split_whitespace().any(|word| word == "-"), "{text}");
            let mut lines = text.lines();
            let web = lines.find(|line| line.ends_with("/web")).unwrap();
            assert!(web.contains(NAME), "{text}");
        }
        self.world.client.remove("mine").unwrap();
        let top = self.backend(image.top());
        let why = self.world.ctl(&["why", &top]).out;
        assert!(why.contains(&format!("for the image {NAME}.")), "{why}");
        let format = ["snapshot", "ls", "--format", "{{join .Images \" \"}}"];
        assert_eq!(self.world.ctl(&format).out, format!("{NAME}\n").repeat(3));
    }

    /// layerd's name of what containerd's clients call `key`.
    fn backend(&self, key: &str) -> String {
        let names = self.world.json(&["snapshot", "ls"]);
        let mut names = names.iter().map(|one| one["name"].as_str().unwrap());
        names
            .find(|name| name.ends_with(&format!("/{key}")))
            .unwrap()
            .to_owned()
    }

    /// Runs its fix.
    fn mend(&self, one: &Value) {
        let text = one["fix"].as_str().unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words[0], "layerctl", "{text}");
        let ended = self.world.ctl(&words[1..]);
        assert_eq!(ended.code, 0, "{ended:?}");
    }
}

#[test]
fn root_each_difference_is_named_and_mended_as_announced() {
    for version in [Version::V1_6, Version::V1_7, Version::V2_1] {
        let mut both = Both::new(version);
        let image = both.furnish();
        assert_eq!(both.differences(), Vec::<Value>::new(), "{version:?}");
        both.images(&image);

        both.world.client.prepare("by-hand", "", &[]).unwrap();
        let foreign = both.one();
        assert_eq!(
            (&foreign["state"], &foreign["kind"]),
            (&"foreign".into(), &"active".into())
        );
        assert!(foreign["bytes"].as_u64().unwrap() > 0);
        both.mend(&foreign);

        // A namespace that containerd does not have, and one that it has.
        for key in ["gone/7/db", &format!("{NAMESPACE}/700/db")] {
            both.world.client.prepare(key, "", &[]).unwrap();
            let orphan = both.one();
            assert_eq!(
                (&orphan["state"], &orphan["key"]),
                (&"orphan".into(), &key.into())
            );
            assert_eq!(orphan["client_key"], "db");
            both.mend(&orphan);
        }
        both.remove_orphans();

        let web = both.backend("web");
        both.world.client.remove(&web).unwrap();
        let missing = both.one();
        assert_eq!(
            (&missing["state"], &missing["key"]),
            (&"missing".into(), &"web".into())
        );
        assert_eq!(missing["needed_by"], serde_json::json!(["container web"]));
        assert_eq!(missing["namespace"], NAMESPACE);
        both.mend(&missing);
        assert_eq!(both.differences(), Vec::<Value>::new(), "{version:?}");
    }
}

/// A layer that is gone, and not in the trash either: containerd pulls the image again.
#[test]
fn root_an_image_whose_layer_is_gone_can_be_had_again() {
    for form in ["directories", "images"] {
        is_had_again(&Both::with_layers(Version::V1_7, form));
    }
}

fn is_had_again(both: &Both) {
    let image = both.furnish();
    assert_eq!(both.doctor(&[]), (0, Vec::new()));
    both.containerd.ctr(&["containers", "rm", "web"]);
    wait_until("containerd's collector", Duration::from_secs(20), || {
        let names = both.world.json(&["snapshot", "ls"]);
        !names
            .iter()
            .any(|one| one["name"].as_str().unwrap().ends_with("/web"))
    });
    let top = both.backend(image.top());
    assert_eq!(both.world.ctl(&["snapshot", "rm", &top]).code, 0);
    assert_eq!(both.world.ctl(&["trash", "empty", "--yes"]).code, 0);
    wait_until("the trash to be empty", Duration::from_secs(20), || {
        both.world.json(&["trash", "ls"]).is_empty()
    });
    let missing = both.one();
    assert_eq!(
        (&missing["state"], &missing["key"]),
        (&"missing".into(), &image.top().into())
    );
    assert!(
        missing["needed_by"][0]
            .as_str()
            .unwrap()
            .starts_with("image sha256:"),
        "{missing}"
    );
    let advice = missing["advice"].as_str().unwrap();
    let told = advice.strip_suffix("`, and pull the image again.").unwrap();
    let told = told.strip_prefix(&format!("Run `ctr --namespace {NAMESPACE} "));
    let told = told.unwrap();
    both.containerd
        .ctr(&told.split_whitespace().collect::<Vec<_>>());
    // The layer below may be taken while an import counts on it: a race within containerd.
    both.containerd.collect_garbage();
    let import = [
        "images",
        "import",
        "--snapshotter",
        "layerd",
        image.archive(),
    ];
    both.containerd.ctr(&import);
    assert_eq!(both.differences(), Vec::<Value>::new());
    let look = both.world.scratch.dir("look");
    both.containerd
        .tree("layerd", image.top(), &look)
        .assert_equals(image.tree());
}

/// containerd works all the while; nothing of its is called an orphan.
#[test]
fn root_a_busy_containerd_has_no_orphans() {
    let both = Both::new(Version::V2_1);
    both.furnish();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                both.containerd.snapshots(&["prepare", "busy"]);
                both.containerd.snapshots(&["commit", "done", "busy"]);
                both.containerd.snapshots(&["rm", "done"]);
            }
        });
        let looks: Vec<Ended> = (0..20).map(|_| both.orphans(&[])).collect();
        is_done.store(true, Ordering::Relaxed);
        for look in looks {
            assert_eq!((look.code, look.out.as_str()), (0, ""), "{look:?}");
        }
    });
}

#[test]
fn root_without_a_containerd_there_is_nothing_to_compare() {
    let mut both = Both::new(Version::V1_7);
    both.containerd.stop();
    let ended = both.orphans(&[]);
    assert_eq!(ended.code, 7, "{ended:?}");
    assert!(ended.error.contains("cannot reach containerd"), "{ended:?}");
    both.containerd.restart();
    let ended = both.world.ctl(&["orphans"]);
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (0, "layerd and containerd agree.\n"),
        "{ended:?}"
    );
}
