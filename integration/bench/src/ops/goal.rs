//! Goals for layerd relative to its peers.

use super::Contender;
use crate::load::Op;
use crate::place::Fs;
use crate::stats::Spread;
use crate::table::verdict;
use crate::target::Target;

/// Required ratio of layerd's operations to a peer's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Goal {
    least: f64,
    /// Also for each second of processor time.
    by_processor: bool,
}

impl Goal {
    /// The goal for an operation with so many clients, beside a contender, where there is one. For
    /// changes it is that all are durable, which nothing is in memory.
    pub(super) fn of(op: Op, clients: usize, beside: &Contender, fs: Fs) -> Option<Self> {
        let is_mutation =
            matches!(op, Op::Prepare | Op::Commit | Op::Remove | Op::Life) && fs != Fs::Tmpfs;
        match (beside, clients) {
            (Contender::Inside(_), 1) if is_mutation => Some(Self::least(1.0, false)),
            (Contender::Inside(_), 32) if is_mutation => Some(Self::least(6.0, false)),
            (Contender::Served(Target::Peer(_)), _) if matches!(op, Op::Stat | Op::Mounts) => {
                Some(Self::least(2.0, true))
            }
            _ => None,
        }
    }

    const fn least(least: f64, by_processor: bool) -> Self {
        Self {
            least,
            by_processor,
        }
    }

    /// Text for the table, by the medians of both ratios.
    pub(super) fn verdict(self, by_time: Spread, by_processor: Spread) -> String {
        let is_met = by_time.median() >= self.least
            && (!self.by_processor || by_processor.median() >= self.least);
        let both = if self.by_processor { ", both" } else { "" };
        verdict(format_args!("at least {}{both}", self.least), is_met)
    }
}

#[cfg(test)]
mod tests {
    use super::{Contender, Goal};
    use crate::load::Op;
    use crate::place::Fs;
    use crate::stats::Spread;
    use crate::target::Target;

    #[test]
    fn a_goal_is_met_by_medians() {
        let inside = Contender::Inside("peer".into());
        let goal = Goal::of(Op::Prepare, 32, &inside, Fs::Xfs).expect("there is one");
        let (high, low) = (Spread::of([5.0, 6.0, 7.0]), Spread::of([0.5]));
        assert_eq!(goal.verdict(high, low), "at least 6: met");
        assert_eq!(goal.verdict(low, high), "at least 6: missed");
        let peer = Contender::Served(Target::Peer("peer".into()));
        let goal = Goal::of(Op::Stat, 8, &peer, Fs::Tmpfs).expect("there is one");
        assert_eq!(goal.verdict(high, low), "at least 2, both: missed");
        assert_eq!(Goal::of(Op::Prepare, 8, &inside, Fs::Xfs), None);
        assert_eq!(Goal::of(Op::Prepare, 32, &inside, Fs::Tmpfs), None);
    }
}
