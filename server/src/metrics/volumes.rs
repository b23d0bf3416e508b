//! Series of volumes. They are written out at each look instead of being kept, so that they end with their
//! volume, and their number is bounded by `metrics.volumes`.

use std::fmt::Write as _;

use layerd_engine::Fullness;

use super::names::METRICS;

/// The series in Prometheus's text format. The rule for names of volumes leaves nothing to escape.
pub(super) fn render(volumes: &[Fullness]) -> String {
    let mut text = String::new();
    series(&mut text, "layerd_volume_used_bytes", volumes, |volume| {
        Some(volume.used?.bytes)
    });
    series(&mut text, "layerd_volume_used_inodes", volumes, |volume| {
        Some(volume.used?.inodes)
    });
    series(&mut text, "layerd_volume_limit_bytes", volumes, |volume| {
        Some(volume.limit?.bytes)
    });
    series(&mut text, "layerd_volume_limit_inodes", volumes, |volume| {
        Some(volume.limit?.inodes).filter(|inodes| *inodes > 0)
    });
    text
}

fn series(
    text: &mut String,
    name: &str,
    volumes: &[Fullness],
    value: impl Fn(&Fullness) -> Option<u64>,
) {
    let mut lines = volumes
        .iter()
        .filter_map(|volume| Some((&volume.name, value(volume)?)))
        .peekable();
    if lines.peek().is_none() {
        return;
    }
    let meaning = METRICS.iter().find(|(one, ..)| *one == name);
    let meaning = meaning.map_or("", |(.., meaning)| meaning);
    // Text always takes more text.
    let _ = writeln!(text, "# HELP {name} {meaning}\n# TYPE {name} gauge");
    for (volume, value) in lines {
        let _ = writeln!(text, "{name}{{volume=\"{volume}\"}} {value}");
    }
}
