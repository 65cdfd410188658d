//! `wharf ls`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::inventory::Inventory;
use crate::store::Store;

/// Which store.
#[derive(Debug, Args)]
pub(super) struct LsArguments {
    /// Directory of the store; it is only read
    #[arg(long, value_name = "DIR", env = "WHARF_STORE", default_value = "wharf-store")]
    store: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the images.
pub(super) fn run(arguments: &LsArguments) -> anyhow::Result<()> {
    let inventory = Inventory::read(&Store::open_read_only(&arguments.store)?)?;
    let text = if arguments.json {
        inventory.to_json()
    } else {
        inventory.to_string()
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot print the list")
}
