//! Layers unpacked as directories and as EROFS images, by layerd's library in this process: one layer after
//! the other, each upon those before it, and then removed. Each form unpacks once a round; the next
//! round begins with the other. Ratios are formed round by round.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Instant;

use clap::Args;
use layerd_layers::Durable;
use layerd_layers::apply::{Applied, ImageTarget, Options, Target, Whiteouts, apply, apply_image};
use layerd_layers::copy::Markers;
use nix::unistd::Pid;

use crate::cost::{memory, processor};
use crate::place::{Fs, Place};
use crate::stats::{Spread, count, millis};
use crate::table::Table;
use crate::unpack::images::{Image, Shape};

/// Extent of the measurement.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// File systems, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "xfs,ext4")]
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
}

/// Form of a layer.
#[derive(Debug, Clone, Copy)]
enum Form {
    Directories,
    Images,
}

const FORMS: [(Form, &str); 2] = [(Form::Directories, "directories"), (Form::Images, "images")];

/// Figures of one form, by round; times in milliseconds.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Until everything was on the disk, layer by layer.
    durable: Vec<f64>,
    /// The same and a sync of the file system.
    synced: Vec<f64>,
    processor: Vec<f64>,
    removed: Vec<f64>,
    /// MiB: of the file system, and the peak of this process.
    disk: Vec<f64>,
    memory: Vec<f64>,
}

/// Measures and prints as it goes.
pub(crate) fn run(extent: &Extent) {
    for shape in &extent.images {
        let image = Image::of(*shape);
        for fs in &extent.fs {
            let place = Place::new(*fs);
            let mut seen = [Seen::default(), Seen::default()];
            for round in 0..extent.rounds {
                for turn in 0..FORMS.len() {
                    let index = (round + turn) % FORMS.len();
                    measure(FORMS[index].0, &place, &image, &mut seen[index]);
                }
            }
            crate::say(&table(&place, &image, &seen));
        }
    }
}

fn measure(form: Form, place: &Place, image: &Image, seen: &mut Seen) {
    let dir = place.sub("layers");
    place.sync();
    let used = place.used();
    // The peak counts from here.
    fs::write("/proc/self/clear_refs", "5").expect("root may");
    let (begin, before) = (Instant::now(), processor(Pid::this()));
    match form {
        Form::Directories => directories(&dir, image),
        Form::Images => images(&dir, image),
    }
    seen.durable.push(millis(begin.elapsed()));
    let spent = processor(Pid::this()).saturating_sub(before);
    seen.processor.push(millis(spent));
    place.sync();
    seen.synced.push(millis(begin.elapsed()));
    let mebibytes = |bytes: u64| count(usize::try_from(bytes >> 20).unwrap_or(usize::MAX));
    seen.disk.push(mebibytes(place.used().saturating_sub(used)));
    seen.memory
        .push(mebibytes(memory(Pid::this(), "VmHWM") << 10));
    let begin = Instant::now();
    place.clear(&dir);
    seen.removed.push(millis(begin.elapsed()));
}

fn options() -> Options<'static> {
    Options {
        durable: Durable::Content,
        ..Options::default()
    }
}

fn directories(dir: &Path, image: &Image) {
    let mut made: Vec<File> = Vec::new();
    for (number, blob) in image.blobs.iter().enumerate() {
        let path = dir.join(number.to_string());
        fs::create_dir(&path).expect("a new directory");
        let layer = File::open(path).expect("it was just made");
        let lowers: Vec<BorrowedFd<'_>> = made.iter().rev().map(AsFd::as_fd).collect();
        let target = Target {
            layer: layer.as_fd(),
            lowers: &lowers,
            whiteouts: Whiteouts::Devices(Markers::Trusted),
        };
        let blob = File::open(blob).expect("the image is whole");
        let applied = apply(blob, &target, &options());
        let _: Applied = applied.expect("the blob is sound");
        layer.sync_all().expect("the disk takes it");
        made.push(layer);
    }
}

/// The layers do not stand on each other here: nothing in them depends on those below.
fn images(dir: &Path, image: &Image) {
    for (number, blob) in image.blobs.iter().enumerate() {
        let target = ImageTarget {
            out: File::create_new(dir.join(number.to_string())).expect("a new file"),
            lowers: &[],
            whiteouts: Whiteouts::Devices(Markers::Trusted),
            top: layerd_layers::erofs::Attributes::directory(),
            image: layerd_layers::erofs::Options::default(),
        };
        let blob = File::open(blob).expect("the image is whole");
        let applied = apply_image(blob, target, &options());
        let (_, file) = applied.expect("the blob is sound");
        file.sync_all().expect("the disk takes it");
    }
    let dir = File::open(dir).expect("it was just made");
    dir.sync_all().expect("the disk takes it");
}

fn table(place: &Place, image: &Image, seen: &[Seen; 2]) -> Table {
    let mut table = Table::new(
        format!(
            "Layers of {} on {}, ms; {} rounds; in parentheses the smallest and the largest of \
             the rounds:",
            image.about(),
            place.name(),
            seen[0].durable.len()
        ),
        &[
            "form",
            "until durable",
            "times faster",
            "processor",
            "until synced",
            "removed, with sync",
            "times faster",
            "disk, MiB",
            "memory, MiB",
        ],
    );
    let [base, _] = seen;
    for ((_, name), seen) in FORMS.iter().zip(seen) {
        let of = |figures: &[f64]| Spread::of(figures.iter().copied()).to_string();
        table.row([
            (*name).to_owned(),
            of(&seen.durable),
            Spread::of_ratios(&base.durable, &seen.durable).to_string(),
            of(&seen.processor),
            of(&seen.synced),
            of(&seen.removed),
            Spread::of_ratios(&base.removed, &seen.removed).to_string(),
            of(&seen.disk),
            of(&seen.memory),
        ]);
    }
    table
}
