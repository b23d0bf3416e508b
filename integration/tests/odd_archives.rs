//! Archives as no program should write them, and as some do: what layerd makes of each beside what
//! containerd 1.7 and 2.1 make of it, and trees that layerd packs, unpacked by containerd.
//!
//! The archives are made up by `cases.rs`, the same in every run. Where the two differ is written
//! down in `differences.rs`, with the reason; a difference that is not there fails the test, and so
//! does one that is gone.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "odd_archives/back.rs"]
mod back;
#[path = "odd_archives/cases.rs"]
mod cases;
#[path = "odd_archives/differences.rs"]
mod differences;
#[path = "unpack_trees/exact.rs"]
mod exact;
#[path = "odd_archives/theirs.rs"]
mod theirs;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use layerd_integration::process::output;
use layerd_integration::{Scratch, Version};
use layerd_layers::apply::{Compression, Options, Target, Whiteouts, apply};
use nix::mount::{MsFlags, mount};

use cases::Case;
use exact::Exact;
use theirs::Theirs;

/// Result of an archive: a tree, or the error.
type Outcome = Result<Exact, String>;

fn ours(blob: &[u8], media_type: &str, dir: &Path) -> Outcome {
    let open = File::open(dir).unwrap();
    let target = Target {
        layer: open.as_fd(),
        lowers: &[],
        whiteouts: Whiteouts::Delete,
    };
    let options = Options {
        compression: match media_type.ends_with("tar") {
            true => Compression::None,
            false => Compression::Detect,
        },
        ..Options::default()
    };
    match apply(blob, &target, &options) {
        Ok(_) => Ok(exact::read(dir)),
        Err(error) => Err(chain(&error)),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    causes.join(": ")
}

/// A tmpfs, so that what is unpacked needs no disk.
fn memory(scratch: &Scratch) -> PathBuf {
    let top = scratch.dir("m");
    let (kind, flags) = (Some("tmpfs"), MsFlags::empty());
    mount(kind, &top, kind, flags, None::<&str>).unwrap();
    top
}

/// The difference between two results, if there is one. All errors are equal.
fn compare(ours: &Outcome, theirs: &Outcome) -> Option<String> {
    match (ours, theirs) {
        (Err(_), Err(_)) => None,
        (Ok(ours), Ok(theirs)) => {
            let mut found = exact::differences(ours, theirs);
            // The mode and times of the top are those of the test's directory.
            found.retain(|text| !text.starts_with('\n'));
            (!found.is_empty()).then(|| found.join("\n"))
        }
        (Ok(_), Err(error)) => Some(format!("only containerd refuses it: {error}")),
        (Err(error), Ok(_)) => Some(format!("only layerd refuses it: {error}")),
    }
}

fn differences_from(version: Version) {
    let scratch = Scratch::new();
    let top = memory(&scratch);
    let mut theirs = Theirs::start(version, &scratch);
    let mut found = BTreeMap::new();
    let cases = cases::all();
    assert!(cases.len() >= 200, "{} cases", cases.len());
    for (number, case) in cases.iter().enumerate() {
        let Case {
            name,
            blob,
            media_type,
        } = case;
        let [one, two] = ["o", "t"].map(|side| top.join(format!("{side}{number}")));
        for dir in [&one, &two] {
            std::fs::create_dir(dir).unwrap();
        }
        let ours = ours(blob, media_type, &one);
        let said = theirs.apply_bound(blob, media_type, &two);
        let theirs = said.map(|()| exact::read(&two));
        if let Some(difference) = compare(&ours, &theirs) {
            found.insert(name.clone(), difference);
        }
        output(Command::new("rm").arg("-r").args([&one, &two]));
    }
    differences::check(version, &found, cases.len());
}

#[test]
fn root_odd_archives_beside_containerd_1_7() {
    differences_from(Version::V1_7);
}

#[test]
fn root_odd_archives_beside_containerd_2_1() {
    differences_from(Version::V2_1);
}

#[test]
fn root_what_layerd_packs_is_unpacked_by_containerd_1_7() {
    back::packed_for(Version::V1_7);
}

#[test]
fn root_what_layerd_packs_is_unpacked_by_containerd_2_1() {
    back::packed_for(Version::V2_1);
}

#[test]
fn root_what_odd_archives_became_is_unpacked_by_containerd_2_1() {
    back::taken_in_for(Version::V2_1);
}
