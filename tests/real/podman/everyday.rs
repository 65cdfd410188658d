//! What people do with Podman and Buildah all day, on two versions of them that share one store at the same time.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use flate2::read::GzDecoder;
use serde_json::json;

use crate::support::cluster::{Cluster, PODMANS};
use crate::support::curl::Curl;
use crate::support::dfs::Kind;
use crate::support::mirror::Options;
use crate::support::node::Node;
use crate::support::node_images::{LIST_TREE, TREE, registry};
use crate::support::process::{shell, wait_until};
use crate::support::registry::Registry;
use crate::support::{sha256, sha256_file};

/// How long Podman's service may take to notice what is published.
const NOTICED: Duration = Duration::from_secs(30);

/// Runs something on a node of each version of Podman, which have one store.
fn on_both(run: impl Fn(&Cluster, &Registry, &Node)) {
    let registry = registry();
    let cluster = Cluster::start_on(Kind::Ext4, Options::new(registry.address()));
    for suite in PODMANS {
        let node = cluster.podman_node(suite);
        run(&cluster, &registry, &node);
    }
}

/// Every path below the store's layers, as `find` lists them: what a node must not change.
fn listing(store: &Path) -> String {
    shell(&format!("cd {}; find layers chains | sort", store.display()))
}

/// The digest of what a pushed layer decompresses to.
fn diff_id(registry: &Registry, layer: &str) -> String {
    let blob = Curl::new(&registry.url(&format!("copied/blobs/{layer}")))
        .send()
        .body;
    let mut tar = Vec::new();
    GzDecoder::new(&blob[..])
        .read_to_end(&mut tar)
        .expect("decompress a layer");
    sha256(&tar)
}

#[test]
fn containers_run_and_restart_and_become_images() {
    on_both(|_, _, node| {
        node.podman_run_detached("box", "tree");
        let exec = |script: &str| node.podman_exec("box", script);
        assert_eq!(exec(LIST_TREE), TREE);
        exec("echo written > /tree/one; busybox rm /tree/three; echo new > /new");
        node.podman(&["restart", "--time=0", "box"]);
        assert_eq!(
            exec("cat /tree/one /new; ls /tree/three 2>&1 || true"),
            "written\nnew\nls: /tree/three: No such file or directory\n"
        );
        let diff = node.podman(&["diff", "box"]);
        let diff: Vec<&str> = diff.lines().collect();
        for line in ["C /tree/one", "D /tree/three", "A /new"] {
            assert!(diff.contains(&line), "{line} in {diff:?}");
        }
        assert!(!diff.contains(&"C /tree/two"), "{diff:?}");
        assert!(node.podman(&["ps", "--size"]).contains("virtual"));
        node.podman(&["commit", "--quiet", "box", "committed"]);
        node.podman(&["rm", "--force", "--time=0", "box"]);
        assert_eq!(
            node.podman_run("localhost/committed", "cat /new /tree/one /tree/two; ls /tree"),
            "new\nwritten\nsharedboth\nhigh\none\nopaque\nreplaced\nsetgid\nsetuid\nsticky\nsymlink\ntwo\n"
        );
        assert_eq!(node.podman_run("tree", LIST_TREE), TREE);
        assert_eq!(node.own_layers().len(), 1, "what was committed");
    });
}

#[test]
fn images_are_listed_inspected_and_compared() {
    on_both(|cluster, registry, node| {
        node.podman(&["pull", "tree"]);
        let layers = registry.layers("library/tree", "latest");
        let images = node.podman(&["images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}"]);
        assert!(
            images.starts_with("docker.io/library/tree:latest ") && images.contains("MB"),
            "{images:?}"
        );
        let inspected = node.podman_inspect("tree");
        assert_eq!(inspected["Architecture"], "amd64");
        assert_eq!(inspected["RootFS"]["Layers"].as_array().map(Vec::len), Some(3));
        assert!(
            inspected["Size"].as_u64().is_some_and(|size| size > 900_000),
            "{inspected}"
        );
        let (_, digest) = registry.manifest("library/tree", "latest");
        assert_eq!(
            inspected["RepoDigests"][0],
            format!("docker.io/library/tree@{digest}")
        );
        let history = node.podman(&["history", "--format", "{{.CreatedBy}}", "tree"]);
        assert_eq!(history, "layer 3\nlayer 2\nlayer 1\n");
        assert!(node.podman(&["system", "df"]).contains("Images"));
        let tree = node.podman(&["image", "tree", "tree"]);
        assert!(tree.contains("Image Layers"), "{tree}");
        // What the topmost layer changes; Podman 4.3 fails where a directory replaces a file, as in `tree`.
        node.podman(&["pull", "half"]);
        assert_eq!(node.podman(&["image", "diff", "half"]), "A /noise-2\n");
        cluster.assert_not_asked(&layers);
    });
}

