//! `layerctl import docker-root`: images and volumes that a Docker with a graph driver left.

#[path = "root/left.rs"]
mod left;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use layerd_integration::process::{output, wait_until};
use layerd_integration::scratch::profile;
use layerd_integration::{Containerd, Daemon, Scratch, Tree, Version};

use left::{Left, copy_whole, copy_with_names};

/// The containerd and layerd that take a root over.
struct Heir {
    containerd: Containerd,
    daemon: Daemon,
    dir: PathBuf,
}

impl Heir {
    fn new(dir: &Path, settings: &str) -> Self {
        let file = dir.join("layerd.toml");
        fs::write(&file, settings).unwrap();
        let data = dir.join("d");
        fs::create_dir(&data).unwrap();
        let daemon = Daemon::start_with(&data, &["--config", file.to_str().unwrap()]);
        let containerd = dir.join("c");
        fs::create_dir(&containerd).unwrap();
        Self {
            containerd: Containerd::start(Version::V2_1, &containerd, daemon.socket()),
            daemon,
            dir: dir.to_owned(),
        }
    }

    fn layerctl(&self, words: &[&str]) -> Command {
        let mut command = Command::new(profile().join("layerctl"));
        command.arg("--address").arg(self.daemon.socket());
        command.args(["--output", "json"]).args(words);
        command
    }

    fn import(&self, left: &Left, more: &[&str]) -> Command {
        let mut command = self.layerctl(&["import", "docker-root", "--namespace", "layerd-test"]);
        command
            .arg("--containerd-address")
            .arg(self.containerd.socket());
        command.arg(&left.root).args(more);
        command
    }

    fn imported(&self, left: &Left, more: &[&str]) -> Vec<serde_json::Value> {
        let said = output(&mut self.import(left, more));
        said.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn refused(&self, left: &Left, more: &[&str]) -> String {
        let Output { status, stderr, .. } = self.import(left, more).output().unwrap();
        assert!(!status.success(), "{more:?}");
        String::from_utf8(stderr).unwrap()
    }

    /// All images and volumes are here, and the images are whole and unpacked for containerd.
    fn has_all(&self, left: &Left) {
        let listed = self.containerd.ctr(&["images", "ls", "-q"]);
        let checked = self
            .containerd
            .ctr(&["images", "check", "--snapshotter", "layerd"]);
        let mut chains = left.chains();
        for (name, tree) in &left.images {
            assert!(listed.lines().any(|line| line == name), "{name}: {listed}");
            let line = checked.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(line.contains("complete") && line.contains("true"), "{line}");
            let short = name.strip_prefix("docker.io/library/").unwrap_or(name);
            let chain = chains.remove(short).unwrap();
            let target = self.dir.join("look");
            fs::create_dir_all(&target).unwrap();
            let (top, _) = chain.last().unwrap();
            let mut found = self.containerd.tree("layerd", top, &target);
            let mut wanted = tree.clone();
            if left.driver == "vfs" {
                // Docker's copies lack the attributes of users, which the archives have.
                for node in found.0.values_mut().chain(wanted.0.values_mut()) {
                    node.xattrs.retain(|name, _| !name.starts_with("user."));
                }
            }
            found.assert_equals(&wanted);
        }
        for (name, tree) in &left.volumes {
            let said = output(&mut self.layerctl(&["volume", "inspect", name]));
            let volume: serde_json::Value = serde_json::from_str(&said).unwrap();
            let volume = volume.as_array().map_or(&volume, |all| &all[0]);
            let path = volume["Mountpoint"]
                .as_str()
                .or(volume["path"].as_str())
                .unwrap();
            Tree::read(Path::new(path)).assert_equals(tree);
            if name == "data" {
                assert!(
                    said.contains("\"empty\"") && said.contains("\"b\""),
                    "{said}"
                );
            }
        }
    }

    fn has_nothing(&self) {
        assert!(self.daemon.snapshots().list().is_empty());
        assert_eq!(self.containerd.ctr(&["images", "ls", "-q"]), "");
        assert_eq!(self.containerd.ctr(&["content", "ls", "-q"]), "");
        assert_eq!(output(&mut self.layerctl(&["volume", "ls"])), "");
    }

    /// Takes everything away, and sees that nothing is left.
    fn finish(mut self, left: &Left) {
        for lease in self.containerd.ctr(&["leases", "ls", "-q"]).lines() {
            self.containerd.ctr(&["leases", "rm", lease]);
        }
        for image in self.containerd.ctr(&["images", "ls", "-q"]).lines() {
            self.containerd.ctr(&["images", "rm", image]);
        }
        for volume in left.volumes.keys() {
            output(&mut self.layerctl(&["volume", "rm", volume]));
        }
        output(&mut self.layerctl(&["trash", "empty", "--force"]));
        let containerd = &self.containerd;
        wait_until("containerd's collector", Duration::from_secs(15), || {
            containerd.collect_garbage();
            self.daemon.snapshots().list().is_empty()
        });
        output(&mut self.layerctl(&["trash", "empty", "--force"]));
        self.daemon
            .assert_empty_with(|| self.containerd.collect_garbage());
        self.daemon.assert_no_errors_logged();
        self.containerd.stop();
        self.daemon.stop();
    }
}

fn text<'v>(value: &'v serde_json::Value, field: &str) -> &'v str {
    value[field].as_str().unwrap()
}

