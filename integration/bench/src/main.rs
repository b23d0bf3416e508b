//! `layerd-bench`: what layerd costs, measured on this machine.
//!
//! It starts the `layerd` that was built beside it on file systems below target/ and drives it
//! through its socket. Servers that are compared run in turn, in one run, on the same file system,
//! and ratios are formed within a round, so that a busy neighbour hits both. Tables go to standard
//! output as Markdown; nothing is left behind. Needs root, since it mounts loop images.
#![allow(
    clippy::panic,
    reason = "a measurement that cannot be made ends with the reason"
)]

mod content;
mod cost;
mod docker;
mod durability;
mod flat;
mod flushes;
mod forms;
mod images;
mod limits;
mod load;
mod ops;
mod place;
mod remove;
mod scale;
mod stats;
mod table;
mod target;
mod unpack;
mod volumes;

use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::ops::Contender;
use crate::place::Fs;
use crate::target::Target;

/// Measures layerd
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A restart of layerd that finds many attachments
    Attachments {
        /// Number of images
        #[arg(long, default_value_t = 2_000)]
        count: usize,
        /// Restarts
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// `docker run -v` with a volume of the plugin beside one of Docker's local driver
    Docker {
        /// Containers of each kind
        #[arg(long, default_value_t = 30)]
        rounds: usize,
    },
    /// Cost of durability = "full" beside "metadata": commits, and unpacking an image
    Durability {
        #[command(flatten)]
        on: On,
        /// A small part of it, to see that it works
        #[arg(long)]
        short: bool,
    },
    /// Commit and Usage of layers with few and with many files
    Flat(flat::Extent),
    /// Flushes of each operation
    Flushes {
        /// File systems, in this order
        #[arg(long, value_enum, value_delimiter = ',', default_value = "ext4,xfs")]
        fs: Vec<Fs>,
        /// Calls at a time
        #[arg(long, value_delimiter = ',', default_value = "1,32")]
        clients: Vec<usize>,
    },
    /// Layers of layerd as directories and as EROFS images: many files, containers, mounts
    Forms(forms::Extent),
    /// Layers unpacked as directories and as EROFS images, and removed
    Images(images::Extent),
    /// Layers of containers that are held to a size, beside others
    Limits(limits::Extent),
    /// Operations a second and their latency
    Ops {
        #[command(flatten)]
        on: On,
        /// Calls at a time
        #[arg(long, value_delimiter = ',', default_value = "1,8,32,128")]
        clients: Vec<usize>,
        /// Changes of each kind in a round: this many, or 40 for each client
        #[arg(long, default_value_t = 480)]
        calls: usize,
        /// layerd's setting
        #[arg(long, value_parser = ["full", "metadata"], default_value = "full")]
        durability: String,
        /// A server to compare with: a program that takes a root and a socket, and serves there
        #[arg(long)]
        peer: Vec<PathBuf>,
        /// A program to compare with that takes a root, and makes the calls itself that its
        /// standard input orders
        #[arg(long)]
        inside: Vec<PathBuf>,
        /// Draw operations a second as SVG into this file
        #[arg(long)]
        svg: Option<PathBuf>,
    },
    /// Many snapshots removed at once, beside rm -rf
    Remove(remove::Extent),
    /// Calls, memory and starts with few and with many snapshots
    Scale(scale::Extent),
    /// Unpacking an image, beside containerd and beside igzip and tar
    Unpack(unpack::Extent),
    /// Removing large and small volumes, and filling volumes from images beside cp -a
    Volumes(OfVolumes),
}

#[derive(Debug, Args)]
struct OfVolumes {
    /// File systems to remove volumes on, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "target,xfs")]
    fs: Vec<Fs>,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A small part of it, to see that it works
    #[arg(long)]
    short: bool,
}

#[derive(Debug, Args)]
struct On {
    /// File systems, in this order
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "target,ext4,xfs"
    )]
    fs: Vec<Fs>,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

fn main() {
    say(&machine());
    match Cli::parse().command {
        What::Attachments { count, rounds } => volumes::run_attachments(count, rounds),
        What::Volumes(OfVolumes { fs, rounds, short }) => {
            volumes::run(&fs, volumes::Extent { rounds, short });
        }
        What::Durability { on, short } => {
            let rounds = on.rounds;
            durability::run(&on.fs, durability::Extent { rounds, short });
        }
        What::Docker { rounds } => docker::run(rounds),
        What::Flushes { fs, clients } => flushes::run(&fs, &clients),
        What::Ops {
            on,
            clients,
            calls,
            durability,
            peer,
            inside,
            svg,
        } => {
            let durability = if durability == "full" {
                "full"
            } else {
                "metadata"
            };
            let mut contenders = vec![Contender::Served(Target::Layerd(durability))];
            contenders.extend(peer.into_iter().map(Target::Peer).map(Contender::Served));
            contenders.extend(inside.into_iter().map(Contender::Inside));
            let rounds = on.rounds;
            let extent = ops::Extent {
                rounds,
                clients,
                calls,
            };
            ops::run(&on.fs, &contenders, &extent, svg.as_deref());
        }
        What::Flat(extent) => flat::run(&extent),
        What::Forms(extent) => forms::run(&extent),
        What::Images(extent) => images::run(&extent),
        What::Limits(extent) => limits::run(&extent),
        What::Remove(extent) => remove::run(&extent),
        What::Scale(extent) => scale::run(&extent),
        What::Unpack(extent) => unpack::run(&extent),
    }
    say(&machine());
}

/// Properties of the machine, and its load by other programs.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "Linux {}, {cpus} CPUs, load average {}\n",
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").trim(),
    )
}

/// Prints a part of the answer as soon as it is there.
fn say(part: &impl Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{part}").expect("standard output takes the answer");
}
