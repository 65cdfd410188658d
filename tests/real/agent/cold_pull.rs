//! The first pull of an image, by several nodes at once.

use std::time::Duration;

use super::cluster::Cluster;
use crate::support::node_images::{LIST_TREE, TREE};
use crate::support::suite::Suite;

/// How long a pull may take on a machine that is busy.
const PULL: Duration = Duration::from_secs(120);

#[test]
fn four_nodes_pull_a_new_image_at_once_and_no_layer_reaches_a_node() {
    let cluster = Cluster::start();
    let suites = [Suite::Forky, Suite::Trixie, Suite::Forky, Suite::Trixie];
    let nodes = suites.map(|suite| cluster.docker_node(suite));
    let mut pulls = nodes
        .each_ref()
        .map(|node| node.start_docker_command("pull", &["pull", "tree"]));
    for pull in &mut pulls {
        let status = pull.wait(PULL);
        assert!(status.success(), "{}", pull.stderr());
    }
    cluster
        .registry
        .assert_fetched_once(&cluster.registry.blobs("library/tree", "latest"));
    for node in &nodes {
        assert_eq!(node.run_in("tree", LIST_TREE), TREE);
        assert_eq!(
            node.run_in("tree", "cat /tree/two /tree/replaced/inner"),
            "sharedinner"
        );
    }
    let layers = cluster.registry.layers("library/tree", "latest");
    assert_eq!(cluster.asked_of_mirror(&layers), Vec::<String>::new());
}
