//! Memory that layerd takes to unpack a layer of 1 GiB, beside what it takes when idle.

use layerd_integration::process::output;
use layerd_integration::{Containerd, Version};
use std::process::Command;

use super::contender::{Contender, Content};
use super::images::{Image, Shape};
use crate::cost;
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
    let layerd = Target::Layerd("full").start_beside(&dir, &state, "");
    let extra = Contender::Layerd("full").extra(&dir, &layerd.socket());
    let containerd = Containerd::start_with(Version::V2_1, &state, &layerd.socket(), &extra);
    output(Command::new("sh").args(["-c", &format!("echo 5 >/proc/{}/clear_refs", layerd.pid())]));
    let idle = cost::memory(layerd.pid(), "VmHWM");
    containerd.ctr(&[
        "snapshots",
        "unpack",
        "--snapshotter",
        "layerd",
        &image.digest,
    ]);
    let most = cost::memory(layerd.pid(), "VmHWM");
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
