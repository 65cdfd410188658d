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
    /// Unix socket on which the agent serves containerd [default: /run/wharf/agent.sock]
    #[arg(long, value_name = "PATH", env = "WHARF_AGENT_SOCKET")]
    pub(super) socket: Option<PathBuf>,
}

impl NodePaths {
    /// Returns the socket that is named, or the usual one.
    pub(super) fn socket(&self) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| PathBuf::from("/run/wharf/agent.sock"))
    }
}
