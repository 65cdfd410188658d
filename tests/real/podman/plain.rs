//! Podman and skopeo with `registries.conf`, which use the path prefix `/v2/docker.io/…`.

use serde_json::Value;

use crate::support::clients::Podman;
use crate::support::mirror::{Mirror, Options};
use crate::support::registry::Registry;
use crate::support::{sha256, sha256_file};

#[test]
fn podman_pulls_through_the_mirror_and_runs_what_it_pulled() {
    let registry = Registry::filled();
    let mirror = Mirror::start(&Options::new(registry.address()));
    let podman = Podman::new(mirror.address());
    podman.pull("docker.io/library/busybox:latest");
    assert_eq!(
        podman.run("docker.io/library/busybox:latest", &["echo", "podman"]),
        "podman\n"
    );
    let (_, digest) = registry.manifest("library/busybox-schema2", "latest");
    podman.pull(&format!("docker.io/library/busybox-schema2@{digest}"));
    registry.assert_fetched_once(&registry.blobs("library/busybox", "latest"));
}

#[test]
fn podman_pulls_a_big_zstd_layer_through_the_mirror() {
    let registry = Registry::filled();
    let mirror = Mirror::start(&Options::new(registry.address()));
    let podman = Podman::new(mirror.address());
    podman.pull("docker.io/library/debian-zstd:bookworm");
    let version = podman.run(
        "docker.io/library/debian-zstd:bookworm",
        &["cat", "/etc/debian_version"],
    );
    assert!(version.starts_with("12."), "{version}");
    registry.assert_fetched_once(&registry.blobs("library/debian-zstd", "bookworm"));
}

#[test]
fn skopeo_copies_an_index_with_its_attestations_byte_for_byte() {
    let registry = Registry::filled();
    let mirror = Mirror::start(&Options::new(registry.address()));
    let podman = Podman::new(mirror.address());
    let copy = podman.skopeo_copy("docker.io/library/multi:latest", true);

    let (index, _) = registry.manifest("library/multi", "latest");
    assert_eq!(
        std::fs::read(copy.join("manifest.json")).expect("the index"),
        index
    );
    let index: Value = serde_json::from_slice(&index).expect("an index");
    let manifests = index["manifests"].as_array().expect("manifests");
    assert_eq!(manifests.len(), 4);
    for descriptor in manifests {
        let digest = descriptor["digest"].as_str().expect("a digest");
        let hex = digest.trim_start_matches("sha256:");
        let bytes = std::fs::read(copy.join(format!("{hex}.manifest.json"))).expect("a manifest");
        assert_eq!(sha256(&bytes), digest);
        for blob in registry.blobs("library/multi", digest) {
            assert_eq!(sha256_file(&copy.join(blob.trim_start_matches("sha256:"))), blob);
        }
    }
}

#[test]
fn skopeo_copies_one_image_through_the_mirror() {
    let registry = Registry::filled();
    let mirror = Mirror::start(&Options::new(registry.address()));
    let podman = Podman::new(mirror.address());
    let copy = podman.skopeo_copy("docker.io/library/busybox-schema2:latest", false);
    for blob in registry.blobs("library/busybox-schema2", "latest") {
        assert_eq!(sha256_file(&copy.join(blob.trim_start_matches("sha256:"))), blob);
    }
}
