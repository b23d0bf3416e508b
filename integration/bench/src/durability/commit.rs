//! The latency of Commit, by what the layer holds.

use std::path::Path;

use super::{Extent, in_turn};
use crate::content;
use crate::load::Caller;
use crate::place::Place;
use crate::stats::{Spread, Times, millis};
use crate::table::Table;
use crate::target::Running;

/// A layer to commit.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    content: Content,
    /// Synced before the commit, as the kernel does by itself within half a minute.
    written_back: bool,
    /// Commits in a round.
    commits: usize,
}

#[derive(Debug, Clone, Copy)]
enum Content {
    /// So many files of 4 KiB.
    Small(usize),
    /// One file of so many MiB.
    Large(usize),
}

impl Content {
    fn fill(self, top: &Path) {
        match self {
            Self::Small(count) => content::small_files(top, count),
            Self::Large(mebibytes) => content::large_file(top, mebibytes),
        }
    }
}

const fn case(name: &'static str, content: Content, written_back: bool, commits: usize) -> Case {
    Case {
        name,
        content,
        written_back,
        commits,
    }
}

const CASES: [Case; 5] = [
    case("10 files, dirty", Content::Small(10), false, 40),
    case("1,000 files, dirty", Content::Small(1000), false, 8),
    case("10,000 files, dirty", Content::Small(10_000), false, 3),
    case(
        "10,000 files, written back",
        Content::Small(10_000),
        true,
        3,
    ),
    case("one file of 256 MiB, dirty", Content::Large(256), false, 3),
];

/// For each mode the times of each round.
type Rounds = [Vec<Times>; 2];

/// Measures all cases.
pub(super) fn measure(place: &Place, extent: Extent) -> Table {
    let cases = if extent.short { &CASES[..1] } else { &CASES };
    let mut seen: Vec<Rounds> = vec![Rounds::default(); cases.len()];
    in_turn(place, extent, |mode, running| {
        for (case, rounds) in cases.iter().zip(&mut seen) {
            rounds[mode].push(one_round(place, running, *case));
        }
    });
    let mut table = Table::new(
        format!(
            "Commit on {}, ms; {} rounds; in parentheses the smallest and the largest of the rounds:",
            place.name(),
            extent.rounds
        ),
        &[
            "layer",
            "commits",
            "full p50",
            "full p99",
            "metadata p50",
            "metadata p99",
            "ratio of p50",
        ],
    );
    for (case, rounds) in cases.iter().zip(&seen) {
        table.row(row(*case, rounds));
    }
    table
}

fn one_round(place: &Place, running: &Running, case: Case) -> Times {
    let mut caller = Caller::connect(running.socket());
    let mut times = Times::default();
    place.sync();
    for i in 0..case.commits {
        let (key, name) = (format!("a-{i}"), format!("c-{i}"));
        let top = caller.prepare(&key, "");
        case.content.fill(&top);
        if case.written_back {
            place.sync();
        }
        times.push(caller.commit(&key, &name));
        caller.remove(&name);
        running.wait_reaped();
    }
    times
}

fn row(case: Case, [full, metadata]: &Rounds) -> Vec<String> {
    let medians = |rounds: &[Times]| -> Vec<f64> {
        rounds.iter().map(|times| millis(times.median())).collect()
    };
    let p99 = |rounds: &[Times]| {
        let mut all = Times::default();
        rounds.iter().for_each(|times| all.extend(times.clone()));
        crate::stats::short(millis(all.percentile(99)))
    };
    let (full_p50, metadata_p50) = (medians(full), medians(metadata));
    vec![
        case.name.into(),
        (case.commits * full.len()).to_string(),
        Spread::of(full_p50.clone()).to_string(),
        p99(full),
        Spread::of(metadata_p50.clone()).to_string(),
        p99(metadata),
        Spread::of_ratios(&full_p50, &metadata_p50).to_string(),
    ]
}
