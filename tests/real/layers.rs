//! The layers of images are extracted as they arrive, once, whatever happens around them.
//!
//! Extracting needs root; the upstream is the scripted one.

use std::path::Path;
use std::time::Duration;

use crate::support::gate::Gate;
use crate::support::layers::{Layered, add, add_as, config_of, directory, gzip, published, record, tar_of};
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::store::{blob_path, has_blob, wait_until_nothing_is_staged};
use crate::support::upstream::{OCI_MANIFEST, Upstream, blob, blobs, bytes, descriptor, then};
use crate::support::{client::Request, sha256};

const APP: &str = "library/app";
const SOON: Duration = Duration::from_secs(20);

fn start() -> (Upstream, Mirror) {
    start_with("")
}

fn start_with(keys: &str) -> (Upstream, Mirror) {
    let upstream = Upstream::start();
    let mirror = Mirror::start(&Options::new(upstream.address()).keys(keys));
    (upstream, mirror)
}

fn manifest(mirror: &Mirror, reference: &str) {
    let path = format!("/v2/{APP}/manifests/{reference}");
    assert_eq!(mirror.ask(&path).send().status, 200);
}

fn blob_of(mirror: &Mirror, digest: &str) -> Request {
    mirror.ask(&format!("/v2/{APP}/blobs/{digest}"))
}

fn wait_for_chains(store: &Path, image: &Layered) {
    for chain_id in &image.chain_ids {
        wait_until(&format!("{chain_id} to be published"), SOON, || {
            record(store, chain_id)
        });
    }
}

/// Asks for the manifest as further clients do, until the image's lowest layer is there.
fn pull_until_published(mirror: &Mirror, image: &Layered) {
    wait_until("the layer", SOON, || {
        manifest(mirror, "v1");
        record(mirror.store(), &image.chain_ids[0])
    });
}

fn wait_for_layers(mirror: &Mirror, labels: &str, count: f64) {
    wait_until(&format!("layers {labels}"), SOON, || {
        (mirror.metric("wharf_layers_total", labels) >= count).then_some(())
    });
}

fn layer(seed: u64) -> Vec<u8> {
    tar_of(&[(&format!("file-{seed}"), &bytes(200_000, seed)), ("same", b"x")])
}

#[test]
fn the_layers_of_an_image_are_fetched_once_and_published_with_their_records() {
    let (upstream, mut mirror) = start();
    let image = add(&upstream, APP, "v1", &[layer(1), layer(2), layer(3)]);
    manifest(&mirror, "v1");
    wait_for_chains(mirror.store(), &image);
    for (index, chain_id) in image.chain_ids.iter().enumerate() {
        let seed = index as u64 + 1;
        let file = directory(mirror.store(), chain_id).join(format!("file-{seed}"));
        assert!(
            std::fs::read(file).expect("read") == bytes(200_000, seed),
            "other bytes"
        );
        let record = record(mirror.store(), chain_id).expect("a record");
        assert_eq!(record["diff_id"], image.diff_ids[index].as_str());
        assert_eq!(record["blob"], image.layers[index].as_str());
        assert_eq!(
            record["parent"].as_str(),
            index.checked_sub(1).map(|below| image.chain_ids[below].as_str())
        );
        assert_eq!(upstream.blob_gets(&image.layers[index]), 1);
    }
    assert_eq!(upstream.blob_gets(&image.config), 1);
    wait_for_layers(&mirror, "published", 3.0);
    wait_until_nothing_is_staged(mirror.store());
    mirror.stop();
}

#[test]
fn a_layer_that_is_published_is_neither_fetched_nor_extracted_again() {
    let (upstream, mut mirror) = start();
    let image = add(&upstream, APP, "v1", &[layer(1), layer(2)]);
    manifest(&mirror, "v1");
    wait_for_chains(mirror.store(), &image);
    wait_until("the blobs to be published", SOON, || {
        image
            .layers
            .iter()
            .all(|layer| has_blob(mirror.store(), layer))
            .then_some(())
    });
    mirror.stop();
    for layer in &image.layers {
        std::fs::remove_file(blob_path(mirror.store(), layer)).expect("remove a blob");
    }
    mirror.start_again();
    let more = add(&upstream, APP, "v2", &[layer(1), layer(2), layer(3)]);
    manifest(&mirror, "v2");
    wait_for_chains(mirror.store(), &more);
    assert_eq!(
        more.layers
            .iter()
            .map(|layer| upstream.blob_gets(layer))
            .collect::<Vec<_>>(),
        [1, 1, 1]
    );
    assert!(!has_blob(mirror.store(), &image.layers[0]));
    wait_for_layers(&mirror, "published", 1.0);
    mirror.stop();
    assert_eq!(
        mirror.log().matches("extracted layer=").count(),
        3,
        "{}",
        mirror.log()
    );
}