fn of_kind<'v>(all: &'v [serde_json::Value], kind: &str) -> Vec<&'v serde_json::Value> {
    all.iter().filter(|one| one["kind"] == kind).collect()
}

/// The plan, the import, and the same import again, which has nothing to do.
fn is_taken_over(heir: &Heir, left: &Left) {
    let before = Tree::read(&left.root);
    let plan = heir.imported(left, &["--dry-run"]);
    heir.has_nothing();
    assert_eq!(of_kind(&plan, "image").len(), 2, "{plan:?}");
    assert_eq!(of_kind(&plan, "volume").len(), 2, "{plan:?}");
    let container = of_kind(&plan, "container")[0];
    assert_eq!(text(container, "name"), "one");
    assert!(
        text(container, "note").contains("is not taken over"),
        "{container}"
    );
    assert!(heir.refused(left, &[]).contains("confirmation is needed"));
    heir.imported(left, &["--force"]);
    assert!(heir.imported(left, &["--force"]).is_empty(), "all is there");
    let plan = heir.imported(left, &["--dry-run"]);
    let done = plan.iter().filter(|one| one["note"] == "is there");
    assert_eq!(done.count(), 4, "{plan:?}");
    heir.containerd.collect_garbage();
    heir.has_all(left);
    // The lock alone was touched.
    Tree::read(&left.root).assert_equals(&before);
}

fn taken_over_from(scratch: &Scratch, left: &Left, settings: &str) {
    let heir = Heir::new(scratch.path(), settings);
    is_taken_over(&heir, left);
    heir.finish(left);
}

#[test]
fn root_docker_28_leaves_overlay2_to_layerd() {
    let scratch = Scratch::new();
    let left = Left::new(&scratch.dir("old"), "overlay2");
    let heir = Heir::new(scratch.path(), "");
    is_taken_over(&heir, &left);
    // Files of layers have two names, and no more space.
    let layers = left.root.join("overlay2");
    let mut folders = fs::read_dir(layers)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let last = folders
        .find(|folder| folder.join("diff/last").exists())
        .unwrap();
    assert_eq!(fs::metadata(last.join("diff/last")).unwrap().nlink(), 2);
    heir.finish(&left);
}

#[test]
fn root_docker_28_leaves_overlay2_to_whole_trees() {
    let scratch = Scratch::new();
    let left = Left::new(&scratch.dir("old"), "overlay2");
    taken_over_from(&scratch, &left, "driver = \"native\"\n");
}

#[test]
fn root_docker_28_leaves_vfs_to_layerd() {
    let scratch = Scratch::new();
    let left = Left::new(&scratch.dir("old"), "vfs");
    taken_over_from(&scratch, &left, "");
}

#[test]
fn root_docker_28_leaves_btrfs_to_layerd() {
    let scratch = Scratch::on("btrfs", 1024);
    let left = Left::new(&scratch.dir("disk/old"), "btrfs");
    taken_over_from(&scratch, &left, "");
}

#[test]
fn root_a_root_of_aufs_is_taken_over() {
    let scratch = Scratch::new();
    let left = Left::new(&scratch.dir("old"), "overlay2");
    let left = left.made_for("aufs", "aufs/diff/ID", copy_with_names);
    taken_over_from(&scratch, &left, "");
}

#[test]
fn root_a_root_of_overlay_is_taken_over() {
    let scratch = Scratch::new();
    let left = Left::new(&scratch.dir("old"), "overlay2");
    let left = left.made_for("overlay", "overlay/ID/root", copy_whole);
    taken_over_from(&scratch, &left, "");
}

/// layerctl and layerd are killed in turn with an import under way; another run completes it.
#[test]
fn root_an_interrupted_import_of_a_root_goes_on() {
    let scratch = Scratch::new();
    let left = Left::new(&scratch.dir("old"), "overlay2");
    let mut heir = Heir::new(scratch.path(), "");
    for have in 1..=6 {
        let mut import = heir.import(&left, &["--force"]).spawn().unwrap();
        let mut client = heir.daemon.snapshots();
        wait_until("the import to get on", Duration::from_secs(30), || {
            client.list().len() >= have || import.try_wait().unwrap().is_some()
        });
        match have % 2 {
            0 => {
                // It may have been done just then.
                drop(import.kill());
                import.wait().unwrap();
            }
            _ => {
                heir.daemon.kill9();
                import.wait().unwrap();
                heir.daemon.restart();
                heir.containerd.wait_for_snapshotter();
            }
        }
    }
    heir.imported(&left, &["--force"]);
    heir.has_all(&left);
    heir.finish(&left);
}

/// Puts something in the place of a file that was moved away.
type Damage<'d> = &'d dyn Fn(&Path);

