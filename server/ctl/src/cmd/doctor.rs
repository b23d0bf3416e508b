//! `layerctl doctor`.

mod gather;

use std::path::PathBuf;
use std::process::Command as Process;

use super::Daemon;
use crate::confirm::Confirmation;
use crate::containerd::main_file;
use crate::doctor::{Finding, Severity};
use crate::error::{Error, Exit};
use crate::output::Output;
use crate::table::{Cell, Colour, Table};
use crate::text::escape_message;

/// Checks what layerd rests on, and names a fix for each trouble
///
/// The daemon, its database, its disk and its trash; records against directories; the host and the
/// configuration, for which it runs `layerd check`; files and mounts; containerd, its files, its
/// release and what it needs, as `layerctl orphans`; systemd's units. Works, as far as it can, while
/// the daemon is down. Run it as root: others cannot look at the host.
///
/// Troubles come first. Each has either a fix, a command for a shell after which it is gone, or an
/// advice, for what no command can do. --fix runs the fixes that delete nothing and end no container,
/// after asking for each; it looks again at the end.
///
/// Exits as monitoring wants it: 0 if all is well, 1 after warnings, 2 after errors.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// layerd's configuration; by default that of the running daemon, or /etc/layerd/config.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// containerd's socket; by default the one in layerd's configuration
    #[arg(long, value_name = "PATH", value_parser = crate::address::parse)]
    containerd_address: Option<PathBuf>,

    /// containerd's own configuration
    #[arg(long, value_name = "FILE", default_value = main_file::MAIN)]
    containerd_config: PathBuf,

    /// Name of layerd in containerd's configuration; by default that of an instance, else layerd
    #[arg(long, value_name = "NAME")]
    snapshotter: Option<String>,

    /// Show troubles alone; nothing if all is well
    #[arg(short, long)]
    quiet: bool,

    /// Run the fixes that give nothing up, after asking for each
    #[arg(long)]
    fix: bool,

    /// With --fix: do not ask
    #[arg(short, long, requires = "fix")]
    yes: bool,
}

pub(crate) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut findings = gather::findings(args, daemon, out.now).await;
    if args.fix && mend(&findings, args.yes, out)? {
        findings = gather::findings(args, daemon, crate::human::now()).await;
    }
    if args.quiet {
        findings.retain(Finding::is_trouble);
    }
    if out.json {
        for finding in &findings {
            out.object(finding)?;
        }
    } else {
        show(&findings, args.quiet, out)?;
    }
    verdict(&findings)
}

/// Runs what is safe; answers whether something was run. One that fails does not keep the others
/// from being tried; what is left is found by the second look.
fn mend(findings: &[Finding], is_agreed: bool, out: &mut Output) -> Result<bool, Error> {
    const ASK: Confirmation = Confirmation {
        what: "run a fix",
        unasked: "Say --yes if all may be run.",
        declined: "It was left out.",
    };
    let mut done: Vec<&str> = Vec::new();
    for finding in findings.iter().filter(|one| one.is_trouble() && one.safe) {
        // One command can be the fix of several.
        if done.contains(&finding.fix.as_str()) {
            continue;
        }
        let command = escape_message(&finding.fix);
        let question = format!(
            "{}: {}\n  {command}\nRun this?",
            escape_message(&finding.check),
            escape_message(&finding.found)
        );
        match is_agreed || ASK.is_confirmed(&question)? {
            true => done.push(&finding.fix),
            false => continue,
        }
        out.progress(&format!("$ {command}"))?;
        let ran = Process::new("sh").args(["-c", &finding.fix]).status();
        let ran = ran.map_err(|cause| Error::Io {
            what: "run a shell".to_owned(),
            cause,
        })?;
        if !ran.success() {
            out.progress(&format!("failed: {ran}"))?;
        }
    }
    Ok(!done.is_empty())
}

/// Prints findings with an action, the worst first; then all others, a line each.
fn show(findings: &[Finding], is_quiet: bool, out: &mut Output) -> Result<(), Error> {
    for finding in findings.iter().filter(|one| one.severity > Severity::Ok) {
        explain(finding, out)?;
    }
    if is_quiet {
        return Ok(());
    }
    let mut table = Table::new(&["STATE", "CHECK", "FOUND"]);
    for finding in findings {
        table.push(vec![
            Cell::left(finding.severity.name()).coloured(colour(finding.severity)),
            Cell::left(escape_message(&finding.check)),
            Cell::left(escape_message(&finding.found)),
        ]);
    }
    out.table(&table)?;
    out.line(&format!("\n{}", summary(findings)))
}

fn explain(finding: &Finding, out: &mut Output) -> Result<(), Error> {
    out.line(&format!(
        "{}: {}: {}",
        finding.severity.name(),
        escape_message(&finding.check),
        escape_message(&finding.found)
    ))?;
    for (name, text) in [
        ("impact: ", &finding.impact),
        ("fix:    ", &finding.fix),
        ("advice: ", &finding.advice),
    ] {
        if !text.is_empty() {
            out.line(&format!("  {name}{}", escape_message(text)))?;
        }
    }
    out.line("")
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
    use crate::doctor::Action;
    use crate::error::Exit;

    #[test]
    fn the_worst_decides() {
        let ok = Finding::ok("a", "x");
        let info = Finding::info("b", "x", "y");
        let warning = Finding::warning("c", "x", "y", Action::safe("fix-it", "z"));
        let error = Finding::error("d", "x", "y", Action::advice("z"));
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
