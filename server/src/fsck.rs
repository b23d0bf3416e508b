//! `layerd fsck` and `layerd restore`: on a root that no daemon serves.

use std::fmt::Display;
use std::io::{Write as _, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use layerd_drivers::{Driver, Survey, factory};
use layerd_engine::layerd_layers::Silent;
use layerd_engine::{
    ContentCounts, Engine, Error, Problem, Restored, restore_records, survey, survey_content,
};
use layerd_mounts::mounter::KernelMounter;

use crate::config::Config;
use crate::{Settings, with_causes};

/// Finds what is wrong under a root; with `repair` does what the fixes announce. Without it,
/// nothing is written: the database is read from a copy. With `content`, the files of layers are
/// read as well. Exits with 0 if all is well or was repaired, with 1 otherwise.
pub(crate) fn run(settings: &Settings, repair: bool, content: bool) -> ExitCode {
    report(
        Config::load(settings)
            .map_err(|error| with_causes(&error))
            .and_then(|config| {
                if repair {
                    fix(&config, content)
                } else {
                    look(&config, content)
                }
            }),
    )
}

/// Puts an export in place of the records.
pub(crate) fn restore(settings: &Settings, from: Option<&Path>) -> ExitCode {
    report(
        Config::load(settings)
            .map_err(|error| with_causes(&error))
            .and_then(|config| {
                let driver = open_driver(&config)?;
                let restored = restore_records(&config.root, driver.as_ref(), from);
                print(back(&restored.map_err(|error| with_causes(&error))?));
                Ok(true)
            }),
    )
}

fn look(config: &Config, content: bool) -> Result<bool, String> {
    let (root, layers) = (&config.root, layers_of(config)?);
    let problems = survey(root, layers.as_ref()).map_err(|error| with_causes(&error))?;
    for problem in &problems {
        print(line(problem));
    }
    let mut found = problems.len();
    if content {
        let surveyed = survey_content(root, layers.as_ref(), &Silent, &mut |problem| {
            print(line(&problem));
            found += 1;
        });
        print(compared(&surveyed.map_err(|error| with_causes(&error))?));
    }
    print(summary(found, 0));
    Ok(found == 0)
}

/// A problem and its fix.
fn line(problem: &Problem) -> String {
    format!("{problem}: {}", problem.fix().text())
}

fn compared(counts: &ContentCounts) -> String {
    format!(
        "layers compared: {} ({} files, {} bytes); without file digests: {}",
        counts.layers, counts.files, counts.bytes, counts.without_digests
    )
}

fn fix(config: &Config, content: bool) -> Result<bool, String> {
    let layers = layers_of(config)?;
    let before = match survey(&config.root, layers.as_ref()) {
        Ok(problems) => problems,
        Err(error) if is_database(&error) => return fix_database(config, content, &error),
        Err(error) => return Err(with_causes(&error)),
    };
    // Opening makes good what is safe.
    let driver = open_driver(config)?;
    let mounter = Arc::new(KernelMounter::new());
    let engine = Engine::open(&config.root, driver, mounter, config.engine.clone());
    let engine = engine.map_err(|error| with_causes(&error))?;
    engine.fsck(true).map_err(|error| with_causes(&error))?;
    engine.reap();
    let left: Vec<_> = engine.fsck(false).map_err(|error| with_causes(&error))?;
    for problem in &before {
        let is_left = left.iter().any(|finding| finding.problem == *problem);
        let done = if is_left { "" } else { ": done" };
        print(format_args!("{}{done}", line(problem)));
    }
    let mut found = before.len();
    let mut repaired = found.saturating_sub(left.len());
    if content {
        let checked = engine.check_content(true, &Silent, &mut |finding| {
            let done = if finding.repaired { ": done" } else { "" };
            print(format_args!("{}{done}", line(&finding.problem)));
            found += 1;
            repaired += usize::from(finding.repaired);
        });
        print(compared(&checked.map_err(|error| with_causes(&error))?));
    }
    print(summary(found, repaired));
    Ok(left.is_empty() && found == repaired)
}

fn fix_database(config: &Config, content: bool, trouble: &Error) -> Result<bool, String> {
    let trouble = with_causes(trouble);
    let driver = open_driver(config)?;
    let restored = restore_records(&config.root, driver.as_ref(), None);
    let restored = restored.map_err(|error| format!("{trouble}; {}", with_causes(&error)))?;
    let source = &restored.source;
    print(format_args!("{trouble}: put {source}, in its place: done"));
    print(back(&restored));
    fix(config, content)
}

fn back(restored: &Restored) -> String {
    let (snapshots, moved) = (restored.snapshots, restored.moved);
    format!("{snapshots} snapshots are back; {moved} layers that are newer are in lost/")
}

fn is_database(error: &Error) -> bool {
    matches!(
        error,
        Error::Store(layerd_store::Error::Damaged { .. }) | Error::Unrecorded { .. }
    )
}

fn open_driver(config: &Config) -> Result<Arc<dyn Driver>, String> {
    factory::open(&config.root, &config.driver).map_err(|error| with_causes(&error))
}

fn layers_of(config: &Config) -> Result<Box<dyn Survey>, String> {
    factory::survey(&config.root, &config.driver).map_err(|error| with_causes(&error))
}

fn summary(found: usize, repaired: usize) -> String {
    match found {
        0 => "no problems".to_owned(),
        _ => format!("{found} problems, {repaired} repaired"),
    }
}

fn report(outcome: Result<bool, String>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("layerd: {text}");
            ExitCode::FAILURE
        }
    }
}

fn print(line: impl Display) {
    // A reader that closed the pipe has seen enough.
    let _ = writeln!(stdout(), "{line}");
}
