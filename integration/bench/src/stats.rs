//! Percentiles and ratios.

use std::time::Duration;

/// Durations of one kind, in any order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest time that `percent` of all do not exceed (nearest rank).
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted[rank - 1]
    }

    pub(crate) fn median(&self) -> Duration {
        self.percentile(50)
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        Self(times.into_iter().collect())
    }
}

/// A figure of several rounds: its median, the smallest and the largest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    /// Of the figures of the rounds, which must be at least one.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Self {
            low: sorted[0],
            median,
            high: sorted[sorted.len() - 1],
        }
    }

    pub(crate) fn low(&self) -> f64 {
        self.low
    }

    pub(crate) fn median(&self) -> f64 {
        self.median
    }

    pub(crate) fn high(&self) -> f64 {
        self.high
    }

    /// Of the quotients of two series, round by round: what both suffered alike cancels out.
    pub(crate) fn of_ratios(above: &[f64], below: &[f64]) -> Self {
        Self::of(above.iter().zip(below).map(|(above, below)| above / below))
    }
}

/// `median (low to high)`.
impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [median, low, high] = [self.median, self.low, self.high].map(short);
        write!(f, "{median} ({low} to {high})")
    }
}

/// Milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A count, to reckon with.
pub(crate) fn count(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Three digits that count.
pub(crate) fn short(figure: f64) -> String {
    match figure {
        f if f >= 99.95 => format!("{f:.0}"),
        f if f >= 9.995 => format!("{f:.1}"),
        f => format!("{f:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Spread, Times, short};
    use std::time::Duration;

    #[test]
    fn percentiles_are_times_that_were_seen() {
        let times: Times = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(times.median(), Duration::from_millis(100));
        assert_eq!(times.percentile(99), Duration::from_millis(198));
        assert_eq!(times.percentile(100), Duration::from_millis(200));
        let few: Times = [3, 1, 2].map(Duration::from_millis).into_iter().collect();
        assert_eq!(few.percentile(99), Duration::from_millis(3));
    }

    #[test]
    fn ratios_are_formed_round_by_round() {
        let ratios = Spread::of_ratios(&[2.0, 40.0, 3.0], &[1.0, 10.0, 1.0]);
        assert_eq!(ratios.to_string(), "3.00 (2.00 to 4.00)");
        assert_eq!(Spread::of([4.0, 1.0]).to_string(), "2.50 (1.00 to 4.00)");
    }

    #[test]
    fn figures_keep_three_digits() {
        let figures = [0.126, 9.999, 12.34, 99.96, 1234.5].map(short);
        assert_eq!(figures, ["0.13", "10.0", "12.3", "100", "1234"]);
    }
}
