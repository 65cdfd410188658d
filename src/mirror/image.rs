//! Brings an image into the store: its config, its layers, and their directories.
//!
//! | file | what it does |
//! |---|---|
//! | `state` | how far the layers of an image are |
//! | `setup` | whether this mirror extracts, and if not, why |
//! | `layer` | the task of one layer: finds or extracts it, and publishes it on its stack |
//! | `claim` | whether this mirror extracts it, or another one of the store |
//! | `extract`, `origin`, `bytes`, `watch` | unpacks one layer from the bytes of its fill, or of the store |
//! | `compression` | whether a blob is a layer that is there |
//! | `fetch` | brings blobs into the store, and nothing more |
//! | `extracted` | publishes an unpacked layer on a stack |
//! | `error` | why a layer is not extracted |
//!
//! The config comes first, for it names the DiffIDs; then the layers, side by side. A layer whose chain
//! record is there is neither fetched nor extracted; one whose DiffID is extracted on another stack gets a
//! record that names that directory. Whatever fails here, fills and what they serve go on.

mod bytes;
mod claim;
mod compression;
mod error;
mod extract;
mod extracted;
mod fetch;
mod layer;
mod origin;
mod setup;
mod state;
mod watch;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use error::LayerError;
pub(super) use error::REMEMBER_LAYER;
pub use state::{Image, Layer, LayerStage, LayerStatus};

pub(super) use extract::Extraction;
pub(super) use setup::extraction;

use error::NoImage;
use layer::LayerTask;

use super::Inner;
use crate::flight::Seat;
use crate::fs::FsError;
use crate::oci::chain::chain;
use crate::oci::config::{MAX_CONFIG_BYTES, MAX_LAYERS};
use crate::oci::manifest::{Descriptor, ImageBlobs};
use crate::oci::{Algorithm, ChainLink, DiffId, Digest, ImageConfig, Manifest, Repository, Verified};

impl Inner {
    /// Brings what a manifest names into the store, or follows whoever is at it.
    pub(super) fn bring(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        manifest: &Manifest,
        turns: Arc<Semaphore>,
    ) -> Arc<Image> {
        let key = (repository.clone(), digest.clone());
        let make = || Image::new(repository.clone(), digest.clone(), manifest);
        match self.images.join(key, make) {
            Seat::Follower(image) => image,
            Seat::Leader(leader) => {
                let image = Arc::clone(leader.flight());
                let (inner, blobs) = (Arc::clone(self), manifest.image_blobs());
                tokio::spawn(async move {
                    inner.bring_all(leader.flight(), blobs, &turns).await;
                    drop(leader);
                });
                image
            }
        }
    }

