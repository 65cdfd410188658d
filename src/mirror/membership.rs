//! Which repository has which blob: a client gets a blob only through a repository that has it.
//!
//! That a repository has a blob is upstream's word, by a manifest or by HEAD. A registry that anyone may
//! have set up can lie: it could name a blob that the mirror fetched with credentials, and so open it to
//! all. So hosts that are not configured must have sent a blob themselves before it is given from the
//! store in their name, if the configuration guards anything.
//!
//! What the mirror fetched with its own credentials is not open to whoever knows
//! a digest. A repository has what its manifests in the store name; the index
//! finds that quickly, and learns here what it does not know yet, from manifests
//! that other mirrors fetched or that were fetched before the index was deleted.

use std::collections::BTreeSet;

use super::Inner;
use crate::config::{Config, Credentials};
use crate::fs::FsError;
use crate::index::Member;
use crate::oci::manifest::MAX_MANIFEST_BYTES;
use crate::oci::{Digest, Manifest, RegistryHost, Repository};

/// The hosts whose word is taken.
pub(super) struct Trusted {
    /// None if nothing is guarded: everyone may have everything.
    configured: Option<BTreeSet<RegistryHost>>,
}

impl Trusted {
    pub(super) fn new(config: &Config) -> Self {
        let is_guarded = !config.access.is_empty()
            || config.upstreams.values().any(|upstream| {
                upstream.credentials != Credentials::None
                    || upstream.client_certificate.is_some()
                    || !upstream.clients.is_empty()
            });
        Self {
            configured: is_guarded.then(|| config.upstreams.keys().cloned().collect()),
        }
    }
}

impl Inner {
    /// Tells whether what others sent may be given in a host's name, if that says that it has it.
    pub(super) fn trusts(&self, host: &RegistryHost, digest: &Digest) -> bool {
        let configured = self.trusted.configured.as_ref();
        configured.is_none_or(|hosts| hosts.contains(host)) || self.index.has_sent(host, digest)
    }

    /// Tells whether a manifest that is in the store may be given as a repository's.
    pub(super) async fn may_share(&self, repository: &Repository, digest: &Digest) -> bool {
        self.trusts(&repository.host, digest) && self.member(repository, digest).await.is_some()
    }

    /// Returns what is known of a blob or manifest in a repository; `None` if only upstream can tell.
    pub(super) async fn member(&self, repository: &Repository, digest: &Digest) -> Option<Member> {
        if let Some(member) = self.index.member(repository, digest) {
            return Some(member);
        }
        match self.read_manifests(repository).await {
            Ok(0) => None,
            Ok(_) => self.index.member(repository, digest),
            Err(error) => {
                self.note_store_error(&error);
                None
            }
        }
    }

    /// Notes what a manifest names as members of its repository.
    pub(super) fn add_members(
        &self,
        repository: &Repository,
        digest: &Digest,
        manifest: &Manifest,
        size: u64,
    ) {
        let blobs = manifest
            .blobs()
            .map(|blob| (blob.digest.clone(), Some(blob.size_bytes)));
        let children = manifest
            .children()
            .iter()
            .map(|child| (child.digest.clone(), None));
        let members: Vec<_> = blobs
            .chain(children)
            .chain([(digest.clone(), Some(size))])
            .collect();
        self.index.add(repository, &members);
        self.index.mark_read(repository, digest);
    }

    /// Reads the manifests of a repository that the index has not read; returns how many.
    async fn read_manifests(&self, repository: &Repository) -> Result<usize, FsError> {
        let path = self.store.repository_path(repository);
        let (store, listed) = (self.store.clone(), repository.clone());
        let manifests = self
            .disk
            .run("list", &path, move || store.manifests_of(&listed))
            .await?;
        let mut count = 0;
        for digest in manifests {
            if self.index.has_read(repository, &digest) {
                continue;
            }
            let (store, wanted) = (self.store.clone(), digest.clone());
            let path = store.blob_path(&digest);
            let bytes = self
                .disk
                .run("read", &path, move || {
                    store.read_blob(&wanted, MAX_MANIFEST_BYTES)
                })
                .await?;
            if let Some(Ok(manifest)) = bytes.as_deref().map(Manifest::parse) {
                self.add_members(
                    repository,
                    &digest,
                    &manifest,
                    bytes.map_or(0, |bytes| bytes.len() as u64),
                );
                count += 1;
            }
        }
        Ok(count)
    }
}
