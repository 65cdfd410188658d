//! Which repository has which blob: a client gets a blob only through a repository that has it.
//!
//! That a repository has a blob is its registry's word, by a manifest or by HEAD. A registry can lie: it
//! could name a blob that the mirror fetched with credentials from another one, and so open it to all.
//! So if the configuration guards anything, a blob is given as a registry's only if that registry sent
//! it, or if one from which everyone may have everything did.
//!
//! What the mirror fetched with its own credentials is not open to whoever knows
//! a digest. A repository has what its manifests in the store name; the index
//! finds that quickly, and learns here what it does not know yet, from manifests
//! that other mirrors fetched or that were fetched before the index was deleted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Inner;
use crate::config::{Config, Credentials, Upstream};
use crate::fs::FsError;
use crate::index::Member;
use crate::oci::manifest::MAX_MANIFEST_BYTES;
use crate::oci::{Digest, Manifest, RegistryHost, Repository};

/// How long a request waits until a repository's manifests are read, of which there may be thousands
/// after the index was deleted; upstream knows too what the repository has.
const READING_WAIT: Duration = Duration::from_secs(5);

/// Which registries are guarded, and so not to be opened by what others say.
pub(super) struct Guards {
    is_guarded: bool,
    /// The configured hosts from which everyone may have everything.
    open: Vec<RegistryHost>,
}

impl Guards {
    pub(super) fn new(config: &Config) -> Self {
        // Which hosts a rule's globs may name cannot be told: all of them.
        let is_open = |upstream: &Upstream| {
            config.access.is_empty()
                && upstream.clients.is_empty()
                && upstream.client_certificate.is_none()
                && upstream.credentials == Credentials::None
        };
        let open = config.upstreams.iter().filter(|(_, upstream)| is_open(upstream));
        let open: Vec<_> = open.map(|(host, _)| host.clone()).collect();
        Self {
            is_guarded: open.len() < config.upstreams.len(),
            open,
        }
    }

    /// Tells whether it matters who sent what.
    pub(super) fn is_guarded(&self) -> bool {
        self.is_guarded
    }
}

impl Inner {
    /// Tells whether what is in the store may be given as a host's, if that says that it has it.
    pub(super) async fn may_share(&self, host: &RegistryHost, digest: &Digest) -> bool {
        if !self.guards.is_guarded || self.index.may_share(host, digest) {
            return true;
        }
        let senders = [std::slice::from_ref(host), &self.guards.open].concat();
        let (store, wanted) = (self.store.clone(), digest.clone());
        let path = store.blob_path(digest);
        let was_sent = self
            .disk
            .run("stat", &path, move || store.was_sent_by(&senders, &wanted))
            .await;
        let may = was_sent
            .inspect_err(|error| self.note_store_error(error))
            .unwrap_or(false);
        if may {
            self.index.mark_shared(host, digest);
        }
        may
    }

    /// Notes in the store that a host has sent a blob that others had sent before.
    pub(super) async fn mark_sent(&self, host: &RegistryHost, digest: &Digest) {
        let (store, path) = (self.store.clone(), self.store.blob_path(digest));
        let (host, digest) = (host.clone(), digest.clone());
        let marked = self
            .disk
            .run("create", &path, move || store.mark_sent(&host, &digest));
        if let Err(error) = marked.await {
            self.note_store_error(&error);
        }
    }

    /// Tells whether a manifest that is in the store may be given as a repository's.
    pub(super) async fn may_give(self: &Arc<Self>, repository: &Repository, digest: &Digest) -> bool {
        self.member(repository, digest).await.is_some() && self.may_share(&repository.host, digest).await
    }

    /// Returns what is known of a blob or manifest in a repository; `None` if only upstream can tell.
    pub(super) async fn member(self: &Arc<Self>, repository: &Repository, digest: &Digest) -> Option<Member> {
        if let Some(member) = self.index.member(repository, digest) {
            return Some(member);
        }
        let find = || {
            let (inner, repository) = (Arc::clone(self), repository.clone());
            async move { inner.read_manifests(&repository).await }
        };
        let reading = self.manifest_reads.ask(repository.clone(), find);
        let path = self.store.repository_path(repository);
        let failed = |error| FsError::new("list", &path, error);
        let read = timeout(READING_WAIT, reading).await;
        let read = read
            .map_err(|late| failed(io::Error::new(io::ErrorKind::TimedOut, late)))
            .and_then(|asked| asked.map_err(|error| failed(io::Error::other(error)))?);
        match read {
            // Also if there was nothing to read: somebody else's reading may just have ended.
            Ok(()) => self.index.member(repository, digest),
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

    /// Reads the manifests of a repository that the index has not read.
    async fn read_manifests(&self, repository: &Repository) -> Result<(), FsError> {
        let path = self.store.repository_path(repository);
        let (store, listed) = (self.store.clone(), repository.clone());
        let manifests = self
            .disk
            .run("list", &path, move || store.manifests_of(&listed))
            .await?;
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
            }
        }
        Ok(())
    }
}
