//! Pulls by nodes whose layers lie on the store: what they ask of the mirror, and what they keep.

use crate::support::cluster::{Cluster, PODMANS, PULL};
use crate::support::curl::MANIFEST_TYPES;
use crate::support::dfs::Kind;
use crate::support::gate::Gate;
use crate::support::mirror::Options;
use crate::support::node::Node;
use crate::support::node_images::{HUNDRED, LIST_TREE, TREE, add_image, registry};
use crate::support::process::wait_until;
use crate::support::registry::Registry;
use crate::support::suite::Suite;
use crate::support::upstream::{Upstream, blob, then};

/// How much of a node's own disk images may take: records and configs.
const LITTLE: u64 = 1 << 20;

/// Runs something on a node of each version of Podman, each with a registry that nobody has asked and an empty store.
fn on_both(run: impl Fn(&Cluster, &Registry, &Node)) {
    for suite in PODMANS {
        let registry = registry();
        let cluster = Cluster::start_on(Kind::Ext4, Options::new(registry.address()));
        run(&cluster, &registry, &cluster.podman_node(suite));
    }
}

/// Asserts that nothing of any layer is on the node's own disk.
fn assert_nothing_kept(node: &Node) {
    assert_eq!(node.own_layers(), Vec::<String>::new());
    let bytes = node.disk_bytes();
    assert!(bytes < LITTLE, "{bytes} bytes");
}

#[test]
fn a_cold_run_fetches_a_manifest_and_a_config_and_no_layer() {
    on_both(|cluster, registry, node| {
        assert_eq!(node.podman_run("tree", LIST_TREE), TREE);
        let contents = node.podman_run("tree", "cat /tree/two /tree/replaced/inner");
        assert_eq!(contents, "sharedinner");
        assert_eq!(cluster.manifest_gets("library/tree"), 1);
        let blobs = registry.blobs("library/tree", "latest");
        assert_eq!(cluster.asked_of_mirror(&blobs), blobs[..1]);
        registry.assert_fetched_once(&blobs[1..]);
        assert_nothing_kept(node);
    });
}

#[test]
fn four_nodes_pull_a_new_image_at_once_and_no_layer_reaches_a_node() {
    let registry = registry();
    let cluster = Cluster::start_on(Kind::Ext4, Options::new(registry.address()));
    let suites = [Suite::Host, Suite::Forky, Suite::Host, Suite::Forky];
    let nodes = suites.map(|suite| cluster.podman_node(suite));
    let mut pulls = nodes
        .each_ref()
        .map(|node| node.start_podman_command("pull", &["pull", "tree"]));
    for pull in &mut pulls {
        let status = pull.wait(PULL);
        assert!(status.success(), "{}", pull.stderr());
    }
    for node in &nodes {
        assert_eq!(node.podman_run("tree", LIST_TREE), TREE);
    }
    let layers = registry.layers("library/tree", "latest");
    registry.assert_fetched_once(&layers);
    cluster.assert_not_asked(&layers);
    nodes.iter().for_each(assert_nothing_kept);
}

#[test]
fn an_image_that_shares_layers_brings_only_its_own_to_the_store() {
    on_both(|cluster, registry, node| {
        node.podman(&["pull", "half"]);
        node.podman(&["pull", "whole"]);
        assert_eq!(node.podman_run("whole", "ls / | busybox grep -c noise"), "4\n");
        let layers = registry.layers("library/whole", "latest");
        registry.assert_fetched_once(&layers);
        cluster.assert_not_asked(&layers);
        assert_nothing_kept(node);
    });
}

#[test]
fn layers_that_are_compressed_in_another_way_are_not_fetched_either() {
    on_both(|cluster, registry, node| {
        node.podman(&["pull", "tree"]);
        // A node that knows nothing of the first image.
        let other = cluster.podman_node(Suite::Forky);
        for node in [&other, node] {
            assert_eq!(node.podman_run("tree-zstd", LIST_TREE), TREE);
            assert_nothing_kept(node);
        }
        let layers = registry.layers("library/tree-zstd", "latest");
        assert_ne!(layers[1], registry.layers("library/tree", "latest")[1]);
        cluster.assert_not_asked(&layers);
        // The compressed digests that are known now do not push out the first ones.
        let third = cluster.podman_node(Suite::Host);
        assert_eq!(third.podman_run("tree", LIST_TREE), TREE);
        cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
    });
}

