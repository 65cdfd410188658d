//! All that is known of one image, or of one stack of layers.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::{LayerState, layers_of, links_of, manifest_of, state_of};
use crate::fs::FsError;
use crate::oci::config::MAX_CONFIG_BYTES;
use crate::oci::image_name::ImageName;
use crate::oci::manifest::MAX_MANIFEST_BYTES;
use crate::oci::{ChainId, DiffId, Digest, Manifest, Platform, Reference};
use crate::store::{ChainRecord, StackError, Store, Subject};

/// Why there is nothing to tell.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("{0} is not in the store; `wharf pull` brings it there")]
    NoImage(String),
    #[error(
        "{name} has no image for {platform} in the store; choose another with --platform, or `wharf pull` it"
    )]
    NoPlatform { name: String, platform: String },
    #[error(transparent)]
    Stack(#[from] StackError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error("the store's path cannot be made absolute")]
    Relative(#[source] std::io::Error),
}

/// What is known of an image.
#[derive(Debug, Serialize)]
pub struct InspectedImage {
    pub name: String,
    /// The manifest's digest.
    pub digest: Digest,
    pub manifest: Value,
    /// `null` if it is not in the store.
    pub config: Value,
    pub layers: Vec<InspectedLayer>,
}

/// What is known of an image's layer.
#[derive(Debug, Serialize)]
pub struct InspectedLayer {
    pub digest: Digest,
    pub size_bytes: u64,
    pub state: LayerState,
    pub diff_id: Option<DiffId>,
    pub chain_id: Option<ChainId>,
    pub record: Option<ChainRecord>,
}

/// What is known of a stack.
#[derive(Debug, Serialize)]
pub struct InspectedChain {
    pub chain_id: ChainId,
    pub record: ChainRecord,
    /// Absolute, the topmost first: what overlayfs takes as `lowerdir=`, joined by colons.
    pub lowerdirs: Vec<PathBuf>,
}

/// Reads what a store knows of an image, without asking upstream.
///
/// # Errors
/// Fails if it is not in the store, and by any errno.
pub fn inspect_image(
    store: &Store,
    name: &ImageName,
    platform: &Platform,
) -> Result<InspectedImage, InspectError> {
    let no_image = || InspectError::NoImage(name.to_string());
    let mut digest = match &name.reference {
        Reference::Digest(digest) => digest.clone(),
        Reference::Tag(tag) => {
            let record = store.latest_record(&name.repository, &Subject::Tag(tag.clone()))?;
            record.ok_or_else(no_image)?.digest
        }
    };
    let mut manifest = manifest_of(store, &digest)?.ok_or_else(no_image)?;
    if matches!(manifest, Manifest::Index { .. }) {
        let no_platform = || InspectError::NoPlatform {
            name: name.to_string(),
            platform: platform.to_string(),
        };
        digest = manifest.image_for(platform).cloned().ok_or_else(no_platform)?;
        manifest = manifest_of(store, &digest)?.ok_or_else(no_platform)?;
    }
    let config = match &manifest {
        Manifest::Image {
            config: Some(config), ..
        } => json_of(store, &config.digest, MAX_CONFIG_BYTES)?,
        _ => Value::Null,
    };
    Ok(InspectedImage {
        name: name.to_string(),
        manifest: json_of(store, &digest, MAX_MANIFEST_BYTES)?,
        config,
        layers: layers(store, &manifest)?,
        digest,
    })
}

fn layers(store: &Store, manifest: &Manifest) -> Result<Vec<InspectedLayer>, FsError> {
    let links = links_of(store, manifest)?;
    let blobs = layers_of(manifest).iter().enumerate();
    blobs
        .map(|(index, blob)| {
            let link = links.get(index);
            let (state, record) = state_of(store, blob, link)?;
            Ok(InspectedLayer {
                digest: blob.digest.clone(),
                size_bytes: blob.size_bytes,
                state,
                diff_id: link.map(|link| link.diff_id.clone()),
                chain_id: link.map(|link| link.chain_id.clone()),
                record,
            })
        })
        .collect()
}

fn json_of(store: &Store, digest: &Digest, limit: usize) -> Result<Value, FsError> {
    let bytes = store.read_blob(digest, limit)?;
    Ok(bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or(Value::Null))
}

/// Reads what a store knows of a stack.
///
/// # Errors
/// Fails if one of its layers is not published, and by any errno.
pub fn inspect_chain(store: &Store, chain_id: &ChainId) -> Result<InspectedChain, InspectError> {
    let record = store.chain(chain_id)?;
    let record = record.ok_or_else(|| StackError::NoRecord(chain_id.clone()))?;
    let absolute = |path: PathBuf| std::path::absolute(path).map_err(InspectError::Relative);
    let lowerdirs = store.lowerdirs(chain_id)?.into_iter().map(absolute);
    Ok(InspectedChain {
        chain_id: chain_id.clone(),
        record,
        lowerdirs: lowerdirs.collect::<Result<_, _>>()?,
    })
}
