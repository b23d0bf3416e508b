//! `layerctl doctor`.

mod gather;

use std::path::PathBuf;

use super::Daemon;
use crate::containerd::main_file;
use crate::doctor::{Finding, Severity};
use crate::error::{Error, Exit};
use crate::output::Output;
use crate::table::{Cell, Colour, Table};
use crate::text::escape_message;

/// Looks at everything that layerd rests on, and says for each trouble what mends it
///
/// The daemon, its database, its disk and its trash; records against directories; the host and the
/// configuration, for which it runs `layerd check`; mounts; containerd, its files and its release;
/// systemd's units. Mends nothing by itself. Works, as far as it can, while the daemon is down. Run
/// it as root: others cannot look at the host.
///
/// Exits as monitoring wants it: 0 if all is well, 1 after warnings, 2 after errors.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// layerd's configuration; by default that of the running daemon, or /etc/layerd/config.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// containerd's socket; by default the one in layerd's configuration
    #[arg(long, value_name = "PATH", value_parser = crate::cli::parse_address)]
    containerd_address: Option<PathBuf>,

    /// containerd's own configuration
    #[arg(long, value_name = "FILE", default_value = main_file::MAIN)]
    containerd_config: PathBuf,

    /// What containerd's configuration calls layerd
    #[arg(long, value_name = "NAME", default_value = "layerd")]
    snapshotter: String,
}

pub(crate) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let findings = gather::findings(args, daemon, out.now).await;
    if out.json {
        for finding in &findings {
            out.object(finding)?;
        }
    } else {
        show(&findings, out)?;
    }
    verdict(&findings)
}

/// First all of them, a line each; then what those that are not well mean, the worst first.
fn show(findings: &[Finding], out: &mut Output) -> Result<(), Error> {
    let mut table = Table::new(&["STATE", "CHECK", "FOUND"]);
    for finding in findings {
        table.push(vec![
            Cell::left(finding.severity.name()).coloured(colour(finding.severity)),
            Cell::left(escape_message(&finding.check)),
            Cell::left(escape_message(&finding.found)),
        ]);
    }
    out.table(&table)?;
    for severity in [Severity::Error, Severity::Warning, Severity::Info] {
        for finding in findings.iter().filter(|one| one.severity == severity) {
            explain(finding, out)?;
        }
    }
    out.line(&format!("\n{}", summary(findings)))
}

fn explain(finding: &Finding, out: &mut Output) -> Result<(), Error> {
    let (check, means) = (&finding.check, escape_message(&finding.means));
    out.line(&format!(
        "\n{}: {}",
        finding.severity.name(),
        escape_message(check)
    ))?;
    out.line(&format!("  means: {means}"))?;
    match finding.mend.as_str() {
        "" => Ok(()),
        mend => out.line(&format!("  mend:  {}", escape_message(mend))),
    }
}

fn colour(severity: Severity) -> Colour {
    match severity {
        Severity::Ok => Colour::Green,
        Severity::Info => Colour::Cyan,
        Severity::Warning => Colour::Yellow,
        Severity::Error => Colour::Red,
    }
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    let some = findings.iter().filter(|one| one.severity == severity);
    some.count()
}

fn summary(findings: &[Finding]) -> String {
    let (errors, warnings) = (
        count(findings, Severity::Error),
        count(findings, Severity::Warning),
    );
    match (errors, warnings) {
        (0, 0) => "All is well.".to_owned(),
        _ => format!("Errors: {errors}, warnings: {warnings}."),
    }
}

fn verdict(findings: &[Finding]) -> Result<(), Error> {
    match findings.iter().map(|one| one.severity).max() {
        Some(Severity::Error) => Err(Error::Told(Exit::Wrong)),
        Some(Severity::Warning) => Err(Error::Told(Exit::Failed)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Finding, summary, verdict};
    use crate::error::Exit;

    #[test]
    fn the_worst_decides() {
        let ok = Finding::ok("a", "x");
        let info = Finding::info("b", "x", "y");
        let warning = Finding::warning("c", "x", "y", "z");
        let error = Finding::error("d", "x", "y", "z");
        assert!(verdict(&[ok.clone(), info.clone()]).is_ok());
        assert_eq!(summary(&[ok.clone(), info]), "All is well.");
        let warned = verdict(&[ok, warning.clone()]).unwrap_err();
        assert_eq!(warned.exit(), Exit::Failed);
        assert!(warned.each().is_empty(), "all was said already");
        let both = [error, warning];
        assert_eq!(verdict(&both).unwrap_err().exit(), Exit::Wrong);
        assert_eq!(summary(&both), "Errors: 1, warnings: 1.");
    }
}
