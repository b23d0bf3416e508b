//! Layers of a running layerd in both forms, directories and EROFS images, side by side: each form
//! has a daemon and a root of its own once a round, and the next round begins with the other.

mod containers;
mod files;
mod mounts;

use std::path::Path;

use clap::{Args, ValueEnum};
use layerd_proto::containerd::types::Mount;
use nix::mount::{MntFlags, MsFlags, umount2};

use crate::place::{Fs, Place};
use crate::target::{Running, Target};

/// Extent of the measurement.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// File systems, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "xfs")]
    fs: Vec<Fs>,
    /// Parts, in this order
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "files,containers,mounts"
    )]
    parts: Vec<Part>,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Files of the layer that is unpacked and removed
    #[arg(long, default_value_t = 1_000_000)]
    files: usize,
    /// Images that are mounted
    #[arg(long, value_delimiter = ',', default_value = "0,1000,4000")]
    mounted: Vec<usize>,
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One layer of many empty files: unpacked and removed, and layerd's memory
    Files,
    /// A container of a Debian tree, and a stack of 40 layers
    Containers,
    /// Images that are mounted
    Mounts,
}

/// Form of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Directories
    Directories,
    /// EROFS images
    Images,
}

const FORMS: [Form; 2] = [Form::Directories, Form::Images];

impl Form {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Directories => "directories",
            Self::Images => "images",
        }
    }

    /// A layerd that keeps its layers in this form.
    pub(crate) fn start(self, dir: &Path) -> Running {
        let settings = format!("[overlayfs]\nlayers = \"{}\"\n", self.name());
        Target::Layerd("full").start_with(dir, &settings)
    }
}

/// Measures and prints as it goes.
pub(crate) fn run(extent: &Extent) {
    for fs in &extent.fs {
        let place = Place::roomy(*fs);
        for part in &extent.parts {
            match part {
                Part::Files => files::run(&place, extent.files, extent.rounds),
                Part::Containers => containers::run(&place, extent.rounds),
                Part::Mounts => mounts::run(&place, &extent.mounted),
            }
        }
    }
}

/// The forms of a round, by their position, in the order of their turns.
fn turns(round: usize) -> impl Iterator<Item = (usize, Form)> {
    let turn = move |turn| (round + turn) % FORMS.len();
    (0..FORMS.len())
        .map(turn)
        .map(|index| (index, FORMS[index]))
}

/// Makes what layerd answered, as containerd does: one overlay or bind mount.
fn mount(mounts: &[Mount], target: &Path) {
    let [mount] = mounts else {
        panic!("one mount, not {mounts:?}");
    };
    let is_flag = |option: &&String| !["ro", "rw", "rbind"].contains(&option.as_str());
    let data: Vec<&str> = mount
        .options
        .iter()
        .filter(is_flag)
        .map(String::as_str)
        .collect();
    let (kind, flags) = match mount.r#type.as_str() {
        "bind" => (None, MsFlags::MS_BIND),
        kind => (Some(kind), MsFlags::empty()),
    };
    let data = data.join(",");
    let data = kind.map(|_| data.as_str());
    nix::mount::mount(Some(mount.source.as_str()), target, kind, flags, data)
        .unwrap_or_else(|error| panic!("mount {mount:?}: {error}"));
}

fn unmount(target: &Path) {
    umount2(target, MntFlags::UMOUNT_NOFOLLOW).expect("nothing uses it any more");
}

/// Has the kernel forget what it read from disks.
fn drop_caches() {
    nix::unistd::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
}
