//! The task of one layer: finds it or has it extracted, and publishes it on its stack.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::extract::{Extraction, Failed, Found};
use super::extracted::{Extracted, share};
use super::{Image, Layer, LayerError, LayerStage};
use crate::mirror::Inner;
use crate::mirror::coming::ComingLayer;
use crate::oci::{ChainLink, Digest};
use crate::store::{ChainRecord, EntryName, LayerPlace};
use crate::telemetry::labels::LayerOutcome;

/// How often a layer is looked for anew, because somebody else's attempt failed or serves another stack.
const MAX_ATTEMPTS: usize = 4;

/// How long a published layer is waited for until it is listed.
const LISTING: Duration = Duration::from_secs(10);

/// Whether a layer may be shared with other stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ForWhom {
    AnyStack,
    ThisStack,
}

/// What works on one layer of an image that is to be extracted.
#[derive(Clone)]
pub(super) struct LayerTask {
    pub(super) mirror: Arc<Inner>,
    pub(super) extraction: Arc<Extraction>,
    pub(super) image: Arc<Image>,
    pub(super) index: usize,
    /// The places of all the image's layers.
    pub(super) links: Arc<[ChainLink]>,
    /// Whose turns its fill takes.
    pub(super) turns: Arc<Semaphore>,
}

impl LayerTask {
    pub(super) fn layer(&self) -> &Layer {
        &self.image.layers()[self.index]
    }

    pub(super) fn link(&self) -> &ChainLink {
        &self.links[self.index]
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.layer().blob.digest
    }

    /// Names what is remembered if it cannot be extracted.
    pub(super) fn failed_layer(&self) -> Failed {
        Failed::Layer(self.link().diff_id.clone(), self.digest().clone())
    }

    /// Works until the layer is published or has failed; then its blob is in the store or on its way.
    ///
    /// `coming` is held until its directory is listed too, whoever has made it.
    pub(super) async fn run(self, turn: OwnedSemaphorePermit, coming: Option<ComingLayer>) {
        let mut turn = Some(turn);
        let published = self.publish(&mut turn).await;
        if published.is_ok() {
            drop(turn.take());
            self.layer().set_stage(LayerStage::Published);
        }
        self.listed().await;
        if let Some(coming) = coming {
            self.mirror.has_come([coming]);
        }
        if let Err(error) = published {
            if !matches!(error, LayerError::Fetch(_) | LayerError::Stopped) {
                self.fill(turn).await;
            }
            self.layer().set_stage(LayerStage::Failed(error));
        }
    }

    /// Waits until the layer's own directory is listed, if there is one: also another image's, or another mirror's, or of
    /// a layer whose record could not be written.
    async fn listed(&self) {
        let (mirror, name) = (&self.mirror, EntryName::Layer(self.link().layer_id.clone()));
        if mirror.image_store.lists(std::slice::from_ref(&name)) {
            return;
        }
        let wanted = name.clone();
        let will_be =
            mirror.on_store(move |store| Ok(store.has_entry(&wanted)? && store.is_complete(&wanted)?));
        // A store that fails is not waited for.
        if will_be.await.unwrap_or(false) {
            let _ = timeout(LISTING, mirror.image_store.listed(&[name])).await;
        }
    }

    /// Brings the blob alone into the store: what would have been shared has not been fetched.
    async fn fill(&self, turn: Option<OwnedSemaphorePermit>) {
        let turn = match turn {
            Some(turn) => turn,
            None => match Arc::clone(&self.turns).acquire_owned().await {
                Ok(turn) => turn,
                Err(_) => return,
            },
        };
        let (repository, blob) = (&self.image.repository, &self.layer().blob);
        // What fails here is logged by the fill.
        let _ = self.mirror.fill_blob(repository, blob, turn, |_| ()).await;
    }

    /// Publishes the layer on its stack; keeps the turn while it is looked for.
    async fn publish(&self, turn: &mut Option<OwnedSemaphorePermit>) -> Result<(), LayerError> {
        if self.mirror.is_published(&self.link().chain_id).await? {
            return Ok(());
        }
        let (mut for_whom, mut last) = (ForWhom::AnyStack, LayerError::Stopped);
        for _ in 0..MAX_ATTEMPTS {
            self.check_failures()?;
            let found = match self.find(for_whom).await {
                (Ok(found), _) => found,
                // Somebody else tried, as a client of another repository or with another blob: this one may
                // fare better.
                (Err(error), false) => {
                    last = error;
                    continue;
                }
                (Err(error), _) => return Err(error),
            };
            drop(turn.take());
            self.below().await?;
            let is_published = match found {
                Found::Shared(record) => self.share(record).await?,
                Found::Extracted(extracted) => self.publish_extracted(extracted).await?,
                // On this stack, unless another image's task has looked first.
                Found::Published => self.mirror.is_published(&self.link().chain_id).await?,
            };
            if is_published {
                return Ok(());
            }
            for_whom = ForWhom::ThisStack;
        }
        Err(last)
    }

