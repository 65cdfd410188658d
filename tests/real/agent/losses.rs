//! What a node loses, and how it heals: its agent's records, the store, layers of the store, every mirror.

use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::support::layers::{directory, published};
use crate::support::node::{AGENT_ROOT, Node};
use crate::support::node_images::{LIST_TREE, TREE, registry};
use crate::support::process::{Ended, free_address, wait_until};
use crate::support::suite::Suite;

const HEALED: Duration = Duration::from_secs(20);

fn try_run(node: &Node, image: &str) -> Ended {
    node.try_docker(&[
        "run",
        "--rm",
        "--network=none",
        "--pull=never",
        image,
        "sh",
        "-c",
        ":",
    ])
}

#[test]
fn records_that_are_lost_are_made_again_and_no_container_is_lost() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let mut node = cluster.docker_node(Suite::Forky);
    node.docker(&["pull", "tree"]);
    node.run_detached("box", "tree");
    node.exec("box", "echo kept > /kept");
    node.docker(&["stop", "--time=0", "box"]);
    node.agent.kill();
    node.shell(&format!("rm -r {AGENT_ROOT}/records"));
    node.start_agent(cluster.mirror.address());
    wait_until("the container to start", HEALED, || {
        node.try_docker(&["start", "box"]).status.success().then_some(())
    });
    assert_eq!(node.exec("box", "cat /kept"), "kept\n");
    assert_eq!(node.exec("box", LIST_TREE), TREE);
    assert_eq!(node.run_in("tree", LIST_TREE), TREE);
    node.docker(&["pull", "half"]);
    node.docker(&["rm", "--force", "box"]);
    node.docker(&["rmi", "tree", "half"]);
    assert_eq!(node.snapshots(), "");
    cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
}

#[test]
fn images_come_back_when_all_of_the_agents_root_is_lost() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let mut node = cluster.docker_node(Suite::Forky);
    node.docker(&["pull", "tree"]);
    node.agent.kill();
    node.shell(&format!("rm -r {AGENT_ROOT}"));
    node.start_agent(cluster.mirror.address());
    wait_until("a container to run", HEALED, || {
        try_run(&node, "tree").status.success().then_some(())
    });
    assert_eq!(node.run_in("tree", LIST_TREE), TREE);
    node.docker(&["pull", "tree"]);
    node.docker(&["rmi", "--force", "tree"]);
    node.docker(&["pull", "tree"]);
    assert_eq!(node.run_in("tree", LIST_TREE), TREE);
    cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
}

#[test]
fn a_store_that_is_not_mounted_is_named_and_all_heals_when_it_is_back() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let node = cluster.docker_node(Suite::Forky);
    node.docker(&["pull", "tree"]);
    node.run_detached("box", "tree");
    node.unmount_store();
    assert_eq!(node.exec("box", LIST_TREE), TREE);
    let failed = try_run(&node, "tree");
    assert!(!failed.status.success());
    assert!(failed.stderr.contains("/mnt/wharf"), "{}", failed.stderr);
    let failed = node.try_docker(&["pull", "one"]);
    assert!(failed.stderr.contains("/mnt/wharf"), "{}", failed.stderr);
    let warnings = node
        .agent
        .log()
        .matches("layers cannot be had from the store")
        .count();
    assert_eq!(warnings, 1, "{}", node.agent.log());
    node.mount_store();
    wait_until("a container to run", HEALED, || {
        try_run(&node, "tree").status.success().then_some(())
    });
    assert_eq!(node.run_in("tree", LIST_TREE), TREE);
    node.docker(&["pull", "whole"]);
    assert_eq!(node.run_in("whole", "ls / | busybox grep -c noise"), "4\n");
    assert_eq!(node.exec("box", LIST_TREE), TREE);
}

#[test]
fn without_the_store_an_image_is_unpacked_on_the_node_and_the_next_one_shares_again() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let node = cluster.docker_node(Suite::Trixie);
    node.unmount_store();
    node.docker(&["pull", "half"]);
    assert_eq!(node.run_in("half", "ls / | busybox grep -c noise"), "2\n");
    let half = registry.layers("library/half", "latest");
    assert_eq!(cluster.asked_of_mirror(&half), half);
    node.mount_store();
    node.docker(&["pull", "whole"]);
    assert_eq!(node.run_in("whole", "ls / | busybox grep -c noise"), "4\n");
    node.docker(&["rmi", "half", "whole"]);
    node.docker(&["pull", "tree"]);
    assert_eq!(node.run_in("tree", LIST_TREE), TREE);
    let tree = registry.layers("library/tree", "latest");
    // busybox, which `half` has too, was asked for above.
    cluster.assert_not_asked(&tree[1..]);
}

#[test]
fn a_layer_that_somebody_has_deleted_is_named_and_brought_back() {
    let registry = registry();
    let mut cluster = Cluster::start(registry.address());
    let node = cluster.docker_node(Suite::Forky);
    node.docker(&["pull", "tree"]);
    let chain_ids = node.chain_ids("tree");
    let top = directory(cluster.mirror.store(), &chain_ids[2]);
    assert_eq!(published(cluster.mirror.store()).len(), 3);
    std::fs::remove_dir_all(top.parent().expect("a layer")).expect("remove a layer");
    // A mirror that is not there brings nothing back: the error says which layer is missed.
    cluster.mirror.stop();
    // A node's mount remembers names for a second.
    wait_until("the layer to be named", HEALED, || {
        let failed = try_run(&node, "tree");
        assert!(!failed.status.success());
        failed.stderr.contains(&chain_ids[2]).then_some(())
    });
    cluster.mirror.start_again();
    wait_until("the layer to be brought back", HEALED, || {
        try_run(&node, "tree").status.success().then_some(())
    });
    assert_eq!(node.run_in("tree", LIST_TREE), TREE);
    assert_eq!(directory(cluster.mirror.store(), &chain_ids[2]), top);
}

#[test]
fn without_a_mirror_published_layers_serve_and_the_others_come_from_the_registry() {
    let registry = registry();
    let mut cluster = Cluster::start(registry.address());
    let mut node = Node::start(Suite::Trixie, &cluster.mount());
    // Docker asks the registry, and the agent a mirror that has never been.
    node.configure_docker(registry.address());
    node.start_agent(free_address());
    node.start_containerd();
    node.start_docker();
    let other = cluster.docker_node(Suite::Forky);
    other.docker(&["pull", "half"]);
    cluster.mirror.stop();
    node.docker(&["pull", "half"]);
    assert_eq!(node.run_in("half", "ls / | busybox grep -c noise"), "2\n");
    let gets = registry.blob_gets();
    for layer in registry.layers("library/half", "latest") {
        assert_eq!(gets.get(&layer), Some(&1), "the mirror's: {gets:?}");
    }
    node.docker(&["pull", "whole"]);
    assert_eq!(node.run_in("whole", "ls / | busybox grep -c noise"), "4\n");
    let warnings = node.agent.log().matches(" WARN ").count();
    assert!(warnings <= 3, "{}", node.agent.log());
}