#[test]
fn a_blob_that_is_in_the_store_is_extracted_from_there() {
    let (upstream, mut mirror) = start_with("");
    let image = add(&upstream, APP, "v1", &[layer(1), layer(2)]);
    // Without a manifest nothing says that these are layers.
    let mut plain = Options::new(upstream.address()).keys("extract = false");
    plain.store = Some(mirror.store().to_owned());
    let mut other = Mirror::start(&plain);
    manifest(&other, "v1");
    wait_until("the blobs to be published", SOON, || {
        let all = image.layers.iter().chain([&image.config]);
        all.into_iter()
            .all(|digest| has_blob(other.store(), digest))
            .then_some(())
    });
    assert_eq!(published(other.store()), Vec::<String>::new(), "extract = false");
    other.stop();
    let before = upstream.count(&blobs());
    manifest(&mirror, "v1");
    wait_for_chains(mirror.store(), &image);
    assert_eq!(upstream.count(&blobs()), before);
    mirror.stop();
}

#[test]
fn a_diff_id_is_extracted_once_under_two_chains_and_twice_in_one() {
    let (upstream, mirror) = start();
    let (a, b) = (layer(1), layer(2));
    let image = add(&upstream, APP, "v1", &[a.clone(), b.clone(), a.clone()]);
    manifest(&mirror, "v1");
    wait_for_chains(mirror.store(), &image);
    let other = add(&upstream, APP, "v2", &[b, a]);
    manifest(&mirror, "v2");
    wait_for_chains(mirror.store(), &other);
    let ids = |image: &Layered, index: usize| directory(mirror.store(), &image.chain_ids[index]);
    assert_eq!(ids(&image, 0), ids(&image, 2));
    assert_eq!(ids(&image, 0), ids(&other, 1));
    assert_eq!(ids(&image, 1), ids(&other, 0));
    assert_eq!(published(mirror.store()).len(), 2);
    assert_eq!(upstream.blob_gets(&image.layers[0]), 1);
}

#[test]
fn two_images_at_once_share_the_layers_that_they_have_in_common() {
    let (upstream, mirror) = start();
    let gate = Gate::new();
    upstream.script(blobs(), then().hold(&gate));
    let one = add(&upstream, APP, "v1", &[layer(1), layer(2)]);
    let two = add(&upstream, APP, "v2", &[layer(1), layer(3)]);
    manifest(&mirror, "v1");
    manifest(&mirror, "v2");
    gate.wait_for(2);
    gate.open();
    wait_for_chains(mirror.store(), &one);
    wait_for_chains(mirror.store(), &two);
    assert_eq!(published(mirror.store()).len(), 3);
    assert_eq!(upstream.blob_gets(&one.layers[0]), 1);
}

