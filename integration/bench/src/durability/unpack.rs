//! The time that unpacking an image takes: prepare, extract with tar, commit, layer by layer.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use layerd_integration::process::output;

use super::{Extent, in_turn};
use crate::content;
use crate::load::Caller;
use crate::place::Place;
use crate::stats::{Spread, Times, millis};
use crate::table::Table;
use crate::target::Running;

/// Unpacks in a round.
const REPEATS: usize = 3;

/// Times for one image, in ms.
#[derive(Debug, Default)]
struct Unpacks {
    /// From the first Prepare to the last Commit.
    wall: Vec<f64>,
    /// The Commits alone.
    commits: Vec<f64>,
    /// Until everything is on the disk, whether or not the client waits for it.
    synced: Vec<f64>,
}

/// Measures the image in both modes.
pub(super) fn measure(place: &Place, extent: Extent) -> Table {
    let (layers, files) = if extent.short { (2, 20) } else { (5, 2000) };
    let archives = content::archives(&place.sub("archives"), layers, files);
    let mut seen: [Unpacks; 2] = Default::default();
    in_turn(place, extent, |mode, running| {
        one_round(place, running, &archives, &mut seen[mode]);
    });
    let [full, metadata] = seen;
    let mut table = Table::new(
        format!(
            "Unpack of {layers} layers of {files} files on {}, ms; {} rounds of {REPEATS}; in \
             parentheses the smallest and the largest of the rounds:",
            place.name(),
            extent.rounds
        ),
        &["what", "full", "metadata", "ratio"],
    );
    let mut row = |what: &str, full: &[f64], metadata: &[f64]| {
        let (above, below) = (Spread::of(full.to_vec()), Spread::of(metadata.to_vec()));
        let ratio = Spread::of_ratios(full, metadata);
        table.row([
            what.into(),
            above.to_string(),
            below.to_string(),
            ratio.to_string(),
        ]);
    };
    row("prepare, tar, commit", &full.wall, &metadata.wall);
    row("of it, the commits", &full.commits, &metadata.commits);
    row(
        "the same and a sync at the end",
        &full.synced,
        &metadata.synced,
    );
    table
}

fn one_round(place: &Place, running: &Running, archives: &[PathBuf], seen: &mut Unpacks) {
    let mut caller = Caller::connect(running.socket());
    let mut all: [Times; 3] = Default::default();
    for _ in 0..REPEATS {
        place.sync();
        let start = Instant::now();
        let commits = unpack(&mut caller, archives);
        all[0].push(start.elapsed());
        all[1].extend(commits);
        place.sync();
        all[2].push(start.elapsed());
        for layer in (0..archives.len()).rev() {
            caller.remove(&format!("c-{layer}"));
        }
        running.wait_reaped();
    }
    let [wall, commits, synced] = all.map(|times| millis(times.median()));
    seen.wall.push(wall);
    seen.commits.push(commits);
    seen.synced.push(synced);
}

/// Answers what the commits took, all of them together.
fn unpack(caller: &mut Caller, archives: &[PathBuf]) -> Times {
    let mut parent = String::new();
    let mut commits = std::time::Duration::ZERO;
    for (layer, archive) in archives.iter().enumerate() {
        let (key, name) = (format!("a-{layer}"), format!("c-{layer}"));
        let top = caller.prepare(&key, &parent);
        output(
            Command::new("tar")
                .arg("-xf")
                .arg(archive)
                .arg("-C")
                .arg(top),
        );
        commits += caller.commit(&key, &name);
        parent = name;
    }
    [commits].into_iter().collect()
}
