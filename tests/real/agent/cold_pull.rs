//! The first pull of an image, by several nodes at once, and pulls of what is there.

use crate::support::cluster::{Cluster, PULL};
use crate::support::node_images::{HUNDRED, LIST_TREE, TREE, registry};
use crate::support::suite::Suite;

/// How much of a node's own disk an image may take.
const LITTLE: u64 = 5 << 20;

#[test]
fn four_nodes_pull_a_new_image_at_once_and_no_layer_reaches_a_node() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let suites = [Suite::Forky, Suite::Trixie, Suite::Forky, Suite::Trixie];
    let nodes = suites.map(|suite| cluster.docker_node(suite));
    let mut pulls = nodes
        .each_ref()
        .map(|node| node.start_docker_command("pull", &["pull", "tree"]));
    for pull in &mut pulls {
        let status = pull.wait(PULL);
        assert!(status.success(), "{}", pull.stderr());
    }
    registry.assert_fetched_once(&registry.blobs("library/tree", "latest"));
    for node in &nodes {
        assert_eq!(node.run_in("tree", LIST_TREE), TREE);
        let contents = node.run_in("tree", "cat /tree/two /tree/replaced/inner");
        assert_eq!(contents, "sharedinner");
    }
    cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
}

#[test]
fn an_image_of_a_hundred_layers_runs_and_takes_no_room_on_the_node() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let node = cluster.docker_node(Suite::Forky);
    let before = node.disk_used("/var/lib");
    node.docker(&["pull", "hundred"]);
    let used = node.disk_used("/var/lib") - before;
    assert!(used < LITTLE, "{used} bytes");
    let script = "cat /last; echo; ls /numbers | busybox wc -l";
    let expected = format!("{}\n{HUNDRED}\n", HUNDRED - 1);
    assert_eq!(node.run_in("hundred", script), expected);
    cluster.assert_not_asked(&registry.layers("library/hundred", "latest"));
}

#[test]
fn an_image_of_which_half_is_published_comes_whole() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let node = cluster.docker_node(Suite::Trixie);
    node.docker(&["pull", "half"]);
    node.docker(&["pull", "whole"]);
    assert_eq!(node.run_in("whole", "ls / | busybox grep -c noise"), "4\n");
    registry.assert_fetched_once(&registry.layers("library/whole", "latest"));
    cluster.assert_not_asked(&registry.layers("library/whole", "latest"));
}
