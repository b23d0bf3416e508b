//! Series of volumes, and of layers with a limit. They are written out at each look instead of being kept, so
//! that they end with their volume or snapshot, and the number of each is bounded by `metrics.volumes`.

use std::fmt::Write as _;

use layerd_engine::Fullness;
use layerd_store::Usage;

use super::names::METRICS;

/// The series in Prometheus's text format: `layerd_<of>_used_bytes{<of>="<name>"}` and its like.
pub(super) fn render(of: &str, all: &[Fullness]) -> String {
    let used: fn(&Fullness) -> Option<Usage> = |one| one.used;
    let limit: fn(&Fullness) -> Option<Usage> = |one| one.limit;
    let bytes: fn(Usage) -> Option<u64> = |usage| Some(usage.bytes);
    let inodes: fn(Usage) -> Option<u64> = |usage| Some(usage.inodes);
    // A number that is not fixed is no limit.
    let fixed: fn(Usage) -> Option<u64> = |usage| Some(usage.inodes).filter(|one| *one > 0);
    let mut text = String::new();
    for (what, usage, part) in [
        ("used_bytes", used, bytes),
        ("used_inodes", used, inodes),
        ("limit_bytes", limit, bytes),
        ("limit_inodes", limit, fixed),
    ] {
        let values = all
            .iter()
            .filter_map(|one| Some((one.name.as_str(), part(usage(one)?)?)));
        series(&mut text, of, &format!("layerd_{of}_{what}"), values);
    }
    text
}

fn series<'n>(
    text: &mut String,
    label: &str,
    metric: &str,
    values: impl Iterator<Item = (&'n str, u64)>,
) {
    let mut values = values.peekable();
    if values.peek().is_none() {
        return;
    }
    let meaning = METRICS.iter().find(|(one, ..)| *one == metric);
    let meaning = meaning.map_or("", |(.., meaning)| meaning);
    // Text always takes more text.
    let _ = writeln!(text, "# HELP {metric} {meaning}\n# TYPE {metric} gauge");
    for (name, value) in values {
        let _ = writeln!(text, "{metric}{{{label}=\"{}\"}} {value}", escaped(name));
    }
}

/// The value of a label as the format wants it. Keys of snapshots are whatever a client makes of them.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', r"\\").replace('"', "\\\"");
    value.replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_a_line_and_names_are_escaped() {
        let one = Fullness {
            name: "a\\b\"c\nd".to_owned(),
            used: Some(Usage {
                bytes: 5,
                inodes: 2,
            }),
            limit: Some(Usage {
                bytes: 10,
                inodes: 0,
            }),
        };
        let text = render("snapshot", &[one]);
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let name = r#"{snapshot="a\\b\"c\nd"}"#;
        let wanted = ["used_bytes", "used_inodes", "limit_bytes"].into_iter();
        let wanted = wanted.zip([5, 2, 10]);
        let wanted = wanted.map(|(what, value)| format!("layerd_snapshot_{what}{name} {value}"));
        assert_eq!(lines, wanted.collect::<Vec<_>>());
        for help in text.lines().filter(|line| line.starts_with("# HELP")) {
            assert!(help.ends_with('.'), "a metric without a meaning: {help}");
        }
        assert_eq!(render("volume", &[]), "");
    }
}
