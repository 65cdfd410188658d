//! Extracts one layer, once for all stacks and images that want it at the same time.
//!
//! A layer is found by its DiffID, whatever stack it lies on: extraction knows nothing of stacks, so two of
//! them can never wait for each other. Who wants it follows the extraction under way, or finds one that
//! ended and is not published yet (its stack's lower layers may take their time).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bytes::Counted;
use super::claim::Turn;
use super::extracted::Extracted;
use super::layer::{ForWhom, LayerTask};
use super::origin::Origin;
use super::watch::{PATIENCE, watched};
use super::{LayerError, LayerStage};
use crate::flight::Questions;
use crate::oci::manifest::Descriptor;
use crate::oci::{ChainId, DiffId, Digest, RegistryHost};
use crate::store::{ChainRecord, StagedLayer};
use crate::telemetry::labels::LayerOutcome;
use crate::unpack::{self, Options, UnpackError, Unpacked};

/// How many failures, and extracted layers that wait for what is below, are remembered.
const MAX_REMEMBERED: usize = 4096;

/// What an extraction is shared by, as a fill is ([`crate::mirror::fill::FillKey`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LayerKey {
    diff_id: DiffId,
    /// The host, if it is not configured.
    stranger: Option<RegistryHost>,
    /// The stack, if what others have does not suit it.
    alone: Option<ChainId>,
}

/// A layer that is there.
#[derive(Clone)]
pub(super) enum Found {
    /// To be published.
    Extracted(Arc<Extracted>),
    /// Published, on another stack.
    Shared(ChainRecord),
    /// Published on the stack of whoever has looked first.
    Published,
}

type Answer = Result<Found, LayerError>;

/// What failed, and is not tried again for a while.
///
/// Anybody can publish an image that names the DiffID of another one's layer beside a blob that is something
/// else: what comes of a blob says nothing of others that are said to have its DiffID.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Failed {
    /// A blob that was to have this DiffID.
    Layer(DiffId, Digest),
    /// A layer that was extracted and could not be put on this stack.
    Stack(ChainId),
}

/// What extracting works with.
pub(in crate::mirror) struct Extraction {
    pub(in crate::mirror) options: Options,
    turns: Semaphore,
    /// Of hosts that are not configured: their bytes may take for ever, and others are not to wait for them.
    strangers_turns: Semaphore,
    under_way: Questions<LayerKey, Answer>,
    /// What waits to be published.
    waiting: Cache<LayerKey, Weak<Extracted>>,
    failures: Cache<Failed, (Instant, LayerError)>,
    /// The unpackings under way.
    running: Mutex<Vec<Weak<unpack::Progress>>>,
    pub(super) stop: CancellationToken,
    threads: TaskTracker,
}

impl LayerKey {
    /// Tells whether whoever has the layer, on whatever stack, may share it.
    pub(super) fn is_for_all(&self) -> bool {
        self.stranger.is_none() && self.alone.is_none()
    }
}

impl Extraction {
    pub(in crate::mirror) fn new(options: Options, at_a_time: usize) -> Self {
        let turns = || Semaphore::new(at_a_time.min(Semaphore::MAX_PERMITS));
        Self {
            options,
            turns: turns(),
            strangers_turns: turns(),
            under_way: Questions::default(),
            waiting: Cache::new(MAX_REMEMBERED),
            failures: Cache::new(MAX_REMEMBERED),
            running: Mutex::default(),
            stop: CancellationToken::new(),
            threads: TaskTracker::new(),
        }
    }

