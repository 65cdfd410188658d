//! `wharf nodes`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::api::NodeId;
use crate::inventory::ListedNode;
use crate::store::Store;

/// What to do with nodes.
#[derive(Debug, Args)]
pub(super) struct NodesArguments {
    #[command(subcommand)]
    command: NodesCommand,
}

#[derive(Debug, Subcommand)]
enum NodesCommand {
    /// Forget nodes that are gone for good: what they had in use keeps nothing on the store any more.
    ///
    /// A node whose agent still runs says within ten minutes again what it uses.
    Rm(RmArguments),
}

/// Which nodes.
#[derive(Debug, Args)]
struct RmArguments {
    /// Ids of nodes, as `wharf ls --nodes` prints them
    #[arg(value_name = "ID", required = true)]
    ids: Vec<NodeId>,
    /// Directory of the store
    #[arg(long, value_name = "DIR", env = "WHARF_STORE", default_value = "wharf-store")]
    store: PathBuf,
}

/// Forgets nodes, and prints what each of them kept; none if one of them is not known.
pub(super) fn run(arguments: &NodesArguments) -> anyhow::Result<()> {
    let NodesCommand::Rm(RmArguments { ids, store: root }) = &arguments.command;
    // To open one for writing would make it.
    let known = Store::open_read_only(root)?.nodes()?;
    for id in ids {
        anyhow::ensure!(
            known.contains(id),
            "{} knows no node {id}; `wharf ls --nodes --store {0}` lists those that it knows",
            root.display()
        );
    }
    let store = Store::open(root)?;
    for id in ids {
        let kept = match ListedNode::read(&store, id) {
            Ok(node) => node.map(|node| node.to_string()),
            // That must not keep it there for ever.
            Err(error) => Some(format!(
                "{id}, whose statement was unreadable: {}",
                error.full_text()
            )),
        };
        store
            .forget_node(id)
            .with_context(|| format!("cannot forget {id}"))?;
        if let Some(kept) = kept {
            writeln!(std::io::stdout(), "forgot {kept}").context("cannot print what was forgotten")?;
        }
    }
    Ok(())
}
