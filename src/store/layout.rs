//! The only place that builds paths within the store.

use std::path::{Path, PathBuf};

use crate::api::NodeId;
use crate::oci::{Algorithm, ChainId, DiffId, Digest, LayerId, RegistryHost, Repository};

use super::image_store::EntryName;
use super::record::Subject;

/// The directory that is a layer, within what is published under its id.
pub(super) const DIFF: &str = "diff";

/// The layer's tar-split, as long as it is staged beside that directory.
pub(super) const STAGED_TAR_SPLIT: &str = "tar-split.gz";

/// The paths of one store.
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn format_file(&self) -> PathBuf {
        self.root.join("wharf.json")
    }

    pub(super) fn reference(&self) -> PathBuf {
        self.root.join("reference")
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root
            .join("blobs")
            .join(digest.algorithm().as_str())
            .join(&hex[..2])
            .join(hex)
    }

    pub(super) fn hosts(&self) -> PathBuf {
        self.root.join("tags")
    }

    pub(super) fn host(&self, host: &RegistryHost) -> PathBuf {
        self.hosts().join(host.as_str())
    }

    pub(super) fn sent_marks(&self, host: &RegistryHost) -> PathBuf {
        self.host(host).join("_sent")
    }

    pub(super) fn sent_mark(&self, host: &RegistryHost, digest: &Digest) -> PathBuf {
        self.sent_marks(host).join(file_name(digest))
    }

    pub(super) fn repository(&self, repository: &Repository) -> PathBuf {
        let mut path = self.host(&repository.host);
        path.extend(repository.name.components());
        path
    }

    pub(super) fn tags(&self, repository: &Repository) -> PathBuf {
        self.repository(repository).join("_tags")
    }

    pub(super) fn records(&self, repository: &Repository, subject: &Subject) -> PathBuf {
        match subject {
            Subject::Tag(tag) => self.tags(repository).join(tag.as_str()),
            Subject::Referrers(digest) => self
                .repository(repository)
                .join("_referrers")
                .join(file_name(digest)),
        }
    }

    pub(super) fn manifest_marks(&self, repository: &Repository) -> PathBuf {
        self.repository(repository).join("_manifests")
    }

    pub(super) fn manifest_mark(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.manifest_marks(repository).join(file_name(digest))
    }

    /// Returns the directory of the times at which an image was served.
    pub(super) fn uses(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.repository(repository).join("_used").join(file_name(digest))
    }

    /// Returns what is published under a layer's id: the layer, and what lies beside it.
    pub(super) fn layer(&self, layer_id: &LayerId) -> PathBuf {
        self.root.join("layers").join("overlay").join(layer_id.as_str())
    }

    pub(super) fn layer_diff(&self, layer_id: &LayerId) -> PathBuf {
        self.layer(layer_id).join(DIFF)
    }

    /// Returns the directory that containers/storage takes for an additional image store.
    pub(super) fn image_store(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Returns the directory of the layers' short names.
    pub(super) fn short_names(&self) -> PathBuf {
        self.image_store().join("overlay").join("l")
    }

    /// Returns the directory of the list of layers, and of what belongs to each of them.
    pub(super) fn layer_lists(&self) -> PathBuf {
        self.image_store().join("overlay-layers")
    }

    /// Returns how a layer's tar stream is made again.
    pub(super) fn tar_split(&self, layer_id: &LayerId) -> PathBuf {
        self.layer_lists().join(format!("{layer_id}.tar-split.gz"))
    }

    pub(super) fn layer_list(&self) -> PathBuf {
        self.layer_lists().join("layers.json")
    }

    pub(super) fn layer_list_lock(&self) -> PathBuf {
        self.layer_lists().join("layers.lock")
    }

    /// Returns the directory of the list of images, which stays empty.
    pub(super) fn image_lists(&self) -> PathBuf {
        self.image_store().join("overlay-images")
    }

    /// Returns the directory of what layers.json is made of.
    pub(super) fn entries(&self) -> PathBuf {
        self.image_store().join("entries")
    }

    pub(super) fn entry(&self, name: &EntryName) -> PathBuf {
        self.entries().join(name.to_string())
    }

    /// Returns the directories that hold the chains, by the algorithm of their ids.
    pub(super) fn chain_dirs(&self) -> [(Algorithm, PathBuf); 2] {
        [Algorithm::Sha256, Algorithm::Sha512].map(|algorithm| (algorithm, self.chains(algorithm)))
    }

    fn chains(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("chains").join(algorithm.as_str())
    }

    /// Returns the record of one form of a layer.
    pub(super) fn chain_form(&self, chain_id: &ChainId, form: &str) -> PathBuf {
        let digest = chain_id.digest();
        self.chains(digest.algorithm()).join(digest.hex()).join(form)
    }

    pub(super) fn diff_marks(&self, diff_id: &DiffId) -> PathBuf {
        let digest = diff_id.digest();
        self.root
            .join("diffs")
            .join(digest.algorithm().as_str())
            .join(digest.hex())
    }

    pub(super) fn nodes(&self) -> PathBuf {
        self.root.join("nodes")
    }

    pub(super) fn node(&self, id: &NodeId) -> PathBuf {
        self.nodes().join(id.as_str())
    }

    pub(super) fn statement(&self, id: &NodeId, sequence: u64) -> PathBuf {
        self.node(id).join(format!("{sequence:020}"))
    }

    /// Returns the directory of the claims on what mirrors do.
    pub(super) fn claims(&self) -> PathBuf {
        self.root.join("staging").join("claims")
    }

    /// Returns the directory in which mirrors show themselves.
    pub(super) fn mirrors(&self) -> PathBuf {
        self.root.join("mirrors")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.root.join("staging").join("work")
    }
}

/// Writes a digest as a file name: `sha256-<hex>`.
pub(super) fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// Reads a digest from its file name.
pub(super) fn digest_of(file_name: &str) -> Option<Digest> {
    file_name.replacen('-', ":", 1).parse().ok()
}