#[test]
fn what_is_no_image_is_served_and_never_extracted() {
    let (upstream, mirror) = start();
    let (good, tar) = (gzip(&layer(1)), layer(1));
    let diff_ids = vec![sha256(&tar)];
    // More layers than DiffIDs; another system; an attestation under an image's config; a chart.
    let counts = add_as(
        &upstream,
        APP,
        "counts",
        &config_of(&diff_ids, "c"),
        &[good.clone(), gzip(&layer(2))],
        vec![],
    );
    let windows = String::from_utf8(config_of(&diff_ids, "w"))
        .expect("text")
        .replace("linux", "windows");
    let windows = add_as(
        &upstream,
        APP,
        "windows",
        windows.as_bytes(),
        std::slice::from_ref(&good),
        vec![],
    );
    let mut all = vec![counts.digest, windows.digest];
    for (config_type, layer_type) in [
        (
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.in-toto+json",
        ),
        (
            "application/vnd.cncf.helm.config.v1+json",
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        ),
    ] {
        let config = config_of(&diff_ids, layer_type);
        upstream.add_blob(APP, config.clone());
        upstream.add_blob(APP, good.clone());
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": descriptor(config_type, &config), "layers": [descriptor(layer_type, &good)],
        });
        all.push(upstream.add_manifest(APP, OCI_MANIFEST, manifest.to_string().into_bytes()));
    }
    for digest in &all {
        manifest(&mirror, digest);
    }
    for digest in [&sha256(&good), &counts.layers[1], &counts.config, &windows.config] {
        wait_until("the blobs to be published", SOON, || {
            has_blob(mirror.store(), digest).then_some(())
        });
    }
    assert_eq!(published(mirror.store()), Vec::<String>::new());
    assert_eq!(mirror.metric("wharf_layers_total", ""), 0.0);
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_served_and_not_published() {
    let (upstream, mirror) = start();
    let blobs = [gzip(&layer(1)), gzip(&layer(2)), gzip(&layer(3))];
    let diff_ids = vec![sha256(&layer(1)), sha256(b"another"), sha256(&layer(3))];
    let image = add_as(&upstream, APP, "v1", &config_of(&diff_ids, "x"), &blobs, diff_ids);
    manifest(&mirror, "v1");
    wait_until("the layer below", SOON, || {
        record(mirror.store(), &image.chain_ids[0])
    });
    wait_for_layers(&mirror, "failed", 1.0);
    for (digest, blob) in image.layers.iter().zip(&blobs) {
        assert!(blob_of(&mirror, digest).send().body == *blob, "other bytes");
    }
    wait_until_nothing_is_staged(mirror.store());
    // Neither the layer nor what lies on it; and the next thousand pulls do not try again.
    manifest(&mirror, "v1");
    assert_eq!(record(mirror.store(), &image.chain_ids[1]), None);
    assert_eq!(record(mirror.store(), &image.chain_ids[2]), None);
    assert_eq!(published(mirror.store()).len(), 1);
    let log = mirror.log();
    assert_eq!(log.matches("layer not extracted").count(), 1, "{log}");
    assert!(
        log.contains(&image.layers[1]) && log.contains(&sha256(b"another")),
        "{log}"
    );
}

#[test]
fn a_layer_that_cannot_be_unpacked_names_its_entry_and_its_blob_is_served() {
    let (upstream, mirror) = start();
    let cut = {
        let mut tar = layer(1);
        tar.truncate(100_000);
        tar
    };
    let image = add(&upstream, APP, "v1", std::slice::from_ref(&cut));
    manifest(&mirror, "v1");
    wait_for_layers(&mirror, "failed", 1.0);
    assert!(mirror.log().contains("file-1"), "{}", mirror.log());
    assert!(
        blob_of(&mirror, &image.layers[0]).send().body == gzip(&cut),
        "other bytes"
    );
    assert_eq!(published(mirror.store()), Vec::<String>::new());
}

#[test]
fn a_fill_that_breaks_is_resumed_and_its_layer_extracted_from_all_of_it() {
    let (upstream, mirror) = start();
    let image = add(&upstream, APP, "v1", &[layer(1), layer(2)]);
    upstream.script(blob(&image.layers[0]), then().truncate(50_000).once());
    upstream.script(blob(&image.layers[1]), then().truncate(70_000).times(2));
    manifest(&mirror, "v1");
    wait_for_chains(mirror.store(), &image);
    assert!(upstream.blob_gets(&image.layers[1]) >= 2);
    wait_for_layers(&mirror, "published", 2.0);
}

#[test]
fn a_blob_with_wrong_bytes_publishes_no_layer() {
    let (upstream, mirror) = start();
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    upstream.script(blob(&image.layers[0]), then().corrupt(1000));
    manifest(&mirror, "v1");
    wait_until("the fill to fail", SOON, || {
        (mirror.metric("wharf_fills_total", "failed") >= 1.0).then_some(())
    });
    wait_until_nothing_is_staged(mirror.store());
    assert_eq!(published(mirror.store()), Vec::<String>::new());
    assert_eq!(record(mirror.store(), &image.chain_ids[0]), None);
    // Upstream's mistake is not the layer's: the next pull tries again.
    upstream.clear_script();
    pull_until_published(&mirror, &image);
}

