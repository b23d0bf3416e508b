//! Those that unpack an image which is in containerd's content store.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use layerd_integration::peers::Extra;
use layerd_integration::process::output;
use layerd_integration::{Containerd, Version};
use nix::unistd::Pid;

use super::images::Image;
use super::together;
use crate::place::Place;
use crate::target::{Running, Target};

/// Processor time, user and system, of a program (0) and of its children that have ended (1).
fn processor_times(pid: Pid) -> [Duration; 2] {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the program runs");
    let fields = stat.rsplit_once(')').expect("proc(5)").1.split_whitespace();
    // utime, stime, cutime and cstime are the fields 14 to 17; the one after the name is the third.
    let ticks: Vec<u64> = fields.skip(11).take(4).flat_map(str::parse).collect();
    // A tick is a hundredth of a second on all of the kernel's architectures that we build for.
    [ticks[0] + ticks[1], ticks[2] + ticks[3]].map(|ticks| Duration::from_millis(10 * ticks))
}

/// Times of unpacking.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    /// Until the client was told that all layers are there.
    pub(crate) wall: Duration,
    /// Until all of it is on the disk, whether or not the client waits for it.
    pub(crate) synced: Duration,
    /// Processor time of the daemons.
    pub(crate) processor: Duration,
}

/// A measured unpacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// containerd into its own overlayfs, decompressing with Go's own package.
    Containerd,
    /// The same with the igzip that it uses where there is one.
    ContainerdIgzip,
    /// containerd's differ into layerd's snapshots.
    Walking,
    /// layerd's differ into layerd's snapshots, with a `durability`; layers are directories.
    Layerd(&'static str),
    /// The same, its content durable, with layers as images.
    Images,
    /// layerd, its content durable, with layers side by side: as newer versions of containerd ask for it.
    Together,
    /// igzip and tar, two layers at a time, each into a directory of its own: no snapshots.
    Floor,
}

impl Contender {
    /// All, in the order of the tables. The first is what others are compared with.
    pub(crate) const ALL: [Self; 8] = [
        Self::Containerd,
        Self::ContainerdIgzip,
        Self::Walking,
        Self::Layerd("metadata"),
        Self::Layerd("full"),
        Self::Together,
        Self::Images,
        Self::Floor,
    ];

    pub(crate) fn name(self) -> String {
        match self {
            Self::Containerd => "containerd, overlayfs".into(),
            Self::ContainerdIgzip => "the same with igzip".into(),
            Self::Walking => "containerd's differ, layerd's snapshots".into(),
            Self::Layerd(durability) => format!("layerd, durability {durability}"),
            Self::Together => "the same, two layers at a time".into(),
            Self::Images => "layerd, durability full, images".into(),
            Self::Floor => "igzip and tar, two at a time".into(),
        }
    }