    async fn bring_all(
        self: &Arc<Self>,
        image: &Arc<Image>,
        blobs: Option<ImageBlobs>,
        turns: &Arc<Semaphore>,
    ) {
        // From now on, for a client asks for layers as soon as for the config.
        let coming = match &self.extraction {
            Some(_) => self.coming.layers(image),
            None => Vec::new(),
        };
        let links = match (&self.extraction, blobs) {
            (Some(extraction), Some(blobs)) => self
                .links(image, &blobs, turns)
                .await
                .map(|links| (Arc::clone(extraction), Arc::<[ChainLink]>::from(links))),
            _ => None,
        };
        let coming = match &links {
            Some((_, links)) => {
                self.note_stacks(image, links);
                coming
            }
            // Nothing comes of them but blobs.
            None => Vec::new(),
        };
        let mut coming = coming.into_iter();
        image.set_links(links.as_ref().map(|(_, links)| Arc::clone(links)));
        let mut tasks = JoinSet::new();
        // If it could not be had, it is asked for anew with the manifest.
        if links.is_none() && !image.has_config_ended() {
            self.spawn_config(image, turns, &mut tasks).await;
        }
        // One after the other, so that they start in the order in which a client will ask for them.
        for index in 0..image.layers().len() {
            let Ok(turn) = Arc::clone(turns).acquire_owned().await else {
                break;
            };
            let (mirror, image) = (Arc::clone(self), Arc::clone(image));
            match &links {
                Some((extraction, links)) => {
                    let task = LayerTask {
                        mirror,
                        extraction: Arc::clone(extraction),
                        image,
                        index,
                        links: Arc::clone(links),
                        turns: Arc::clone(turns),
                    };
                    tasks.spawn(task.run(turn, coming.next()));
                }
                None => drop(tasks.spawn(async move { mirror.fill_layer(&image, index, turn).await })),
            }
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(image = %image.repository, %error, "a layer's task died");
            }
        }
        image.end();
    }

    /// Fetches the config of what is not extracted, beside the layers.
    async fn spawn_config(
        self: &Arc<Self>,
        image: &Arc<Image>,
        turns: &Arc<Semaphore>,
        tasks: &mut JoinSet<()>,
    ) {
        let (Some(config), Ok(turn)) = (image.config().cloned(), Arc::clone(turns).acquire_owned().await)
        else {
            return;
        };
        let (inner, image) = (Arc::clone(self), Arc::clone(image));
        tasks.spawn(async move {
            let filled = inner.fill_blob(&image.repository, &config, turn, |_| ()).await;
            image.set_config_stage(filled.map_or_else(LayerStage::Failed, |()| LayerStage::Stored));
        });
    }

    /// Fetches the config and returns the places of the image's layers, if they can be extracted.
    async fn links(
        self: &Arc<Self>,
        image: &Image,
        blobs: &ImageBlobs,
        turns: &Arc<Semaphore>,
    ) -> Option<Vec<ChainLink>> {
        if blobs.config.size_bytes > MAX_CONFIG_BYTES as u64 {
            self.tell_no_image(image, &NoImage::LargeConfig(blobs.config.size_bytes));
            return None;
        }
        let _turn = Arc::clone(turns).acquire_owned().await.ok()?;
        let config = match self.config_bytes(&image.repository, &blobs.config).await {
            Ok(config) => config,
            Err(error) => {
                let cause: &dyn std::error::Error = &error;
                tracing::warn!(image = %image.repository, manifest = %image.digest, error = cause, "no config");
                image.set_config_stage(LayerStage::Failed(error));
                return None;
            }
        };
        image.set_config_stage(LayerStage::Stored);
        match links_of(&config, blobs.layers.len()) {
            Ok(links) => Some(links),
            Err(reason) => {
                self.tell_no_image(image, &reason);
                None
            }
        }
    }

    fn tell_no_image(&self, image: &Image, reason: &NoImage) {
        let reason: &dyn std::error::Error = reason;
        tracing::info!(image = %image.repository, manifest = %image.digest, reason, "served and not extracted");
    }

    /// Reads an image's config, which is fetched if need be.
    async fn config_bytes(
        self: &Arc<Self>,
        repository: &Repository,
        config: &Descriptor,
    ) -> Result<Vec<u8>, LayerError> {
        let wrong = |text: &str| {
            let text = format!("{}: {text}", config.digest);
            LayerError::Fs(FsError::new(
                "read",
                "a config".as_ref(),
                std::io::Error::other(text),
            ))
        };
        let (opened, _) = self.open_blob(repository, &config.digest, None).await?;
        let mut stream = opened.read(0, None);
        let mut bytes = Vec::new();
        loop {
            let next = stream.next().await;
            match next.map_err(|error| wrong(&error.to_string()))? {
                Some(piece) if bytes.len() + piece.len() <= MAX_CONFIG_BYTES => {
                    bytes.extend_from_slice(&piece)
                }
                Some(_) => return Err(wrong("it is larger than configs may be")),
                None => break,
            }
        }
        Verified::check(&config.digest, &bytes).map_err(LayerError::Damaged)?;
        Ok(bytes)
    }
}

/// Reads from a config where the layers of an image lie.
fn links_of(config: &[u8], layers: usize) -> Result<Vec<ChainLink>, NoImage> {
    let config = ImageConfig::parse(config)?;
    let diff_ids = config.diff_ids.len();
    if !config.is_linux() {
        return Err(NoImage::OtherSystem(config.os));
    }
    if diff_ids != layers {
        return Err(NoImage::Counts { layers, diff_ids });
    }
    if layers > MAX_LAYERS {
        return Err(NoImage::TooHigh(layers));
    }
    let is_sha256 = |diff_id: &DiffId| diff_id.digest().algorithm() == Algorithm::Sha256;
    if !config.diff_ids.iter().all(is_sha256) {
        return Err(NoImage::OtherAlgorithm);
    }
    Ok(chain(&config.diff_ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(os: &str, algorithm: Algorithm, diff_ids: usize, layers: usize) -> Result<usize, NoImage> {
        let diff_ids: Vec<Digest> = (0..diff_ids)
            .map(|number| Digest::of(algorithm, &number.to_be_bytes()))
            .collect();
        let rootfs = serde_json::json!({"type": "layers", "diff_ids": diff_ids});
        let config = serde_json::json!({"os": os, "rootfs": rootfs}).to_string();
        links_of(config.as_bytes(), layers).map(|links| links.len())
    }

    #[test]
    fn only_what_overlayfs_can_stack_is_extracted() {
        let sha256 = Algorithm::Sha256;
        assert_eq!(links("linux", sha256, 3, 3).unwrap(), 3);
        assert!(matches!(links("windows", sha256, 1, 1), Err(NoImage::OtherSystem(os)) if os == "windows"));
        assert!(matches!(
            links("linux", sha256, 1, 2),
            Err(NoImage::Counts {
                layers: 2,
                diff_ids: 1
            })
        ));
        let above = MAX_LAYERS + 1;
        assert!(matches!(
            links("linux", sha256, above, above),
            Err(NoImage::TooHigh(_))
        ));
        let other = links("linux", Algorithm::Sha512, 1, 1);
        assert!(matches!(other, Err(NoImage::OtherAlgorithm)));
        assert!(matches!(links_of(b"{}", 1), Err(NoImage::Config(_))));
    }
}
