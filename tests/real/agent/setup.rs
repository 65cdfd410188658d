//! `wharf setup` on nodes that have files already.

use crate::support::cluster::{Cluster, DOCKERS};
use crate::support::node::Node;
use crate::support::node_images::{LIST_TREE, TREE, registry};
use crate::support::suite::Suite;

fn config_version(suite: Suite) -> u32 {
    match suite {
        Suite::Host | Suite::Trixie => 2,
        Suite::Forky => 3,
    }
}

#[test]
fn docker_nodes_that_setup_has_changed_share_layers_and_keep_their_settings() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let mirror = cluster.mirror.address();
    for suite in DOCKERS {
        let mut node = Node::start(suite, &cluster.mount());
        let version = config_version(suite);
        node.write(
            "/etc/containerd/config.toml",
            &format!("version = {version}\n# mine\n[debug]\nlevel = \"info\"\n"),
        );
        node.write("/etc/docker/daemon.json", "{\"labels\": [\"kept=yes\"]}");
        let setup = format!("/opt/wharf setup docker --write --mirror http://{mirror}");
        println!("{}", node.shell(&setup));
        node.start_agent(mirror);
        node.start_containerd();
        node.start_docker();
        node.docker(&["pull", "tree"]);
        assert_eq!(node.run_in("tree", LIST_TREE), TREE);
        let info = node.docker(&["info", "--format", "{{.Driver}} {{.Labels}}"]);
        assert_eq!(info, "wharf [kept=yes]\n");
        assert!(node.shell("cat /etc/containerd/config.toml").contains("# mine"));
        assert!(node.shell(&setup).contains("unchanged /etc/docker/daemon.json"));
    }
    cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
}
