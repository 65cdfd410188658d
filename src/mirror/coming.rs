//! The layers that are to be extracted and listed, by their blobs.
//!
//! A client of containers/storage that has read a layer's blob looks the layer up once more by its id, and makes it if it is
//! not listed. It fails if the directory comes between the two, and nobody can tell it when: so the end of a blob waits for
//! the layer that is on its way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;

use super::image::Image;
use crate::oci::Digest;

/// The layers on their way, of all images. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Coming {
    layers: Arc<Mutex<HashMap<Digest, Weak<Way>>>>,
}

/// Ends when all who bring the layer have dropped it; that is what those wait for who listen.
type Way = watch::Sender<()>;

/// A layer is on its way as long as this is held.
pub(super) struct ComingLayer {
    coming: Coming,
    blob: Digest,
    way: Option<Arc<Way>>,
}

impl Coming {
    /// Notes that a layer is on its way.
    pub(super) fn layer(&self, blob: &Digest) -> ComingLayer {
        let mut layers = self.lock();
        let known = layers.get(blob).and_then(Weak::upgrade);
        let way = known.unwrap_or_default();
        layers.insert(blob.clone(), Arc::downgrade(&way));
        ComingLayer {
            coming: self.clone(),
            blob: blob.clone(),
            way: Some(way),
        }
    }

    /// Notes that all layers of an image are.
    pub(super) fn layers(&self, image: &Image) -> Vec<ComingLayer> {
        let layers = image.layers().iter();
        layers.map(|layer| self.layer(&layer.blob.digest)).collect()
    }

    /// Waits until nobody brings a layer; tells whether somebody did.
    pub(super) async fn wait(&self, blob: &Digest) -> bool {
        let Some(mut end) = self.end_of(blob) else {
            return false;
        };
        // Nothing is ever sent.
        let _ = end.changed().await;
        true
    }

    /// Returns what tells when nobody brings a layer any more; `None` if nobody does.
    fn end_of(&self, blob: &Digest) -> Option<watch::Receiver<()>> {
        // Locked to the end: who brings it would not forget it while another one has it in hand.
        let layers = self.lock();
        layers
            .get(blob)
            .and_then(Weak::upgrade)
            .map(|way| way.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Weak<Way>>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ComingLayer {
    fn drop(&mut self) {
        let mut layers = self.coming.lock();
        drop(self.way.take());
        if layers.get(&self.blob).is_some_and(|way| way.strong_count() == 0) {
            layers.remove(&self.blob);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;
    use crate::oci::Algorithm;

    #[tokio::test]
    async fn a_layer_has_come_when_all_who_bring_it_say_so() {
        let coming = Coming::default();
        let [blob, other] = ["a", "b"].map(|seed| Digest::of(Algorithm::Sha256, seed.as_bytes()));
        assert!(!coming.wait(&blob).await);
        let (first, second) = (coming.layer(&blob), coming.layer(&blob));
        assert!(!coming.wait(&other).await);
        let mut wait = Box::pin(coming.wait(&blob));
        assert!(poll!(&mut wait).is_pending());
        drop(first);
        assert!(poll!(&mut wait).is_pending());
        drop(second);
        assert!(wait.await);
        assert!(coming.lock().is_empty());
    }
}