    /// "yes" if the layers are on the disk when the client gets its answer.
    pub(crate) fn is_durable(self) -> &'static str {
        match self {
            Self::Layerd("full") | Self::Walking | Self::Together | Self::Images => "yes",
            Self::Layerd(_) => "records only",
            Self::Containerd | Self::ContainerdIgzip | Self::Floor => "no",
        }
    }

    /// Unpacks the image once, in a fresh directory of the place, by daemons of its own.
    pub(crate) fn unpack(self, place: &Place, content: &Content, image: &Image) -> Took {
        let dir = place.sub("run");
        let took = match self {
            Self::Floor => floor(place, &dir, image),
            _ => self.by_containerd(place, &dir, content, image),
        };
        place.clear(&dir);
        took
    }

    fn by_containerd(self, place: &Place, dir: &Path, content: &Content, image: &Image) -> Took {
        let state = content.copy();
        let layerd = self.layerd(dir, &state);
        let socket = layerd
            .as_ref()
            .map_or_else(|| dir.join("none"), Running::socket);
        let extra = self.extra(dir, &socket);
        let mut containerd = Containerd::start_with(Version::V2_1, &state, &socket, &extra);
        let pids: Vec<Pid> = [containerd.pid()]
            .into_iter()
            .chain(layerd.as_ref().map(Running::pid))
            .collect();
        let processor = || {
            pids.iter()
                .flat_map(|pid| processor_times(*pid))
                .sum::<Duration>()
        };
        place.sync();
        let (start, before) = (Instant::now(), processor());
        self.ask(&containerd, &socket, image);
        let (wall, after) = (start.elapsed(), processor());
        let layers = match (self, &layerd) {
            (Self::Images, _) => "layerd/root/i",
            (_, Some(_)) => "layerd/root/l",
            (_, None) => "overlayfs/snapshots",
        };
        assert_eq!(
            filled(&dir.join(layers)),
            image.blobs.len(),
            "all layers are where they belong"
        );
        place.sync();
        let synced = start.elapsed();
        containerd.stop();
        drop(containerd);
        if let Some(layerd) = layerd {
            layerd.stop();
        }
        content.clear(&state);
        Took {
            wall,
            synced,
            processor: after - before,
        }
    }

    /// Has the image unpacked.
    pub(super) fn ask(self, containerd: &Containerd, socket: &Path, image: &Image) {
        let snapshotter = match self {
            Self::Together => return together::unpack(socket, image),
            Self::Walking | Self::Layerd(_) | Self::Images => "layerd",
            Self::Containerd | Self::ContainerdIgzip | Self::Floor => "overlayfs",
        };
        containerd.ctr(&[
            "snapshots",
            "unpack",
            "--snapshotter",
            snapshotter,
            &image.digest,
        ]);
    }

    pub(super) fn layerd(self, dir: &Path, state: &Path) -> Option<Running> {
        let (durability, more) = match self {
            Self::Layerd(durability) => (durability, ""),
            Self::Walking => ("full", ""),
            Self::Images => ("full", "[overlayfs]\nlayers = \"images\"\n"),
            Self::Together => ("full", "[overlayfs]\nrebase = true\n"),
            Self::Containerd | Self::ContainerdIgzip | Self::Floor => return None,
        };
        let dir = dir.join("layerd");
        std::fs::create_dir(&dir).expect("a fresh file system can be written");
        Some(Target::Layerd(durability).start_beside(&dir, state, more))
    }

    pub(super) fn extra(self, dir: &Path, socket: &Path) -> Extra {
        let differ = match self {
            Self::Layerd(_) | Self::Images | Self::Together => "layerd-diff",
            _ => "walking",
        };
        let mut variables = vec![("CONTAINERD_DISABLE_PIGZ", "1".to_owned())];
        if self != Self::ContainerdIgzip {
            variables.push(("CONTAINERD_DISABLE_IGZIP", "1".to_owned()));
        }
        let configuration = format!(
            r#"
[proxy_plugins.layerd-diff]
type = "diff"
address = "{}"

[plugins."io.containerd.service.v1.diff-service"]
default = ["{differ}"]

[plugins."io.containerd.snapshotter.v1.overlayfs"]
root_path = "{}"
"#,
            socket.display(),
            dir.join("overlayfs").display()
        );
        Extra {
            configuration,
            variables,
            within: None,
        }
    }
}

/// Entries of a folder that are files, or directories that hold something: layerd makes empty ones
/// ahead.
fn filled(folder: &Path) -> usize {
    let layers = std::fs::read_dir(folder).expect("it was made");
    let is_filled = |path: PathBuf| {
        let held = path.read_dir();
        held.map_or(true, |mut held| held.next().is_some())
    };
    layers
        .filter(|layer| is_filled(layer.as_ref().expect("it can be read").path()))
        .count()
}

fn floor(place: &Place, dir: &Path, image: &Image) -> Took {
    let blobs = image
        .blobs
        .iter()
        .map(|blob| format!("{}\n", blob.display()));
    let list = dir.join("list");
    std::fs::write(&list, blobs.collect::<String>()).expect("a fresh file system can be written");
    place.sync();
    let start = Instant::now();
    let one = "mkdir \"$0\" && igzip -dc \"$1\" | tar -xf - -C \"$0\"";
    let each = format!(
        "xargs -P 2 -I@ sh -ec 'd=$(mktemp -u -p .) ; sh -ec '\\''{one}'\\'' \"$d\" @' < list"
    );
    let children = || processor_times(Pid::this())[1];
    let before = children();
    output(Command::new("sh").args(["-ec", &each]).current_dir(dir));
    let wall = start.elapsed();
    let processor = children() - before;
    place.sync();
    Took {
        wall,
        synced: start.elapsed(),
        processor,
    }
}

/// The state of a containerd that holds the image and has not unpacked it, in memory, so that
/// neither reading blobs nor containerd's own database costs anything that differs.
#[derive(Debug)]
pub(crate) struct Content {
    memory: Place,
}

impl Content {
    pub(crate) fn of(image: &Image) -> Self {
        let memory = Place::new(crate::place::Fs::Tmpfs);
        let state = memory.sub("0");
        let none = state.join("none");
        let mut containerd = Containerd::start(Version::V2_1, &state, &none);
        let archive = memory.sub("archive").join("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("-cf").arg(&archive).arg("-C").arg(&image.dir);
        output(tar.args(["oci-layout", "index.json", "blobs"]));
        let archive = archive.to_str().expect("scratch paths are text");
        containerd.ctr(&["images", "import", "--local", "--no-unpack", archive]);
        containerd.stop();
        memory.clear(&memory.sub("archive"));
        Self { memory }
    }

    /// A copy for one run.
    pub(super) fn copy(&self) -> PathBuf {
        let state = self.memory.sub("1");
        let from = self.memory.sub("0").join("root");
        output(Command::new("cp").arg("-a").arg(from).arg(&state));
        state
    }

    pub(super) fn clear(&self, state: &Path) {
        self.memory.clear(state);
    }
}
