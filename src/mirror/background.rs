//! What serving a manifest starts: its blobs are brought into the store, a bounded number at a time.

use std::sync::Arc;
use std::time::Instant;

use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use super::Inner;
use super::image::{Image, LayerError, REMEMBER_LAYER};
use crate::oci::{Digest, Manifest, RegistryHost, Repository};

/// How many manifests are remembered as started or done.
const MAX_REMEMBERED: usize = 4096;

/// How many manifests' blobs may wait for their turn; beyond it, the clients' own requests start the fills.
const MAX_WAITING: usize = 1024;

/// What no client has asked for yet.
pub(super) struct Background {
    configured: Bounds,
    /// Of hosts that are not configured: they may send a byte a minute, and are not waited for by others.
    strangers: Bounds,
    /// Manifests that nothing is to be done for, so that the next thousand nodes cost nothing.
    started: Cache<(Repository, Digest), Started>,
}

/// Why nothing is to be done for a manifest.
#[derive(Clone, Copy)]
enum Started {
    /// All of it is in the store or on its way.
    Done,
    /// A layer could not be extracted, and is not tried again until then.
    FailedUntil(Instant),
}

/// How many fills run, and how many manifests' blobs wait.
struct Bounds {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Bounds {
    fn new(at_a_time: usize) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(at_a_time.min(Semaphore::MAX_PERMITS))),
            places: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }
}

impl Background {
    /// Lets `at_a_time` fills run, and as many of hosts that are not configured.
    pub(super) fn new(at_a_time: usize) -> Self {
        Self {
            configured: Bounds::new(at_a_time),
            strangers: Bounds::new(at_a_time),
            started: Cache::new(MAX_REMEMBERED),
        }
    }

    fn has_started(&self, key: &(Repository, Digest)) -> bool {
        match self.started.get(key) {
            Some(Started::Done) => true,
            Some(Started::FailedUntil(until)) => Instant::now() < until,
            None => false,
        }
    }
}

impl Inner {
    /// Starts to bring what a manifest names into the store, unless that was done before.
    pub(super) fn fill_in_background(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        manifest: &Manifest,
    ) {
        let key = (repository.clone(), digest.clone());
        // A mirror that is offline extracts what the store has.
        let is_wanted = manifest.blobs().next().is_some()
            && (!self.offline || (self.extraction.is_some() && manifest.image_blobs().is_some()));
        if !is_wanted || self.background.has_started(&key) {
            return;
        }
        let bounds = self.bounds(&repository.host);
        let Ok(place) = Arc::clone(&bounds.places).try_acquire_owned() else {
            return;
        };
        self.background.started.insert(key.clone(), Started::Done);
        let image = self.bring(repository, digest, manifest, Arc::clone(&bounds.turns));
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            image.ended().await;
            inner.note_ended(key, &image);
            drop(place);
        });
    }

    /// Brings what a manifest names into the store, whatever was done before.
    pub(super) fn bring_now(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        manifest: &Manifest,
    ) -> Arc<Image> {
        self.bring(repository, digest, manifest, self.turns(&repository.host))
    }

    /// Returns what bounds how many blobs of a host are fetched at a time.
    pub(super) fn turns(&self, host: &RegistryHost) -> Arc<Semaphore> {
        Arc::clone(&self.bounds(host).turns)
    }

    fn bounds(&self, host: &RegistryHost) -> &Bounds {
        if self.upstreams.is_configured(host) {
            &self.background.configured
        } else {
            &self.background.strangers
        }
    }

    fn note_ended(&self, key: (Repository, Digest), image: &Image) {
        let failures = image.failures();
        if failures.is_empty() {
            return;
        }
        if failures.iter().all(LayerError::is_lasting) {
            let until = Started::FailedUntil(Instant::now() + REMEMBER_LAYER);
            self.background.started.insert(key, until);
        } else {
            // The next client that asks for the manifest starts it again.
            self.background.started.remove(&key);
        }
    }
}
