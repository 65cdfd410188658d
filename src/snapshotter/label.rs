//! The labels that containerd's unpackers send with Prepare, and what they say of a layer.
//!
//! Not every path sends all of them: facts are in containerd's `core/unpack` and `pkg/snapshotters`.

use std::collections::{BTreeMap, HashMap};

use super::error::SnapshotError;
use crate::oci::image_name::ImageName;
use crate::oci::{ChainId, Digest, Reference};

/// The stack whose topmost layer is to be unpacked: this makes a Prepare one that may be answered by the store.
pub(super) const CHAIN: &str = "containerd.io/snapshot.ref";

/// The image's name, as its user wrote it.
const IMAGE: &str = "containerd.io/snapshot/cri.image-ref";

/// The image's manifest.
const MANIFEST: &str = "containerd.io/snapshot/cri.manifest-digest";

/// The compressed layer.
const BLOB: &str = "containerd.io/snapshot/cri.layer-digest";

/// A layer that containerd wants unpacked, as far as its labels say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedLayer {
    pub(super) chain_id: ChainId,
    /// By digest where that is known.
    pub(super) image: Option<ImageName>,
    pub(super) blob: Option<Digest>,
}

impl WantedLayer {
    /// Reads a Prepare's labels; `None` if it is for no layer of an image.
    pub(super) fn of(labels: &HashMap<String, String>) -> Option<Self> {
        let chain_id = labels.get(CHAIN)?.parse().ok()?;
        Some(Self {
            chain_id,
            image: image_of(labels),
            blob: labels.get(BLOB).and_then(|digest| digest.parse().ok()),
        })
    }
}

fn image_of(labels: &HashMap<String, String>) -> Option<ImageName> {
    let mut image: ImageName = labels.get(IMAGE)?.parse().ok()?;
    if let Some(digest) = labels.get(MANIFEST).and_then(|digest| digest.parse().ok()) {
        image.reference = Reference::Digest(digest);
    }
    Some(image)
}

/// Applies a field mask to labels (snapshots.proto, `UpdateSnapshotRequest`): none replaces all.
pub(super) fn updated(
    present: &BTreeMap<String, String>,
    mut labels: HashMap<String, String>,
    paths: &[String],
) -> Result<BTreeMap<String, String>, SnapshotError> {
    if paths.is_empty() || paths.iter().any(|path| path == "labels") {
        return Ok(labels.into_iter().collect());
    }
    let mut updated = present.clone();
    for path in paths {
        let Some(name) = path.strip_prefix("labels.") else {
            return Err(SnapshotError::FixedField(path.clone()));
        };
        match labels.remove(name) {
            Some(value) => updated.insert(name.to_owned(), value),
            None => updated.remove(name),
        };
    }
    Ok(updated)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        pairs.collect()
    }

    #[test]
    fn a_prepare_without_a_stack_is_for_no_layer_of_an_image() {
        assert_eq!(WantedLayer::of(&labels(&[])), None);
        assert_eq!(WantedLayer::of(&labels(&[(IMAGE, "app"), (BLOB, DIGEST)])), None);
        assert_eq!(WantedLayer::of(&labels(&[(CHAIN, "not a digest")])), None);
    }

    #[test]
    fn what_labels_say_is_read_and_what_they_leave_out_is_not_needed() {
        let bare = WantedLayer::of(&labels(&[(CHAIN, DIGEST)])).unwrap();
        assert_eq!((bare.image, bare.blob), (None, None));
        let full = labels(&[
            (CHAIN, DIGEST),
            (IMAGE, "ghcr.io/a/b:v1"),
            (MANIFEST, DIGEST),
            (BLOB, DIGEST),
        ]);
        let full = WantedLayer::of(&full).unwrap();
        assert_eq!(full.image.unwrap().to_string(), format!("ghcr.io/a/b@{DIGEST}"));
        assert_eq!(full.blob.unwrap().to_string(), DIGEST);
    }

    #[test]
    fn a_field_mask_changes_the_labels_that_it_names() {
        let present = [("a", "1"), ("b", "2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let present = BTreeMap::from(present);
        let changed = |paths: &[&str]| {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            let updated = updated(&present, labels(&[("a", "3"), ("c", "4")]), &paths).ok()?;
            Some(
                Vec::from_iter(updated)
                    .iter()
                    .map(|(name, value)| format!("{name}{value}"))
                    .collect::<String>(),
            )
        };
        for (paths, expected) in [
            (&[][..], Some("a3c4")),
            (&["labels"], Some("a3c4")),
            (&["labels.a"], Some("a3b2")),
            (&["labels.b"], Some("a1")),
            (&["labels.x", "labels.c"], Some("a1b2c4")),
            (&["parent"], None),
        ] {
            assert_eq!(changed(paths).as_deref(), expected, "{paths:?}");
        }
    }
}