    /// Waits for a turn of those that bound how much is done at a time.
    pub(in crate::mirror) async fn turn(&self) -> Result<SemaphorePermit<'_>, LayerError> {
        self.turns.acquire().await.map_err(|_| LayerError::Stopped)
    }

    /// Returns why it failed a short while ago, if it did.
    pub(super) fn failure(&self, failed: &Failed) -> Option<LayerError> {
        let (until, error) = self.failures.get(failed)?;
        (Instant::now() < until).then_some(error)
    }

    /// Ends what is under way, and waits until its staging is removed.
    pub(in crate::mirror) async fn stop(&self) {
        self.stop.cancel();
        for progress in self.lock_running().iter().filter_map(Weak::upgrade) {
            progress.cancelled.store(true, Ordering::Relaxed);
        }
        self.threads.close();
        self.threads.wait().await;
    }

    pub(super) fn note_failure(&self, failed: Failed, error: &LayerError) {
        if let Some(time) = error.remembered_for() {
            self.failures
                .insert(failed, (Instant::now() + time, error.clone()));
        }
    }

    fn add_running(&self, progress: &Arc<unpack::Progress>) {
        let mut running = self.lock_running();
        running.retain(|progress| progress.strong_count() > 0);
        running.push(Arc::downgrade(progress));
    }

    fn lock_running(&self) -> MutexGuard<'_, Vec<Weak<unpack::Progress>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LayerTask {
    /// Returns the layer: published already, or extracted by this task or by whoever is at it; in that
    /// case `false` beside it.
    pub(super) async fn find(&self, for_whom: ForWhom) -> (Answer, bool) {
        let host = &self.image.repository.host;
        let key = LayerKey {
            diff_id: self.link().diff_id.clone(),
            stranger: self.mirror.fill_key(host, self.digest()).stranger,
            alone: (for_whom == ForWhom::ThisStack).then(|| self.link().chain_id.clone()),
        };
        let extraction = &self.extraction;
        if let Some(extracted) = extraction.waiting.get(&key).and_then(|waiting| waiting.upgrade()) {
            return (Ok(Found::Extracted(extracted)), false);
        }
        let leads = AtomicBool::new(false);
        let find = || {
            leads.store(true, Ordering::Relaxed);
            let (task, key) = (self.clone(), key.clone());
            async move { task.find_once(key).await }
        };
        let answer = extraction.under_way.ask(key.clone(), find).await;
        let answer = answer.unwrap_or_else(|abandoned| Err(abandoned.into()));
        (answer, leads.into_inner())
    }

    async fn find_once(&self, key: LayerKey) -> Answer {
        // Whoever was at it may have ended before this question began.
        if key.alone.is_none()
            && let Some(shared) = self.shareable().await?
        {
            return Ok(Found::Shared(shared));
        }
        let claim = match self.take_turn(&key).await? {
            Turn::Ours(claim) => claim,
            Turn::Published => {
                return Ok(self.shareable().await?.map_or(Found::Published, Found::Shared));
            }
        };
        let extracted = self.extract().await;
        match extracted {
            Ok(extracted) => {
                if let Some(claim) = claim {
                    extracted.keep(claim);
                }
                // Before the question ends, so that who asks next finds it.
                self.extraction.waiting.insert(key, Arc::downgrade(&extracted));
                Ok(Found::Extracted(extracted))
            }
            Err(error) => {
                self.tell_failure(claim, &error).await;
                self.note_failure(&error);
                Err(error)
            }
        }
    }

    /// Remembers and tells why the layer is not extracted; what ended the fill was told by that.
    fn note_failure(&self, error: &LayerError) {
        let (image, link) = (&self.image, self.link());
        if matches!(error, LayerError::Fetch(_) | LayerError::Stopped) {
            return;
        }
        self.count_failure(self.failed_layer(), error);
        let cause: &dyn std::error::Error = error;
        tracing::warn!(
            layer = %self.digest(), image = %image.repository, manifest = %image.digest,
            diff_id = %link.diff_id, error = cause,
            again_after_s = error.remembered_for().map(|time| time.as_secs()), "layer not extracted"
        );
    }

    /// Remembers a failure, and counts it, as the store's too if it is.
    pub(super) fn count_failure(&self, failed: Failed, error: &LayerError) {
        self.extraction.note_failure(failed, error);
        self.mirror.metrics.layer(LayerOutcome::Failed);
        if let Some(error) = error.store_error() {
            self.mirror.note_store_error(error);
        }
    }

    async fn extract(&self) -> Result<Arc<Extracted>, LayerError> {
        let extraction = &self.extraction;
        let is_configured = self.mirror.upstreams.is_configured(&self.image.repository.host);
        let turns = if is_configured {
            &extraction.turns
        } else {
            &extraction.strangers_turns
        };
        let _turn = turns.acquire().await.map_err(|_| LayerError::Stopped)?;
        let origin = self.origin().await?;
        let (store, root) = (self.mirror.store.clone(), self.mirror.store.root().to_owned());
        let staging = self.mirror.disk.run("stage", &root, move || store.stage_layer());
        let staged = staging.await?;
        let _running = self.mirror.metrics.layer_running();
        let started = Instant::now();
        let progress = self.layer().unpacking();
        extraction.add_running(&progress);
        if extraction.stop.is_cancelled() {
            return Err(LayerError::Stopped);
        }
        if !origin.is_fetched {
            self.layer().set_stage(LayerStage::Extracting);
        }
        let (options, diff_id, of_thread) = (
            extraction.options.clone(),
            self.link().diff_id.clone(),
            Arc::clone(&progress),
        );
        let unpacking = extraction
            .threads
            .spawn_blocking(move || unpack_into(staged, origin, &diff_id, &options, &of_thread));
        let unpacking = async { unpacking.await? };
        let tell = |entries, bytes| self.tell_progress(entries, bytes);
        let (unpacked, staged, size_bytes) = watched(unpacking, &progress, &root, &PATIENCE, tell).await?;
        self.tell_end(&unpacked, started.elapsed());
        let blob = Descriptor {
            size_bytes,
            ..self.layer().blob.clone()
        };
        Ok(Arc::new(Extracted::new(blob, unpacked, staged)))
    }

    fn tell_progress(&self, entries: u64, bytes: u64) {
        let (layer, image) = (self.digest(), &self.image.repository);
        tracing::info!(%layer, %image, entries, bytes, "extracting");
    }

    fn tell_end(&self, unpacked: &Unpacked, took: Duration) {
        self.mirror.metrics.layer_seconds(took);
        let (layer, image) = (self.digest(), &self.image.repository);
        let (entries, bytes) = (unpacked.entries, unpacked.size_bytes);
        tracing::info!(%layer, %image, entries, bytes, seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0, "extracted");
        if unpacked.compromises != unpack::Compromises::default() {
            let compromises = serde_json::to_string(&unpacked.compromises).unwrap_or_default();
            tracing::warn!(
                %layer, %image, compromises,
                "the store's file system could not keep all of the layer; `wharf doctor STORE` says what to change"
            );
        }
    }
}

