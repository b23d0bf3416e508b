//! `layerctl import containerd`: images that containerd's own snapshotter unpacked.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use layerd_integration::image;
use layerd_integration::process::{WAIT_LIMIT, output, wait_until};
use layerd_integration::scratch::profile;
use layerd_integration::{Image, Scratch, Version};

use crate::{NAME, World};

const SECOND: &str = "layerd.test/second:1";

impl World {
    fn import_of_layerctl(&self, more: &[&str]) -> Command {
        let mut command = Command::new(profile().join("layerctl"));
        command.arg("--address").arg(self.daemon.socket());
        command.args([
            "-o",
            "json",
            "import",
            "containerd",
            "--namespace",
            "layerd-test",
        ]);
        command
            .arg("--containerd-address")
            .arg(self.containerd.socket());
        command.args(more);
        command
    }

    /// Runs it, which succeeds, and answers its objects.
    fn imported(&self) -> Vec<serde_json::Value> {
        let said = output(&mut self.import_of_layerctl(&["--force"]));
        let objects = said.lines().map(serde_json::from_str);
        objects.collect::<Result<_, _>>().unwrap()
    }

    fn refused(&self, more: &[&str]) -> String {
        let Output { status, stderr, .. } = self.import_of_layerctl(more).output().unwrap();
        assert!(!status.success(), "{more:?}");
        String::from_utf8(stderr).unwrap()
    }

    /// The directories in which containerd's own snapshotter has layers.
    fn theirs(&self) -> Vec<PathBuf> {
        let folder = "c/root/io.containerd.snapshotter.v1.overlayfs/snapshots";
        let folder = self.scratch.path().join(folder);
        let entries = std::fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().path().join("fs"))
            .collect()
    }

    fn has_tree(&self, image: &Image) {
        self.tree("layerd", image.top()).assert_equals(image.tree());
    }
}

fn number(object: &serde_json::Value, field: &str) -> u64 {
    object[field].as_u64().unwrap()
}

fn images_are_taken_over(version: Version) {
    let mut world = World::new(version);
    let image = world.image(NAME, &image::corpus());
    world.import(&image, "overlayfs");
    assert!(world.imported_is_planned(image.chain().len()));
    let objects = world.imported();
    assert_eq!(objects.len(), 1, "{objects:?}");
    let layers = image.chain().len() as u64;
    assert_eq!(number(&objects[0], "imported"), layers);
    assert_eq!(number(&objects[0], "copied_bytes"), 0, "{objects:?}");
    assert!(number(&objects[0], "bytes") > 0, "{objects:?}");
    for chain in image.chain() {
        let ours = world.tree("layerd", chain);
        ours.assert_equals(&world.tree("overlayfs", chain));
    }
    assert!(world.imported().is_empty(), "all is there");
    world.crash();
    // Both are the image's: the collector takes neither.
    world.containerd.collect_garbage();
    world.has_tree(&image);
    world.run("echo changed > /etc/motd; exec sleep 1000");
    wait_until("the container's change", WAIT_LIMIT, || {
        world.exec(&["/bin/cat", "/etc/motd"]) == "changed\n"
    });
    world.end();
    world
        .containerd
        .ctr(&["containers", "rm", world.container()]);
    // What the other snapshotter had goes; what layerd has stays.
    let config = objects[0]["config"].as_str().unwrap();
    let reference = "containerd.io/gc.ref.snapshot.overlayfs=";
    world
        .containerd
        .ctr(&["content", "label", config, reference]);
    wait_until("the other snapshotter to be empty", WAIT_LIMIT, || {
        world.containerd.collect_garbage();
        world.theirs().is_empty()
    });
    world.has_tree(&image);
    world.remove_image(NAME);
    world.finish();
}

impl World {
    /// True if `--dry-run` tells of so many layers, and nothing is changed.
    fn imported_is_planned(&self, layers: usize) -> bool {
        let said = output(&mut self.import_of_layerctl(&["--dry-run"]));
        let object: serde_json::Value = serde_json::from_str(&said).unwrap();
        number(&object, "imported") == layers as u64
            && self.daemon.snapshots().list().is_empty()
            && self.daemon.directories().is_empty()
    }
}

#[test]
fn root_containerd_1_6_hands_over_its_images() {
    images_are_taken_over(Version::V1_6);
}

#[test]
fn root_containerd_1_7_hands_over_its_images() {
    images_are_taken_over(Version::V1_7);
}

