//! What tests of nodes have: the file system, the mirror, and nodes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::dfs::{Kind, Shared};
use super::mirror::{Mirror, Options};
use super::node::{ImageStore, Node};
use super::suite::Suite;

/// How long a pull may take on a machine that is busy.
pub const PULL: Duration = Duration::from_secs(120);
/// The suites whose Docker can use a snapshotter.
pub const DOCKERS: [Suite; 2] = [Suite::Forky, Suite::Trixie];
/// The suites with Podman 4.3 and 5.8.
pub const PODMANS: [Suite; 2] = [Suite::Host, Suite::Forky];

/// A cluster; nodes are started by tests, and end before it.
pub struct Cluster {
    pub mirror: Mirror,
    kind: Kind,
    shared: Shared,
}

impl Cluster {
    /// Starts one with a store that holds nothing.
    pub fn start(upstream: SocketAddr) -> Self {
        Self::start_with(Options::new(upstream))
    }

    /// Starts one whose mirror has such settings.
    pub fn start_with(options: Options) -> Self {
        Self::start_on(Kind::Gluster, options)
    }

    /// Starts one on such a file system, whose mirror has such settings.
    pub fn start_on(kind: Kind, mut options: Options) -> Self {
        let shared = Shared::start(kind);
        options.store = Some(shared.a().join("store"));
        Self {
            mirror: Mirror::start(&options),
            kind,
            shared,
        }
    }

    /// Starts one more mirror of the store, in the network that the nodes are in.
    pub fn another_mirror(&self, mut options: Options) -> Mirror {
        options.store = Some(self.shared.b().join("store"));
        Mirror::start(&options)
    }

    /// Where nodes have the file system: in another network than the mirror.
    pub fn mount(&self) -> PathBuf {
        self.shared.b().to_owned()
    }

    /// Starts a Docker node that pulls through the mirror.
    pub fn docker_node(&self, suite: Suite) -> Node {
        Node::start_all(suite, &self.mount(), self.mirror.address())
    }

    /// Starts a Podman node that pulls through the mirror, and reads the layers as the file system wants it.
    pub fn podman_node(&self, suite: Suite) -> Node {
        Node::start_podman(suite, &self.mount(), self.mirror.address(), self.image_store())
    }

    /// How a node of Podman reads layers: the locks and caches of ext4 alone are good enough for podman.
    pub fn image_store(&self) -> ImageStore {
        match self.kind {
            Kind::Ext4 => ImageStore::Shared,
            Kind::Gluster | Kind::MooseFs => ImageStore::Local,
        }
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

    /// How often somebody has asked the mirror for a manifest of a repository by GET.
    pub fn manifest_gets(&self, repository: &str) -> usize {
        let path = format!("{repository}/manifests/");
        let log = self.mirror.log();
        log.lines()
            .filter(|line| line.contains("method=GET") && line.contains(&path))
            .count()
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
