//! Brings an image into the store: its config, its layers, and their directories.
//!
//! | file | what it does |
//! |---|---|
//! | `state` | how far the layers of an image are |
//! | `setup` | whether this mirror extracts, and if not, why |
//! | `extract`, `bytes` | unpacks one layer from the bytes of its fill, or of the store |
//! | `extracted` | publishes an unpacked layer on a stack |
//! | `error` | why a layer is not extracted |
//!
//! The config comes first, for it names the DiffIDs; then the layers, side by side. A layer whose chain
//! record is there is neither fetched nor extracted; one whose DiffID is extracted on another stack gets a
//! record that names that directory. Whatever fails here, fills and what they serve go on.

mod bytes;
mod error;
mod extract;
mod extracted;
mod setup;
mod state;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};

pub use error::LayerError;
pub(super) use error::REMEMBER_LAYER;
pub use state::{Image, Layer, LayerStage, LayerStatus};

pub(super) use extract::Extraction;
pub(super) use setup::extraction;

use error::NoImage;
use extract::Found;
use extracted::{Extracted, share};

use super::Inner;
use super::blob::Wanted;
use super::fill::{Fill, FillError, Stage, Standing};
use crate::flight::Seat;
use crate::fs::FsError;
use crate::index::Member;
use crate::oci::chain::chain;
use crate::oci::config::{MAX_CONFIG_BYTES, MAX_LAYERS};
use crate::oci::manifest::{Descriptor, ImageBlobs};
use crate::oci::{Algorithm, ChainLink, DiffId, Digest, ImageConfig, Manifest, Repository, Verified};
use crate::store::ChainRecord;
use crate::telemetry::metrics::LayerOutcome;

/// How often a layer is looked for anew, because somebody else's attempt failed or serves another stack.
const MAX_ATTEMPTS: usize = 4;

/// Whether a layer may be shared with other stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ForWhom {
    AnyStack,
    ThisStack,
}

/// What works on one layer of an image that is to be extracted.
#[derive(Clone)]
struct LayerTask {
    mirror: Arc<Inner>,
    extraction: Arc<Extraction>,
    image: Arc<Image>,
    index: usize,
    link: ChainLink,
}

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
        let links = match (&self.extraction, blobs) {
            (Some(extraction), Some(blobs)) => self
                .links(image, &blobs, turns)
                .await
                .map(|links| (Arc::clone(extraction), links)),
            _ => None,
        };
        let mut tasks = JoinSet::new();
        if links.is_none() {
            self.spawn_config(image, turns, &mut tasks).await;
        }
        // One after the other, so that they start in the order in which a client will ask for them.
        for index in 0..image.layers().len() {
            let Ok(turn) = Arc::clone(turns).acquire_owned().await else {
                break;
            };
            let (inner, image) = (Arc::clone(self), Arc::clone(image));
            match &links {
                Some((extraction, links)) => {
                    let task = LayerTask {
                        mirror: inner,
                        extraction: Arc::clone(extraction),
                        image,
                        index,
                        link: links[index].clone(),
                    };
                    tasks.spawn(task.run(turn));
                }
                None => drop(tasks.spawn(async move {
                    let layer = &image.layers()[index];
                    layer.set_stage(inner.fill_layer(&image.repository, layer, turn).await);
                })),
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
            Err(error) => {
                let cause: &dyn std::error::Error = &error;
                tracing::info!(image = %image.repository, manifest = %image.digest, reason = cause, "served and not extracted");
                None
            }
        }
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
        if config.size_bytes > MAX_CONFIG_BYTES as u64 {
            return Err(wrong("it is larger than configs may be"));
        }
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

    /// Brings a layer's blob into the store, and nothing more.
    async fn fill_layer(
        self: &Arc<Self>,
        repository: &Repository,
        layer: &Layer,
        turn: OwnedSemaphorePermit,
    ) -> LayerStage {
        let show = |fill: &Fill| layer.set_fetching(fill.progress());
        let filled = self.fill_blob(repository, &layer.blob, turn, show).await;
        filled.map_or_else(LayerStage::Failed, |()| LayerStage::Stored)
    }

    /// Brings a blob into the store if it is not there, or waits for whoever brings it.
    async fn fill_blob(
        self: &Arc<Self>,
        repository: &Repository,
        blob: &Descriptor,
        turn: OwnedSemaphorePermit,
        show: impl FnOnce(&Fill),
    ) -> Result<(), LayerError> {
        let (store, digest) = (self.store.clone(), blob.digest.clone());
        let path = store.blob_path(&digest);
        let stat = self.disk.run("stat", &path, move || store.stat_blob(&digest));
        // Without a reader nothing is streamed past the store.
        let found = stat.await.inspect_err(|error| self.note_store_error(error))?;
        if found.is_some() {
            return Ok(());
        }
        let wanted = Wanted {
            upstream: self.upstream(&repository.host)?,
            repository,
            digest: &blob.digest,
            expected_size: Some(blob.size_bytes),
            standing: Standing::of(
                Some(member(blob)),
                self.may_share(&repository.host, &blob.digest).await,
            ),
        };
        let key = self.fill_key(&repository.host, &blob.digest);
        match self.fills.join(key, || wanted.fill()) {
            Seat::Follower(fill) => {
                show(&fill);
                drop(turn);
                ended(&fill).await
            }
            Seat::Leader(leader) => {
                let fill = Arc::clone(leader.flight());
                show(&fill);
                self.fill_task(&wanted, Arc::clone(&fill), Some(leader))
                    .run()
                    .await;
                ended(&fill).await
            }
        }
    }
}