#[test]
fn the_same_layers_in_another_order_and_twice_run_without_being_fetched() {
    on_both(|cluster, registry, node| {
        for (image, files) in [("half", "2\n"), ("swapped", "2\n"), ("twice", "2\n")] {
            let count = node.podman_run(image, "ls / | busybox grep -c noise");
            assert_eq!(count, files, "{image}");
            cluster.assert_not_asked(&registry.layers(&format!("library/{image}"), "latest"));
        }
        registry.assert_fetched_once(&registry.layers("library/half", "latest"));
        assert_nothing_kept(node);
    });
}

#[test]
fn an_image_of_a_hundred_layers_runs() {
    on_both(|cluster, registry, node| {
        let count = node.podman_run("hundred", "cat /last; echo; ls /numbers | busybox wc -l");
        assert_eq!(count, format!("{}\n{HUNDRED}\n", HUNDRED - 1));
        cluster.assert_not_asked(&registry.layers("library/hundred", "latest"));
        assert_nothing_kept(node);
    });
}

#[test]
fn an_image_runs_by_its_digest() {
    on_both(|cluster, registry, node| {
        let (_, digest) = registry.manifest("library/tree", "latest");
        let name = format!("docker.io/library/tree@{digest}");
        assert_eq!(node.podman_run(&name, LIST_TREE), TREE);
        cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
        assert_nothing_kept(node);
    });
}

#[test]
fn an_index_runs_by_tag_and_by_digest() {
    let registry = Registry::filled();
    for suite in PODMANS {
        let cluster = Cluster::start_on(Kind::Ext4, Options::new(registry.address()));
        let node = cluster.podman_node(suite);
        let (_, digest) = registry.manifest("library/multi", "latest");
        for name in ["multi".to_owned(), format!("docker.io/library/multi@{digest}")] {
            assert_eq!(node.podman_run(&name, "echo runs"), "runs\n", "{name}");
        }
        assert_eq!(node.podman_inspect("multi")["Architecture"], "amd64");
        cluster.assert_not_asked(&registry.layers("library/multi", "amd64"));
        assert_nothing_kept(&node);
    }
}

#[test]
fn pull_always_and_newer_ask_for_the_manifest_and_no_layer() {
    on_both(|cluster, registry, node| {
        node.podman(&["pull", "tree"]);
        for policy in ["always", "newer", "missing", "never"] {
            let before = cluster.manifest_gets("library/tree");
            let option = format!("--pull={policy}");
            assert_eq!(node.podman_run_with(&[&option], "tree", LIST_TREE), TREE);
            let asked = cluster.manifest_gets("library/tree") - before;
            let asks = matches!(policy, "always" | "newer");
            assert_eq!(asked > 0, asks, "{policy}: {asked} manifests");
        }
        cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
        assert_nothing_kept(node);
    });
}

#[test]
fn an_image_that_is_removed_is_pulled_again_without_a_layer() {
    on_both(|cluster, registry, node| {
        for _ in 0..2 {
            assert_eq!(node.podman_run("tree", LIST_TREE), TREE);
            node.podman(&["rmi", "tree"]);
            assert_eq!(node.podman(&["images", "--all", "--quiet"]), "");
        }
        let layers = registry.layers("library/tree", "latest");
        registry.assert_fetched_once(&layers);
        cluster.assert_not_asked(&layers);
    });
}

#[test]
fn without_the_store_podman_pulls_as_usual_and_shares_again_when_it_is_back() {
    on_both(|cluster, registry, node| {
        // What `wharf setup podman` leaves in the bare mount point.
        node.unmount_store();
        node.shell(
            "mkdir -p /mnt/wharf/layers/overlay-images /mnt/wharf/layers/overlay-layers
             touch /mnt/wharf/layers/overlay-images/images.lock /mnt/wharf/layers/overlay-layers/layers.lock",
        );
        assert_eq!(node.podman_run("half", "ls / | busybox grep -c noise"), "2\n");
        let half = registry.layers("library/half", "latest");
        assert_eq!(cluster.asked_of_mirror(&half), half);
        assert_eq!(node.own_layers().len(), half.len());
        node.mount_store();
        assert_eq!(node.podman_run("half", "ls / | busybox grep -c noise"), "2\n");
        // The mirror holds no manifest for a while for who fetched blobs after one: somebody else waits.
        let tree = cluster
            .mirror
            .get("/v2/library/tree/manifests/latest?ns=docker.io");
        let tree = tree
            .accept(MANIFEST_TYPES)
            .header("Wharf-Reads-Store", "true")
            .send();
        assert_eq!(tree.status, 200);
        assert_eq!(node.podman_run("tree", LIST_TREE), TREE);
        // busybox, which `half` has too, was asked for above.
        cluster.assert_not_asked(&registry.layers("library/tree", "latest")[1..]);
        assert_eq!(node.own_layers().len(), half.len());
    });
}

