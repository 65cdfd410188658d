//! What people do with Docker all day, on two versions of it that share one store at the same time.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::cluster::{Cluster, DOCKERS};
use crate::support::mirror::wharf;
use crate::support::node::{AGENT_ROOT, Node};
use crate::support::node_images::{LIST_TREE, TREE, registry};
use crate::support::process::{run_ok, shell, wait_until};
use crate::support::registry::Registry;

/// An agent waits two seconds before it tells what it does not use any more.
const TOLD: Duration = Duration::from_secs(30);

/// Every path below the store, as `find` lists them: what a node must not change.
fn listing(store: &Path) -> String {
    shell(&format!(
        "cd {}; find blobs layers chains | sort",
        store.display()
    ))
}

/// Runs something on a node of each version of Docker, which have one store.
fn on_both(run: impl Fn(&Cluster, &Registry, &Node)) {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let nodes = DOCKERS.map(|suite| cluster.docker_node(suite));
    for node in &nodes {
        run(&cluster, &registry, node);
    }
}

#[test]
fn containers_run_and_restart_and_become_images() {
    on_both(|_, _, node| {
        node.docker(&["pull", "tree"]);
        node.run_detached("box", "tree");
        assert_eq!(node.exec("box", LIST_TREE), TREE);
        node.exec("box", "echo written > /tree/one; rm /tree/three; echo new > /new");
        node.docker(&["restart", "--time=0", "box"]);
        assert_eq!(
            node.exec("box", "cat /tree/one /new; ls /tree/three 2>&1 || true"),
            "written\nnew\nls: /tree/three: No such file or directory\n"
        );
        let diff = node.docker(&["diff", "box"]);
        let diff: Vec<&str> = diff.lines().filter(|line| !line.ends_with("/tree")).collect();
        assert!(
            diff.contains(&"D /tree/three") && diff.contains(&"A /new"),
            "{diff:?}"
        );
        assert!(node.docker(&["ps", "--size"]).contains("virtual"));
        node.docker(&["commit", "box", "committed"]);
        node.docker(&["rm", "--force", "box"]);
        assert_eq!(
            node.run_in("committed", "cat /new /tree/two; ls /tree"),
            "new\nsharedboth\nhigh\none\nopaque\nreplaced\nsetgid\nsetuid\nsticky\nsymlink\ntwo\n"
        );
        assert_eq!(node.run_in("tree", LIST_TREE), TREE);
    });
}

#[test]
fn images_are_listed_inspected_saved_and_pushed() {
    on_both(|cluster, registry, node| {
        node.docker(&["pull", "tree"]);
        let layers = registry.layers("library/tree", "latest");
        let images = node.docker(&["images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}"]);
        assert!(
            images.starts_with("tree:latest ") && images.contains("MB"),
            "{images:?}"
        );
        let inspected = node.inspect("tree");
        assert_eq!(inspected["Architecture"], "amd64");
        assert_eq!(
            inspected["RootFS"]["Layers"].as_array().map(Vec::len),
            Some(layers.len()),
            "{inspected}"
        );
        assert!(node.docker(&["system", "df"]).contains("Images"));
        assert!(node.docker(&["history", "tree"]).lines().count() >= 1);

        node.assert_saved("tree", &layers);

        let directory = tempfile::tempdir().expect("a directory");
        let other = Registry::start(directory.path(), "readonly: {enabled: false}");
        let target = format!("{}/copied:latest", other.address());
        node.docker(&["tag", "tree", &target]);
        node.docker(&["push", &target]);
        assert_eq!(other.layers("copied", "latest"), layers);
        cluster.assert_not_asked(&layers);
    });
}

#[test]
fn images_are_built_on_shared_layers() {
    on_both(|cluster, registry, node| {
        node.docker(&["pull", "tree"]);
        node.write(
            "/build/Dockerfile",
            "FROM tree\nRUN echo built > /built && rm /tree/one\nCOPY Dockerfile /copied\n",
        );
        for (image, buildkit) in [("classic", "0"), ("buildkit", "1")] {
            node.shell(&format!(
                "DOCKER_BUILDKIT={buildkit} docker build --network=none --pull=false --tag {image} /build >&2"
            ));
            let script = "cat /built; busybox head -n 1 /copied; ls /tree | busybox grep -c . ; busybox stat -c %h /tree/two";
            assert_eq!(node.run_in(image, script), "built\nFROM tree\n10\n3\n", "{image}");
        }
        cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
    });
}

#[test]
fn what_is_removed_leaves_the_node_and_not_the_store() {
    on_both(|cluster, registry, node| {
        let layers = registry.layers("library/tree", "latest");
        let store = cluster.mirror.store();
        node.docker(&["pull", "tree"]);
        let before = listing(store);
        node.run_detached("box", "tree");
        node.docker(&["rmi", "--force", "tree"]);
        assert_eq!(node.exec("box", LIST_TREE), TREE);
        node.docker(&["pull", "tree"]);
        node.assert_saved("tree", &layers);
        node.docker(&["rm", "--force", "box"]);
        node.docker(&["rmi", "tree"]);
        assert_eq!(node.snapshots(), "");
        assert_eq!(node.content(), Vec::<String>::new());
        assert_eq!(listing(store), before);
        node.docker(&["pull", "tree"]);
        assert_eq!(node.run_in("tree", LIST_TREE), TREE);
        cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
    });
}

#[test]
fn the_store_knows_what_each_node_uses() {
    on_both(|cluster, registry, node| {
        node.docker(&["pull", "tree"]);
        let store = cluster.mirror.store();
        let layers: BTreeSet<String> = node.chain_ids("tree").into_iter().collect();
        let blobs: BTreeSet<String> = registry.layers("library/tree", "latest").into_iter().collect();
        let used = (layers, blobs);
        // The layers were told before the pull was over; the blobs, which Docker can do without, a little later.
        assert_eq!(used_by(node, store).expect("a statement").0, used.0);
        wait_until("the blobs to be told", TOLD, || {
            (used_by(node, store).as_ref() == Some(&used)).then_some(())
        });
        node.docker(&["rmi", "tree"]);
        wait_until("the node to use no layers", TOLD, || {
            used_by(node, store)
                .is_some_and(|(layers, _)| layers.is_empty())
                .then_some(())
        });
        wait_until("the node to use no blobs", TOLD, || {
            used_by(node, store)
                .is_some_and(|(_, blobs)| blobs.is_empty())
                .then_some(())
        });
    });
}

/// The layers and blobs that a node uses, as `wharf ls --nodes` lists them.
fn used_by(node: &Node, store: &Path) -> Option<(BTreeSet<String>, BTreeSet<String>)> {
    let id = node.shell(&format!("cat {AGENT_ROOT}/node-id"));
    let mut command = wharf();
    command.args(["ls", "--nodes", "--json", "--store"]).arg(store);
    let list: Value = serde_json::from_str(&run_ok(command)).expect("JSON");
    let nodes = list["nodes"].as_array().expect("nodes");
    let node = nodes.iter().find(|node| node["id"] == id.trim())?;
    let texts = |value: &Value| {
        let values = value.as_array().expect("a list").iter();
        values
            .map(|value| value.as_str().expect("a text").to_owned())
            .collect()
    };
    Some((texts(&node["layers"]), texts(&node["blobs"])))
}
