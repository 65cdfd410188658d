//! The pull-through core: the only module that knows store and upstream together.
//!
//! | file | what it does |
//! |---|---|
//! | `blob` | opens a blob for a client: from the store, or from a fill |
//! | `fill`, `window`, `tail` | one fetch of one blob, and how its readers follow it |
//! | `body`, `buffers` | reads a stored blob for a client, within one budget of memory |
//! | `unreadable` | which stored blobs cannot be read at present |
//! | `manifest` | which manifest a tag or digest means, asked upstream as rarely as can be |
//! | `background` | what serving a manifest starts |
//! | `image` | brings an image's blobs into the store, and extracts its layers |
//! | `materialise` | brings one layer into the store for a node that misses it |
//! | `image_store` | keeps layers.json, which clients of containers/storage look layers up in |
//! | `listed` | sees to it that it lists an image |
//! | `last_use` | notes when an image was last used |
//! | `published` | whether a layer is on the store, and its record right |
//! | `pull` | brings an image into the store though no client asks |
//! | `report` | how far an image is, in the words of the API |
//! | `listing` | tags, referrers, the catalog |
//! | `membership` | which repository has which blob |
//!
//! Leaves to others: who may ask ([`crate::http`]), and how upstream is talked to ([`crate::upstream`]).

mod background;
mod blob;
mod body;
mod buffers;
mod coming;
mod error;
mod fill;
mod image;
mod image_store;
mod last_use;
mod listed;
mod listing;
mod manifest;
mod materialise;
mod membership;
mod negative;
mod peers;
mod published;
mod pull;
mod report;
mod tail;
mod unreadable;
mod window;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use globset::GlobSet;
use quick_cache::sync::Cache;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::api::{NodeAnswer, NodeId, NodeStatement};
use crate::config::Config;
use crate::flight::{Abandoned, Flights, Questions};
use crate::fs::{Disk, FsError};
use crate::index::Index;
use crate::oci::{Digest, RegistryHost, Repository};
use crate::store::{EntryName, Store};
use crate::telemetry::Metrics;
use crate::telemetry::labels::StoreErrorKind;
use crate::upstream::{Upstream, Upstreams};

pub use blob::{BlobStream, OpenBlob};
pub use error::{MirrorError, MirrorErrorClass};
pub use fill::FillError;
pub use image::{Image, Layer, LayerError, LayerStage, LayerStatus};
pub use listed::Awaited;
pub use listing::{Page, Referrers, Tags};
pub use manifest::{Freshness, ServedManifest};
pub use pull::{PullError, Pulled};

use background::Background;
use buffers::Buffers;
use coming::Coming;
use fill::{Fill, FillKey, HostPermits, MAX_FILLS, StoreHealth};
use image::Extraction;
use image_store::ImageStore;
use last_use::NotedUses;
use listed::ListedImage;
use manifest::ManifestMemory;
use materialise::StackImages;
use membership::Guards;
use negative::Negatives;
use peers::Peers;
use unreadable::Unreadable;

/// How long a client waits for what only upstream can tell; the question goes on for who asks next.
///
/// containerd gives up after 30 s, of which the store may take some; upstream has 15 s for an answer.
const UPSTREAM_WAIT: Duration = Duration::from_secs(20);

/// How long after a failed call a store that seems not to have something is not believed: what one
/// request asks of it lies within.
const JUST_NOW: Duration = Duration::from_secs(5);

/// Of how many images it is remembered that layers.json lists them.
const MAX_LISTED_IMAGES: usize = 4096;

/// A mirror of registries over one store. Cheap to clone.
#[derive(Clone)]
pub struct Mirror {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    disk: Disk,
    index: Index,
    upstreams: Upstreams,
    metrics: Metrics,
    offline: bool,
    tag_ttl: Duration,
    immutable_tags: GlobSet,
    buffers: Buffers,
    health: StoreHealth,
    unreadable: Unreadable,
    permits: HostPermits,
    fill_places: HostPermits,
    fills: Flights<FillKey, Fill>,
    blob_heads: Questions<(Repository, Digest), Result<Option<u64>, MirrorError>>,
    manifests: ManifestMemory,
    /// The reading of repositories' manifests that the index does not know.
    manifest_reads: Questions<Repository, Result<(), FsError>>,
    listings: listing::ListingQuestions,
    negatives: Negatives,
    background: Background,
    /// `None` if this mirror extracts no layers.
    extraction: Option<Arc<Extraction>>,
    image_store: ImageStore,
    peers: Peers,
    /// The images that layers.json has listed whole, and those that somebody waits for.
    listed_images: Cache<(Repository, Digest), Arc<[EntryName]>>,
    listing_images: Questions<(Repository, Digest), ListedImage>,
    /// Which image has a stack.
    stacks: StackImages,
    noted_uses: NotedUses,
    /// The layers that are to be listed.
    coming: Coming,
    /// The images on their way, by repository and manifest.
    images: Flights<(Repository, Digest), Image>,
    guards: Guards,
    store_failed_at: Mutex<Option<Instant>>,
    /// The blobs that are whole and not published yet.
    publishing: TaskTracker,
}

