//! Tar-splits of wharf beside podman's own, and podman making its layers again from them. Extracting needs root.

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