#[test]
fn root_a_damaged_root_is_refused_and_changes_nothing() {
    let scratch = Scratch::new();
    let left = Left::new(&scratch.dir("old"), "overlay2");
    let heir = Heir::new(scratch.path(), "");
    let (_, app) = left.chains().remove_entry("app:latest").unwrap();
    let (chain, id) = app.last().unwrap();
    let records = left
        .root
        .join("image/overlay2/layerdb")
        .join(chain.replace(':', "/"));
    let files = left.root.join("overlay2").join(id).join("diff");
    let damages: [(PathBuf, Damage<'_>, &str); 5] = [
        (
            records.join("cache-id"),
            &|path| fs::write(path, "../../etc").unwrap(),
            "is no id of a layer",
        ),
        (
            records.join("tar-split.json.gz"),
            &|_| (),
            "tar-split.json.gz: is missing",
        ),
        (
            records.join("tar-split.json.gz"),
            &|path| fs::write(path, "x").unwrap(),
            "cannot be read",
        ),
        (
            files.clone(),
            &|path| std::os::unix::fs::symlink("/etc", path).unwrap(),
            "is a symlink",
        ),
        (
            files.join("last"),
            &|path| fs::write(path, "longer\n").unwrap(),
            "is no file of 5 bytes",
        ),
    ];
    for (path, damage, wanted) in damages {
        let away = scratch.path().join("away");
        fs::rename(&path, &away).unwrap();
        damage(&path);
        for force in ["--force", "--dry-run"] {
            let said = heir.refused(&left, &[force]);
            assert!(said.contains(wanted), "{said} has no {wanted}");
        }
        heir.has_nothing();
        drop(fs::remove_file(&path));
        fs::rename(&away, &path).unwrap();
    }
    heir.imported(&left, &["--force"]);
    heir.has_all(&left);
    heir.finish(&left);
}

#[test]
fn root_a_root_that_was_altered_or_is_in_use_is_refused() {
    let scratch = Scratch::new();
    let left = Left::new(&scratch.dir("old"), "overlay2");
    let heir = Heir::new(scratch.path(), "");
    let (_, app) = left.chains().remove_entry("app:latest").unwrap();
    let (_, id) = app.last().unwrap();
    let last = left.root.join("overlay2").join(id).join("diff/last");
    // The same length, and so first seen when the archive is written.
    fs::rename(&last, scratch.path().join("away")).unwrap();
    fs::write(&last, "lost\n").unwrap();
    let said = heir.refused(&left, &["--force"]);
    assert!(said.contains("digest"), "{said}");
    fs::rename(scratch.path().join("away"), &last).unwrap();
    // A Docker that runs holds its database.
    let database = fs::File::open(left.root.join("volumes/metadata.db")).unwrap();
    let held = nix::fcntl::Flock::lock(database, nix::fcntl::FlockArg::LockExclusive).unwrap();
    assert!(
        heir.refused(&left, &["--force"])
            .contains("in use by a Docker that runs")
    );
    drop(held);
    heir.imported(&left, &["--force"]);
    heir.has_all(&left);
    heir.finish(&left);
}

/// A Docker 28 that changes over: its images run with layerd, and can be built upon.
#[test]
fn root_docker_28_goes_on_with_what_it_left() {
    let scratch = Scratch::new();
    let left = Left::new(&scratch.dir("old"), "overlay2");
    let mut world = crate::World::new();
    world.docker(&["rmi", "base"]);
    let containerd = world.docker.containerd().socket().to_owned();
    let import = |root: &Path, more: &[&str]| {
        let mut import = Command::new(profile().join("layerctl"));
        import.arg("--address").arg(world.daemon.socket());
        import.args(["import", "docker-root", "--force", "--containerd-address"]);
        output(import.arg(&containerd).arg(root).args(more))
    };
    let said = import(&left.root, &["--no-volumes"]);
    assert!(said.starts_with("imported 2 images, 4 layers"), "{said}");
    let run = ["run", "--rm", "--pull", "never", "--network", "none"];
    assert_eq!(world.docker(&[&run[..], &["app"]].concat()), "kept\n");
    assert_eq!(
        world.docker(&[&run[..], &["example.net/team/app:2"]].concat()),
        "kept\n"
    );
    let context = scratch.dir("next");
    fs::write(
        context.join("Dockerfile"),
        "FROM app\nRUN echo more > /more\n",
    )
    .unwrap();
    let build = [
        "build",
        "--network",
        "none",
        "--tag",
        "next",
        context.to_str().unwrap(),
    ];
    world.docker(&build);
    assert_eq!(
        world.docker(&[&run[..], &["next", "cat", "/more"]].concat()),
        "more\n"
    );
    let saved = scratch.path().join("saved.tar");
    world.docker(&["save", "--output", saved.to_str().unwrap(), "app"]);
    world.docker(&[
        "rmi",
        "--force",
        "app",
        "example.net/team/app:2",
        "next",
        "base",
    ]);
    world.docker(&["load", "--input", saved.to_str().unwrap()]);
    assert_eq!(world.docker(&[&run[..], &["app"]].concat()), "kept\n");
    world.finish();
}