/// Unpacks into a staged directory, and checks that it is the layer that was wanted; returns the blob's size
/// too. Blocks.
fn unpack_into(
    staged: StagedLayer,
    origin: Origin,
    expected: &DiffId,
    options: &Options,
    progress: &unpack::Progress,
) -> Result<(Unpacked, StagedLayer, u64), LayerError> {
    let mut bytes = Counted::new(origin.bytes);
    // The bytes are read to their end, where their digest has been checked.
    let unpacked = unpack::unpack(&mut bytes, &staged.diff(), &staged.tar_split(), options, progress)
        .map_err(LayerError::from)
        .inspect_err(|error| {
            if error.is_lasting() {
                // The layer is at fault only if these are its bytes, which shows at their end.
                let _ = std::io::copy(&mut bytes, &mut std::io::sink());
            }
        })
        .map_err(|error| origin.failure.get().unwrap_or(error))
        .and_then(|unpacked| {
            if unpacked.diff_id == *expected {
                return Ok(unpacked);
            }
            Err(LayerError::WrongDiffId {
                expected: expected.clone(),
                actual: unpacked.diff_id,
            })
        });
    match unpacked {
        Ok(unpacked) => Ok((unpacked, staged, bytes.bytes())),
        Err(LayerError::Unpack(UnpackError::Cancelled)) => {
            staged.discard();
            Err(LayerError::Stopped)
        }
        Err(error) => {
            staged.discard();
            Err(error)
        }
    }
}
