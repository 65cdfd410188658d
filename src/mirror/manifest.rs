//! Which manifest a tag or digest means, asked upstream as rarely as can be.
//!
//! By digest the store answers for ever. A tag's record is fresh for `tag_ttl`
//! (for ever if the tag never changes); then upstream is asked by HEAD, which
//! Docker Hub does not count, and by GET only if the digest is one that the store
//! does not have. Upstream failing, the stale manifest is served and called so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::time::timeout;

use super::negative::Asked;
use super::{Inner, Mirror, MirrorError};
use crate::flight::Questions;
use crate::oci::manifest::MAX_MANIFEST_BYTES;
use crate::oci::{Accept, Algorithm, Digest, Manifest, Platform, Reference, Repository, Tag, Verified};
use crate::store::{Record, Subject};
use crate::telemetry::labels::ManifestResult;
use crate::upstream::{FetchedManifest, UpstreamErrorClass};

/// Manifests kept in memory, in bytes: some thousands of them.
const MEMORY_BYTES: u64 = 8 << 20;

/// How many tags' records are kept in memory.
const MAX_RECORDS: usize = 16 << 10;

/// How long a client waits for upstream when there is a stale manifest to serve; containerd waits 30 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// A manifest, as a client gets it.
#[derive(Clone, Debug)]
pub struct ServedManifest {
    pub digest: Digest,
    /// Exactly as upstream sent them.
    pub bytes: Bytes,
    pub media_type: String,
    pub freshness: Freshness,
}

/// Whether upstream stands behind an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    Fresh,
    /// Upstream could not say; it did that long ago.
    Stale {
        age: Duration,
    },
}

/// A manifest that has its digest.
pub(super) struct KnownManifest {
    pub(super) digest: Digest,
    pub(super) bytes: Bytes,
    pub(super) manifest: Manifest,
}

/// A record, and when this process first saw it.
#[derive(Clone)]
pub(super) struct SeenRecord {
    pub(super) record: Record,
    seen_at: Instant,
}

/// What is kept in memory, and the questions under way.
pub(super) struct ManifestMemory {
    by_digest: Cache<Digest, Arc<KnownManifest>, ByLength>,
    records: Cache<(Repository, Subject), SeenRecord>,
    questions: Questions<(Repository, Reference), Answer>,
}

type Answer = Result<(Arc<KnownManifest>, ManifestResult), MirrorError>;

#[derive(Clone)]
struct ByLength;

impl Weighter<Digest, Arc<KnownManifest>> for ByLength {
    fn weight(&self, _: &Digest, manifest: &Arc<KnownManifest>) -> u64 {
        // What is parsed of it takes about as much as the bytes.
        2 * manifest.bytes.len() as u64
    }
}

impl ManifestMemory {
    pub(super) fn new() -> Self {
        let mean_length = 4096;
        Self {
            by_digest: Cache::with_weighter((MEMORY_BYTES / mean_length) as usize, MEMORY_BYTES, ByLength),
            records: Cache::new(MAX_RECORDS),
            questions: Questions::default(),
        }
    }
}

impl Mirror {
    /// Returns a manifest as a client of `repository` asks for it.
    ///
    /// A tag that means an index becomes the index's `linux/amd64` image for a client that does not
    /// accept indexes, as registries do.
    ///
    /// # Errors
    /// What upstream answers, if the store cannot answer in its place.
    pub async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: &Accept,
    ) -> Result<ServedManifest, MirrorError> {
        let found = self.inner.resolve(repository, reference, accept).await;
        let result = match &found {
            Ok((.., result)) => *result,
            Err(error) if error.is_final() => ManifestResult::NotFound,
            Err(_) => ManifestResult::Error,
        };
        self.inner.metrics.manifest(result);
        let (known, freshness, _) = found?;
        Ok(ServedManifest {
            digest: known.digest.clone(),
            bytes: known.bytes.clone(),
            media_type: known.manifest.media_type().to_owned(),
            freshness,
        })
    }

    /// As [`Mirror::manifest`], notes that the image is used, and starts to bring its blobs and layers into the store.
    ///
    /// # Errors
    /// As [`Mirror::manifest`].
    pub async fn manifest_to_pull(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: &Accept,
    ) -> Result<ServedManifest, MirrorError> {
        let served = self.manifest(repository, reference, accept).await?;
        if let Some(known) = self.inner.stored_manifest(&served.digest).await {
            self.inner.note_use(repository, &known.digest);
            self.inner
                .fill_in_background(repository, &known.digest, &known.manifest);
        }
        Ok(served)
    }
}

