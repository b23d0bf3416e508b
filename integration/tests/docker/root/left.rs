//! Data roots of Docker, made by Docker itself, and made of those for drivers that it has no more.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use layerd_integration::image::{corpus, write_layer};
use layerd_integration::process::output;
use layerd_integration::{Docker, Tree};
use nix::mount::umount;

/// Steps that delete, hide, replace, link and make a device.
const DOCKERFILE: &str = "\
FROM base
RUN rm /elsewhere && rm -r /names/gone && echo one > /one && mkdir /kept && echo kept > /kept/file
RUN rm /one && rm -r /names/hidden && mkdir /names/hidden && echo c > /names/hidden/c && \
    ln /names/hidden/c /names/hidden/d && busybox mknod /names/zero c 1 5
RUN mv /kept /moved && chmod 700 /kinds && echo last > /last
LABEL step=none
CMD [\"cat\", \"/moved/file\"]
";

/// A root that a Docker left, and what it had in it.
pub(super) struct Left {
    pub(super) root: PathBuf,
    pub(super) driver: String,
    /// Whole names of images with the trees that Docker showed.
    pub(super) images: BTreeMap<String, Tree>,
    pub(super) volumes: BTreeMap<String, Tree>,
}

impl Left {
    /// With the images base and app, the last under two names, the container one, and two volumes.
    pub(super) fn new(dir: &Path, driver: &str) -> Self {
        let mut docker = Docker::start_alone_on(dir, driver);
        let layers = corpus();
        let archive = dir.join("base.tar");
        write_layer(&archive, &layers[..3].concat());
        docker.docker(&["import", archive.to_str().unwrap(), "base"]);
        let context = dir.join("context");
        fs::create_dir(&context).unwrap();
        fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
        let context = context.to_str().unwrap();
        let build = ["build", "--network", "none", "--tag"];
        docker.docker(&[&build[..], &["app", context]].concat());
        docker.docker(&["tag", "app", "example.net/team/app:2"]);
        docker.docker(&[
            "volume", "create", "--label", "a=b", "--label", "empty=", "data",
        ]);
        let run = ["run", "--network", "none", "--name", "one"];
        let volumes = ["--volume", "data:/data", "--volume", "plain:/kinds"];
        let command = [
            "app",
            "sh",
            "-c",
            "echo hello > /data/file; chown 7:8 /data/file; echo w > /written",
        ];
        docker.docker(&[&run[..], &volumes, &command].concat());
        docker.stop();
        let root = dir.join("data");
        // Docker mounts its root on itself, and may leave that. Files get no second names across mounts.
        let _is_mounted = umount(&root);
        let volumes = ["data", "plain"].map(|name| {
            let content = root.join("volumes").join(name).join("_data");
            (name.to_owned(), Tree::read(&content))
        });
        let mut left = Self {
            root,
            driver: driver.to_owned(),
            images: BTreeMap::new(),
            volumes: volumes.into(),
        };
        assert!(left.volumes["plain"].0.len() > 10, "filled from the image");
        left.images = left.shown();
        left
    }

    fn read(&self, path: &str) -> String {
        let path = self.root.join("image").join(&self.driver).join(path);
        fs::read_to_string(path).unwrap()
    }

    /// Chain ids with the ids of the layers in the driver, from below, for each name of an image.
    pub(super) fn chains(&self) -> BTreeMap<String, Vec<(String, String)>> {
        let names: serde_json::Value =
            serde_json::from_str(&self.read("repositories.json")).unwrap();
        let names = names["Repositories"].as_object().unwrap().values();
        let names = names.flat_map(|names| names.as_object().unwrap());
        let chains = names.map(|(name, id)| {
            let id = id.as_str().unwrap().replace(':', "/");
            let config = self.read(&format!("imagedb/content/{id}"));
            let config: serde_json::Value = serde_json::from_str(&config).unwrap();
            let diffs = config["rootfs"]["diff_ids"].as_array().unwrap().iter();
            let (mut chain, mut parent) = (Vec::new(), String::new());
            for diff in diffs {
                parent = self.above(&parent, diff.as_str().unwrap());
                let digits = parent.replace(':', "/");
                chain.push((
                    parent.clone(),
                    self.read(&format!("layerdb/{digits}/cache-id")),
                ));
            }
            (name.clone(), chain)
        });
        chains.collect()
    }

    fn above(&self, parent: &str, diff: &str) -> String {
        let layers = self
            .root
            .join("image")
            .join(&self.driver)
            .join("layerdb/sha256");
        let mut layers = fs::read_dir(layers)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let is_it = |layer: &PathBuf| {
            let has = |name: &str| fs::read_to_string(layer.join(name)).unwrap_or_default();
            has("diff") == diff && has("parent") == parent
        };
        let found = layers.find(is_it).unwrap();
        format!("sha256:{}", found.file_name().unwrap().to_str().unwrap())
    }

    /// The tree of each image, as its driver shows it.
    fn shown(&self) -> BTreeMap<String, Tree> {
        let chains = self.chains().into_iter();
        chains
            .map(|(name, chain)| {
                let tree = self.tree(&chain);
                let whole = match name.contains('/') {
                    true => name,
                    false => format!("docker.io/library/{name}"),
                };
                (whole, tree)
            })
            .collect()
    }

    fn tree(&self, chain: &[(String, String)]) -> Tree {
        self.with_mount(chain, Tree::read)
    }

    /// Hands the tree of a stack of layers to `look`.
    fn with_mount<T>(&self, chain: &[(String, String)], look: impl FnOnce(&Path) -> T) -> T {
        let (_, top) = chain.last().unwrap();
        let folder = match self.driver.as_str() {
            "vfs" => self.root.join("vfs/dir").join(top),
            "btrfs" => self.root.join("btrfs/subvolumes").join(top),
            _ if chain.len() == 1 => self.root.join("overlay2").join(top).join("diff"),
            _ => {
                let layers = chain.iter().rev();
                let layers = layers.map(|(_, id)| format!("{}/diff", id));
                let options = format!("lowerdir={}", layers.collect::<Vec<_>>().join(":"));
                let target = self.root.join("tmp/look");
                fs::create_dir_all(&target).unwrap();
                let mut command = Command::new("mount");
                command.current_dir(self.root.join("overlay2"));
                command
                    .args(["-t", "overlay", "overlay", "-o", &options])
                    .arg(&target);
                output(&mut command);
                let looked = look(&target);
                umount(&target).unwrap();
                return looked;
            }
        };
        look(&folder)
    }

    /// The same root as another driver would have left it: layers are made by `make` from the id of
    /// each, the stack up to it, and where it belongs.
    pub(super) fn made_for(
        mut self,
        driver: &str,
        folder: &str,
        make: fn(&Self, &[(String, String)], &Path),
    ) -> Self {
        let chains: Vec<_> = self.chains().into_values().collect();
        for chain in &chains {
            for end in 1..=chain.len() {
                let made = folder.replace("ID", &chain[end - 1].1);
                let made = self.root.join(made);
                if !made.exists() {
                    fs::create_dir_all(made.parent().unwrap()).unwrap();
                    make(&self, &chain[..end], &made);
                }
            }
        }
        let images = self.root.join("image");
        fs::rename(images.join(&self.driver), images.join(driver)).unwrap();
        fs::rename(self.root.join("overlay2"), self.root.join("gone")).unwrap();
        driver.clone_into(&mut self.driver);
        self
    }
}

/// A whole tree.
pub(super) fn copy_whole(left: &Left, chain: &[(String, String)], made: &Path) {
    left.with_mount(chain, |tree| {
        output(Command::new("cp").arg("-a").arg(tree).arg(made));
    });
}

/// Changes, with deletions as names.
pub(super) fn copy_with_names(left: &Left, chain: &[(String, String)], made: &Path) {
    let (_, top) = chain.last().unwrap();
    let changes = left.root.join("overlay2").join(top).join("diff");
    output(Command::new("cp").arg("-a").arg(&changes).arg(made));
    rename_deletions(made);
    fs::write(made.join(".wh..wh.aufs"), "").unwrap();
}

fn rename_deletions(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let metadata = fs::symlink_metadata(entry.path()).unwrap();
        if metadata.file_type().is_char_device() && metadata.rdev() == 0 {
            let name = entry.file_name().into_string().unwrap();
            fs::remove_file(entry.path()).unwrap();
            fs::write(dir.join(format!(".wh.{name}")), "").unwrap();
        } else if metadata.is_dir() {
            rename_deletions(&entry.path());
        }
    }
}
