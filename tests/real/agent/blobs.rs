//! The compressed layers, which Docker wants in the node's content store: they lie on the store, and are linked.

use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::support::node_images::{LIST_TREE, TREE, registry};
use crate::support::process::wait_until;
use crate::support::suite::Suite;

/// The agent looks after what is gone at most every five seconds.
const LINKED: Duration = Duration::from_secs(30);

#[test]
fn a_blob_that_has_left_the_content_store_is_linked_again() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let node = cluster.docker_node(Suite::Trixie);
    node.docker(&["pull", "tree"]);
    let layers = registry.layers("library/tree", "latest");
    node.shell(&format!(
        "ctr --namespace moby content rm {} {}",
        layers[0], layers[2]
    ));
    wait_until("the blobs to be linked again", LINKED, || {
        // Whatever asks for the layers' state will do.
        node.docker(&["system", "df"]);
        let content = node.content();
        layers.iter().all(|layer| content.contains(layer)).then_some(())
    });
    node.assert_saved("tree", &layers);
    cluster.assert_not_asked(&layers);
}

#[test]
fn a_layer_that_was_published_from_another_compression_can_be_saved_too() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let node = cluster.docker_node(Suite::Forky);
    node.docker(&["pull", "tree"]);
    // For layers that it has containerd asks nothing, and keeps the blobs that it has.
    node.docker(&["rmi", "tree"]);
    assert_eq!(node.snapshots(), "");
    node.docker(&["pull", "tree-zstd"]);
    let layers = registry.layers("library/tree-zstd", "latest");
    assert_ne!(layers[1], registry.layers("library/tree", "latest")[1]);
    wait_until("the blobs to be linked", LINKED, || {
        let content = node.content();
        layers.iter().all(|layer| content.contains(layer)).then_some(())
    });
    node.assert_saved("tree-zstd", &layers);
    assert_eq!(node.run_in("tree-zstd", LIST_TREE), TREE);
    cluster.assert_not_asked(&layers);
}
