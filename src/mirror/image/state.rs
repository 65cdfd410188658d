//! How far the layers of an image are: the one place that the log, `wharf pull` and held manifests read.
//!
//! ```text
//! Waiting → Fetching → Extracting → Published        an image's layer
//! Waiting → Fetching → Stored                        what is fetched and not extracted
//!    └──────────┴───────────┴─────→ Failed
//! ```
//! While a layer is fetched it is extracted from the same bytes; `Extracting` is what remains when all of
//! them are there.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::try_join_all;
use tokio::sync::watch;

use super::LayerError;
use crate::mirror::fill;
use crate::oci::manifest::Descriptor;
use crate::oci::{ChainLink, Digest, Manifest, Repository};
use crate::unpack;

/// An image, or whatever else a manifest stands for, on its way into the store.
#[derive(Debug)]
pub struct Image {
    pub repository: Repository,
    /// The manifest's digest.
    pub digest: Digest,
    config: Option<Descriptor>,
    layers: Vec<Layer>,
    config_stage: watch::Sender<LayerStage>,
    /// Where its layers lie, none if they are not extracted; `None` until that is known.
    links: watch::Sender<Option<Arc<[ChainLink]>>>,
}

/// One layer of an [`Image`].
#[derive(Debug)]
pub struct Layer {
    pub blob: Descriptor,
    stage: watch::Sender<LayerStage>,
    fetching: Mutex<Option<watch::Receiver<fill::Progress>>>,
    unpacking: Arc<unpack::Progress>,
}

/// Where a layer stands.
#[derive(Clone, Debug)]
pub enum LayerStage {
    /// For its turn, for another image's layer that is the same, or for another mirror of the store.
    Waiting,
    /// Its bytes arrive, and are extracted meanwhile.
    Fetching,
    /// All its bytes are there.
    Extracting,
    /// Extracted, and can be mounted with what is below.
    Published,
    /// Its blob is in the store, and it is nothing to be extracted.
    Stored,
    Failed(LayerError),
}

/// How far a layer is at one moment.
#[derive(Clone, Debug)]
pub struct LayerStatus {
    pub stage: LayerStage,
    /// Bytes of the blob that have arrived in this process.
    pub fetched_bytes: u64,
    /// Bytes of the uncompressed stream that have been read.
    pub extracted_bytes: u64,
    /// Entries that are in the directory.
    pub entries: u64,
}

impl LayerStage {
    /// Tells whether nothing more will come.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Waiting | Self::Fetching | Self::Extracting => false,
            Self::Published | Self::Stored | Self::Failed(_) => true,
        }
    }
}

impl Image {
    /// Lists what a manifest names; nobody works on it yet.
    pub(in crate::mirror) fn new(repository: Repository, digest: Digest, manifest: &Manifest) -> Self {
        let config = match manifest {
            Manifest::Image { config, .. } => config.clone().filter(|config| !config.is_foreign),
            Manifest::Index { .. } | Manifest::Other { .. } => None,
        };
        let layers = manifest.blobs().skip(usize::from(config.is_some()));
        let config_stage = match config {
            Some(_) => LayerStage::Waiting,
            None => LayerStage::Stored,
        };
        Self {
            repository,
            digest,
            layers: layers.cloned().map(Layer::new).collect(),
            config,
            config_stage: watch::Sender::new(config_stage),
            links: watch::Sender::new(None),
        }
    }

    /// Returns its config, if it has one.
    pub fn config(&self) -> Option<&Descriptor> {
        self.config.as_ref()
    }

    /// Returns its layers, the bottom one first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Waits until every layer is published or stored, or has failed, and the config too.
    pub async fn ended(&self) {
        ended(&self.config_stage).await;
        for layer in &self.layers {
            layer.ended().await;
        }
    }

    /// Waits until it is known where the layers lie; empty if they are not to be extracted.
    pub async fn links(&self) -> Arc<[ChainLink]> {
        match self.links.subscribe().wait_for(Option::is_some).await {
            Ok(links) => links.clone().unwrap_or_default(),
            // The sender is held by whoever waits.
            Err(_) => Arc::default(),
        }
    }

    /// Waits until every layer is published, or one will not be; tells which.
    pub async fn published(&self) -> bool {
        let is_extracted = !self.links().await.is_empty();
        let published = self.layers.iter().map(async |layer| match layer.ended().await {
            LayerStage::Published => Ok(()),
            _ => Err(()),
        });
        is_extracted && try_join_all(published).await.is_ok()
    }

    /// Tells whether every layer is published by now.
    pub fn is_published(&self) -> bool {
        let mut layers = self.layers.iter();
        layers.all(|layer| matches!(*layer.stage.borrow(), LayerStage::Published))
    }

    /// Returns what failed: of the config, and then of the layers from the bottom up.
    ///
    /// Not that what lies on a failed layer could not be published.
    pub fn failures(&self) -> Vec<LayerError> {
        let stages = std::iter::once(&self.config_stage).chain(self.layers.iter().map(|layer| &layer.stage));
        stages
            .filter_map(|stage| match &*stage.borrow() {
                LayerStage::Failed(LayerError::Below) => None,
                LayerStage::Failed(error) => Some(error.clone()),
                _ => None,
            })
            .collect()
    }

    /// Returns why the config, without which no layer is extracted, is not there.
    pub fn config_failure(&self) -> Option<LayerError> {
        match &*self.config_stage.borrow() {
            LayerStage::Failed(error) => Some(error.clone()),
            _ => None,
        }
    }

