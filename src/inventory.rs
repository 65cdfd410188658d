//! What a store holds: images, their layers, the stacks that can be mounted, and which nodes use them. Reads only.
//!
//! For `wharf ls`, `wharf nodes` and `wharf inspect`; needs no index and no mirror, and a mount that is read-only will do.

mod age;
mod images;
mod inspect;
mod mirrors;
mod nodes;

pub use images::{Inventory, ListedImage, ListedLayer};
pub use inspect::{InspectError, InspectedChain, InspectedImage, inspect_chain, inspect_image};
pub use mirrors::{ListedMirror, Mirrors};
pub use nodes::{ListedNode, Nodes};

use serde::Serialize;

use crate::fs::FsError;
use crate::oci::chain::chain;
use crate::oci::config::MAX_CONFIG_BYTES;
use crate::oci::manifest::{Descriptor, MAX_MANIFEST_BYTES};
use crate::oci::{ChainLink, Digest, ImageConfig, Manifest};
use crate::store::{ChainRecord, Store};

/// In which forms a layer is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerState {
    /// As a directory that can be mounted.
    Published,
    /// As a blob.
    Stored,
    /// Not at all.
    Missing,
}

/// Reads a manifest of the store; `None` if it is not there, or none.
fn manifest_of(store: &Store, digest: &Digest) -> Result<Option<Manifest>, FsError> {
    let bytes = store.read_blob(digest, MAX_MANIFEST_BYTES)?;
    Ok(bytes.and_then(|bytes| Manifest::parse(&bytes).ok()))
}

/// Returns the places of an image's layers; nothing if it is none, or if its config is not there.
fn links_of(store: &Store, manifest: &Manifest) -> Result<Vec<ChainLink>, FsError> {
    let Some(blobs) = manifest.image_blobs() else {
        return Ok(Vec::new());
    };
    let bytes = store.read_blob(&blobs.config.digest, MAX_CONFIG_BYTES)?;
    let config = bytes.and_then(|bytes| ImageConfig::parse(&bytes).ok());
    let is_whole = |config: &ImageConfig| config.diff_ids.len() == blobs.layers.len();
    Ok(config
        .filter(is_whole)
        .map(|config| chain(&config.diff_ids))
        .unwrap_or_default())
}

fn layers_of(manifest: &Manifest) -> &[Descriptor] {
    match manifest {
        Manifest::Image { layers, .. } => layers,
        Manifest::Index { .. } | Manifest::Other { .. } => &[],
    }
}

/// Returns how a layer is in the store, and its record if it is published.
fn state_of(
    store: &Store,
    blob: &Descriptor,
    link: Option<&ChainLink>,
) -> Result<(LayerState, Option<ChainRecord>), FsError> {
    if let Some(link) = link
        && let Some(record) = store.chain(&link.chain_id)?
    {
        return Ok((LayerState::Published, Some(record)));
    }
    let is_stored = store.stat_blob(&blob.digest)?.is_some();
    let state = if is_stored {
        LayerState::Stored
    } else {
        LayerState::Missing
    };
    Ok((state, None))
}

/// Writes a number of things whose plural takes an s.
fn counted(count: usize, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_no_plural() {
        let told = [0, 1, 2].map(|count| counted(count, "layer"));
        assert_eq!(told, ["0 layers", "1 layer", "2 layers"]);
    }
}