impl Inner {
    pub(super) async fn resolve(
        self: &Arc<Self>,
        repository: &Repository,
        reference: &Reference,
        accept: &Accept,
    ) -> Result<(Arc<KnownManifest>, Freshness, ManifestResult), MirrorError> {
        match reference {
            Reference::Digest(digest) => {
                let (known, result) = self.manifest_by_digest(repository, digest).await?;
                Ok((known, Freshness::Fresh, result))
            }
            Reference::Tag(tag) => {
                let (known, freshness, result) = self.manifest_by_tag(repository, tag).await?;
                let manifest = &known.manifest;
                match manifest.image_for(&Platform::linux_amd64()) {
                    Some(image) if !accept.accepts(manifest.media_type()) => {
                        let (image, _) = self.manifest_by_digest(repository, image).await?;
                        Ok((image, freshness, result))
                    }
                    Some(_) | None => Ok((known, freshness, result)),
                }
            }
        }
    }

    async fn manifest_by_digest(self: &Arc<Self>, repository: &Repository, digest: &Digest) -> Answer {
        if self.may_give(repository, digest).await
            && let Some(known) = self.stored_manifest(digest).await
        {
            return Ok((known, ManifestResult::Hit));
        }
        let reference = Reference::Digest(digest.clone());
        let find = || {
            let (inner, repository, digest) = (Arc::clone(self), repository.clone(), digest.clone());
            async move { inner.ask_for_digest(&repository, &digest).await }
        };
        self.ask(repository, reference, find).await
    }

    async fn manifest_by_tag(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<(Arc<KnownManifest>, Freshness, ManifestResult), MirrorError> {
        let subject = Subject::Tag(tag.clone());
        let seen = self.latest_record(repository, &subject).await;
        if let Some(seen) = &seen
            && self.is_fresh(&subject, seen)
            && let Some(known) = self.stored_manifest(&seen.record.digest).await
        {
            return Ok((known, Freshness::Fresh, ManifestResult::Hit));
        }
        let find = || {
            let (inner, repository, tag, seen) =
                (Arc::clone(self), repository.clone(), tag.clone(), seen.clone());
            async move { inner.ask_for_tag(&repository, &tag, seen.as_ref()).await }
        };
        let asking = self.ask(repository, Reference::Tag(tag.clone()), find);
        let answer = match &seen {
            None => asking.await,
            // The question goes on, for the next one who asks.
            Some(_) => timeout(PATIENCE, asking).await.unwrap_or(Err(MirrorError::Slow)),
        };
        let error = match answer {
            Ok((known, result)) => return Ok((known, Freshness::Fresh, result)),
            Err(error) => error,
        };
        if error.is_passing()
            && let Some(seen) = &seen
            && let Some(known) = self.stored_manifest(&seen.record.digest).await
        {
            tracing::warn!(%repository, %tag, %error, "serving a stale manifest");
            return Ok((known, seen.staleness(), ManifestResult::Stale));
        }
        Err(error)
    }

    /// Asks upstream once for all who want to know, unless it said "no" a short while ago.
    async fn ask<F>(&self, repository: &Repository, reference: Reference, find: impl Fn() -> F) -> Answer
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let asked = Asked::Manifest(repository.clone(), reference.clone());
        if let Some(error) = self.negatives.get(&asked) {
            return Err(error);
        }
        let find = || {
            let (finding, negatives, asked) = (find(), self.negatives.clone(), asked.clone());
            async move { finding.await.map_err(|error| negatives.noted(asked, error)) }
        };
        let asking = self
            .manifests
            .questions
            .ask((repository.clone(), reference), find);
        self.in_time(asking).await
    }

