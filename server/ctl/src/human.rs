//! Sizes, ages and durations for people, and durations and times from them.

use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};

/// The present, in seconds since 1970. Asked once a run.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place where layerctl looks at the clock"
)]
pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or_default()
}

/// A size in binary units with three significant digits: `512B`, `1.50KiB`, `77.8MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut below = 0_u64; // hundredths of the unit, 0 to 99
    let mut whole = bytes;
    // 1000 rather than 1024, so that four digits never stand before a unit.
    while whole >= 1000 && unit + 1 < UNITS.len() {
        below = (whole % 1024) * 100 / 1024;
        whole /= 1024;
        unit += 1;
    }
    let name = UNITS[unit];
    match (unit, whole) {
        (0, _) | (_, 100..) => format!("{whole}{name}"),
        (_, 10..=99) => format!("{whole}.{}{name}", below / 10),
        _ => format!("{whole}.{below:02}{name}"),
    }
}

/// Age in the largest sufficient unit: `45s`, `12m`, `30h`, `9d`, `3y`. Times
/// before 1971 are no times: containerd writes those where it has none.
pub(crate) fn age(then: i64, now: i64) -> String {
    const YEAR: i64 = 365 * 86400;
    if then < YEAR {
        return "-".to_owned();
    }
    match now.saturating_sub(then).max(0) {
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds if seconds < 2 * YEAR => format!("{}d", seconds / 86400),
        seconds => format!("{}y", seconds / YEAR),
    }
}

/// A duration as [`parse_duration`] reads it.
pub(crate) fn duration(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

/// Reads `500ms`, `30s`, `2m`, `1h 30m`, or a number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(Duration::from_secs);
    let parsed = || text.parse::<SignedDuration>().ok()?.try_into().ok();
    (seconds.ok().or_else(parsed))
        .ok_or_else(|| "a number with ms, s, m or h is wanted, such as 30s".to_owned())
}

/// A time, of people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Seconds since 1970.
    Time(i64),
    Ago(Duration),
}

impl When {
    /// Reads a duration or a time.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Ok(ago) = parse_duration(text) {
            return Ok(Self::Ago(ago));
        }
        let time = text.parse::<Timestamp>();
        time.map(|time| Self::Time(time.as_second())).map_err(|_| {
            "a duration such as 24h or a time such as 2026-01-31T12:00:00Z is wanted".to_owned()
        })
    }

    /// In seconds since 1970, of which `now` is one.
    pub(crate) fn seconds(self, now: i64) -> i64 {
        match self {
            Self::Time(time) => time,
            Self::Ago(ago) => now.saturating_sub(i64::try_from(ago.as_secs()).unwrap_or(i64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{age, duration, parse_duration, size};
    use std::time::Duration;

    #[test]
    fn sizes_have_three_digits() {
        let table = [
            (0, "0B"),
            (999, "999B"),
            (1000, "0.97KiB"),
            (1024, "1.00KiB"),
            (1536, "1.50KiB"),
            (10 * 1024 + 512, "10.5KiB"),
            (81_604_378, "77.8MiB"),
            (999 * 1024 * 1024, "999MiB"),
            (1000 * 1024 * 1024, "0.97GiB"),
            (u64::MAX, "15.9EiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn ages_use_one_unit() {
        let then = 1_700_000_000;
        let table = [
            (0, "0s"),
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7200, "2h"),
            (172_800, "2d"),
            (700 * 86400, "700d"),
            (800 * 86400, "2y"),
        ];
        for (passed, text) in table {
            assert_eq!(age(then, then + passed), text);
        }
        assert_eq!(age(-62_135_596_800, then), "-");
        assert_eq!(age(i64::MIN, i64::MAX), "-");
    }

    #[test]
    fn durations_are_read_and_written() {
        for text in ["500ms", "30s", "1500ms"] {
            assert_eq!(duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for bad in [
            "",
            "s",
            "-1s",
            "1d",
            "1m ago",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
