//! Containers whose ids are others than the host's, and users who are not root.

use crate::support::cluster::{Cluster, PODMANS};
use crate::support::dfs::Kind;
use crate::support::mirror::Options;
use crate::support::node_images::{LIST_TREE, TREE, registry};
use crate::support::suite::Suite;

/// What an image may take of a user's disk: records, configs, and an empty layer of each container.
const LITTLE: u64 = 1 << 20;

/// Counts the layers of an image of noise.
const NOISE: &str = "ls / | busybox grep -c noise";

/// What a container with the ids 0 to 65534 sees of [`TREE`]: the kernel has no other ids for it.
fn tree_of_few_ids() -> String {
    TREE.replace("3000000000:3000000001", "65534:65534")
}

#[test]
fn containers_with_ids_of_their_own_need_no_copy() {
    let registry = registry();
    let cluster = Cluster::start_on(Kind::Ext4, Options::new(registry.address()));
    for suite in PODMANS {
        let node = cluster.podman_node(suite);
        for option in ["--userns=auto:size=65536", "--uidmap=0:100000:65536"] {
            let own = node.podman_run_with(&[option], "tree", LIST_TREE);
            assert_eq!(own, tree_of_few_ids(), "{suite:?} {option}");
            let map = node.podman_run_with(&[option], "tree", "cat /proc/self/uid_map");
            assert_ne!(map.split_whitespace().nth(1), Some("0"), "{map}");
            let script = "echo written > /tree/one; busybox stat -c %u:%g /tree/one; cat /tree/one";
            let written = node.podman_run_with(&[option], "tree", script);
            assert_eq!(written, "7:8\nwritten\n", "{suite:?} {option}");
        }
        assert_eq!(node.own_layers(), Vec::<String>::new(), "{suite:?}");
        assert_eq!(node.podman_run("tree", LIST_TREE), TREE, "{suite:?}");
    }
    cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
}

#[test]
fn a_user_with_a_mount_of_mapped_ids_runs_everything() {
    let registry = registry();
    let options = Options::new(registry.address()).keys("rootless_mounts = true");
    let cluster = Cluster::start_on(Kind::Ext4, options);
    // Debian 12's mount(8) cannot map ids.
    let node = cluster.podman_node(Suite::Forky);
    let user = node.rootless();
    user.map_store();
    assert_eq!(user.podman_run("tree", LIST_TREE), tree_of_few_ids());
    let written = user.podman_run("tree", "echo written > /tree/one; cat /tree/one");
    assert_eq!(written, "written\n");
    assert_eq!(node.podman_run("tree", LIST_TREE), TREE);
    cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
    let bytes = user.disk_bytes();
    assert!(bytes < LITTLE, "{bytes} bytes");
}

#[test]
fn a_user_without_such_a_mount_pulls_as_usual() {
    let registry = registry();
    let cluster = Cluster::start_on(Kind::Ext4, Options::new(registry.address()));
    for suite in PODMANS {
        let node = cluster.podman_node(suite);
        let user = node.rootless();
        // The layers are root's alone: their setuid programs would be the user's too.
        let denied = user.try_shell("ls /mnt/wharf/layers");
        assert!(
            denied.stderr.contains("Permission denied"),
            "{suite:?}: {denied:?}"
        );
        for noise in [user.podman_run("half", NOISE), node.podman_run("half", NOISE)] {
            assert_eq!(noise, "2\n", "{suite:?}");
        }
        assert_eq!(node.own_layers(), Vec::<String>::new(), "{suite:?}");
    }
}
