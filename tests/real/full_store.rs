//! A store that fills up.

use crate::support::clients::{Docker, Tmpfs};
use crate::support::mirror::{Mirror, Options};
use crate::support::registry::Registry;
use crate::support::sha256;
use crate::support::store::{assert_blobs_are_whole, assert_nothing_staged, has_blob};

#[test]
fn a_full_store_still_serves_everything_and_keeps_nothing_partial() {
    let registry = Registry::filled();
    let tmpfs = Tmpfs::mount(8 << 20);
    let mut options = Options::new(registry.address());
    options.store = Some(tmpfs.path().join("store"));
    let mut mirror = Mirror::start(&options);
    let docker = Docker::start(mirror.address());

    // More than 8 MiB: streamed past the store.
    docker.pull("debian:bookworm");
    assert!(
        docker
            .run("debian:bookworm", &["cat", "/etc/debian_version"])
            .starts_with("12.")
    );
    let layer = &registry.layers("library/debian", "bookworm")[0];
    let answer = mirror.get(&format!("/v2/library/debian/blobs/{layer}")).send();
    assert_eq!(sha256(&answer.body), *layer);
    assert!(!has_blob(mirror.store(), layer));
    assert!(
        mirror.metric("wharf_store_errors_total", "full") >= 1.0,
        "{}",
        mirror.log()
    );
    assert!(mirror.metric("wharf_blob_requests_total", "uncached") >= 1.0);

    // What fits is cached again afterwards.
    docker.pull("busybox");
    assert_blobs_are_whole(mirror.store());
    mirror.stop();
    assert_nothing_staged(mirror.store());
    for blob in registry.blobs("library/busybox", "latest") {
        assert!(has_blob(mirror.store(), &blob), "{blob} fits");
    }
}