#[test]
fn a_layer_is_extracted_while_its_bytes_arrive() {
    let (upstream, mirror) = start();
    let image = add(
        &upstream,
        APP,
        "v1",
        &[tar_of(&[("first", b"x"), ("rest", &bytes(3_000_000, 1))])],
    );
    let gate = Gate::new();
    upstream.script(blob(&image.layers[0]), then().pause(2_000_000, &gate));
    manifest(&mirror, "v1");
    gate.wait_for(1);
    let staging = mirror.store().join("staging/work");
    wait_until("the first file to be extracted", SOON, || {
        let files = crate::support::store::files_below(&staging);
        files
            .iter()
            .any(|file| file.ends_with("diff/first"))
            .then_some(())
    });
    assert_eq!(record(mirror.store(), &image.chain_ids[0]), None);
    gate.open();
    wait_for_chains(mirror.store(), &image);
}

#[test]
fn a_store_that_takes_no_more_ends_the_extraction_and_not_the_download() {
    let upstream = Upstream::start();
    let mut mirror = Mirror::start(&Options::new(upstream.address()).max_file_bytes(1 << 20));
    let content = gzip(&tar_of(&[("large", &bytes(3 << 20, 1))]));
    let diff_ids = vec![sha256(&tar_of(&[("large", &bytes(3 << 20, 1))]))];
    let image = add_as(
        &upstream,
        APP,
        "v1",
        &config_of(&diff_ids, "x"),
        std::slice::from_ref(&content),
        diff_ids,
    );
    manifest(&mirror, "v1");
    assert!(
        blob_of(&mirror, &image.layers[0]).send().body == content,
        "other bytes"
    );
    wait_for_layers(&mirror, "failed", 1.0);
    wait_until_nothing_is_staged(mirror.store());
    assert_eq!(published(mirror.store()), Vec::<String>::new());
    mirror.stop();
}

#[test]
fn a_mirror_that_is_told_to_end_leaves_no_half_layer() {
    let (upstream, mut mirror) = start();
    let image = add(
        &upstream,
        APP,
        "v1",
        &[tar_of(&[("first", b"x"), ("rest", &bytes(3_000_000, 1))])],
    );
    let gate = Gate::new();
    upstream.script(blob(&image.layers[0]), then().pause(2_000_000, &gate));
    manifest(&mirror, "v1");
    gate.wait_for(1);
    mirror.stop();
    gate.open();
    assert_eq!(published(mirror.store()), Vec::<String>::new());
    mirror.start_again();
    manifest(&mirror, "v1");
    wait_for_chains(mirror.store(), &image);
    wait_until_nothing_is_staged(mirror.store());
}

#[test]
fn a_blob_that_is_not_what_its_image_says_does_not_keep_others_from_the_layer() {
    let (upstream, mirror) = start();
    let diff_ids = vec![sha256(&layer(1))];
    let wrong = [gzip(&layer(2))];
    let wrong = add_as(
        &upstream,
        APP,
        "wrong",
        &config_of(&diff_ids, "x"),
        &wrong,
        diff_ids,
    );
    let right = add(&upstream, APP, "right", &[layer(1)]);
    assert_eq!(wrong.chain_ids, right.chain_ids);
    let gate = Gate::new();
    upstream.script(blob(&wrong.layers[0]), then().hold(&gate));
    manifest(&mirror, "wrong");
    gate.wait_for(1);
    manifest(&mirror, "right");
    wait_until("the right one's config", SOON, || {
        has_blob(mirror.store(), &right.config).then_some(())
    });
    gate.open();
    wait_for_chains(mirror.store(), &right);
    let record = record(mirror.store(), &right.chain_ids[0]).expect("a record");
    assert_eq!(record["blob"], right.layers[0].as_str());
}

#[test]
fn a_layer_that_cannot_be_put_on_its_stack_is_not_extracted_again_and_again() {
    let (upstream, mirror) = start();
    let base = add(&upstream, APP, "base", &[layer(1)]);
    manifest(&mirror, "base");
    wait_for_chains(mirror.store(), &base);
    let gone = directory(mirror.store(), &base.chain_ids[0]);
    // How `sub` looks below cannot be seen in what is no directory.
    std::fs::remove_dir_all(&gone).expect("remove a layer");
    std::fs::write(&gone, b"").expect("damage a layer");
    let on_it = tar_of(&[("sub/file", b"x")]);
    add(&upstream, APP, "v1", &[layer(1), on_it]);
    manifest(&mirror, "v1");
    wait_for_layers(&mirror, "failed", 1.0);
    wait_until_nothing_is_staged(mirror.store());
    for tag in ["v2", "v3"] {
        manifest(&mirror, "v1");
        let other = add(&upstream, APP, tag, &[tar_of(&[(tag, b"x")])]);
        manifest(&mirror, tag);
        wait_for_chains(mirror.store(), &other);
    }
    let log = mirror.log();
    assert_eq!(log.matches("extracted layer=").count(), 4, "{log}");
    assert_eq!(log.matches("not published").count(), 1, "{log}");
}

