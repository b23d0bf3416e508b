//! `layerctl volume prune`: shows a plan, then has exactly that plan executed.

use layerd_proto::layerd::v1::{PlanPruneRequest, PruneCandidate, PruneOutcome, PrunePlan};
use serde::Serialize;

use super::filter::{self, Filter};
use crate::cmd::Daemon;
use crate::confirm::Confirmation;
use crate::error::Error;
use crate::human;
use crate::output::Output;
use crate::table::{Cell, Table};
use crate::text::escape;

/// Removes unused volumes, after showing them
///
/// Prints the plan, asks, and then removes the volumes of the plan and no others: one that came into
/// use or changed since is skipped and listed. Removed volumes are in the trash, as after `volume rm`.
/// Named volumes stay unless --all is given, and those that were created through CSI always.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also volumes with a name; otherwise anonymous ones only
    #[arg(short, long)]
    all: bool,

    /// Only volumes that match: label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME (created before that;
    /// a time, or a duration such as 24h for as long ago). May be repeated; all must match
    #[arg(long = "filter", value_name = "FILTER", value_parser = Filter::parse)]
    filters: Vec<Filter>,

    /// Print the plan and change nothing
    #[arg(short = 'n', long, conflicts_with = "force")]
    dry_run: bool,

    /// Do not ask; needed where standard input is no terminal
    #[arg(short, long, alias = "yes", short_alias = 'y')]
    force: bool,
}

const QUESTION: Confirmation = Confirmation {
    what: "prune volumes",
    unasked: "Say --force if the volumes above may go to the trash.",
    declined: "Nothing was changed.",
};

#[derive(Serialize)]
struct Planned<'a> {
    id: &'a str,
    name: &'a str,
    reason: &'a str,
    bytes: Option<u64>,
}

#[derive(Serialize)]
struct Outcome<'a> {
    id: &'a str,
    name: &'a str,
    skipped: &'a str,
}

pub(super) async fn run(args: Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let request = PlanPruneRequest {
        include_named: args.all,
        ..filter::plan(&args.filters, out.now)?
    };
    let mut client = daemon.connect().await?;
    let plan = client.plan_prune(request).await?;
    // Programs get one form of object: what would be, or what was.
    if !out.json || args.dry_run {
        show(&plan, out)?;
    }
    if args.dry_run || plan.candidates.is_empty() {
        return Ok(());
    }
    if !args.force {
        out.out.flush().map_err(Error::Output)?;
        QUESTION.confirm(&question(&plan))?;
    }
    let outcomes = client.execute_prune(plan.id).await?;
    outcomes.iter().try_for_each(|outcome| report(outcome, out))
}

fn show(plan: &PrunePlan, out: &mut Output) -> Result<(), Error> {
    if out.json {
        return plan
            .candidates
            .iter()
            .try_for_each(|candidate| out.object(&planned(candidate)));
    }
    if plan.candidates.is_empty() {
        return out.line("There is nothing to prune.");
    }
    let mut table = Table::new(&["SIZE", "REASON", "NAME"]);
    for candidate in &plan.candidates {
        let size = candidate.bytes.map_or_else(|| "-".to_owned(), human::size);
        table.push(vec![
            Cell::right(size),
            Cell::left(escape(&candidate.reason)),
            Cell::left(escape(&candidate.name)),
        ]);
    }
    out.table(&table)
}

fn planned(candidate: &PruneCandidate) -> Planned<'_> {
    Planned {
        id: &candidate.id,
        name: &candidate.name,
        reason: &candidate.reason,
        bytes: candidate.bytes,
    }
}

fn question(plan: &PrunePlan) -> String {
    let count = plan.candidates.len();
    let unknown = plan.candidates.iter().filter(|one| one.bytes.is_none());
    match (unknown.count(), human::size(plan.bytes)) {
        (0, size) => format!("Move {count} volumes ({size}) to the trash?"),
        (some, size) => {
            format!("Move {count} volumes ({size}, and {some} not measured) to the trash?")
        }
    }
}

fn report(outcome: &PruneOutcome, out: &mut Output) -> Result<(), Error> {
    let (name, skipped) = (outcome.name.as_str(), outcome.skipped.as_str());
    if out.json {
        let id = outcome.id.as_str();
        return out.object(&Outcome { id, name, skipped });
    }
    match skipped {
        "" => out.line(&format!("removed {}", escape(name))),
        why => out.line(&format!("kept {}: {}", escape(name), escape(why))),
    }
}

#[cfg(test)]
mod tests {
    use super::{PruneCandidate, PrunePlan, question};

    #[test]
    fn the_question_says_how_much() {
        let known = PruneCandidate {
            bytes: Some(1024),
            ..PruneCandidate::default()
        };
        let plan = |candidates| PrunePlan {
            candidates,
            bytes: 1024,
            ..PrunePlan::default()
        };
        assert_eq!(
            question(&plan(vec![known.clone()])),
            "Move 1 volumes (1.00KiB) to the trash?"
        );
        assert_eq!(
            question(&plan(vec![known, PruneCandidate::default()])),
            "Move 2 volumes (1.00KiB, and 1 not measured) to the trash?"
        );
    }
}
