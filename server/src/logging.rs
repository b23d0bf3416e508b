//! Where log lines go.

use std::io::{self, IsTerminal, stderr};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{LogConfig, LogFormat};

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("connect to the systemd journal")]
    Journal(#[source] io::Error),
    #[error("set `log.level`")]
    Level(#[source] tracing_subscriber::filter::ParseError),
    #[error("install the log")]
    Install(#[source] TryInitError),
}

/// Installs the log for the whole process.
pub(crate) fn start(config: &LogConfig) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&config.level).map_err(LogError::Level)?;
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match config.format {
        LogFormat::Text => fmt::layer()
            .with_writer(stderr)
            .with_ansi(stderr().is_terminal())
            .boxed(),
        LogFormat::Json => fmt::layer().json().with_writer(stderr).boxed(),
        LogFormat::Journald => tracing_journald::layer()
            .map_err(LogError::Journal)?
            .boxed(),
    };
    let log = Registry::default().with(layer.with_filter(filter));
    log.try_init().map_err(LogError::Install)
}
