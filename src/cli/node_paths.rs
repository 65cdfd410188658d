//! Where a node has what is its own, for `wharf agent` and for `wharf setup`, which writes what the agent reads.

use std::path::PathBuf;

use clap::Args;

/// The agent's directory and socket.
#[derive(Debug, Args)]
pub(super) struct NodePaths {
    /// Directory of this node's own snapshots, on a local disk that overlayfs can have its upper directories on
    #[arg(
        long,
        value_name = "DIR",
        env = "WHARF_AGENT_ROOT",
        default_value = "/var/lib/wharf-agent"
    )]
    pub(super) root: PathBuf,
    /// Unix socket on which the agent serves containerd
    #[arg(
        long,
        value_name = "PATH",
        env = "WHARF_AGENT_SOCKET",
        default_value = "/run/wharf/agent.sock"
    )]
    pub(super) socket: PathBuf,
}
