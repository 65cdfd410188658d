//! Wires the parts together: the only place that sees everything.

use anyhow::Context as _;

use crate::config::Config;
use crate::store::Store;

/// Opens the store.
///
/// # Errors
/// Fails if the store cannot be opened, and else always: the part that answers
/// requests is still to come, and serving nothing silently would be worse.
pub fn run(config: Config) -> anyhow::Result<()> {
    let store = Store::open(&config.store).context("cannot serve")?;
    anyhow::bail!(
        "the store {} is in order, but this version cannot serve it yet",
        store.root().display()
    )
}