impl Mirror {
    /// Puts a mirror together.
    pub fn new(config: &Config, store: Store, index: Index, upstreams: Upstreams, metrics: Metrics) -> Self {
        // A 32-bit process could not use more.
        let buffer_memory = usize::try_from(config.buffer_memory).unwrap_or(usize::MAX);
        let disk = Disk::new(config.store_timeout);
        let extraction = image::extraction(config.extract.as_ref(), &store);
        let inner = Inner {
            image_store: ImageStore::new(&store),
            peers: Peers::new(&store, &disk, config),
            store,
            index,
            upstreams,
            metrics,
            offline: config.offline,
            tag_ttl: config.tag_ttl,
            immutable_tags: config.immutable_tags.clone(),
            buffers: Buffers::new(buffer_memory, disk.clone()),
            disk,
            health: StoreHealth::default(),
            unreadable: Unreadable::new(),
            permits: HostPermits::new(config.upstreams.keys(), config.uncached_streams),
            fill_places: HostPermits::new(config.upstreams.keys(), MAX_FILLS),
            fills: Flights::default(),
            blob_heads: Questions::default(),
            manifests: ManifestMemory::new(),
            manifest_reads: Questions::default(),
            listings: listing::ListingQuestions::default(),
            negatives: Negatives::new(config.negative_ttl),
            background: Background::new(config.background_fills),
            extraction,
            listed_images: Cache::new(MAX_LISTED_IMAGES),
            listing_images: Questions::default(),
            stacks: StackImages::new(),
            noted_uses: NotedUses::new(),
            coming: Coming::default(),
            images: Flights::default(),
            guards: Guards::new(config),
            store_failed_at: Mutex::default(),
            publishing: TaskTracker::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns the image on its way into the store, if it is.
    pub fn image(&self, repository: &Repository, manifest: &Digest) -> Option<Arc<Image>> {
        self.inner.images.get(&(repository.clone(), manifest.clone()))
    }

    /// Ends the extractions under way, and waits until what they staged is removed.
    pub async fn stop_extracting(&self) {
        if let Some(extraction) = &self.inner.extraction {
            extraction.stop().await;
        }
    }

    /// Waits until every blob that is whole is published.
    pub async fn published(&self) {
        self.inner.publishing.close();
        self.inner.publishing.wait().await;
    }

    /// Tells whether the store answers.
    ///
    /// # Errors
    /// Any errno, and that it hangs.
    pub async fn check_store(&self) -> Result<(), FsError> {
        let store = self.inner.store.clone();
        let root = store.root().to_owned();
        self.inner.disk.run("stat", &root, move || store.check()).await
    }

    /// Writes down what a node has in use.
    ///
    /// # Errors
    /// Any errno, and that the store hangs.
    pub async fn state_node(&self, id: &NodeId, statement: NodeStatement) -> Result<NodeAnswer, FsError> {
        let id = id.clone();
        self.inner
            .on_store(move |store| store.state_node(&id, &statement))
            .await
    }
}

impl Inner {
    fn upstream(&self, host: &RegistryHost) -> Result<Upstream, MirrorError> {
        if self.offline {
            let failed_at = *self
                .store_failed_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let fails = failed_at.is_some_and(|failed_at| failed_at.elapsed() < JUST_NOW);
            return Err(if fails {
                MirrorError::StoreFails
            } else {
                MirrorError::Offline
            });
        }
        Ok(self.upstreams.get(host)?)
    }

    /// Returns what the fill of a blob is shared by.
    fn fill_key(&self, host: &RegistryHost, digest: &Digest) -> FillKey {
        FillKey {
            digest: digest.clone(),
            stranger: (!self.upstreams.is_configured(host)).then(|| host.clone()),
        }
    }

    /// Waits for an answer of upstream, but not for longer than clients do.
    async fn in_time<A>(
        &self,
        answer: impl Future<Output = Result<Result<A, MirrorError>, Abandoned>>,
    ) -> Result<A, MirrorError> {
        timeout(UPSTREAM_WAIT, answer)
            .await
            .map_err(|_| MirrorError::Slow)??
    }

    /// Runs a call of the store within its deadline, and notes its failure.
    async fn on_store<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Store) -> Result<T, FsError> + Send + 'static,
    ) -> Result<T, FsError> {
        let store = self.store.clone();
        let root = store.root().to_owned();
        let answer = self.disk.run("look into", &root, move || call(&store)).await;
        answer.inspect_err(|error| self.note_store_error(error))
    }

    /// Counts and logs a failed call of the store.
    fn note_store_error(&self, error: &FsError) {
        let kind = StoreErrorKind::of(error.io_error());
        self.metrics.store_error(error.operation(), kind);
        *self
            .store_failed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        tracing::warn!(error = error.full_text(), "the store fails");
    }
}
