//! Nodes on file systems whose locks or caches are too weak for Podman: an agent keeps what Podman asks for on the node.

use std::time::Duration;

use crate::support::cluster::{Cluster, PODMANS};
use crate::support::dfs::Kind;
use crate::support::mirror::Options;
use crate::support::node::ImageStore;
use crate::support::node_images::{LIST_TREE, TREE, registry};
use crate::support::process::wait_until;
use crate::support::suite::Suite;

/// How long an agent may take to see what a mirror has published while nobody tells it.
const SEEN: Duration = Duration::from_secs(30);

fn nodes_in_another_network_share_layers(kind: Kind) {
    let registry = registry();
    let cluster = Cluster::start_on(kind, Options::new(registry.address()));
    let nodes = PODMANS.map(|suite| cluster.podman_node(suite));
    let [old, new] = &nodes;
    // Each is the first to pull something.
    assert_eq!(old.podman_run("tree", LIST_TREE), TREE);
    assert_eq!(new.podman_run("whole", "ls / | busybox grep -c noise"), "4\n");
    assert_eq!(new.podman_run("tree", LIST_TREE), TREE);
    assert_eq!(old.podman_run("whole", "ls / | busybox grep -c noise"), "4\n");
    for image in ["half", "swapped", "tree-zstd", "hundred"] {
        for node in &nodes {
            node.podman_run(image, "test -x /bin/busybox");
            // Docker's format has no zstd.
            let archive = format!("/var/tmp/{image}");
            node.podman(&[
                "save",
                "--quiet",
                "--format=oci-archive",
                "--output",
                &archive,
                image,
            ]);
        }
        cluster.assert_not_asked(&registry.layers(&format!("library/{image}"), "latest"));
    }
    registry.assert_fetched_once(&registry.layers("library/whole", "latest"));
    cluster.assert_not_asked(&registry.layers("library/whole", "latest"));
    cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
    for node in &nodes {
        assert_eq!(node.own_layers(), Vec::<String>::new());
    }
}

#[test]
fn on_gluster_nodes_in_another_network_share_layers() {
    nodes_in_another_network_share_layers(Kind::Gluster);
}

#[test]
fn on_moosefs_nodes_in_another_network_share_layers() {
    nodes_in_another_network_share_layers(Kind::MooseFs);
}

#[test]
fn containers_with_ids_of_their_own_fail_with_a_reason_where_mounts_cannot_map_ids() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    for suite in PODMANS {
        let node = cluster.podman_node(suite);
        node.podman(&["pull", "half"]);
        // GlusterFS's client does not let FUSE map ids, and Podman copies nothing in its place.
        let run = [
            "run",
            "--rm",
            "--uidmap=0:100000:65536",
            "half",
            "sh",
            "-c",
            "busybox stat -c %u:%g:%n / /bin /bin/busybox >&2; echo x > /new && cat /new >&2; ls / >&2",
        ];
        let failed = node.try_podman(&run);
        // Newer ones try to map the layer, older ones the directory of links, which lead nowhere then.
        let says_why = ["create mapped mount", "no such file"]
            .iter()
            .any(|why| failed.stderr.contains(why));
        assert!(!failed.status.success() && says_why, "{suite:?}: {failed:?}");
        assert_eq!(
            node.podman_run("half", "ls / | busybox grep -c noise"),
            "2\n",
            "{suite:?}"
        );
        assert_eq!(node.own_layers(), Vec::<String>::new(), "{suite:?}");
    }
}

#[test]
fn a_docker_node_and_podman_nodes_share_a_store() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let docker = cluster.docker_node(Suite::Trixie);
    let nodes = PODMANS.map(|suite| cluster.podman_node(suite));
    docker.docker(&["pull", "tree"]);
    assert_eq!(
        nodes[0].podman_run("whole", "ls / | busybox grep -c noise"),
        "4\n"
    );
    for node in &nodes {
        assert_eq!(node.podman_run("tree", LIST_TREE), TREE);
    }
    docker.docker(&["pull", "whole"]);
    assert_eq!(docker.run_in("whole", "ls / | busybox grep -c noise"), "4\n");
    assert_eq!(docker.run_in("tree", LIST_TREE), TREE);
    for image in ["library/tree", "library/whole"] {
        let layers = registry.layers(image, "latest");
        registry.assert_fetched_once(&layers);
        cluster.assert_not_asked(&layers);
    }
}

#[test]
fn podman_goes_on_while_its_agent_is_down_and_learns_what_it_missed() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let mut node = cluster.podman_node(Suite::Forky);
    let other = cluster.podman_node(Suite::Host);
    assert_eq!(node.podman_run("tree", LIST_TREE), TREE);
    node.agent.kill();
    assert_eq!(other.podman_run("half", "ls / | busybox grep -c noise"), "2\n");
    // What it knows runs, and what it does not know comes as blobs at worst.
    assert_eq!(node.podman_run("tree", LIST_TREE), TREE);
    assert_eq!(node.podman_run("one", "ls / | busybox grep -c noise"), "1\n");
    node.start_podman_agent(cluster.mirror.address());
    let known = ImageStore::Local.path() + "/overlay-layers/layers.json";
    let published = crate::support::chain::layer_ids(&registry.diff_ids("library/half", "latest"));
    wait_until("the agent to list all layers", SEEN, || {
        let list = node.shell(&format!("cat {known}"));
        published.iter().all(|id| list.contains(id)).then_some(())
    });
    assert_eq!(node.podman_run("half", "ls / | busybox grep -c noise"), "2\n");
    cluster.assert_not_asked(&registry.layers("library/half", "latest"));
}

#[test]
fn a_store_that_is_not_mounted_stops_what_needs_its_layers_and_nothing_else() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    for suite in PODMANS {
        let node = cluster.podman_node(suite);
        node.podman_run_detached("box", "tree");
        node.unmount_store();
        let listed = node.podman(&["images", "--format", "{{.Repository}}"]);
        assert_eq!(listed, "docker.io/library/tree\n", "{suite:?}");
        assert_eq!(node.podman_exec("box", LIST_TREE), TREE, "{suite:?}");
        let run = ["run", "--rm", "--pull=never", "tree", "sh", "-c", ":"];
        assert!(!node.try_podman(&run).status.success(), "{suite:?}");
        node.mount_store();
        assert_eq!(node.podman_run("tree", LIST_TREE), TREE, "{suite:?}");
        node.podman(&["rm", "--force", "--time=0", "box"]);
    }
    cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
}

#[test]
fn an_agent_that_runs_once_brings_what_is_published() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let other = cluster.podman_node(Suite::Host);
    assert_eq!(other.podman_run("tree", LIST_TREE), TREE);
    let mut node = cluster.podman_node(Suite::Forky);
    node.agent.stop();
    node.shell(&format!("rm -r {}", ImageStore::Local.path()));
    for _ in 0..2 {
        node.run_podman_agent_once();
    }
    assert_eq!(node.podman_run("tree", LIST_TREE), TREE);
    assert_eq!(node.own_layers(), Vec::<String>::new());
    cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
}
