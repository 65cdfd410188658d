//! How far an image is, in the words of the API: what `wharf pull` shows, here and of another machine's mirror.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::image::{Image, Layer, LayerError, LayerStage};
use super::pull::Pulled;
use super::{Freshness, Inner, Mirror};
use crate::api::{ImageEnd, ImageReport, LayerReport, ReportedStage};
use crate::fs::FsError;
use crate::oci::config::MAX_CONFIG_BYTES;
use crate::oci::{Digest, ImageConfig, Platform, Repository};

/// How long a blob that is whole may take to get its name before it counts as missing.
const PUBLISHING_TIMEOUT: Duration = Duration::from_secs(30);

/// After what time it is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Image {
    /// Tells how far it is.
    pub fn report(&self) -> ImageReport {
        ImageReport {
            digest: self.digest.clone(),
            layers: self.layers().iter().map(Layer::report).collect(),
            end: None,
        }
    }
}

impl Layer {
    fn report(&self) -> LayerReport {
        let status = self.status();
        let (stage, message) = match status.stage {
            LayerStage::Waiting => (ReportedStage::Waiting, None),
            LayerStage::Fetching => (ReportedStage::Fetching, None),
            LayerStage::Extracting => (ReportedStage::Extracting, None),
            LayerStage::Published => (ReportedStage::Published, None),
            LayerStage::Stored => (ReportedStage::Stored, None),
            LayerStage::Failed(error) => (ReportedStage::Failed, Some(error.full_text())),
        };
        LayerReport {
            blob: self.blob.digest.clone(),
            size_bytes: self.blob.size_bytes,
            stage,
            fetched_bytes: status.fetched_bytes,
            entries: status.entries,
            message,
        }
    }
}

impl Mirror {
    /// Tells what came of an image that has ended.
    ///
    /// # Errors
    /// Any errno of the store, which may have all of it or nothing.
    pub async fn last_report(&self, pulled: &Pulled) -> Result<ImageReport, FsError> {
        let (inner, image) = (&self.inner, &pulled.image);
        let end = ImageEnd {
            stale_seconds: match pulled.freshness {
                Freshness::Fresh => None,
                Freshness::Stale { age } => Some(age.as_secs()),
            },
            platform: inner.platform_of(image).await?,
            config_failure: image.config_failure().map(|error| error.full_text()),
            is_left_packed: inner.extraction.is_none() && inner.could_be_extracted(&image.digest).await,
            missing: inner.missing_of(image).await?,
        };
        Ok(ImageReport {
            end: Some(end),
            ..image.report()
        })
    }
}

impl Inner {
    /// Returns what an image's config says that it is for.
    async fn platform_of(&self, image: &Image) -> Result<Option<Platform>, FsError> {
        let Some(config) = image.config() else {
            return Ok(None);
        };
        let digest = config.digest.clone();
        let bytes = self
            .on_store(move |store| store.read_blob(&digest, MAX_CONFIG_BYTES))
            .await?;
        // An artifact's config may be anything.
        let config = bytes.and_then(|bytes| ImageConfig::parse(&bytes).ok());
        let platform = config.filter(|config| !config.architecture.is_empty());
        Ok(platform.map(|config| Platform {
            os: config.os,
            architecture: config.architecture,
            variant: None,
        }))
    }

    async fn could_be_extracted(&self, manifest: &Digest) -> bool {
        let known = self.stored_manifest(manifest).await;
        known.is_some_and(|known| known.manifest.image_blobs().is_some())
    }

    /// Names a blob of the image that is not in the store although it should be, and says why: a published layer
    /// needs none.
    async fn missing_of(&self, image: &Image) -> Result<Option<String>, FsError> {
        let layers = image.layers().iter();
        let unpublished = layers.filter(|layer| !matches!(layer.status().stage, LayerStage::Published));
        let needed = image
            .config()
            .into_iter()
            .chain(unpublished.map(|layer| &layer.blob));
        for blob in needed {
            if !self.comes_to_store(&image.repository, &blob.digest).await? {
                let why = image
                    .failures()
                    .first()
                    .map_or_else(|| "the store did not take it".to_owned(), LayerError::full_text);
                return Ok(Some(format!("{} is not in the store: {why}", blob.digest)));
            }
        }
        Ok(None)
    }

    /// Tells whether a blob is in the store, once nobody is at it any more: it is whole before it has its name.
    async fn comes_to_store(&self, repository: &Repository, digest: &Digest) -> Result<bool, FsError> {
        let key = self.fill_key(&repository.host, digest);
        let until = Instant::now() + PUBLISHING_TIMEOUT;
        loop {
            let is_on_its_way = self.fills.get(&key).is_some();
            let wanted = digest.clone();
            let found = self.on_store(move |store| store.stat_blob(&wanted)).await?;
            if found.is_some() || !is_on_its_way || Instant::now() >= until {
                return Ok(found.is_some());
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}