    async fn ask_for_digest(&self, repository: &Repository, digest: &Digest) -> Answer {
        let upstream = self.upstream(&repository.host)?;
        let reference = Reference::Digest(digest.clone());
        if self.may_share(&repository.host, digest).await
            && let Some(known) = self.stored_manifest(digest).await
        {
            // Fetched from another repository: does this one have it?
            let head = upstream.head_manifest(&repository.name, &reference).await?;
            if head.digest.as_ref() == Some(digest) {
                self.keep(repository, &known, None).await;
                return Ok((known, ManifestResult::Revalidated));
            }
        }
        let fetched = upstream.get_manifest(&repository.name, &reference).await?;
        let known = self.take_in(repository, digest, fetched).await?;
        Ok((known, ManifestResult::Fetched))
    }

    async fn ask_for_tag(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &Tag,
        seen: Option<&SeenRecord>,
    ) -> Answer {
        let upstream = self.upstream(&repository.host)?;
        let (subject, reference) = (Subject::Tag(tag.clone()), Reference::Tag(tag.clone()));
        if seen.is_some() {
            let head = upstream.head_manifest(&repository.name, &reference).await;
            match head {
                Ok(head) => {
                    if let Some(digest) = &head.digest
                        && self.may_give(repository, digest).await
                        && let Some(known) = self.stored_manifest(digest).await
                    {
                        self.add_record(repository, &subject, digest).await;
                        return Ok((known, ManifestResult::Revalidated));
                    }
                }
                // A registry that does not know HEAD may know GET.
                Err(error) if error.class() == UpstreamErrorClass::Invalid => {}
                Err(error) => {
                    if error.class() == UpstreamErrorClass::NotFound {
                        self.forget_records(repository, &subject).await;
                    }
                    return Err(error.into());
                }
            }
        }
        let fetched = upstream.get_manifest(&repository.name, &reference).await?;
        let claimed = fetched.digest.clone();
        let digest = claimed.unwrap_or_else(|| Digest::of(Algorithm::Sha256, &fetched.bytes));
        let known = self.take_in(repository, &digest, fetched).await?;
        self.add_record(repository, &subject, &digest).await;
        Ok((known, ManifestResult::Fetched))
    }

    /// Checks a fetched manifest, and keeps it.
    async fn take_in(
        &self,
        repository: &Repository,
        digest: &Digest,
        fetched: FetchedManifest,
    ) -> Result<Arc<KnownManifest>, MirrorError> {
        let verified = Verified::check(digest, &fetched.bytes)?;
        let manifest = Manifest::parse(&fetched.bytes)?;
        let known = Arc::new(KnownManifest {
            digest: digest.clone(),
            bytes: fetched.bytes,
            manifest,
        });
        self.index.mark_shared(&repository.host, digest);
        self.keep(repository, &known, Some(verified)).await;
        Ok(known)
    }

    /// Notes that a repository has a manifest, and puts it into the store if it is new there.
    ///
    /// A store that fails is counted; the manifest is served all the same.
    async fn keep(&self, repository: &Repository, known: &Arc<KnownManifest>, new: Option<Verified>) {
        self.add_members(
            repository,
            &known.digest,
            &known.manifest,
            known.bytes.len() as u64,
        );
        self.manifests
            .by_digest
            .insert(known.digest.clone(), Arc::clone(known));
        let (store, kept, repository) = (self.store.clone(), Arc::clone(known), repository.clone());
        let path = store.blob_path(&known.digest);
        let marks_sender = self.guards.is_guarded();
        let keep = move || {
            if let Some(verified) = new {
                store.put_blob(&kept.bytes, &verified)?;
                if marks_sender {
                    store.mark_sent(&repository.host, &kept.digest)?;
                }
            }
            store.mark_manifest(&repository, &kept.digest)
        };
        if let Err(error) = self.disk.run("publish", &path, keep).await {
            self.note_store_error(&error);
        }
    }

    /// Returns a manifest that is in memory or in the store; whoever asks has checked that he may.
    pub(super) async fn stored_manifest(&self, digest: &Digest) -> Option<Arc<KnownManifest>> {
        if let Some(known) = self.manifests.by_digest.get(digest) {
            return Some(known);
        }
        let bytes = self.stored_bytes(digest).await?;
        let manifest = Manifest::parse(&bytes).ok()?;
        let known = Arc::new(KnownManifest {
            digest: digest.clone(),
            bytes,
            manifest,
        });
        self.manifests
            .by_digest
            .insert(digest.clone(), Arc::clone(&known));
        Some(known)
    }