#[test]
fn a_layer_whose_directory_was_removed_is_extracted_again_for_the_next_image() {
    let (upstream, mirror) = start();
    let base = add(&upstream, APP, "base", &[layer(1)]);
    manifest(&mirror, "base");
    wait_for_chains(mirror.store(), &base);
    let gone = directory(mirror.store(), &base.chain_ids[0]);
    std::fs::remove_dir_all(gone.parent().expect("a layer")).expect("remove a layer");
    let image = add(&upstream, APP, "v1", &[layer(1), layer(2)]);
    manifest(&mirror, "v1");
    wait_for_chains(mirror.store(), &image);
    for chain_id in &image.chain_ids {
        directory(mirror.store(), chain_id);
    }
    assert_eq!(
        upstream.blob_gets(&base.layers[0]),
        1,
        "the blob was on the store"
    );
}

#[test]
fn bytes_that_are_not_the_blobs_are_upstreams_mistake_whatever_they_unpack_to() {
    let (upstream, mirror) = start();
    let image = add(
        &upstream,
        APP,
        "v1",
        &[tar_of(&[("large", &bytes(3_000_000, 1))])],
    );
    // No gzip, and no archive; which is told from the first block.
    upstream.script(blob(&image.layers[0]), then().corrupt(1));
    manifest(&mirror, "v1");
    wait_until("the fill to fail", SOON, || {
        (mirror.metric("wharf_fills_total", "failed") >= 1.0).then_some(())
    });
    wait_until_nothing_is_staged(mirror.store());
    upstream.clear_script();
    pull_until_published(&mirror, &image);
}

#[test]
fn a_config_that_could_not_be_had_is_asked_for_with_the_next_manifest() {
    let (upstream, mirror) = start();
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    upstream.script(blob(&image.config), then().status(500).once());
    manifest(&mirror, "v1");
    wait_until("the layer's blob", SOON, || {
        has_blob(mirror.store(), &image.layers[0]).then_some(())
    });
    pull_until_published(&mirror, &image);
    assert_eq!(upstream.blob_gets(&image.layers[0]), 1);
}

#[test]
fn a_layer_that_upstream_does_not_have_is_asked_for_once_for_all_who_want_it() {
    let (upstream, mirror) = start();
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    upstream.script(blob(&image.layers[0]), then().status(404));
    manifest(&mirror, "v1");
    wait_until("the fill to fail", SOON, || {
        (mirror.metric("wharf_fills_total", "failed") >= 1.0).then_some(())
    });
    for tag in ["v2", "v3", "v4"] {
        manifest(&mirror, "v1");
        let other = add(&upstream, APP, tag, &[tar_of(&[(tag, b"x")])]);
        manifest(&mirror, tag);
        wait_for_chains(mirror.store(), &other);
    }
    assert_eq!(upstream.blob_gets(&image.layers[0]), 1);
}

#[test]
fn a_record_has_the_size_of_the_blob_and_not_what_a_manifest_says() {
    let (upstream, mirror) = start();
    let (content, diff_ids) = (gzip(&layer(1)), vec![sha256(&layer(1))]);
    let config = config_of(&diff_ids, "x");
    let honest = add_as(
        &upstream,
        APP,
        "v1",
        &config,
        std::slice::from_ref(&content),
        diff_ids,
    );
    let mut plain = Options::new(upstream.address()).keys("extract = false");
    plain.store = Some(mirror.store().to_owned());
    let mut other = Mirror::start(&plain);
    manifest(&other, "v1");
    wait_until("the layer's blob", SOON, || {
        has_blob(other.store(), &honest.layers[0]).then_some(())
    });
    other.stop();
    let mut lying = descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &content);
    lying["size"] = 7.into();
    let lying = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config), "layers": [lying],
    });
    let lying = upstream.add_manifest(APP, OCI_MANIFEST, lying.to_string().into_bytes());
    manifest(&mirror, &lying);
    wait_for_chains(mirror.store(), &honest);
    let record = record(mirror.store(), &honest.chain_ids[0]).expect("a record");
    assert_eq!(record["blob_size_bytes"], content.len());
}
