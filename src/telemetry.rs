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
    #[error("log level {level:?} cannot be used: {reason}")]
    Level {
        /// The level.
        level: String,
        /// No source: its text has that of its own source in it.
        reason: tracing_subscriber::filter::ParseError,
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
    let filter = EnvFilter::try_new(&log.level).map_err(|reason| TelemetryError::Level {
        level: log.level.clone(),
        reason,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_is_told_its_reason_once() {
        for level in ["wharf=loud", "[", "a=b=c"] {
            let log = Log {
                format: LogFormat::Text,
                level: level.to_owned(),
                access: false,
            };
            let text = full_text(&init(&log).unwrap_err());
            let (_, reason) = text.split_once("cannot be used: ").unwrap();
            assert!(!reason.is_empty(), "{text}");
            let parts: Vec<_> = reason.split(": ").collect();
            let different: std::collections::BTreeSet<_> = parts.iter().collect();
            assert_eq!(parts.len(), different.len(), "{text}");
        }
    }
}
