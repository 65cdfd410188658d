//! The fills that serving a manifest starts, a bounded number at a time.

use std::sync::Arc;

use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use super::Inner;
use super::blob::Wanted;
use super::fill::{Stage, Standing};
use crate::flight::Seat;
use crate::index::Member;
use crate::oci::manifest::Descriptor;
use crate::oci::{Digest, Manifest, Repository};

/// How many manifests' fills are remembered as started or done.
const MAX_REMEMBERED: usize = 4096;

/// How many manifests' blobs may wait for their turn; beyond it, the clients' own requests start the fills.
const MAX_WAITING: usize = 1024;

/// The fills that no client has asked for yet.
pub(super) struct Background {
    configured: Bounds,
    /// Of hosts that are not configured: they may send a byte a minute, and are not waited for by others.
    strangers: Bounds,
    /// Manifests whose blobs are in the store or on their way, so that the next thousand nodes cost nothing.
    started: Cache<(Repository, Digest), ()>,
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
}

impl Inner {
    /// Starts the fills of an image's config and layers, unless that was done before.
    pub(super) fn fill_in_background(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        manifest: &Manifest,
    ) {
        let key = (repository.clone(), digest.clone());
        if self.offline || manifest.blobs().next().is_none() || self.background.started.get(&key).is_some() {
            return;
        }
        let bounds = if self.upstreams.is_configured(&repository.host) {
            &self.background.configured
        } else {
            &self.background.strangers
        };
        let Ok(place) = Arc::clone(&bounds.places).try_acquire_owned() else {
            return;
        };
        let turns = Arc::clone(&bounds.turns);
        self.background.started.insert(key.clone(), ());
        let (inner, blobs) = (Arc::clone(self), manifest.blobs().cloned().collect::<Vec<_>>());
        tokio::spawn(async move {
            // One after the other, so that they start in the order in which a client will ask for them.
            for blob in blobs {
                let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
                    break;
                };
                let (inner, key) = (Arc::clone(&inner), key.clone());
                tokio::spawn(async move {
                    if !inner.has_or_fills(&key.0, &blob).await {
                        // The next client that asks for the manifest starts it again.
                        inner.background.started.remove(&key);
                    }
                    drop(turn);
                });
            }
            drop(place);
        });
    }

    /// Brings a blob into the store if it is not there; tells whether it is there or somebody brings it.
    async fn has_or_fills(self: &Arc<Self>, repository: &Repository, blob: &Descriptor) -> bool {
        let (store, digest) = (self.store.clone(), blob.digest.clone());
        let path = store.blob_path(&digest);
        match self
            .disk
            .run("stat", &path, move || store.stat_blob(&digest))
            .await
        {
            Ok(Some(_)) => return true,
            Ok(None) => {}
            // Without a reader nothing is streamed past the store.
            Err(error) => {
                self.note_store_error(&error);
                return false;
            }
        }
        let Ok(upstream) = self.upstream(&repository.host) else {
            return false;
        };
        let may_share = self.may_share(&repository.host, &blob.digest).await;
        let member = Member {
            size_bytes: Some(blob.size_bytes),
        };
        let wanted = Wanted {
            upstream,
            repository,
            digest: &blob.digest,
            expected_size: member.size_bytes,
            standing: Standing::of(Some(member), may_share),
        };
        let key = self.fill_key(&repository.host, &blob.digest);
        match self.fills.join(key, || wanted.fill()) {
            Seat::Follower(_) => true,
            Seat::Leader(leader) => {
                let fill = Arc::clone(leader.flight());
                self.fill_task(&wanted, Arc::clone(&fill), Some(leader))
                    .run()
                    .await;
                matches!(fill.progress().borrow().stage, Stage::Verified)
            }
        }
    }
}
