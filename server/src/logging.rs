//! Where log lines go.

mod line;

use std::io::{self, IsTerminal, stderr};
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use tracing::warn;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{LogConfig, LogFormat};
use crate::with_causes;
use line::{Form, Line};

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("set `log.level`")]
    Level(#[source] tracing_subscriber::filter::ParseError),
    #[error("install the log")]
    Install(#[source] TryInitError),
}

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;

/// Installs the log for the whole process. A journal that cannot be reached is replaced by
/// standard error, which is said there: storage does not depend on it.
pub(crate) fn start(config: &LogConfig) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&config.level).map_err(LogError::Level)?;
    let (layer, failed) = match config.format {
        LogFormat::Text => (text(), None),
        LogFormat::Json => (json(), None),
        LogFormat::Journald => match tracing_journald::layer() {
            Ok(layer) => (layer.boxed(), None),
            Err(cause) => (text(), Some(cause)),
        },
    };
    let log = Registry::default().with(layer.with_filter(filter));
    log.try_init().map_err(LogError::Install)?;
    if let Some(cause) = failed {
        let reason = with_causes(&cause);
        warn!(
            reason,
            "cannot reach the systemd journal, so the log is on standard error"
        );
    }
    Ok(())
}

fn text() -> Boxed {
    let in_journal = is_journal();
    let layer = fmt::layer().with_writer(stderr);
    if in_journal {
        // The journal notes times and levels itself.
        let format = fmt::format()
            .without_time()
            .with_level(false)
            .with_ansi(false);
        return layer
            .with_ansi(false)
            .event_format(Line::new(format, Form::Plain, true))
            .boxed();
    }
    let colour = stderr().is_terminal();
    let format = fmt::format().with_ansi(colour);
    let form = match colour {
        true => Form::Coloured,
        false => Form::Plain,
    };
    layer
        .with_ansi(colour)
        .event_format(Line::new(format, form, false))
        .boxed()
}

fn json() -> Boxed {
    let format = Line::new(fmt::format().json(), Form::Json, is_journal());
    let layer = fmt::layer()
        .with_writer(stderr)
        .fmt_fields(JsonFields::new());
    layer.event_format(format).boxed()
}

/// Prints why the daemon does not start, before there is a log.
pub(crate) fn complain(error: &dyn std::error::Error) {
    let prefix = if is_journal() { line::ERROR } else { "" };
    eprintln!("{prefix}layerd: {}", with_causes(error));
}

/// True if standard error is a stream of systemd's journal, by `JOURNAL_STREAM` (systemd.exec(5)).
#[allow(
    clippy::disallowed_methods,
    reason = "what systemd says of this process is no setting"
)]
fn is_journal() -> bool {
    let told = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let own = |error: &io::Stderr| fstat(error.as_fd()).ok();
    own(&stderr()).is_some_and(|own| told == format!("{}:{}", own.st_dev, own.st_ino))
}
