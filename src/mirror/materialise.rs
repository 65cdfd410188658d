//! Brings one layer to the store for a node that misses it, and tells how far it is.
//!
//! A node knows a layer by its ChainID, and often not by more. Which image has it is told by the wish, by the
//! images on their way, or by what the store remembers of the manifests that mirrors have served.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::{Instant, sleep, timeout_at};

use super::image::{Image, Layer, LayerStage};
use super::published::LOOK_AGAIN;
use super::{Inner, Mirror};
use crate::api::{LayerAnswer, LayerState, LayerWish};
use crate::fs::FsError;
use crate::oci::image_name::ImageName;
use crate::oci::{ChainId, ChainLink, Digest, Platform, Reference, Repository};
use crate::telemetry::full_text;

/// The longest that a request waits; a client asks again.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How many stacks' images are kept in memory.
const MAX_STACKS: usize = 16 << 10;

/// How many images are tried for one wish.
const MAX_IMAGES: usize = 4;

/// Which image has a stack, of the images that this process has brought.
pub(super) struct StackImages(Cache<ChainId, ImageName>);

impl StackImages {
    pub(super) fn new() -> Self {
        Self(Cache::new(MAX_STACKS))
    }
}

impl Mirror {
    /// Sees to it that a layer comes to the store, and waits for it for at most as long as the wish says.
    ///
    /// `may_read` tells of which repositories the asker may have images.
    pub async fn materialise(
        &self,
        wish: &LayerWish,
        may_read: impl Fn(&Repository) -> bool + Send,
    ) -> LayerAnswer {
        let until = Instant::now() + MAX_WAIT.min(Duration::from_millis(wish.wait_ms));
        let inner = &self.inner;
        let is_ready = match inner.is_ready(wish).await {
            Ok(is_ready) => is_ready,
            Err(error) => return failed(error.full_text()),
        };
        if is_ready {
            return answer(LayerState::Ready, None);
        }
        if inner.extraction.is_none() {
            return failed("this mirror extracts no layers; its log says why".to_owned());
        }
        let mut images = match inner.images_of(wish).await {
            Ok(images) => images,
            Err(error) => return failed(error.full_text()),
        };
        images.retain(|image| may_read(&image.repository));
        let mut last = answer(
            LayerState::Unknown,
            Some("no image with this layer was pulled through a mirror of this store".to_owned()),
        );
        for image in images.iter().take(MAX_IMAGES) {
            let (mirror, image) = (self.clone(), image.clone());
            // A task, so that it goes on when the wait is over.
            let pulling = tokio::spawn(async move { mirror.pull(&image, &Platform::current()).await });
            last = match timeout_at(until, pulling).await {
                Ok(Ok(Ok(pulled))) => inner.layer_of(&pulled.image, wish, until).await,
                Ok(Ok(Err(error))) => failed(full_text(&error)),
                Ok(Err(error)) => failed(full_text(&error)),
                Err(_) => answer(LayerState::Running, None),
            };
            if matches!(last.state, LayerState::Ready | LayerState::Running) {
                break;
            }
        }
        last
    }
}

impl Inner {
    /// Remembers which image has these stacks, on the store too, without waiting for that.
    pub(super) fn note_stacks(&self, image: &Image, links: &[ChainLink]) {
        let name = ImageName {
            repository: image.repository.clone(),
            reference: Reference::Digest(image.digest.clone()),
        };
        for link in links {
            self.stacks.0.insert(link.chain_id.clone(), name.clone());
        }
        let (store, disk) = (self.store.clone(), self.disk.clone());
        let chain_ids: Vec<ChainId> = links.iter().map(|link| link.chain_id.clone()).collect();
        tokio::spawn(async move {
            let root = store.root().to_owned();
            // A call each: a hundred slow ones in one would look like a store that hangs.
            for chain_id in chain_ids {
                let (store, name) = (store.clone(), name.clone());
                let note = move || store.note_image(&chain_id, &name);
                // Nothing but the healing of what somebody has removed depends on it.
                if let Err(error) = disk.run("note an image in", &root, note).await {
                    tracing::debug!(
                        error = error.full_text(),
                        "which image has a stack is not remembered"
                    );
                    return;
                }
            }
        });
    }

