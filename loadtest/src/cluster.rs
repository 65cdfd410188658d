//! Docker nodes and the mirror that they pull through, wharf or Debian's docker-registry, with the bytes counted
//! before and behind it.
//!
//! Nodes are those of the tests: Docker of Debian forky, with the files of `config/`, in namespaces of their own on
//! this machine. Both mirrors are behind a relay, which costs both the same for a byte.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::relay::{self, Counts};
use crate::servers::{self, Server};
use crate::support::dfs::{Kind, Shared};
use crate::support::mirror::WHARF;
use crate::support::node::Node;
use crate::support::suite::Suite;

/// How long a pull may take.
const PULL: Duration = Duration::from_secs(600);
/// The mirror's address in the files under `config/`.
const DOCUMENTED_ADDRESS: &str = "127.0.0.1:5000";

/// What nodes pull through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// wharf with an agent on each node.
    Wharf,
    /// docker-registry as a pull-through cache, with Docker as it comes.
    Registry,
}

impl System {
    pub fn name(self) -> &'static str {
        match self {
            Self::Wharf => "wharf",
            Self::Registry => "docker-registry",
        }
    }
}

/// A mirror that holds nothing yet, for nodes to pull through. They must end before it.
pub struct Cluster {
    system: System,
    from_upstream: Arc<Counts>,
    to_nodes: Arc<Counts>,
    address: SocketAddr,
    _mirror: Server,
    shared: Shared,
    _directory: TempDir,
}

/// What a pull took.
#[derive(Clone, Copy, Debug)]
pub struct Pulled {
    pub seconds: f64,
    pub upstream_bytes: u64,
    pub downloaded_bytes: u64,
}

impl Cluster {
    /// Starts a mirror of the registry at `upstream`; wharf's store is on a file system of that kind.
    pub fn start(system: System, kind: Kind, upstream: SocketAddr) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a directory")?;
        let (upstream, from_upstream) = relay::start(upstream, None)?;
        let (shared, mirror) = match system {
            System::Wharf => {
                let shared = Shared::start(kind);
                let store = shared.a().join("store");
                let mirror = servers::wharf_with_store(Path::new(WHARF), directory.path(), &store, upstream)?;
                (shared, mirror)
            }
            System::Registry => {
                let root = directory.path().join("cache");
                std::fs::create_dir(&root)?;
                let mirror = servers::docker_registry_cache(directory.path(), &root, upstream)?;
                (Shared::start(Kind::Ext4), mirror)
            }
        };
        let (address, to_nodes) = relay::start(mirror.address, None)?;
        Ok(Self {
            system,
            from_upstream,
            to_nodes,
            address,
            _mirror: mirror,
            shared,
            _directory: directory,
        })
    }

    /// Starts a node that has pulled nothing.
    pub fn node(&self) -> Node {
        let mut node = Node::start(Suite::Forky, self.shared.b());
        let (containerd, docker) = match self.system {
            System::Wharf => (
                include_str!("../../config/agent/containerd-2.toml"),
                include_str!("../../config/agent/daemon.json"),
            ),
            System::Registry => ("version = 3\n", include_str!("../../config/daemon.json")),
        };
        node.write("/etc/containerd/config.toml", containerd);
        node.write(
            "/etc/docker/daemon.json",
            &docker.replace(DOCUMENTED_ADDRESS, &self.address.to_string()),
        );
        if self.system == System::Wharf {
            node.start_agent(self.address);
        }
        node.start_containerd();
        node.start_docker();
        node
    }

    /// Has nodes pull an image at once, until the last has it.
    pub fn pull(&self, nodes: &[Node], image: &str) -> anyhow::Result<Pulled> {
        let bytes =
            || [&self.from_upstream, &self.to_nodes].map(|counts| counts.bytes.load(Ordering::SeqCst));
        let (before, start) = (bytes(), Instant::now());
        let pulls = nodes
            .iter()
            .map(|node| node.start_docker_command("pull", &["pull", "--quiet", image]));
        for mut pull in pulls.collect::<Vec<_>>() {
            if !pull.wait(PULL).success() {
                bail!("docker pull failed: {}", pull.stderr());
            }
        }
        let (seconds, after) = (start.elapsed().as_secs_f64(), bytes());
        Ok(Pulled {
            seconds,
            upstream_bytes: after[0] - before[0],
            downloaded_bytes: after[1] - before[1],
        })
    }
}