    /// Ends what nobody works on any more.
    pub(in crate::mirror) fn end(&self) {
        let stages = self.layers.iter().map(|layer| &layer.stage);
        for stage in stages.chain([&self.config_stage]) {
            stage.send_if_modified(|stage| {
                let is_open = !stage.is_end();
                if is_open {
                    *stage = LayerStage::Failed(LayerError::Stopped);
                }
                is_open
            });
        }
        self.links
            .send_if_modified(|links| links.is_none() && links.replace(Arc::default()).is_none());
    }

    /// Tells where the layers lie; `None` if they are not to be extracted.
    pub(in crate::mirror) fn set_links(&self, links: Option<Arc<[ChainLink]>>) {
        self.links.send_replace(Some(links.unwrap_or_default()));
    }

    pub(in crate::mirror) fn has_config_ended(&self) -> bool {
        self.config_stage.borrow().is_end()
    }

    pub(in crate::mirror) fn set_config_stage(&self, stage: LayerStage) {
        self.config_stage.send_replace(stage);
    }
}

impl Layer {
    fn new(blob: Descriptor) -> Self {
        Self {
            blob,
            stage: watch::Sender::new(LayerStage::Waiting),
            fetching: Mutex::default(),
            unpacking: Arc::default(),
        }
    }

    /// Returns how far it is.
    pub fn status(&self) -> LayerStatus {
        let mut stage = self.stage.borrow().clone();
        let fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        let fetched_bytes = fetching.as_ref().map_or(0, |fetching| {
            let progress = fetching.borrow();
            if matches!(stage, LayerStage::Fetching) && matches!(progress.stage, fill::Stage::Verified) {
                stage = LayerStage::Extracting;
            }
            progress.received
        });
        LayerStatus {
            stage,
            fetched_bytes,
            extracted_bytes: self.unpacking.bytes.load(Ordering::Relaxed),
            entries: self.unpacking.entries.load(Ordering::Relaxed),
        }
    }

    /// Waits until nothing more will come, and returns what it is.
    pub async fn ended(&self) -> LayerStage {
        ended(&self.stage).await
    }

    pub(in crate::mirror) fn set_stage(&self, stage: LayerStage) {
        self.stage.send_replace(stage);
    }

    /// Shows how the blob arrives.
    pub(in crate::mirror) fn set_fetching(&self, progress: watch::Receiver<fill::Progress>) {
        *self.fetching.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
        self.set_stage(LayerStage::Fetching);
    }

    /// Returns what the unpacking counts into.
    pub(in crate::mirror) fn unpacking(&self) -> Arc<unpack::Progress> {
        Arc::clone(&self.unpacking)
    }
}

async fn ended(stage: &watch::Sender<LayerStage>) -> LayerStage {
    // The sender is held by whoever waits, so it cannot be gone.
    match stage.subscribe().wait_for(LayerStage::is_end).await {
        Ok(stage) => stage.clone(),
        Err(_) => LayerStage::Failed(LayerError::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        let digest = |seed: &str| Digest::of(crate::oci::Algorithm::Sha256, seed.as_bytes());
        let blob = |seed: &str| serde_json::json!({"mediaType": "", "digest": digest(seed), "size": 1});
        let manifest = serde_json::json!({"config": blob("c"), "layers": [blob("a"), blob("b")]});
        let manifest = Manifest::parse(manifest.to_string().as_bytes()).unwrap();
        let repository = Repository::new("ghcr.io".parse().unwrap(), "a/b".parse().unwrap());
        Image::new(repository, digest("m"), &manifest)
    }

    fn stack() -> Arc<[ChainLink]> {
        let diff_id =
            |seed: &str| crate::oci::DiffId::new(Digest::of(crate::oci::Algorithm::Sha256, seed.as_bytes()));
        crate::oci::chain::chain(&[diff_id("a"), diff_id("b")]).into()
    }

    #[tokio::test]
    async fn an_image_has_ended_when_its_config_and_all_its_layers_have() {
        let image = image();
        let mut ended = Box::pin(image.ended());
        assert!(futures_util::poll!(&mut ended).is_pending());
        image.set_config_stage(LayerStage::Stored);
        image.layers()[0].set_stage(LayerStage::Published);
        assert!(futures_util::poll!(&mut ended).is_pending());
        image.end();
        ended.await;
        assert!(matches!(image.layers()[0].status().stage, LayerStage::Published));
        assert!(matches!(
            image.layers()[1].status().stage,
            LayerStage::Failed(LayerError::Stopped)
        ));
    }

    #[tokio::test]
    async fn an_image_is_published_when_all_its_layers_are_and_is_not_when_one_fails() {
        let (whole, broken, blobs) = (image(), image(), image());
        let mut published = Box::pin(whole.published());
        assert!(futures_util::poll!(&mut published).is_pending());
        whole.set_links(Some(stack()));
        for layer in whole.layers() {
            assert!(futures_util::poll!(&mut published).is_pending());
            layer.set_stage(LayerStage::Published);
        }
        assert!(published.await);
        // The lower layer is still on its way, and need not be waited for.
        broken.set_links(Some(stack()));
        broken.layers()[1].set_stage(LayerStage::Failed(LayerError::NotStored));
        assert!(!broken.published().await);
        blobs.set_links(None);
        assert!(!blobs.published().await);
    }

    #[test]
    fn what_lies_on_a_failed_layer_is_no_failure_of_its_own() {
        let image = image();
        image.layers()[0].set_stage(LayerStage::Failed(LayerError::NotStored));
        image.layers()[1].set_stage(LayerStage::Failed(LayerError::Below));
        assert!(matches!(image.failures()[..], [LayerError::NotStored]));
    }
}