#[test]
fn root_containerd_2_1_hands_over_its_images() {
    images_are_taken_over(Version::V2_1);
}

/// Nothing is copied on one file system: both have the same inodes.
#[test]
fn root_files_of_an_import_have_two_names() {
    let world = World::new(Version::V1_7);
    let image = world.image(NAME, &image::tiny(2));
    world.import(&image, "overlayfs");
    world.imported();
    let inodes = |folders: Vec<PathBuf>| {
        let files = folders.iter().map(|folder| folder.join("n/last"));
        let found = files.filter_map(|file| std::fs::metadata(file).ok());
        let mut found: Vec<_> = found.map(|file| (file.ino(), file.nlink())).collect();
        found.sort_unstable();
        found
    };
    let theirs = inodes(world.theirs());
    assert_eq!(theirs, inodes(world.daemon.directories()));
    assert!(
        !theirs.is_empty() && theirs.iter().all(|(_, links)| *links == 2),
        "{theirs:?}"
    );
    world.remove_image(NAME);
    world.finish();
}

/// On another file system each file is copied, and nothing else differs.
#[test]
fn root_an_import_from_another_file_system_copies() {
    let world = World::below(Version::V2_1, Scratch::on_xfs(320), "disk/d");
    let image = world.image(NAME, &image::corpus());
    world.import(&image, "overlayfs");
    let objects = world.imported();
    assert!(number(&objects[0], "copied_bytes") > 0, "{objects:?}");
    world.has_tree(&image);
    world.remove_image(NAME);
    world.finish();
}

/// layerd is killed with an import under way at different moments; another run completes it, and nothing is left.
#[test]
fn root_an_interrupted_import_goes_on() {
    let mut world = World::new(Version::V1_7);
    let image = world.image(NAME, &image::tiny(40));
    let second = world.image(SECOND, &image::corpus());
    world.import(&image, "overlayfs");
    world.import(&second, "overlayfs");
    for have in [5, 20, 41] {
        let mut import = world.import_of_layerctl(&["--force"]).spawn().unwrap();
        let mut client = world.daemon.snapshots();
        wait_until("the import to get on", WAIT_LIMIT, || {
            client.list().len() >= have || import.try_wait().unwrap().is_some()
        });
        world.daemon.kill9();
        // It may have been done just then.
        import.wait().unwrap();
        world.daemon.restart();
        world.containerd.wait_for_snapshotter();
    }
    world.imported();
    for image in [&image, &second] {
        world.has_tree(image);
    }
    // Leases of the runs that were killed would hold what they made for a day.
    for lease in world.containerd.ctr(&["leases", "ls", "-q"]).lines() {
        world.containerd.ctr(&["leases", "rm", lease]);
    }
    world.remove_image(SECOND);
    world.remove_image(NAME);
    world.finish();
}

#[test]
fn root_what_cannot_be_imported_is_said_and_changes_nothing() {
    let world = World::new(Version::V1_7);
    let image = world.image(NAME, &image::tiny(2));
    world.import(&image, "native");
    let table: [(&[&str], &str); 5] = [
        (
            &["--snapshotter", "native", "--force"],
            "does not keep the changes of",
        ),
        (&["--snapshotter", "layerd", "--force"], "is layerd itself"),
        (
            &["--snapshotter", "other", "--force"],
            "containerd has no snapshotter other",
        ),
        (
            &["--namespace", "nowhere", "--force"],
            "no namespace nowhere",
        ),
        (&["--snapshotter", "native"], "confirmation is needed"),
    ];
    for (more, wanted) in table {
        let said = world.refused(more);
        assert!(said.contains(wanted), "{more:?}: {said}");
    }
    world.remove_image(NAME);
    world.finish();
}

/// Whole trees cannot take a layer that is a change.
#[test]
fn root_a_driver_of_whole_trees_refuses_an_import() {
    let world = World::native_on_tmpfs(Version::V1_7);
    let image = world.image(NAME, &image::tiny(2));
    world.import(&image, "overlayfs");
    let said = world.refused(&["--force"]);
    assert!(said.contains("layers in the form of overlayfs"), "{said}");
    world.remove_image(NAME);
    world.finish();
}

/// Trees of hard links are made of the files of an import as of others.
#[test]
fn root_a_driver_of_hard_links_takes_an_import() {
    let world = World::on_hard_links(Version::V1_7);
    let image = world.image(NAME, &image::corpus());
    world.import(&image, "overlayfs");
    world.imported();
    world.has_tree(&image);
    world.remove_image(NAME);
    world.finish();
}