/// Returns what the manifest that names a blob says of it.
fn member(blob: &Descriptor) -> Member {
    Member {
        size_bytes: Some(blob.size_bytes),
    }
}

/// Waits until a fill has ended.
async fn ended(fill: &Fill) -> Result<(), LayerError> {
    let mut progress = fill.progress();
    let is_end = |stage: &Stage| matches!(stage, Stage::Verified | Stage::Failed(_));
    match progress
        .wait_for(|progress| is_end(&progress.stage))
        .await
        .as_deref()
    {
        Ok(progress) => match &progress.stage {
            Stage::Failed(error) => Err(error.clone().into()),
            Stage::Asking | Stage::Receiving | Stage::Verified => Ok(()),
        },
        Err(_) => Err(FillError::Abandoned.into()),
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

impl LayerTask {
    fn layer(&self) -> &Layer {
        &self.image.layers()[self.index]
    }

    fn digest(&self) -> &Digest {
        &self.layer().blob.digest
    }

    /// Works until the layer is published or has failed; then its blob is in the store or on its way.
    async fn run(self, turn: OwnedSemaphorePermit) {
        let mut turn = Some(turn);
        let stage = match self.publish(&mut turn).await {
            Ok(()) => LayerStage::Published,
            Err(error) => {
                let is_fetched = !matches!(error, LayerError::Fetch(_) | LayerError::Stopped);
                if let (true, Some(turn)) = (is_fetched, turn.take()) {
                    // What fails here is logged by the fill.
                    let repository = &self.image.repository;
                    let _ = self
                        .mirror
                        .fill_blob(repository, &self.layer().blob, turn, |_| ())
                        .await;
                }
                LayerStage::Failed(error)
            }
        };
        self.layer().set_stage(stage);
    }

    /// Publishes the layer on its stack; keeps the turn if its blob may not be there.
    async fn publish(&self, turn: &mut Option<OwnedSemaphorePermit>) -> Result<(), LayerError> {
        if self.is_published().await? {
            return Ok(());
        }
        let (mut for_whom, mut last) = (ForWhom::AnyStack, LayerError::Stopped);
        for _ in 0..MAX_ATTEMPTS {
            self.check_failures()?;
            let found = match self.find(for_whom).await {
                (Ok(found), _) => found,
                // Somebody else asked, as a client of another repository: this one may fare better.
                (Err(error @ LayerError::Fetch(_)), false) => {
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
            };
            if is_published {
                return Ok(());
            }
            for_whom = ForWhom::ThisStack;
        }
        Err(last)
    }

    async fn is_published(&self) -> Result<bool, LayerError> {
        let (store, chain_id) = (self.mirror.store.clone(), self.link.chain_id.clone());
        let path = store.chain_path(&chain_id);
        let record = self
            .mirror
            .disk
            .run("read", &path, move || store.chain(&chain_id));
        let record = record
            .await
            .inspect_err(|error| self.mirror.note_store_error(error))?;
        Ok(record.is_some())
    }

    /// Returns the record of another stack whose directory will do.
    async fn shareable(&self) -> Result<Option<ChainRecord>, LayerError> {
        let (store, diff_id) = (self.mirror.store.clone(), self.link.diff_id.clone());
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
        if let Some(error) = self.extraction.failure(&self.link.diff_id) {
            return Err(error);
        }
        let below = &self.image.layers()[..self.index];
        let has_failed = |layer: &Layer| matches!(layer.status().stage, LayerStage::Failed(_));
        if below.iter().any(has_failed) {
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
        let (mirror, link) = (Arc::clone(&self.mirror), self.link.clone());
        let sharing = tokio::task::spawn_blocking(move || share(&link, shared, &mirror.store));
        let is_shared = self.told(sharing).await?;
        if is_shared {
            self.mirror.metrics.layer(LayerOutcome::Shared);
        }
        Ok(is_shared)
    }

    /// Publishes what was extracted; `false` if it serves another stack alone.
    async fn publish_extracted(&self, extracted: Arc<Extracted>) -> Result<bool, LayerError> {
        let (mirror, link) = (Arc::clone(&self.mirror), self.link.clone());
        let options = self.extraction.options.clone();
        let publishing = mirror.publishing.token();
        let publish = tokio::task::spawn_blocking(move || {
            let _publishing = publishing;
            extracted.publish_as(&link, &mirror.store, &options)
        });
        let is_published = self.told(publish).await?.is_some();
        if is_published {
            self.mirror.metrics.layer(LayerOutcome::Published);
        }
        Ok(is_published)
    }

    /// Waits for a layer's publishing, and tells why it failed.
    ///
    /// Not under the deadline of one call: there may be much to settle.
    async fn told<T>(&self, publishing: JoinHandle<Result<T, LayerError>>) -> Result<T, LayerError> {
        // A panic is in the log already.
        let published = publishing.await.map_err(|_| LayerError::Stopped)?;
        published.inspect_err(|error| self.tell_unpublished(error))
    }

    fn tell_unpublished(&self, error: &LayerError) {
        self.mirror.metrics.layer(LayerOutcome::Failed);
        if let Some(error) = error.store_error() {
            self.mirror.note_store_error(error);
        }
        let cause: &dyn std::error::Error = error;
        let (layer, image) = (self.digest(), &self.image.repository);
        tracing::warn!(%layer, %image, error = cause, "extracted layer not published");
    }
}
