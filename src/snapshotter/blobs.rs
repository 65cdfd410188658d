//! Which blobs of this node's layers are linked into containerd's content store, and when.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::content::BlobToLink;
use super::label::WantedLayer;
use super::record::Record;
use super::shared::Wish;
use super::snapshots::Snapshots;
use crate::oci::Digest;

/// How long a mirror may take to bring a blob that the store has in another compression.
const BLOB_WAIT: Duration = Duration::from_secs(600);

/// How soon after one try Stat tries again: containerd asks Stat in bursts.
const LINK_PAUSE: Duration = Duration::from_secs(5);

/// How many blobs' last tries are remembered.
const MAX_TRIES: usize = 4096;

/// Kubernetes' namespace: it needs no blobs, and may be configured to discard them again and again.
const KUBERNETES: &str = "k8s.io";

/// When blobs were last linked.
#[derive(Default)]
pub(super) struct LinkTimes(Mutex<HashMap<Digest, Instant>>);

impl LinkTimes {
    /// Tells whether it is time to link a blob again, and notes that it is being done.
    fn is_due(&self, blob: &Digest) -> bool {
        let mut tries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if tries.len() >= MAX_TRIES {
            tries.retain(|_, last| now.duration_since(*last) < LINK_PAUSE);
        }
        let is_recent = tries
            .get(blob)
            .is_some_and(|last| now.duration_since(*last) < LINK_PAUSE);
        if !is_recent {
            tries.insert(blob.clone(), now);
        }
        !is_recent
    }
}

impl Snapshots {
    /// Links the blob of a layer that was just prepared; one that is not on the store is asked from a mirror.
    pub(super) async fn link_blob(&self, record: &Record, wanted: &WantedLayer) {
        let Some(layer) = record.shared() else { return };
        if self.inner.content.is_none() {
            return;
        }
        for namespace in layer.namespaces.clone() {
            if !self.link_from_store(&namespace, wanted).await {
                let (snapshots, wanted) = (self.clone(), wanted.clone());
                tokio::spawn(async move { snapshots.fetch_and_link(&namespace, &wanted).await });
            }
        }
    }

    /// Links a blob that the store has; false if it has not.
    async fn link_from_store(&self, namespace: &str, wanted: &WantedLayer) -> bool {
        let (Some(content), Some(digest)) = (&self.inner.content, &wanted.blob) else {
            return true;
        };
        match self.inner.layers.blob(digest).await {
            Ok(Some((path, size_bytes))) => {
                let blob = BlobToLink {
                    digest: digest.clone(),
                    path,
                    size_bytes,
                    image: wanted.image.clone(),
                };
                if content.link(namespace, &blob).await {
                    self.inner
                        .with_references(|references| references.add_blob(digest));
                }
                true
            }
            Ok(None) => false,
            // The store's trouble is in the log; Stat tries again.
            Err(_) => true,
        }
    }

    async fn fetch_and_link(&self, namespace: &str, wanted: &WantedLayer) {
        let wish = Wish::of_wanted(wanted, true);
        match self.inner.materialise(&wish, BLOB_WAIT).await {
            Ok(()) => drop(self.link_from_store(namespace, wanted).await),
            Err(why) => tracing::info!(
                blob = wanted.blob.as_ref().map(ToString::to_string),
                why,
                "a layer's blob is not on the store, and containerd does not get it"
            ),
        }
    }

    /// Links a layer's blob again if containerd has let it go, without waiting for it.
    pub(super) fn link_again(&self, record: &Record) {
        let (Some(content), Some(layer)) = (self.inner.content.clone(), record.shared()) else {
            return;
        };
        let Some(blob) = layer.blob.clone() else { return };
        let namespaces: Vec<String> = layer
            .namespaces
            .iter()
            .filter(|namespace| *namespace != KUBERNETES)
            .cloned()
            .collect();
        if namespaces.is_empty() || !self.inner.link_times.is_due(&blob) {
            return;
        }
        let labels = record.labels.clone().into_iter().collect();
        let Some(wanted) = WantedLayer::of(&labels) else {
            return;
        };
        let snapshots = self.clone();
        tokio::spawn(async move {
            if !content
                .linked(vec![blob], snapshots.inner.layers.root())
                .await
                .is_empty()
            {
                return;
            }
            for namespace in &namespaces {
                if !snapshots.link_from_store(namespace, &wanted).await {
                    snapshots.fetch_and_link(namespace, &wanted).await;
                }
            }
        });
    }

    /// Gives the blobs free whose links containerd has removed.
    pub(super) async fn note_unlinked(&self) {
        let Some(content) = &self.inner.content else {
            return;
        };
        let shared = self.inner.records.shared();
        let blobs: BTreeSet<Digest> = shared
            .iter()
            .filter_map(|record| record.shared()?.blob.clone())
            .collect();
        let linked = content
            .linked(blobs.iter().cloned().collect(), self.inner.layers.root())
            .await;
        for blob in blobs.iter().filter(|blob| !linked.contains(blob)) {
            self.inner
                .with_references(|references| references.remove_blob(blob));
        }
    }
}