    /// Returns a small blob of the store, if what is there has its digest.
    pub(super) async fn stored_bytes(&self, digest: &Digest) -> Option<Bytes> {
        let (store, wanted) = (self.store.clone(), digest.clone());
        let path = store.blob_path(digest);
        let read = self.disk.run("read", &path, move || {
            store.read_blob(&wanted, MAX_MANIFEST_BYTES)
        });
        let bytes = read
            .await
            .inspect_err(|error| self.note_store_error(error))
            .ok()??;
        match Verified::check(digest, &bytes) {
            Ok(_) => Some(bytes.into()),
            Err(mismatch) => {
                tracing::error!(path = %path.display(), %mismatch, "a stored manifest is damaged; remove it");
                None
            }
        }
    }

    /// Returns the newest record of a subject: the one in memory while it is fresh, else the store's.
    pub(super) async fn latest_record(
        &self,
        repository: &Repository,
        subject: &Subject,
    ) -> Option<SeenRecord> {
        let key = (repository.clone(), subject.clone());
        let in_memory = self.manifests.records.get(&key);
        if let Some(seen) = &in_memory
            && self.is_fresh(subject, seen)
        {
            return in_memory;
        }
        let path = self.store.records_path(repository, subject);
        let (store, of) = (self.store.clone(), key.clone());
        let stored = match self
            .disk
            .run("list", &path, move || store.latest_record(&of.0, &of.1))
            .await
        {
            Ok(Some(stored)) => stored,
            // What the store could not take is still known here.
            Ok(None) => return in_memory,
            Err(error) => {
                self.note_store_error(&error);
                return in_memory;
            }
        };
        match in_memory {
            Some(seen) if seen.record == stored => Some(seen),
            _ => {
                let seen = SeenRecord {
                    record: stored,
                    seen_at: Instant::now(),
                };
                self.manifests.records.insert(key, seen.clone());
                Some(seen)
            }
        }
    }

    /// Notes what upstream has just said of a subject.
    pub(super) async fn add_record(&self, repository: &Repository, subject: &Subject, digest: &Digest) {
        let path = self.store.records_path(repository, subject);
        let (store, of, digest) = (
            self.store.clone(),
            (repository.clone(), subject.clone()),
            digest.clone(),
        );
        let added = self.disk.run("create", &path, {
            let (of, digest) = (of.clone(), digest.clone());
            move || store.add_record(&of.0, &of.1, &digest)
        });
        if let Err(error) = added.await {
            self.note_store_error(&error);
        }
        self.remember_record(of, digest);
    }

    /// Notes in memory alone what upstream has just said of a subject.
    pub(super) fn remember_record(&self, of: (Repository, Subject), digest: Digest) {
        let seen = SeenRecord {
            record: Record::now(digest),
            seen_at: Instant::now(),
        };
        self.manifests.records.insert(of, seen);
    }

    async fn forget_records(&self, repository: &Repository, subject: &Subject) {
        let path = self.store.records_path(repository, subject);
        let (store, of) = (self.store.clone(), (repository.clone(), subject.clone()));
        self.manifests.records.remove(&of);
        let forgotten = self
            .disk
            .run("remove", &path, move || store.forget_records(&of.0, &of.1))
            .await;
        if let Err(error) = forgotten {
            self.note_store_error(&error);
        }
    }

    /// Tells whether a record needs no question upstream.
    ///
    /// Another mirror's clock may differ, so a record is old by its own time or by how long it has been seen.
    pub(super) fn is_fresh(&self, subject: &Subject, seen: &SeenRecord) -> bool {
        let never_changes = match subject {
            Subject::Tag(tag) => self.immutable_tags.is_match(tag.as_str()),
            Subject::Referrers(_) => false,
        };
        never_changes || (seen.seen_at.elapsed() < self.tag_ttl && seen.record.age() < self.tag_ttl)
    }
}

impl SeenRecord {
    /// Calls an answer by this record stale.
    pub(super) fn staleness(&self) -> Freshness {
        Freshness::Stale {
            age: self.record.age().max(self.seen_at.elapsed()),
        }
    }
}
