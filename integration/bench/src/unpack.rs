//! Times of unpacking an image: containerd's overlayfs, layerd with its own differ, and layerd
//! with containerd's, all driven by the same containerd; igzip and tar as a floor.
//!
//! The timed command is `ctr snapshots unpack` of an image in the content store, from its start
//! to its end: Prepare, Apply and Commit of each layer in turn. containerd's data directory is in
//! memory; snapshots are on the file system that is measured. Each contender unpacks once a round
//! into an empty root, with daemons of its own; the next round begins with the next contender.
//! Ratios are formed round by round.

mod contender;
pub(crate) mod images;
mod memory;
mod together;

use clap::Args;

use crate::place::{Fs, Place};
use crate::stats::{Spread, millis};
use crate::table::Table;
use contender::{Contender, Content, Took};
use images::Image;

use images::Shape;

/// Extent of the measurement.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// File systems, in this order
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "xfs,tmpfs,ext4"
    )]
    fs: Vec<Fs>,
    /// Images, in this order
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "mix,small,large,deep"
    )]
    images: Vec<Shape>,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measure instead how much memory layerd takes to unpack a layer of 1 GiB
    #[arg(long)]
    memory: bool,
}

/// Measures and prints as it goes.
pub(crate) fn run(extent: &Extent) {
    if extent.memory {
        return crate::say(&memory::measure());
    }
    for shape in &extent.images {
        let image = Image::of(*shape);
        let content = Content::of(&image);
        for fs in &extent.fs {
            let place = Place::new(*fs);
            crate::say(&compare(&place, &content, &image, extent.rounds));
        }
    }
}

fn compare(place: &Place, content: &Content, image: &Image, rounds: usize) -> Table {
    let all = Contender::ALL;
    let mut took: Vec<Vec<Took>> = vec![Vec::new(); all.len()];
    for round in 0..rounds {
        for turn in 0..all.len() {
            let index = (round + turn) % all.len();
            took[index].push(all[index].unpack(place, content, image));
        }
    }
    let mut table = Table::new(
        format!(
            "Unpack of {} on {}, ms; {rounds} rounds; in parentheses the smallest and the \
             largest of the rounds:",
            image.about(),
            place.name()
        ),
        &[
            "who",
            "time",
            "times faster",
            "processor",
            "until synced",
            "durable",
        ],
    );
    let wall = |took: &[Took]| {
        took.iter()
            .map(|took| millis(took.wall))
            .collect::<Vec<_>>()
    };
    let base = wall(&took[0]);
    for (contender, took) in all.iter().zip(&took) {
        let time = wall(took);
        let all = |of: fn(&Took) -> f64| Spread::of(took.iter().map(of)).to_string();
        table.row([
            contender.name(),
            Spread::of(time.clone()).to_string(),
            Spread::of_ratios(&base, &time).to_string(),
            all(|took| millis(took.processor)),
            all(|took| millis(took.synced)),
            contender.is_durable().into(),
        ]);
    }
    table
}
