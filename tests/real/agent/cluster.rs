//! What every test here has: the file system, the registry, the mirror, and nodes.

use std::path::PathBuf;

use crate::support::dfs::{Kind, Shared};
use crate::support::mirror::{Mirror, Options};
use crate::support::node::Node;
use crate::support::node_images;
use crate::support::registry::Registry;
use crate::support::suite::Suite;

/// A cluster; nodes are started by tests, and end before it.
pub struct Cluster {
    pub mirror: Mirror,
    pub registry: Registry,
    shared: Shared,
}

impl Cluster {
    /// Starts one with a store that holds nothing.
    pub fn start() -> Self {
        Self::start_with(|options| options)
    }

    /// Starts one whose mirror has further settings.
    pub fn start_with(change: impl FnOnce(Options) -> Options) -> Self {
        let shared = Shared::start(Kind::Gluster);
        let registry = node_images::registry();
        let mut options = change(Options::new(registry.address()));
        options.store = Some(shared.a().join("store"));
        Self {
            mirror: Mirror::start(&options),
            registry,
            shared,
        }
    }

    /// Where nodes have the file system: in another network than the mirror.
    pub fn mount(&self) -> PathBuf {
        self.shared.b().to_owned()
    }

    /// Starts a Docker node.
    pub fn docker_node(&self, suite: Suite) -> Node {
        Node::start_all(suite, &self.mount(), self.mirror.address())
    }

    /// The blobs of layers that somebody has asked the mirror for by GET, of these.
    pub fn asked_of_mirror(&self, layers: &[String]) -> Vec<String> {
        let log = self.mirror.log();
        let asked = |layer: &&String| {
            let path = format!("/blobs/{layer}");
            log.lines()
                .any(|line| line.contains("method=GET") && line.contains(&path))
        };
        layers.iter().filter(asked).cloned().collect()
    }
}
