//! What every test here has: the file system, the mirror, and nodes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::dfs::{Kind, Shared};
use crate::support::mirror::{Mirror, Options};
use crate::support::node::Node;
use crate::support::suite::Suite;

/// How long a pull may take on a machine that is busy.
pub const PULL: Duration = Duration::from_secs(120);
/// The suites whose Docker can use a snapshotter.
pub const DOCKERS: [Suite; 2] = [Suite::Forky, Suite::Trixie];

/// A cluster; nodes are started by tests, and end before it.
pub struct Cluster {
    pub mirror: Mirror,
    shared: Shared,
}

impl Cluster {
    /// Starts one with a store that holds nothing.
    pub fn start(upstream: SocketAddr) -> Self {
        Self::start_with(Options::new(upstream))
    }

    /// Starts one whose mirror has such settings.
    pub fn start_with(mut options: Options) -> Self {
        let shared = Shared::start(Kind::Gluster);
        options.store = Some(shared.a().join("store"));
        Self {
            mirror: Mirror::start(&options),
            shared,
        }
    }

    /// Where nodes have the file system: in another network than the mirror.
    pub fn mount(&self) -> PathBuf {
        self.shared.b().to_owned()
    }

    /// Starts a Docker node that pulls through the mirror.
    pub fn docker_node(&self, suite: Suite) -> Node {
        Node::start_all(suite, &self.mount(), self.mirror.address())
    }

    /// The blobs among these that somebody has asked the mirror for by GET.
    pub fn asked_of_mirror(&self, blobs: &[String]) -> Vec<String> {
        let log = self.mirror.log();
        let asked = |blob: &&String| {
            let path = format!("/blobs/{blob}");
            log.lines()
                .any(|line| line.contains("method=GET") && line.contains(&path))
        };
        blobs.iter().filter(asked).cloned().collect()
    }

    /// Asserts that no node has asked the mirror for one of these blobs.
    pub fn assert_not_asked(&self, blobs: &[String]) {
        assert!(!blobs.is_empty());
        assert_eq!(
            self.asked_of_mirror(blobs),
            Vec::<String>::new(),
            "asked of the mirror"
        );
    }
}