#[test]
fn images_are_saved_and_pushed_and_copied_byte_for_byte() {
    on_both(|cluster, registry, node| {
        node.podman(&["pull", "tree"]);
        let expected = registry.diff_ids("library/tree", "latest");
        assert_eq!(node.podman_inspect("tree")["RootFS"]["Layers"], json!(expected));
        let directory = tempfile::tempdir().expect("a directory");
        let other = Registry::start(directory.path(), "readonly: {enabled: false}");
        let target = format!("{}/copied", other.address());
        let podman_push = ["push", "--quiet", "--tls-verify=false", "tree"];
        node.podman(&[&podman_push[..], &[&format!("{target}:podman")]].concat());
        node.shell(&format!(
            "buildah push --quiet --tls-verify=false docker.io/library/tree docker://{target}:buildah
             skopeo copy --quiet --dest-tls-verify=false containers-storage:docker.io/library/tree:latest \
               docker://{target}:skopeo"
        ));
        for tag in ["podman", "buildah", "skopeo"] {
            let layers = other.layers("copied", tag);
            let pushed: Vec<String> = layers.iter().map(|layer| diff_id(&other, layer)).collect();
            assert_eq!(pushed, expected, "{tag}");
        }
        // An uncompressed layer's file is named after its bytes, which the DiffID is the hash of.
        for format in ["docker-dir", "oci-dir", "docker-archive"] {
            let path = format!("/var/tmp/{format}");
            node.podman(&["save", "--quiet", "--format", format, "--output", &path, "tree"]);
        }
        for diff_id in &expected {
            let layer = node.path(&format!("/var/tmp/docker-dir/{}", &diff_id[7..]));
            assert_eq!(sha256_file(&layer), *diff_id);
        }
        assert_eq!(
            node.podman(&["load", "--quiet", "--input", "/var/tmp/docker-archive"]),
            "Loaded image: docker.io/library/tree:latest\n"
        );
        assert_eq!(node.own_layers(), Vec::<String>::new());
        cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
    });
}

#[test]
fn images_are_built_on_layers_of_the_store() {
    on_both(|cluster, registry, node| {
        node.write(
            "/build/Dockerfile",
            "FROM docker.io/library/tree\nRUN echo built > /built && busybox rm /tree/one\n\
             COPY Dockerfile /copied\n",
        );
        // crun would raise a limit for a build, and a chroot has the host's network.
        let options = "--isolation=chroot --network=host --quiet";
        node.shell(&format!("podman build {options} --tag by-podman /build"));
        node.shell(&format!("buildah build {options} --tag by-buildah /build"));
        node.shell(
            "box=$(buildah from docker.io/library/tree)
             buildah run --isolation=chroot $box sh -c 'echo built > /built; busybox rm /tree/one'
             buildah copy --quiet $box /build/Dockerfile /copied
             test \"$(cat $(buildah mount $box)/tree/two)\" = shared
             buildah commit --quiet $box by-hand
             buildah rm $box",
        );
        for image in ["by-podman", "by-buildah", "by-hand"] {
            let script = "cat /built; busybox head -n 1 /copied; ls /tree | busybox grep -c .";
            let expected = "built\nFROM docker.io/library/tree\n10\n";
            assert_eq!(
                node.podman_run(&format!("localhost/{image}"), script),
                expected,
                "{image}"
            );
        }
        cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
    });
}

#[test]
fn what_is_removed_leaves_the_node_and_not_the_store() {
    on_both(|cluster, registry, node| {
        node.podman(&["pull", "tree"]);
        node.podman(&["pull", "half"]);
        let before = listing(cluster.mirror.store());
        node.podman(&["rmi", "tree"]);
        node.podman(&["pull", "tree"]);
        node.podman(&["image", "prune", "--all", "--force"]);
        assert_eq!(node.podman(&["images", "--all", "--quiet"]), "");
        node.podman(&["pull", "tree"]);
        node.podman_run_detached("box", "tree");
        node.podman(&["rmi", "--force", "tree"]);
        node.podman(&["system", "prune", "--all", "--force"]);
        node.podman(&["system", "reset", "--force"]);
        assert_eq!(listing(cluster.mirror.store()), before);
        assert_eq!(node.podman_run("tree", LIST_TREE), TREE);
        cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
        cluster.assert_not_asked(&registry.layers("library/half", "latest"));
    });
}

#[test]
fn a_service_that_runs_notices_what_is_published_later() {
    let registry = registry();
    let cluster = Cluster::start_on(Kind::Ext4, Options::new(registry.address()));
    for (suite, images) in PODMANS.into_iter().zip([["half", "tree"], ["one", "two"]]) {
        let mut node = cluster.podman_node(suite);
        node.start_podman_service();
        for image in images {
            // The store is read once before the image's layers are there.
            node.ask_podman_service("GET", "images/json?all=true");
            let name = format!("docker.io/library/{image}:latest");
            let pulled = node.ask_podman_service("POST", &format!("images/pull?reference={name}"));
            assert!(pulled["id"].is_string(), "{pulled}");
            cluster.assert_not_asked(&registry.layers(&format!("library/{image}"), "latest"));
        }
        assert_eq!(node.own_layers(), Vec::<String>::new());
        // Another process's pull is noticed too.
        node.podman(&["pull", "three"]);
        wait_until("the service to know the image", NOTICED, || {
            let images = node.ask_podman_service("GET", "images/json?all=true");
            images.to_string().contains("library/three:latest").then_some(())
        });
        let size =
            node.ask_podman_service("GET", "images/docker.io/library/three:latest/json")["Size"].as_u64();
        assert!(size.is_some_and(|size| size > 900_000), "{size:?}");
    }
}
