//! The list of images.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytesize::ByteSize;
use serde::Serialize;

use super::age::{Age, rfc3339};
use super::{LayerState, counted, layers_of, links_of, manifest_of, state_of};
use crate::fs::FsError;
use crate::oci::image_name::ImageName;
use crate::oci::{ChainId, Digest, LayerId, Manifest, Platform, Reference, Repository};
use crate::store::{Store, Subject};

/// The images of a store, sorted by name.
#[derive(Debug, Serialize)]
pub struct Inventory {
    pub images: Vec<ListedImage>,
}

/// One image of a store.
#[derive(Debug, Serialize)]
pub struct ListedImage {
    /// Host, repository, and tag or digest.
    pub name: String,
    /// The manifest's digest; of an index, that of the image in it.
    pub digest: Digest,
    /// What the image runs on, if it is one of an index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// When a mirror last served its manifest, to about an hour (RFC 3339); nothing if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
    #[serde(skip)]
    last_used: Option<Age>,
    /// Bytes of all layers' blobs.
    pub size_bytes: u64,
    /// The bottom one first.
    pub layers: Vec<ListedLayer>,
}

/// One layer of a [`ListedImage`].
#[derive(Debug, Serialize)]
pub struct ListedLayer {
    pub digest: Digest,
    pub size_bytes: u64,
    pub state: LayerState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_id: Option<ChainId>,
    /// The directory, if it is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_id: Option<LayerId>,
    /// How many images of the store have it, by their manifests.
    pub images: usize,
}

impl Inventory {
    /// Reads what a store holds.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn read(store: &Store) -> Result<Self, FsError> {
        let mut images = Vec::new();
        for repository in store.repositories()? {
            read_repository(store, &repository, &mut images)?;
        }
        images.sort_by(|a, b| (&a.name, &a.platform).cmp(&(&b.name, &b.platform)));
        count_sharing(&mut images);
        Ok(Self { images })
    }

    /// Writes it as JSON.
    pub fn to_json(&self) -> String {
        // Plain fields with text keys can always be written.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// Reads the tags of a repository, and then those manifests that no tag leads to.
fn read_repository(
    store: &Store,
    repository: &Repository,
    images: &mut Vec<ListedImage>,
) -> Result<(), FsError> {
    let first = images.len();
    let mut seen = BTreeSet::new();
    for tag in store.tags(repository)? {
        let subject = Subject::Tag(tag.clone());
        if let Some(record) = store.latest_record(repository, &subject)? {
            let name = name_of(repository, Reference::Tag(tag));
            read_manifest(store, &name, &record.digest, &mut seen, images)?;
        }
    }
    for digest in store.manifests_of(repository)? {
        if !seen.contains(&digest) {
            let name = name_of(repository, Reference::Digest(digest.clone()));
            read_manifest(store, &name, &digest, &mut seen, images)?;
        }
    }
    for image in &mut images[first..] {
        let time = store.last_used(repository, &image.digest)?;
        image.last_used_at = time.map(rfc3339);
        image.last_used = time.map(Age::of);
    }
    Ok(())
}

fn name_of(repository: &Repository, reference: Reference) -> String {
    let name = ImageName {
        repository: repository.clone(),
        reference,
    };
    name.to_string()
}

/// Adds the image of a manifest, or of an index those images that are in the store.
fn read_manifest(
    store: &Store,
    name: &str,
    digest: &Digest,
    seen: &mut BTreeSet<Digest>,
    images: &mut Vec<ListedImage>,
) -> Result<(), FsError> {
    seen.insert(digest.clone());
    let Some(manifest) = manifest_of(store, digest)? else {
        return Ok(());
    };
    if !matches!(manifest, Manifest::Index { .. }) {
        images.push(listed(store, name, digest, &manifest, None)?);
        return Ok(());
    }
    for child in manifest.children() {
        if let Some(image) = manifest_of(store, &child.digest)? {
            seen.insert(child.digest.clone());
            let platform = child.platform.as_ref();
            images.push(listed(store, name, &child.digest, &image, platform)?);
        }
    }
    Ok(())
}

fn listed(
    store: &Store,
    name: &str,
    digest: &Digest,
    manifest: &Manifest,
    platform: Option<&Platform>,
) -> Result<ListedImage, FsError> {
    let links = links_of(store, manifest)?;
    let mut layers = Vec::new();
    for (index, blob) in layers_of(manifest).iter().enumerate() {
        let link = links.get(index);
        let (state, record) = state_of(store, blob, link)?;
        layers.push(ListedLayer {
            digest: blob.digest.clone(),
            size_bytes: blob.size_bytes,
            state,
            chain_id: link.map(|link| link.chain_id.clone()),
            layer_id: record.map(|record| record.layer_id),
            images: 0,
        });
    }
    Ok(ListedImage {
        name: name.to_owned(),
        digest: digest.clone(),
        platform: platform.map(Platform::to_string),
        last_used_at: None,
        last_used: None,
        // A manifest may say anything.
        size_bytes: layers
            .iter()
            .fold(0, |sum, layer| layer.size_bytes.saturating_add(sum)),
        layers,
    })
}

fn count_sharing(images: &mut [ListedImage]) {
    let mut having: BTreeMap<Digest, BTreeSet<Digest>> = BTreeMap::new();
    for image in images.iter() {
        for layer in &image.layers {
            let having = having.entry(layer.digest.clone()).or_default();
            having.insert(image.digest.clone());
        }
    }
    let layers = images.iter_mut().flat_map(|image| &mut image.layers);
    for layer in layers {
        layer.images = having.get(&layer.digest).map_or(0, BTreeSet::len);
    }
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for image in &self.images {
            let platform = image.platform.as_deref().map(|platform| format!(" {platform}"));
            let used = image.last_used.map(|age| format!(", used {age}"));
            writeln!(
                f,
                "{}{} {} {}, {}{}",
                image.name,
                platform.unwrap_or_default(),
                image.digest,
                counted(image.layers.len(), "layer"),
                ByteSize(image.size_bytes),
                used.unwrap_or_default()
            )?;
            for layer in &image.layers {
                let state = match layer.state {
                    LayerState::Published => "published",
                    LayerState::Stored => "stored",
                    LayerState::Missing => "missing",
                };
                let size = ByteSize(layer.size_bytes);
                writeln!(
                    f,
                    "  {} {size}, {state}, in {}",
                    layer.digest,
                    counted(layer.images, "image")
                )?;
            }
        }
        Ok(())
    }
}
