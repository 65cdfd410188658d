//! Logs and metrics set-up.

pub mod labels;
pub mod metrics;

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

pub use metrics::Metrics;

/// Why logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is no filter.
    #[error("log level {level:?} cannot be used")]
    Level {
        /// The level.
        level: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something in this process has set up logs before.
    #[error("cannot set up logs")]
    Taken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Joins an error with its causes, in one line.
pub(crate) fn full_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Sends this process's logs to stderr; text has colours only on a terminal.
///
/// # Errors
/// Fails if the level is no filter, or if it is called a second time.
pub fn init(log: &Log) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&log.level).map_err(|source| TelemetryError::Level {
        level: log.level.clone(),
        source,
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // They would be printed to stderr, which panics where stderr takes nothing: a full disk, a closed pipe.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    match log.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(TelemetryError::Taken)
}
