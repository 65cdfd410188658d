//! Repositories: blobs, manifests, tags and referrers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::sha256;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The digests of an image that was added.
#[derive(Clone, Debug)]
pub struct Image {
    pub digest: String,
    pub manifest: Vec<u8>,
    pub config: String,
    pub layers: Vec<String>,
}

/// Everything that an upstream has.
#[derive(Default)]
pub(super) struct Content {
    repositories: HashMap<String, Repository>,
}

#[derive(Default)]
pub(super) struct Repository {
    pub(super) blobs: HashMap<String, Arc<Vec<u8>>>,
    pub(super) manifests: BTreeMap<String, Manifest>,
    pub(super) tags: BTreeMap<String, String>,
}

#[derive(Clone)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) bytes: Arc<Vec<u8>>,
}

/// Makes bytes that no other seed makes, and that differ everywhere.
pub fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut words = Vec::with_capacity(length + 8);
    while words.len() < length {
        // Xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        words.extend(state.to_le_bytes());
    }
    words.truncate(length);
    words
}

/// Describes bytes of a type.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()})
}

/// Makes the manifest of an image.
pub fn image_manifest(config: &[u8], layers: &[Vec<u8>]) -> Vec<u8> {
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor(OCI_LAYER, layer)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, config), "layers": layers,
    });
    manifest.to_string().into_bytes()
}

/// Makes an index of descriptors.
pub fn index(manifests: &[Value]) -> Vec<u8> {
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    index.to_string().into_bytes()
}

impl Content {
    pub(super) fn repository(&self, name: &str) -> Option<&Repository> {
        self.repositories.get(name)
    }

    /// Finds a blob in any repository.
    pub(super) fn blob(&self, digest: &str) -> Option<&Arc<Vec<u8>>> {
        self.repositories
            .values()
            .find_map(|repository| repository.blobs.get(digest))
    }

    pub(super) fn add_blob(&mut self, repository: &str, bytes: Vec<u8>) -> String {
        let digest = sha256(&bytes);
        self.add_blob_as(repository, &digest, bytes);
        digest
    }

    pub(super) fn add_blob_as(&mut self, repository: &str, digest: &str, bytes: Vec<u8>) {
        let blobs = &mut self.make(repository).blobs;
        blobs.insert(digest.to_owned(), Arc::new(bytes));
    }

    pub(super) fn add_manifest(&mut self, repository: &str, media_type: &str, bytes: Vec<u8>) -> String {
        let digest = sha256(&bytes);
        let manifest = Manifest {
            media_type: media_type.to_owned(),
            bytes: Arc::new(bytes),
        };
        self.make(repository).manifests.insert(digest.clone(), manifest);
        digest
    }

    pub(super) fn add_image(&mut self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Image {
        let config = format!(r#"{{"architecture":"amd64","os":"linux","of":"{repository}:{tag}"}}"#);
        let manifest = image_manifest(config.as_bytes(), layers);
        let image = Image {
            digest: self.add_manifest(repository, OCI_MANIFEST, manifest.clone()),
            manifest,
            config: self.add_blob(repository, config.into_bytes()),
            layers: layers
                .iter()
                .map(|layer| self.add_blob(repository, layer.clone()))
                .collect(),
        };
        self.tag(repository, tag, &image.digest);
        image
    }

    pub(super) fn tag(&mut self, repository: &str, tag: &str, digest: &str) {
        self.make(repository)
            .tags
            .insert(tag.to_owned(), digest.to_owned());
    }

    pub(super) fn remove(&mut self, repository: &str) {
        self.repositories.remove(repository);
    }

    fn make(&mut self, repository: &str) -> &mut Repository {
        self.repositories.entry(repository.to_owned()).or_default()
    }
}

impl Repository {
    /// Finds a manifest by tag or digest, and its digest.
    pub(super) fn manifest(&self, reference: &str) -> Option<(&str, &Manifest)> {
        let digest = self.tags.get(reference).map_or(reference, String::as_str);
        let (digest, manifest) = self.manifests.get_key_value(digest)?;
        Some((digest, manifest))
    }

    /// Describes what refers to a digest, with its type of artifact.
    pub(super) fn referrers(&self, subject: &str) -> Vec<Value> {
        let describe = |manifest: &Manifest| {
            let parsed: Value = serde_json::from_slice(&manifest.bytes).ok()?;
            if parsed["subject"]["digest"] != subject {
                return None;
            }
            let mut described = descriptor(&manifest.media_type, &manifest.bytes);
            described["artifactType"] = parsed["artifactType"].clone();
            Some(described)
        };
        self.manifests.values().filter_map(describe).collect()
    }
}
