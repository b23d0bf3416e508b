//! Findings of fsck as messages.

use layerd_engine::{Finding, Fix};
use layerd_proto::layerd::v1 as pb;

pub(super) fn message(finding: &Finding) -> pb::Finding {
    let fix = finding.problem.fix();
    pb::Finding {
        problem: finding.problem.to_string(),
        fix: fix.text().to_owned(),
        repaired: finding.repaired,
        quarantined: matches!(fix, Fix::Quarantine(_)),
        is_advice: matches!(fix, Fix::Advice(_)),
        is_volume_missing: finding.problem.is_volume_missing(),
    }
}
