//! Podman and skopeo with `registries.conf`, which use the path prefix `/v2/docker.io/…`.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::GzDecoder;
use serde_json::Value;

use crate::support::clients::Podman;
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
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

/// Extracting needs root.
#[test]
fn podman_makes_its_layers_again_from_tar_splits_of_wharf() {
    let registry = Registry::filled();
    let mirror = Mirror::start(&Options::new(registry.address()));
    let podman = Podman::new(mirror.address());
    let images = ["layers:latest", "debian-zstd:bookworm"].map(|name| format!("docker.io/library/{name}"));
    for image in &images {
        podman.pull(image);
    }
    let theirs = podman.tar_splits();
    assert!(theirs.len() > 2, "{theirs:?}");
    let mut files = 0;
    for theirs in &theirs {
        let name = theirs.file_name().expect("a name");
        let ours = mirror.store().join("layers/overlay-layers").join(name);
        wait_until("the layer", Duration::from_secs(60), || {
            ours.exists().then_some(())
        });
        let parts = parts(&ours);
        assert!(parts == self::parts(theirs), "{name:?} differs");
        files += parts.len() - 1;
        fs::copy(&ours, theirs).expect("replace a tar-split");
    }
    assert!(files > 3000, "{files}");
    // It compares the digests of what it makes.
    for image in &images {
        podman.save(image);
    }
}

/// Returns the stream before each file whose content is in the directory, with the file's name, size and checksum;
/// last the rest of the stream. Where the bytes between them are cut does not count, nor do files without content.
fn parts(tar_split: &Path) -> Vec<(Vec<u8>, Value)> {
    let file = File::open(tar_split).expect("open a tar-split");
    let (mut parts, mut raw) = (Vec::new(), Vec::new());
    for line in BufReader::new(GzDecoder::new(file)).lines() {
        let mut object: Value = serde_json::from_str(&line.expect("a line")).expect("an object");
        if object["type"] == 2 {
            let payload = object["payload"].as_str().unwrap_or_default();
            raw.extend(BASE64.decode(payload).expect("base64"));
        } else if object["size"].is_u64() {
            object["position"].take();
            parts.push((std::mem::take(&mut raw), object));
        }
    }
    parts.push((raw, Value::Null));
    parts
}

#[test]
fn skopeo_copies_an_index_with_its_attestations_byte_for_byte() {
    let registry = Registry::filled();
    let mirror = Mirror::start(&Options::new(registry.address()));
    let podman = Podman::new(mirror.address());
    let copy = podman.skopeo_copy("docker.io/library/multi:latest", true);

    let (index, _) = registry.manifest("library/multi", "latest");
    assert_eq!(fs::read(copy.join("manifest.json")).expect("the index"), index);
    let index: Value = serde_json::from_slice(&index).expect("an index");
    let manifests = index["manifests"].as_array().expect("manifests");
    assert_eq!(manifests.len(), 4);
    for descriptor in manifests {
        let digest = descriptor["digest"].as_str().expect("a digest");
        let hex = digest.trim_start_matches("sha256:");
        let bytes = fs::read(copy.join(format!("{hex}.manifest.json"))).expect("a manifest");
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
