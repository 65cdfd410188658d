//! An additional image store that the test makes: what wharf has to write is what Podman reads here.
//!
//! If this fails with the tests of wharf's own store, the machine or Podman has changed, and not wharf.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::chain::layer_ids;
use crate::support::cluster::{Cluster, PODMANS};
use crate::support::curl::Curl;
use crate::support::dfs::Kind;
use crate::support::mirror::Options;
use crate::support::node_images::registry;
use crate::support::process::shell;
use crate::support::registry::Registry;

const IMAGE: &str = "library/half";

/// Writes an image's layers, the bottom one first, as containers/storage has them.
fn make(root: &Path, registry: &Registry, work: &Path) {
    for name in ["overlay/l", "overlay-layers", "overlay-images"] {
        fs::create_dir_all(root.join(name)).expect("make a directory");
    }
    let blobs = registry.blobs(IMAGE, "latest");
    let blob = |digest: &str| {
        Curl::new(&registry.url(&format!("{IMAGE}/blobs/{digest}")))
            .send()
            .body
    };
    let diff_ids = registry.diff_ids(IMAGE, "latest");
    let mut layers: Vec<Value> = Vec::new();
    let mut lower = String::new();
    for ((digest, diff_id), id) in blobs[1..].iter().zip(&diff_ids).zip(layer_ids(&diff_ids)) {
        let directory = root.join("overlay").join(&id);
        for name in ["diff", "merged", "work", "empty"] {
            fs::create_dir_all(directory.join(name)).expect("make a directory");
        }
        let compressed = blob(digest);
        let packed = work.join("packed");
        fs::write(&packed, &compressed).expect("write a layer");
        let size = shell(&format!(
            "tar -xzpf {packed} -C {}; gzip -dc {packed} | wc -c",
            directory.join("diff").display(),
            packed = packed.display(),
        ));
        let link = id[..8].to_uppercase();
        fs::write(directory.join("link"), &link).expect("write a link's name");
        if !lower.is_empty() {
            fs::write(directory.join("lower"), &lower).expect("write the layers below");
            lower.insert(0, ':');
        }
        lower.insert_str(0, &format!("l/{link}"));
        symlink(format!("../{id}/diff"), root.join("overlay/l").join(&link)).expect("link a layer");
        let mut layer = json!({
            "id": id, "created": "2024-01-01T00:00:00Z", "diff-digest": diff_id,
            "diff-size": size.trim().parse::<u64>().expect("a number"),
            "compressed-diff-digest": digest, "compressed-size": compressed.len(), "compression": 2,
        });
        if let Some(below) = layers.last() {
            layer["parent"] = below["id"].clone();
        }
        layers.push(layer);
    }
    let write = |path: &str, text: &str| fs::write(root.join(path), text).expect("write a file");
    write("overlay-layers/layers.json", &json!(layers).to_string());
    write("overlay-images/images.json", "[]");
    for lock in ["overlay-layers/layers.lock", "overlay-images/images.lock"] {
        write(lock, &"1".repeat(64));
    }
}

#[test]
fn podman_takes_the_layers_of_a_store_that_is_made_by_hand() {
    let registry = registry();
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start_on(Kind::Ext4, Options::new(registry.address()));
    make(&cluster.mirror.store().join("layers"), &registry, work.path());
    for suite in PODMANS {
        let node = cluster.podman_node(suite);
        assert_eq!(
            node.podman_run("half", "ls / | busybox grep -c noise"),
            "2\n",
            "{suite:?}"
        );
        assert_eq!(node.own_layers(), Vec::<String>::new(), "{suite:?}");
    }
    cluster.assert_not_asked(&registry.layers(IMAGE, "latest"));
}