#[test]
fn skopeo_is_not_held_and_gets_the_blobs() {
    on_both(|cluster, registry, node| {
        node.shell("skopeo copy --quiet docker://docker.io/library/half dir:/var/tmp/half");
        let blobs = registry.blobs("library/half", "latest");
        assert_eq!(cluster.asked_of_mirror(&blobs), blobs);
    });
}

#[test]
fn buildah_is_served_like_podman() {
    on_both(|cluster, registry, node| {
        node.shell("buildah pull --quiet docker.io/library/tree");
        assert_eq!(node.podman_run_with(&["--pull=never"], "tree", LIST_TREE), TREE);
        cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
        assert_nothing_kept(node);
    });
}

fn a_layer_that_is_late_comes_as_a_blob(suite: Suite) {
    let upstream = Upstream::start();
    let layers = add_image(&upstream, "slow");
    let options = Options::new(upstream.address()).keys("hold_timeout = \"5s\"");
    let cluster = Cluster::start_on(Kind::Ext4, options);
    let node = cluster.podman_node(suite);
    let gate = Gate::new();
    upstream.script(blob(&layers[1]), then().hold(&gate));
    let mut pull = node.start_podman_command("pull", &["pull", "slow"]);
    gate.wait_for(1);
    // The limit is over when the manifest has been sent.
    wait_until("the node to get the manifest", PULL, || {
        (cluster.manifest_gets("library/slow") > 0).then_some(())
    });
    gate.open();
    // The layer is published while the node fetches it; the node has its last bytes then.
    let status = pull.wait(PULL);
    assert!(status.success(), "{}", pull.stderr());
    assert_eq!(node.podman_run("slow", "cat /name"), "slow");
    assert_eq!(upstream.blob_gets(&layers[1]), 1);
}

#[test]
fn podman_4_3_pulls_a_layer_that_is_late_as_a_blob() {
    a_layer_that_is_late_comes_as_a_blob(Suite::Host);
}

#[test]
fn podman_5_8_pulls_a_layer_that_is_late_as_a_blob() {
    a_layer_that_is_late_comes_as_a_blob(Suite::Forky);
}

#[test]
fn layers_that_are_fetched_while_they_are_published_break_no_pull() {
    for suite in PODMANS {
        let upstream = Upstream::start();
        let options = Options::new(upstream.address()).keys("hold_timeout = \"0s\"");
        let cluster = Cluster::start_on(Kind::Ext4, options);
        let node = cluster.podman_node(suite);
        for name in ["first", "second", "third", "fourth", "fifth"] {
            let layers = add_image(&upstream, name);
            node.podman(&["pull", name]);
            assert_eq!(node.podman_run(name, "cat /name"), name);
            assert_eq!(upstream.blob_gets(&layers[1]), 1);
        }
    }
}

#[test]
fn containers_run_while_a_pull_waits() {
    for suite in PODMANS {
        let upstream = Upstream::start();
        let [slow, _] = ["slow", "here"].map(|name| add_image(&upstream, name));
        let cluster = Cluster::start_on(Kind::Ext4, Options::new(upstream.address()));
        let node = cluster.podman_node(suite);
        node.podman(&["pull", "here"]);
        let gate = Gate::new();
        upstream.script(blob(&slow[1]), then().hold(&gate));
        let mut pull = node.start_podman_command("pull", &["pull", "slow"]);
        gate.wait_for(1);
        assert_eq!(node.podman_run("here", "cat /name"), "here");
        node.podman(&["rmi", "here"]);
        node.podman(&["pull", "here"]);
        assert!(pull.status().is_none(), "{}", pull.stderr());
        gate.open();
        let status = pull.wait(PULL);
        assert!(status.success(), "{}", pull.stderr());
        assert_eq!(node.podman_run("slow", "cat /name"), "slow");
        cluster.assert_not_asked(&slow);
    }
}
