//! `layerctl fsck`.

use layerd_proto::layerd::v1::{ContentCounts, Finding};
use serde::Serialize;

use super::Daemon;
use crate::client::Client;
use crate::error::Error;
use crate::human;
use crate::output::Output;
use crate::progress::Progress;
use crate::text::escape_message;

/// Compares the records with what is on disk
///
/// Changes nothing without --repair.
///
/// Each problem is shown with its fix. With --repair the fixes are carried out, as announced:
/// what layerd does not know is moved to lost/ under its root, never deleted. Quarantined
/// snapshots answer DATA_LOSS until they are removed and pulled or created again; no repair brings
/// their content back, and no other snapshot suffers from them. The daemon stays up meanwhile. For
/// a root that no daemon serves there is `layerd fsck --root DIR`.
///
/// With --content every file of every layer is read and compared with what layerd unpacked, which
/// takes as long as there is to read. Files that are missing, or have another size or content, are
/// named, at most 20 of a layer; with --repair such a layer is quarantined. Layers that others
/// wrote to, such as those of commits and builds, have no manifest to compare them with. What the
/// kernel holds in memory is not read from the disk again.
///
/// Exits with 0 if there are no problems or all were repaired, with 11 if problems are left.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Carry out the fixes
    #[arg(long)]
    repair: bool,

    /// Read the files of layers too, and compare them with what was unpacked
    #[arg(long)]
    content: bool,
}

#[derive(Serialize)]
struct Json<'a> {
    problem: &'a str,
    fix: &'a str,
    repaired: bool,
    quarantined: bool,
}

#[derive(Serialize)]
struct CountsJson {
    layers: u64,
    without_digests: u64,
    files: u64,
    bytes: u64,
}

pub(crate) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let mut findings = client.fsck(args.repair).await?;
    for finding in &findings {
        show(finding, out)?;
    }
    if args.content {
        findings.extend(content(&mut client, args.repair, out).await?);
    }
    if findings.is_empty() && !out.json {
        out.line("No problems.")?;
    }
    let left = findings.iter().filter(|finding| !finding.repaired).count();
    if left == 0 {
        return Ok(());
    }
    let hint = hint(&findings, args.repair);
    Err(Error::ProblemsLeft {
        found: findings.len(),
        left,
        hint,
    })
}

/// Has the files of layers compared, and shows what is wrong with them.
async fn content(
    client: &mut Client,
    repair: bool,
    out: &mut Output,
) -> Result<Vec<Finding>, Error> {
    let mut progress = Progress::new("comparing files".to_owned());
    let compared = client.check_content(repair, |files, bytes| progress.files(files, None, bytes));
    let compared = compared.await?;
    drop(progress);
    for finding in &compared.findings {
        show(finding, out)?;
    }
    let ContentCounts {
        layers,
        without_digests,
    } = compared.counts;
    let (files, bytes) = (compared.files, compared.bytes);
    if out.json {
        out.object(&CountsJson {
            layers,
            without_digests,
            files,
            bytes,
        })?;
    } else {
        let size = human::size(bytes);
        out.line(&format!(
            "Layers compared: {layers} ({files} files, {size}); without file digests: {without_digests}."
        ))?;
    }
    Ok(compared.findings)
}

fn show(finding: &Finding, out: &mut Output) -> Result<(), Error> {
    if out.json {
        return out.object(&Json {
            problem: &finding.problem,
            fix: &finding.fix,
            repaired: finding.repaired,
            quarantined: finding.quarantined,
        });
    }
    let (problem, fix) = (&finding.problem, &finding.fix);
    out.line(&format!("{}: {}", state(finding), escape_message(problem)))?;
    out.line(&format!("  fix: {}", escape_message(fix)))
}

fn state(finding: &Finding) -> &'static str {
    match (finding.repaired, finding.quarantined) {
        (true, _) => "repaired",
        (false, true) => "QUARANTINED",
        (false, false) => "problem",
    }
}

/// Advice about the findings that are left.
fn hint(findings: &[Finding], repair: bool) -> String {
    let left = || findings.iter().filter(|finding| !finding.repaired);
    let mut advice = Vec::new();
    if left().any(|finding| !finding.quarantined) {
        advice.push(if repair {
            "`journalctl -u layerd` says why a fix failed."
        } else {
            "`layerctl fsck --repair` carries out the fixes."
        });
    }
    if left().any(|finding| finding.quarantined) {
        advice.push(
            "Quarantined snapshots answer DATA_LOSS: remove what uses them, then pull or create it again.",
        );
    }
    advice.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{Finding, hint, state};

    fn finding(repaired: bool, quarantined: bool) -> Finding {
        Finding {
            repaired,
            quarantined,
            ..Finding::default()
        }
    }

    #[test]
    fn states_are_told_apart() {
        assert_eq!(state(&finding(true, false)), "repaired");
        assert_eq!(state(&finding(false, true)), "QUARANTINED");
        assert_eq!(state(&finding(false, false)), "problem");
    }

    #[test]
    fn advice_fits_what_is_left() {
        let repairable = [finding(false, false)];
        assert!(hint(&repairable, false).contains("--repair"));
        assert!(hint(&repairable, true).contains("journalctl"));
        let mixed = [finding(true, false), finding(false, true)];
        assert!(hint(&mixed, true).starts_with("Quarantined"));
    }
}
