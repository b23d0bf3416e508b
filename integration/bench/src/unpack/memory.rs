//! Memory that layerd takes to unpack a layer of 1 GiB, beside what it takes when idle.

use layerd_integration::process::output;
use layerd_integration::{Containerd, Version};
use nix::unistd::Pid;
use std::process::Command;

use super::contender::{Contender, Content};
use super::images::{Image, Shape};
use crate::place::{Fs, Place};
use crate::table::Table;
use crate::target::Target;

/// Unpacks it once and says what the most was.
pub(super) fn measure() -> Table {
    let image = Image::of(Shape::Huge);
    let content = Content::of(&image);
    let place = Place::new(Fs::Xfs);
    let dir = place.sub("run");
    let state = content.copy();
    let layerd = Target::Layerd("full").start_beside(&dir, &state);
    let extra = Contender::Layerd("full").extra(&dir, &layerd.socket());
    let containerd = Containerd::start_with(Version::V2_1, &state, &layerd.socket(), &extra);
    output(Command::new("sh").args(["-c", &format!("echo 5 >/proc/{}/clear_refs", layerd.pid())]));
    let idle = most_memory(layerd.pid());
    containerd.ctr(&[
        "snapshots",
        "unpack",
        "--snapshotter",
        "layerd",
        &image.digest,
    ]);
    let most = most_memory(layerd.pid());
    let mut table = Table::new(
        format!(
            "Memory of layerd while it unpacks {}, KiB resident:",
            image.about()
        ),
        &["idle", "most", "more"],
    );
    table.row([idle, most, most - idle].map(|kibibytes| kibibytes.to_string()));
    drop(containerd);
    layerd.stop();
    table
}

/// The most that was resident at a time, in KiB.
fn most_memory(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("layerd runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("proc(5)")
}
