//! `wharf ls`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::inventory::{Inventory, Mirrors, Nodes};
use crate::store::Store;

/// Which store.
#[derive(Debug, Args)]
pub(super) struct LsArguments {
    /// Directory of the store; it is only read
    #[arg(long, value_name = "DIR", env = "WHARF_STORE", default_value = "wharf-store")]
    store: PathBuf,
    /// List the nodes, and what their agents say that they have in use
    #[arg(long)]
    nodes: bool,
    /// List the mirrors that use the store, and how much each fetches and extracts for all
    #[arg(long, conflicts_with = "nodes")]
    mirrors: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the images, the nodes, or the mirrors.
pub(super) fn run(arguments: &LsArguments) -> anyhow::Result<()> {
    let store = Store::open_read_only(&arguments.store)?;
    let text = match (arguments.nodes, arguments.json) {
        (_, false) if arguments.mirrors => Mirrors::read(&store)?.to_string(),
        (_, true) if arguments.mirrors => Mirrors::read(&store)?.to_json(),
        (false, false) => Inventory::read(&store)?.to_string(),
        (false, true) => Inventory::read(&store)?.to_json(),
        (true, false) => Nodes::read(&store)?.to_string(),
        (true, true) => Nodes::read(&store)?.to_json(),
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot print the list")
}
