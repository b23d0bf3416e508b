//! A root with volumes to crash on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use layerd_crash::disk::Filesystem;
use layerd_integration::scratch::mounts_below;
use layerd_proto::layerd::v1::CreateVolumeRequest;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rustix::fs::{XattrFlags, setxattr};

use super::action::{Action, Archive};
use super::client::Client;
use super::disk;
use super::host::Host;
use super::state::{State, observe};
use crate::Verdict;
use crate::home::{Home, delete};
use crate::process::Layerd;

/// A root with snapshots and volumes, and a place for mounts.
#[derive(Debug)]
pub(crate) struct Rooms {
    pub(crate) home: Home,
    /// State after [`reset`](Self::reset).
    pub(crate) state: State,
    pub(crate) archive: Arc<Archive>,
    pub(crate) host: Host,
}

impl Rooms {
    /// Volumes with and without content, two anonymous ones, and two in the trash.
    pub(crate) fn furnished(filesystem: Filesystem) -> Self {
        let home = Home::furnished_on(filesystem);
        let layerd = Layerd::start(&home.site).unwrap();
        let mut client = Client::connect(&home.site.socket);
        let named = ["data", "empty", "gone", "gone-too"];
        let all = named.iter().map(|name| ((*name).to_owned(), None));
        let marked = ["mark 1", "mark 2"].map(|mark| (String::new(), Some(mark)));
        for ((name, mark), seed) in all.chain(marked).zip(1..) {
            make(&mut client, &name, mark, seed);
        }
        for name in ["gone", "gone-too"] {
            client.delete(name).unwrap();
        }
        let state = observe(&mut client, &home.site.root).unwrap();
        let archive = pack(&home.site.root.join("volumes/by-name/data/"), &state);
        layerd.stop().unwrap();
        home.keep();
        let mut rooms = Self {
            host: Host {
                path: home.site.root.with_file_name("host"),
                inside: archive.content.clone(),
            },
            archive: Arc::new(archive),
            home,
            state,
        };
        rooms.learn();
        rooms
    }

    /// Sees what an image puts into a volume when nothing goes wrong.
    fn learn(&mut self) {
        self.reset();
        let layerd = Layerd::start(&self.home.site).unwrap();
        let mut client = Client::connect(&self.home.site.socket);
        self.host.learn(&mut client, &self.home.site.root, "empty");
        drop(layerd);
    }

    fn unmount(&self) {
        for place in mounts_below(self.scratch()).iter().rev() {
            umount2(place, MntFlags::MNT_DETACH).unwrap();
        }
    }

    /// Makes what a killed daemon left the state to go back to.
    pub(crate) fn keep_crashed(&mut self) {
        self.unmount();
        self.home.keep();
        // Which of the possible states it is does not change any more.
        let layerd = Layerd::start(&self.home.site).unwrap();
        let mut client = Client::connect(&self.home.site.socket);
        self.state = self.look(&mut client, None).unwrap();
        drop(layerd);
    }

    /// Goes back, with nothing mounted.
    pub(crate) fn reset(&self) {
        self.unmount();
        self.home.reset();
        delete(&self.host.path);
        for name in ["a", "b", "c", "d", "shared"] {
            fs::create_dir_all(self.host.path.join(name)).unwrap();
        }
    }

    /// Holds the root, and the host's folders.
    pub(crate) fn scratch(&self) -> &Path {
        self.home.site.root.parent().unwrap()
    }

    /// Asks for everything and requires that disk and mounts are as it says. `unsure` is an action
    /// that may be half done.
    pub(crate) fn look(&self, client: &mut Client, unsure: Option<&Action>) -> Verdict<State> {
        disk::settled(|| self.look_once(client, unsure))
    }

    fn look_once(&self, client: &mut Client, unsure: Option<&Action>) -> Verdict<State> {
        let root = &self.home.site.root;
        let mut found = observe(client, root)?;
        // The mount of an unacknowledged attachment is not reported.
        for (key, place) in unsure.into_iter().flat_map(Action::places) {
            if let Some(held) = found.held.get_mut(key) {
                held.target.clone_from(place);
            }
        }
        let undone = unsure
            .map(|action| action.undone(&found))
            .unwrap_or_default();
        disk::check(self.scratch(), root, &found, &undone)?;
        Ok(found)
    }
}

pub(crate) fn make(client: &mut Client, name: &str, mark: Option<&str>, seed: u64) {
    let labels = mark.map(|mark| ("mark".to_owned(), mark.to_owned()));
    let request = CreateVolumeRequest {
        name: name.into(),
        labels: labels.into_iter().collect(),
        ..CreateVolumeRequest::default()
    };
    let (volume, _) = client.create(request).unwrap();
    if name != "empty" {
        scatter(Path::new(&volume.path), seed);
    }
}

/// A little of everything that a copy could lose.
fn scatter(top: &Path, seed: u64) {
    let text = |part: &str, times: usize| format!("{part} {seed}\n").repeat(times);
    fs::create_dir(top.join("sub")).unwrap();
    fs::write(top.join("one"), text("one", 2000)).unwrap();
    fs::write(top.join("sub/two"), text("two", 3)).unwrap();
    fs::hard_link(top.join("sub/two"), top.join("three")).unwrap();
    symlink("sub/two", top.join("link")).unwrap();
    for number in 0..40 {
        symlink("elsewhere", top.join(format!("sub/link {number}"))).unwrap();
    }
    mkfifo(&top.join("sub/pipe"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    setxattr(
        top.join("one"),
        "user.seed",
        text("seed", 1).as_bytes(),
        XattrFlags::empty(),
    )
    .unwrap();
}

pub(crate) fn pack(folder: &Path, state: &State) -> Archive {
    let mut tar = Command::new("tar");
    tar.args(["--format=posix", "--xattrs", "-cC"])
        .arg(folder)
        .arg(".");
    let output = tar.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Archive {
        bytes: output.stdout,
        content: state.volumes["data"].content.clone().unwrap(),
    }
}
