//! `layerd check`: the configuration and the host, without starting.

use std::fmt::Display;
use std::io::{Write as _, stdout};
use std::process::ExitCode;

use layerd_mounts::Overlay;

use crate::config::Config;
use crate::{Settings, with_causes};

/// Prints one line a finding and answers whether layerd could run.
pub(crate) fn run(settings: &Settings) -> ExitCode {
    let mut report = Report { failed: false };
    let config = match Config::load(settings) {
        Ok(config) => config,
        Err(error) => {
            report.line(false, "configuration", with_causes(&error));
            return report.exit_code();
        }
    };
    report.line(true, "configuration", "valid");
    match Overlay::check(&config.root, &config.overlay) {
        Ok(findings) => {
            for finding in findings {
                let text = format!("{} {}", finding.detail, finding.advice);
                report.line(!finding.refuses(), finding.name, text.trim_end());
            }
        }
        Err(error) => report.line(false, "root", with_causes(&error)),
    }
    report.exit_code()
}

struct Report {
    failed: bool,
}

impl Report {
    fn line(&mut self, good: bool, name: impl Display, text: impl Display) {
        self.failed |= !good;
        let verdict = if good { "ok  " } else { "FAIL" };
        // A reader that closed the pipe has seen enough.
        let _ = writeln!(stdout(), "{verdict} {name}: {text}");
    }

    fn exit_code(&self) -> ExitCode {
        if self.failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}
