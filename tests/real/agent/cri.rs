//! Kubernetes nodes: what a kubelet asks of containerd, on layers of the store.

use crate::support::cluster::Cluster;
use crate::support::node::{CriMode, Node};
use crate::support::node_images::{LIST_TREE, TREE, registry};
use crate::support::suite::Suite;

const TREE_IMAGE: &str = "docker.io/library/tree:latest";

fn a_pod_runs_on_layers_of_the_store(suite: Suite, mode: CriMode) {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let mut node = Node::start(suite, &cluster.mount());
    node.configure_cri(cluster.mirror.address(), mode);
    node.start_agent(cluster.mirror.address());
    node.start_containerd();
    let version = node.shell("containerd --version");
    println!("{suite:?}: {}", version.trim());
    let cri = node.cri();
    cri.wait_ready();

    let reference = cri.pull(TREE_IMAGE);
    assert!(reference.starts_with("sha256:"), "{reference}");
    let pod = cri.run_pod("pod");
    let container = cri.run_container(&pod, "container", TREE_IMAGE);
    assert_eq!(cri.exec(&container, LIST_TREE), TREE);
    cri.exec(&container, "echo written > /tree/one");
    assert_eq!(cri.exec(&container, "cat /tree/one"), "written\n");
    let images = cri.images();
    let size = images
        .iter()
        .find(|(tag, _)| tag == TREE_IMAGE)
        .map(|(_, size)| *size);
    assert!(size.is_some_and(|size| size > 900_000), "{images:?}");

    cri.remove_container(&container);
    let again = cri.run_container(&pod, "again", TREE_IMAGE);
    assert_eq!(cri.exec(&again, LIST_TREE), TREE);
    cri.remove_container(&again);
    cri.remove_pod(&pod);
    cri.remove_image(TREE_IMAGE);
    let images = cri.images();
    assert!(images.iter().all(|(tag, _)| tag != TREE_IMAGE), "{images:?}");
    registry.assert_fetched_once(&registry.layers("library/tree", "latest"));
    cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
}

#[test]
fn containerd_2_runs_a_pod_that_the_transfer_service_pulled() {
    a_pod_runs_on_layers_of_the_store(Suite::Forky, CriMode::Transfer);
}

#[test]
fn containerd_2_runs_a_pod_that_it_pulled_itself() {
    a_pod_runs_on_layers_of_the_store(Suite::Forky, CriMode::Local);
}

#[test]
fn containerd_1_6_runs_a_pod() {
    a_pod_runs_on_layers_of_the_store(Suite::Host, CriMode::Old);
}
