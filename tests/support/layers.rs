//! Images whose layers are real tar archives, and what a store must have of them.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::chain::{chain_ids, layer_ids};
use super::sha256;
use super::upstream::{OCI_MANIFEST, Upstream, image_manifest};

/// The digests of an image with layers that can be extracted.
#[derive(Clone, Debug)]
pub struct Layered {
    pub digest: String,
    pub config: String,
    /// The blobs, the bottom one first.
    pub layers: Vec<String>,
    pub diff_ids: Vec<String>,
    pub chain_ids: Vec<String>,
}

impl Layered {
    /// The layers' names in containers/storage, the bottom one first.
    pub fn layer_ids(&self) -> Vec<String> {
        layer_ids(&self.diff_ids)
    }
}

/// Makes an archive of files, with an entry for the root.
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let files = files.iter().map(|(name, content)| (*name, 0o644, *content));
    tar_with(
        &[("./", 0o755, &[][..])]
            .into_iter()
            .chain(files)
            .collect::<Vec<_>>(),
    )
}

/// Makes an archive of files and, where a name ends in a slash, directories: name, mode, content.
pub fn tar_with(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, mode, content) in entries {
        let kind = if name.ends_with('/') {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        };
        let mut header = header(kind, *mode, content.len() as u64);
        archive
            .append_data(&mut header, name, *content)
            .expect("add an entry");
    }
    archive.into_inner().expect("end an archive")
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(1_700_000_000);
    header
}

/// Compresses as registries have it.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("compress");
    encoder.finish().expect("compress")
}

/// Makes the config of an image.
pub fn config_of(diff_ids: &[String], note: &str) -> Vec<u8> {
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    json!({"architecture": "amd64", "os": "linux", "rootfs": rootfs, "note": note})
        .to_string()
        .into_bytes()
}

/// Adds an image of uncompressed layers under a tag.
pub fn add(upstream: &Upstream, repository: &str, tag: &str, tars: &[Vec<u8>]) -> Layered {
    let diff_ids: Vec<String> = tars.iter().map(|tar| sha256(tar)).collect();
    let blobs: Vec<Vec<u8>> = tars.iter().map(|tar| gzip(tar)).collect();
    let config = config_of(&diff_ids, tag);
    add_as(upstream, repository, tag, &config, &blobs, diff_ids)
}

/// Adds an image of a config and compressed layers, which need not fit.
pub fn add_as(
    upstream: &Upstream,
    repository: &str,
    tag: &str,
    config: &[u8],
    blobs: &[Vec<u8>],
    diff_ids: Vec<String>,
) -> Layered {
    let manifest = image_manifest(config, blobs);
    let digest = upstream.add_manifest(repository, OCI_MANIFEST, manifest);
    upstream.tag(repository, tag, &digest);
    let layers = blobs
        .iter()
        .map(|blob| upstream.add_blob(repository, blob.clone()))
        .collect();
    Layered {
        digest,
        config: upstream.add_blob(repository, config.to_vec()),
        layers,
        chain_ids: chain_ids(&diff_ids),
        diff_ids,
    }
}

/// Returns the record of a stack, if it is published.
pub fn record(store: &Path, chain_id: &str) -> Option<Value> {
    let hex = chain_id.strip_prefix("sha256:").expect("a sha256 digest");
    let text = std::fs::read(store.join("chains/sha256").join(hex).join("dir")).ok()?;
    Some(serde_json::from_slice(&text).expect("a record"))
}

/// Returns the directory of a stack's topmost layer, which is published.
pub fn directory(store: &Path, chain_id: &str) -> PathBuf {
    let record = record(store, chain_id).expect("a record");
    let layer_id = record["layer_id"].as_str().expect("a layer id");
    let directory = store.join("layers/overlay").join(layer_id).join("diff");
    assert!(directory.is_dir(), "{}", directory.display());
    directory
}

/// Returns the ids of all layers that have a directory.
pub fn published(store: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(store.join("layers/overlay")) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.into_string().expect("text"));
    // The directory of short names is beside them.
    names.filter(|name| name != "l").collect()
}
