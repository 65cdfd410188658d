//! Which stacks share a layer's directory, and what several processes make of the same layer.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::gate::Gate;
use crate::support::layers::{Layered, add, directory, published, record, tar_of, tar_with};
use crate::support::mirror::wharf;
use crate::support::process::{Service, run};
use crate::support::store::assert_nothing_staged;
use crate::support::upstream::{Upstream, blob, bytes, then};

const APP: &str = "library/app";

fn pull(upstream: &Upstream, store: &Path, images: &[&str]) {
    let mut command = wharf();
    command
        .args(["pull", "--upstream", &upstream.url(), "--store"])
        .arg(store)
        .args(images);
    let ended = run(command);
    assert_eq!(ended.code(), 0, "{}{}", ended.stdout, ended.stderr);
}

/// Returns the record and the directory of an image's topmost layer.
fn top(store: &Path, image: &Layered) -> (Value, std::path::PathBuf) {
    let chain_id = image.chain_ids.last().expect("a layer");
    (
        record(store, chain_id).expect("a record"),
        directory(store, chain_id),
    )
}

#[test]
fn a_layer_that_depends_on_what_is_below_is_made_for_each_stack() {
    let (upstream, folder) = (Upstream::start(), tempfile::tempdir().expect("a folder"));
    let store = folder.path().join("store");
    let opaque = tar_with(&[
        ("./", 0o755, b""),
        ("dir/", 0o755, b""),
        ("dir/.wh..wh..opq", 0o644, b""),
        ("dir/new", 0o644, b"x"),
    ]);
    let base = |name: &str| {
        tar_with(&[
            ("./", 0o755, b""),
            ("dir/", 0o755, b""),
            (&format!("dir/{name}"), 0o644, b"x"),
        ])
    };
    let one = add(&upstream, APP, "v1", &[base("a"), opaque.clone()]);
    let two = add(&upstream, APP, "v2", &[base("b"), opaque]);
    // Makes the store, whose file system then keeps no mark of an opaque directory.
    add(&upstream, APP, "v0", &[tar_of(&[("file", b"x")])]);
    pull(&upstream, &store, &["app:v0"]);
    let facts = store.join("wharf.json");
    let mut format: Value = serde_json::from_slice(&std::fs::read(&facts).expect("read")).expect("JSON");
    format["file_system"]["trusted_xattrs"] = false.into();
    std::fs::write(&facts, format.to_string()).expect("write");
    pull(&upstream, &store, &["app:v1", "app:v2"]);
    for (image, hidden, shown) in [(&one, "a", "b"), (&two, "b", "a")] {
        let (record, layer) = top(&store, image);
        assert_eq!(record["expanded"], true);
        let whiteout = layer.join("dir").join(hidden);
        let kind = std::fs::symlink_metadata(&whiteout)
            .expect("a whiteout")
            .file_type();
        assert!(kind.is_char_device(), "{}", whiteout.display());
        assert!(!layer.join("dir").join(shown).exists());
        assert!(layer.join("dir/new").exists());
    }
    assert_eq!(upstream.blob_gets(&one.layers[1]), 1);
    assert_nothing_staged(&store);
}

#[test]
fn a_layer_without_an_entry_for_the_root_is_shared_by_stacks_whose_roots_look_the_same() {
    let (upstream, folder) = (Upstream::start(), tempfile::tempdir().expect("a folder"));
    let store = folder.path().join("store");
    let base = |mode: u32, name: &str| tar_with(&[("./", mode, b""), (name, 0o644, b"x")]);
    let rootless = tar_with(&[("file", 0o644, b"x")]);
    let images = [(0o755, "a"), (0o755, "b"), (0o700, "c")];
    let images = images.map(|(mode, name)| add(&upstream, APP, name, &[base(mode, name), rootless.clone()]));
    for name in ["app:a", "app:b", "app:c"] {
        pull(&upstream, &store, &[name]);
    }
    let tops = images.each_ref().map(|image| top(&store, image).1);
    assert_eq!(tops[0], tops[1]);
    assert_ne!(tops[0], tops[2]);
    for (top, mode) in tops.iter().zip([0o755, 0o755, 0o700]) {
        let metadata = std::fs::metadata(top).expect("a directory");
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{}", top.display());
    }
    assert_eq!(upstream.blob_gets(&images[0].layers[1]), 1);
}

#[test]
fn processes_that_extract_the_same_layer_at_the_same_time_publish_it_once() {
    let (upstream, folder) = (Upstream::start(), tempfile::tempdir().expect("a folder"));
    let store = folder.path().join("store");
    let files: Vec<String> = (0..200).map(|number| format!("file-{number}")).collect();
    let content = bytes(2000, 1);
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|name| (name.as_str(), content.as_slice()))
        .collect();
    let image = add(
        &upstream,
        APP,
        "v1",
        &[tar_of(&files), tar_of(&[("upper", b"x")])],
    );
    let gate = Gate::new();
    upstream.script(blob(&image.layers[0]), then().hold(&gate));
    let mut pulls: Vec<Service> = (0..3)
        .map(|number| {
            let place = folder.path().join(number.to_string());
            std::fs::create_dir(&place).expect("a directory");
            let mut command = wharf();
            command
                .args(["pull", "app:v1", "--upstream", &upstream.url(), "--store"])
                .arg(&store);
            Service::start("pull", &place, command)
        })
        .collect();
    gate.wait_for(3);
    gate.open();
    for pull in &mut pulls {
        let status = pull.wait(Duration::from_secs(60));
        assert!(status.success(), "{status}: {}", pull.stderr());
    }
    assert_eq!(published(&store).len(), 2);
    let lower = directory(&store, &image.chain_ids[0]);
    assert_eq!(std::fs::read_dir(lower).expect("list").count(), 200);
    assert_nothing_staged(&store);
}