    /// Returns the record of another stack whose directory will do.
    pub(super) async fn shareable(&self) -> Result<Option<ChainRecord>, LayerError> {
        let (store, diff_id) = (self.mirror.store.clone(), self.link().diff_id.clone());
        let path = store.diff_path(&diff_id);
        let found = self
            .mirror
            .disk
            .run("list", &path, move || store.shareable(&diff_id));
        Ok(found
            .await
            .inspect_err(|error| self.mirror.note_store_error(error))?)
    }

    /// Fails if this layer failed a short while ago, or one below, without which it cannot be published.
    fn check_failures(&self) -> Result<(), LayerError> {
        for failed in [self.failed_layer(), Failed::Stack(self.link().chain_id.clone())] {
            if let Some(error) = self.extraction.failure(&failed) {
                return Err(error);
            }
        }
        let below = self.image.layers().iter().zip(&*self.links).take(self.index);
        let has_failed = |(layer, link): (&Layer, &ChainLink)| {
            let as_layer = Failed::Layer(link.diff_id.clone(), layer.blob.digest.clone());
            let as_stack = Failed::Stack(link.chain_id.clone());
            matches!(layer.status().stage, LayerStage::Failed(_))
                || [as_layer, as_stack]
                    .iter()
                    .any(|failed| self.extraction.failure(failed).is_some())
        };
        if below.into_iter().any(has_failed) {
            return Err(LayerError::Below);
        }
        Ok(())
    }

    /// Waits until the layer below is published.
    async fn below(&self) -> Result<(), LayerError> {
        let Some(below) = self.index.checked_sub(1) else {
            return Ok(());
        };
        match self.image.layers()[below].ended().await {
            LayerStage::Published => Ok(()),
            _ => Err(LayerError::Below),
        }
    }

    /// Publishes a record that names another stack's directory; `false` if that does not suit this one.
    async fn share(&self, shared: ChainRecord) -> Result<bool, LayerError> {
        let (mirror, link) = (Arc::clone(&self.mirror), self.link().clone());
        let sharing = tokio::task::spawn_blocking(move || share(&link, shared, &mirror.store));
        let is_shared = self.told(sharing).await?;
        if is_shared {
            self.mirror.metrics.layer(LayerOutcome::Shared);
        }
        Ok(is_shared)
    }

    /// Publishes what was extracted; `false` if it serves another stack alone.
    async fn publish_extracted(&self, extracted: Arc<Extracted>) -> Result<bool, LayerError> {
        let (mirror, link) = (Arc::clone(&self.mirror), self.link().clone());
        let place = LayerPlace::of(&self.links, self.index);
        let options = self.extraction.options.clone();
        let publishing = mirror.publishing.token();
        let (runtime, blob) = (Handle::current(), self.digest().clone());
        let published = Arc::clone(&extracted);
        let publish = tokio::task::spawn_blocking(move || {
            let _publishing = publishing;
            let list = |name: &EntryName| runtime.block_on(mirror.list_first(name, &blob));
            extracted.publish_as(&link, &place, &mirror.store, &options, &list)
        });
        let is_published = self.told(publish).await?;
        if is_published {
            published.tell_published();
            self.mirror.metrics.layer(LayerOutcome::Published);
        }
        Ok(is_published)
    }

    /// Waits for a layer's publishing, and tells why it failed.
    ///
    /// Not under the deadline of one call: there may be much to settle.
    async fn told<T>(&self, publishing: JoinHandle<Result<T, LayerError>>) -> Result<T, LayerError> {
        let published = publishing.await?;
        published.inspect_err(|error| self.tell_unpublished(error))
    }

    fn tell_unpublished(&self, error: &LayerError) {
        // Or the layer would be extracted again for every client that asks.
        let failed = Failed::Stack(self.link().chain_id.clone());
        self.count_failure(failed, error);
        let cause: &dyn std::error::Error = error;
        let (layer, image) = (self.digest(), &self.image.repository);
        tracing::warn!(%layer, %image, error = cause, "extracted layer not published");
    }
}
