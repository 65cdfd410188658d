//! Which blobs of this node's layers are linked into containerd's content store, and when.
//!
//! The links themselves say which blobs this node uses ([`Snapshots::note_links`]): records know one blob of a layer,
//! and are forgotten with it, in another moment than containerd removes the link.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::RwLock;
use tokio::time::sleep;

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

/// How many blobs' tries are remembered; no more than these are under way.
const MAX_TRIES: usize = 4096;

/// How often it is looked which links there are: containerd removes some after its Cleanup.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);

/// How soon containerd is asked again where its content store is, if it does not run yet.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Kubernetes' namespace: it needs no blobs, and may be configured to discard them again and again.
const KUBERNETES: &str = "k8s.io";

/// The links that are being made.
#[derive(Default)]
pub(super) struct Links {
    /// The last try of each blob; `None` while it is under way.
    tries: Mutex<HashMap<Digest, Option<Instant>>>,
    /// Read by who makes a link and states it, written by who looks which there are: so none is missed between.
    making: RwLock<()>,
}

impl Links {
    /// Begins a try, unless one is under way, or the last was within `pause`; true if it is to be ended.
    fn begin(&self, blob: &Digest, pause: Duration) -> bool {
        let mut tries = self.tries();
        let now = Instant::now();
        let is_kept =
            |last: &Option<Instant>, pause| last.is_none_or(|last| now.duration_since(last) < pause);
        if tries.len() >= MAX_TRIES {
            tries.retain(|_, last| is_kept(last, LINK_PAUSE));
        }
        let is_due = tries.get(blob).is_none_or(|last| !is_kept(last, pause)) && tries.len() < MAX_TRIES;
        if is_due {
            tries.insert(blob.clone(), None);
        }
        is_due
    }

    fn end(&self, blob: Digest) {
        self.tries().insert(blob, Some(Instant::now()));
    }

    fn tries(&self) -> MutexGuard<'_, HashMap<Digest, Option<Instant>>> {
        self.tries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Snapshots {
    /// Links the blob of a layer that was just prepared; one that is not on the store is asked from a mirror.
    pub(super) async fn link_blob(&self, record: &Record, wanted: &WantedLayer) {
        let (Some(layer), Some(blob)) = (record.shared(), &wanted.blob) else {
            return;
        };
        let lacking = self.link_where_stored(layer.namespaces.iter(), wanted).await;
        if !lacking.is_empty() && self.inner.links.begin(blob, Duration::ZERO) {
            let (snapshots, wanted, blob) = (self.clone(), wanted.clone(), blob.clone());
            tokio::spawn(async move {
                snapshots.fetch_and_link(&lacking, &wanted).await;
                snapshots.inner.links.end(blob);
            });
        }
    }

    /// Links a blob that the store has; returns the namespaces that lack it, since the store has not.
    async fn link_where_stored(
        &self,
        namespaces: impl Iterator<Item = &String>,
        wanted: &WantedLayer,
    ) -> Vec<String> {
        let mut lacking = Vec::new();
        for namespace in namespaces {
            if !self.link_from_store(namespace, wanted).await {
                lacking.push(namespace.clone());
            }
        }
        lacking
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
                let _making = self.inner.links.making.read().await;
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

    async fn fetch_and_link(&self, namespaces: &[String], wanted: &WantedLayer) {
        let wish = Wish::of_wanted(wanted, true);
        if let Err(why) = self.inner.materialise(&wish, BLOB_WAIT).await {
            tracing::info!(
                blob = wanted.blob.as_ref().map(ToString::to_string),
                why,
                "a layer's blob is not on the store, and containerd does not get it"
            );
            return;
        }
        for namespace in namespaces {
            self.link_from_store(namespace, wanted).await;
        }
    }

    /// Links a layer's blob again if containerd has let it go, without waiting for it.
    pub(super) fn link_again(&self, record: &Record) {
        let (Some(content), Some(layer)) = (self.inner.content.clone(), record.shared()) else {
            return;
        };
        let labels = record.labels.clone().into_iter().collect();
        let (Some(blob), Some(mut wanted)) = (layer.blob.clone(), WantedLayer::of(&labels)) else {
            return;
        };
        wanted.blob = Some(blob.clone());
        let namespaces = layer.namespaces.iter();
        let namespaces: Vec<String> = namespaces
            .filter(|namespace| *namespace != KUBERNETES)
            .cloned()
            .collect();
        if namespaces.is_empty() || !self.inner.links.begin(&blob, LINK_PAUSE) {
            return;
        }
        let snapshots = self.clone();
        tokio::spawn(async move {
            if !content.has(&blob, snapshots.inner.layers.root()).await {
                let lacking = snapshots.link_where_stored(namespaces.iter(), &wanted).await;
                if !lacking.is_empty() {
                    snapshots.fetch_and_link(&lacking, &wanted).await;
                }
            }
            snapshots.inner.links.end(blob);
        });
    }

    /// States which blobs are linked, if containerd tells where; false if it does not.
    pub(super) async fn note_links(&self) -> bool {
        let Some(content) = &self.inner.content else {
            return false;
        };
        let _making = self.inner.links.making.write().await;
        let linked = content.links(self.inner.layers.root()).await;
        let is_known = linked.is_some();
        if let Some(blobs) = linked {
            self.inner
                .with_references(|references| references.set_blobs(blobs));
        }
        is_known
    }

    /// Looks now and then which blobs are linked, for ever.
    pub(super) async fn watch_links(self) {
        loop {
            let is_known = self.note_links().await;
            sleep(if is_known { LOOK_INTERVAL } else { ASK_AGAIN }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_blob_is_tried_once_at_a_time_and_not_again_at_once() {
        let links = Links::default();
        let blob = Digest::of(Algorithm::Sha256, b"blob");
        assert!(links.begin(&blob, LINK_PAUSE));
        assert!(!links.begin(&blob, Duration::ZERO), "it is under way");
        links.end(blob.clone());
        assert!(!links.begin(&blob, LINK_PAUSE), "it was tried just now");
        assert!(links.begin(&blob, Duration::ZERO));
    }

    #[test]
    fn tries_under_way_are_bounded() {
        let links = Links::default();
        let blob = |number: usize| Digest::of(Algorithm::Sha256, number.to_string().as_bytes());
        for number in 0..MAX_TRIES {
            assert!(links.begin(&blob(number), LINK_PAUSE));
        }
        assert!(!links.begin(&blob(MAX_TRIES), LINK_PAUSE));
        links
            .tries()
            .insert(blob(0), Instant::now().checked_sub(LINK_PAUSE));
        assert!(links.begin(&blob(MAX_TRIES), LINK_PAUSE));
    }
}
