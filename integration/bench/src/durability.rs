//! Cost of full durability: layerd with `durability = "full"` and `"metadata"`, in turn.
//!
//! A round starts each of the two once on a fresh root; the next round starts them in the other
//! order. Ratios are formed round by round.

mod commit;
mod unpack;

use crate::place::{Fs, Place};
use crate::target::{Running, Target};

/// Both settings, in the order of the tables.
const MODES: [&str; 2] = ["full", "metadata"];

/// Extent of the measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    /// As little as shows that the program works.
    pub(crate) short: bool,
}

/// Measures on each of the file systems and prints as it goes.
pub(crate) fn run(systems: &[Fs], extent: Extent) {
    for fs in systems {
        let place = Place::new(*fs);
        crate::say(&commit::measure(&place, extent));
        crate::say(&unpack::measure(&place, extent));
    }
}

/// Runs `measure` in each round once for each mode, given the mode's index in [`MODES`].
fn in_turn(place: &Place, extent: Extent, mut measure: impl FnMut(usize, &Running)) {
    for round in 0..extent.rounds {
        for turn in 0..MODES.len() {
            let mode = (round + turn) % MODES.len();
            let dir = place.sub("run");
            let running = Target::Layerd(MODES[mode]).start(&dir);
            measure(mode, &running);
            running.stop();
            place.clear(&dir);
        }
    }
}
