//! Stands in for the server: wired by the integrator.

use crate::config::Config;

/// Serves until told to stop.
///
/// # Errors
/// Fails always: the server is wired by the integrator.
pub fn run(config: Config) -> anyhow::Result<()> {
    anyhow::bail!("the server on {} is not wired yet", config.listen)
}