    /// Tells whether all that is wished for is there.
    async fn is_ready(&self, wish: &LayerWish) -> Result<bool, FsError> {
        let has_layer = self.is_published(&wish.chain_id).await?;
        let has_blob = match wish.blob.clone() {
            Some(blob) => self
                .on_store(move |store| store.stat_blob(&blob))
                .await?
                .is_some(),
            None => true,
        };
        Ok(has_layer && has_blob)
    }

    /// Returns images that may have the layer, the likeliest first.
    async fn images_of(&self, wish: &LayerWish) -> Result<Vec<ImageName>, FsError> {
        let mut images: Vec<ImageName> = wish.image.iter().cloned().collect();
        images.extend(self.stacks.0.get(&wish.chain_id));
        let chain_id = wish.chain_id.clone();
        images.extend(self.on_store(move |store| store.images_with(&chain_id)).await?);
        let mut seen = std::collections::HashSet::new();
        images.retain(|image| seen.insert(image.clone()));
        Ok(images)
    }

    /// Waits for a layer of an image that is on its way.
    async fn layer_of(self: &Arc<Self>, image: &Arc<Image>, wish: &LayerWish, until: Instant) -> LayerAnswer {
        let Ok(links) = timeout_at(until, image.links()).await else {
            return answer(LayerState::Running, None);
        };
        let index = links.iter().position(|link| link.chain_id == wish.chain_id);
        let Some(layer) = index.map(|index| &image.layers()[index]) else {
            return failed(format!(
                "{}@{} does not have this layer, or cannot be extracted",
                image.repository, image.digest
            ));
        };
        match timeout_at(until, layer.ended()).await {
            Ok(LayerStage::Published) => match self.is_published(&wish.chain_id).await {
                Ok(true) => {}
                // It was removed after it was published; who asks again has it brought again.
                Ok(false) => {
                    sleep(LOOK_AGAIN).await;
                    return running(layer);
                }
                Err(error) => return failed(error.full_text()),
            },
            Ok(LayerStage::Failed(error)) => return failed(error.full_text()),
            Ok(_) => return failed("it is not extracted".to_owned()),
            Err(_) => return running(layer),
        }
        match &wish.blob {
            Some(blob) => self.blob_of(image, blob, until).await,
            None => answer(LayerState::Ready, None),
        }
    }

    /// Waits for a blob of an image whose layer is there, and may have come from another blob.
    async fn blob_of(self: &Arc<Self>, image: &Image, blob: &Digest, until: Instant) -> LayerAnswer {
        let Some(layer) = image.layers().iter().find(|layer| layer.blob.digest == *blob) else {
            return failed(format!(
                "{}@{} does not have the blob {blob}",
                image.repository, image.digest
            ));
        };
        let (inner, repository, wanted) = (Arc::clone(self), image.repository.clone(), layer.blob.clone());
        // A task, so that it goes on if the asker leaves.
        let filling = tokio::spawn(async move {
            let turns = inner.turns(&repository.host);
            let turn = turns.acquire_owned().await.ok()?;
            Some(inner.fill_blob(&repository, &wanted, turn, |_| ()).await)
        });
        match timeout_at(until, filling).await {
            Ok(Ok(Some(Ok(())))) => answer(LayerState::Ready, None),
            Ok(Ok(Some(Err(error)))) => failed(error.full_text()),
            Ok(_) => failed("the mirror is to end".to_owned()),
            Err(_) => running(layer),
        }
    }
}

fn answer(state: LayerState, message: Option<String>) -> LayerAnswer {
    LayerAnswer {
        state,
        message,
        bytes: 0,
        size_bytes: 0,
    }
}

fn failed(message: String) -> LayerAnswer {
    answer(LayerState::Failed, Some(message))
}

fn running(layer: &Layer) -> LayerAnswer {
    LayerAnswer {
        bytes: layer.status().fetched_bytes,
        size_bytes: layer.blob.size_bytes,
        ..answer(LayerState::Running, None)
    }
}
