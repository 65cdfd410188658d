//! Serving a manifest starts the fills of what it names, a bounded number at a time.

use crate::support::gate::Gate;
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::store::has_blob;
use crate::support::upstream::{
    Image, OCI_INDEX, OCI_MANIFEST, Upstream, blobs, bytes, descriptor, index, manifest, then,
};

use super::{APP, SOON, blob_path, manifest_path, settle, start};

fn add_image(upstream: &Upstream, layers: u64) -> Image {
    let layers: Vec<Vec<u8>> = (0..layers).map(|seed| bytes(20_000, seed)).collect();
    upstream.add_image(APP, "v1", &layers)
}

fn wait_for_all(mirror: &Mirror, image: &Image) {
    for digest in std::iter::once(&image.config).chain(&image.layers) {
        wait_until("the blobs to be published", SOON, || {
            has_blob(mirror.store(), digest).then_some(())
        });
    }
}

#[test]
fn a_manifest_starts_the_fills_of_its_config_and_layers_and_each_is_fetched_once() {
    for reference_of in [|_: &Image| "v1".to_owned(), |image: &Image| image.digest.clone()] {
        let (upstream, mirror) = start();
        let image = add_image(&upstream, 3);
        mirror.ask(&manifest_path(&reference_of(&image))).send();
        wait_for_all(&mirror, &image);
        for (seed, layer) in image.layers.iter().enumerate() {
            assert!(
                mirror.ask(&blob_path(layer)).send().body == bytes(20_000, seed as u64),
                "other bytes"
            );
        }
        for digest in std::iter::once(&image.config).chain(&image.layers) {
            assert_eq!(upstream.blob_gets(digest), 1, "{digest}");
        }
        assert_eq!(upstream.count(&blobs().head()), 0);
    }
}

#[test]
fn a_head_of_a_manifest_starts_nothing() {
    let (upstream, mirror) = start();
    add_image(&upstream, 1);
    mirror.ask(&manifest_path("v1")).method("HEAD").send();
    settle(&mirror);
    assert_eq!(upstream.count(&blobs()), 0);
}

#[test]
fn an_index_starts_nothing_and_an_image_in_it_only_its_own() {
    let (upstream, mirror) = start();
    let wanted = add_image(&upstream, 2);
    let other = upstream.add_image(APP, "other", &[bytes(1000, 9)]);
    let described: Vec<_> = [&wanted, &other]
        .map(|image| descriptor(OCI_MANIFEST, &image.manifest))
        .to_vec();
    let digest = upstream.add_manifest(APP, OCI_INDEX, index(&described));
    upstream.tag(APP, "all", &digest);
    assert_eq!(mirror.ask(&manifest_path("all")).send().status, 200);
    assert_eq!(mirror.ask(&manifest_path(&digest)).send().status, 200);
    settle(&mirror);
    assert_eq!(upstream.count(&blobs()), 0);
    mirror.ask(&manifest_path(&wanted.digest)).send();
    wait_for_all(&mirror, &wanted);
    assert_eq!(upstream.count(&manifest(&other.digest)), 0);
    assert_eq!(upstream.count(&blobs()), 3);
}

#[test]
fn background_fills_are_bounded_and_a_client_that_asks_does_not_wait_for_its_turn() {
    let upstream = Upstream::start();
    let image = add_image(&upstream, 7);
    let gate = Gate::new();
    upstream.script(blobs(), then().hold(&gate));
    let mirror =
        Mirror::start(&Options::new(upstream.address()).keys("background_fills = 2\nextract = false"));
    mirror.ask(&manifest_path("v1")).send();
    gate.wait_for(2);
    settle(&mirror);
    assert_eq!((gate.arrived(), upstream.most_blob_gets_at_once()), (2, 2));
    // Its turn is far away; whoever asks for it starts it now.
    let is_waiting = |seed: &usize| upstream.blob_gets(&image.layers[*seed]) == 0;
    let seed = (0..image.layers.len())
        .rfind(is_waiting)
        .expect("a layer that waits");
    let waiting = &image.layers[seed];
    std::thread::scope(|scope| {
        let client = scope.spawn(|| mirror.ask(&blob_path(waiting)).send());
        gate.wait_for(3);
        assert_eq!(upstream.blob_gets(waiting), 1);
        gate.open();
        assert!(
            client.join().expect("a client").body == bytes(20_000, seed as u64),
            "other bytes"
        );
    });
    wait_for_all(&mirror, &image);
    assert!(
        upstream.most_blob_gets_at_once() <= 3,
        "{}",
        upstream.most_blob_gets_at_once()
    );
    assert_eq!(upstream.count(&blobs().get()), 8);
}

#[test]
fn the_config_comes_first_and_the_layers_in_their_order() {
    let upstream = Upstream::start();
    let image = add_image(&upstream, 5);
    let mirror = Mirror::start(&Options::new(upstream.address()).keys("background_fills = 1"));
    mirror.ask(&manifest_path("v1")).send();
    wait_for_all(&mirror, &image);
    let asked: Vec<String> = upstream
        .asked_for(&blobs())
        .into_iter()
        .map(|asked| asked.reference)
        .collect();
    assert_eq!(asked, [vec![image.config], image.layers].concat());
}

#[test]
fn a_layer_that_fails_in_the_background_fails_nothing_else() {
    let (upstream, mirror) = start();
    let image = add_image(&upstream, 3);
    let bad = &image.layers[1];
    upstream.script(crate::support::upstream::blob(bad), then().status(404));
    assert_eq!(mirror.ask(&manifest_path("v1")).send().status, 200);
    for digest in [&image.config, &image.layers[0], &image.layers[2]] {
        wait_until("the others to be published", SOON, || {
            has_blob(mirror.store(), digest).then_some(())
        });
    }
    assert_eq!(mirror.ask(&blob_path(bad)).send().status, 404);
}

#[test]
fn layers_that_live_elsewhere_are_not_asked_for() {
    let (upstream, mirror) = start();
    let layer = bytes(1000, 1);
    let mut foreign = descriptor(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        &layer,
    );
    foreign["urls"] = serde_json::json!(["http://elsewhere.test/layer"]);
    let config = upstream.add_blob(APP, b"{}".to_vec());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", b"{}"), "layers": [foreign],
    });
    let digest = upstream.add_manifest(APP, OCI_MANIFEST, manifest.to_string().into_bytes());
    mirror.ask(&manifest_path(&digest)).send();
    wait_until("the config to be published", SOON, || {
        has_blob(mirror.store(), &config).then_some(())
    });
    settle(&mirror);
    assert_eq!(upstream.count(&blobs()), 1);
}
