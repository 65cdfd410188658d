//! The images are what the other tests take them for.
//!
//! Whichever test comes first makes them, which needs the network for debootstrap.

use serde_json::Value;

use crate::support::images::{EXTRA_LAYERS, OCI_INDEX, OCI_MANIFEST};
use crate::support::registry::Registry;

#[test]
fn the_registry_holds_real_images_of_every_kind() {
    let registry = Registry::filled();
    let media_type = |name: &str, tag: &str| {
        let (bytes, _) = registry.manifest(name, tag);
        let manifest: Value = serde_json::from_slice(&bytes).expect("a manifest");
        manifest["mediaType"].as_str().expect("a media type").to_owned()
    };
    let schema2 = "application/vnd.docker.distribution.manifest.v2+json";
    assert_eq!(media_type("library/busybox", "latest"), OCI_MANIFEST);
    assert_eq!(media_type("library/busybox-schema2", "latest"), schema2);
    assert_eq!(media_type("library/debian", "bookworm"), schema2);
    assert_eq!(media_type("library/debian-zstd", "bookworm"), OCI_MANIFEST);
    assert_eq!(media_type("library/multi", "latest"), OCI_INDEX);
    assert_eq!(
        registry.layers("library/layers", "latest").len(),
        usize::from(EXTRA_LAYERS) + 1
    );
}
