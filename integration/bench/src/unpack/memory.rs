//! Memory that layerd takes to unpack a layer of 1 GiB in each form, beside what it takes when idle.

use layerd_integration::{Containerd, Version};

use super::contender::{Contender, Content};
use super::images::{Image, Shape};
use crate::cost;
use crate::place::{Fs, Place};
use crate::table::Table;

/// Unpacks it once in each form and says what the most was.
pub(super) fn measure() -> Table {
    let image = Image::of(Shape::Huge);
    let content = Content::of(&image);
    let place = Place::new(Fs::Xfs);
    let mut table = Table::new(
        format!(
            "Memory of layerd while it unpacks {}, KiB resident:",
            image.about()
        ),
        &["layers", "idle", "most", "more"],
    );
    for (contender, form) in [
        (Contender::Layerd("full"), "directories"),
        (Contender::Images, "images"),
    ] {
        let (idle, most) = one_form(contender, &place, &content, &image);
        let figures = [idle, most, most - idle].map(|kibibytes| kibibytes.to_string());
        table.row([form.to_owned()].into_iter().chain(figures));
    }
    table
}

/// Memory before, and the most.
fn one_form(contender: Contender, place: &Place, content: &Content, image: &Image) -> (u64, u64) {
    let dir = place.sub("run");
    let state = content.copy();
    let layerd = contender
        .layerd(&dir, &state)
        .expect("these are layerd's layers");
    let extra = contender.extra(&dir, &layerd.socket());
    let containerd = Containerd::start_with(Version::V2_1, &state, &layerd.socket(), &extra);
    // The peak counts from here.
    std::fs::write(format!("/proc/{}/clear_refs", layerd.pid()), "5").expect("root may");
    let idle = cost::memory(layerd.pid(), "VmHWM");
    contender.ask(&containerd, &layerd.socket(), image);
    let most = cost::memory(layerd.pid(), "VmHWM");
    drop(containerd);
    layerd.stop();
    content.clear(&state);
    place.clear(&dir);
    (idle, most)
}
