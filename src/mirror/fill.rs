//! A fill: one fetch of one blob from upstream into the store, whoever asks and however many.
//!
//! The fill is a task of the mirror; no client can end or slow it. What it
//! receives goes, in this order, through the hash, into a [`Window`] in memory,
//! and from there into a staged file, by blocking calls that run beside the
//! receiving. Readers ([`super::tail`]) take bytes from the window, or from
//! the staged file if they are behind. Only a [`Verified`](crate::oci::Verified) blob is published.
//!
//! When the store fails (full, sick, or hanging beyond its deadline) the fill
//! goes on past it, if it gets one of upstream's `uncached_streams` permits:
//! the window is then all that readers have, it moves on when they have read
//! it, and who is much slower than the others is cut. With nobody reading, such
//! a fill ends. While the store is [suspect](StoreHealth), the permit is taken
//! before upstream is asked.

mod claim;
mod patience;
mod task;
mod writer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, watch};

use super::MirrorErrorClass;
use super::window::Window;
use crate::fs::FsError;
use crate::index::Member;
use crate::oci::{Digest, DigestMismatch, RegistryHost, Repository};
use crate::upstream::UpstreamError;

pub(super) use task::FillTask;

/// How long after a failed write the store is taken for sick; it is tried all the same.
const SUSPECT_FOR: Duration = Duration::from_secs(5);

/// How many fills of each upstream may be under way, most of them waiting for a connection. Clients
/// choose what is asked for, and each fill has an open file in staging.
pub(super) const MAX_FILLS: usize = 512;

/// What a client is told to wait when no permit is free; a stream takes seconds.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(5);

/// What a fill shows to its readers.
pub(super) struct Fill {
    /// From where the blob is fetched.
    pub(super) repository: Repository,
    pub(super) digest: Digest,
    progress: watch::Sender<Progress>,
    window: Mutex<Window>,
    reader_moved: Notify,
    reader_left: Notify,
}

/// What a fill is shared by: who asks for the digest, of whichever configured host.
///
/// Anyone can set up a registry that sends a blob byte by byte, or wrong. So what comes from a host
/// that is not configured is waited for by those alone who asked for it there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FillKey {
    pub(super) digest: Digest,
    /// The host, if it is not configured.
    pub(super) stranger: Option<RegistryHost>,
}

/// How far a fill is.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) stage: Stage,
    /// How many bytes have arrived.
    pub(super) received: u64,
    /// The blob's size, once it is known.
    pub(super) size_bytes: Option<u64>,
}

/// What a fill's repository may have of a blob that somebody else has brought in the meantime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is known to have the blob.
    Member,
    /// Upstream must say first that it has the blob.
    Unknown,
    /// Upstream must send the blob: its word is not taken.
    Untrusted,
}

impl Standing {
    /// Sorts what is known of the repository, and whether what others sent may be given as its host's.
    pub(super) fn of(member: Option<Member>, may_share: bool) -> Self {
        match member {
            _ if !may_share => Self::Untrusted,
            Some(_) => Self::Member,
            None => Self::Unknown,
        }
    }
}

/// Where a fill stands.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// Upstream has not answered.
    Asking,
    /// Bytes arrive.
    Receiving,
    /// All bytes are there and have the right digest.
    Verified,
    /// It has ended without the blob.
    Failed(FillError),
}

/// Why a fill ended without the blob. All its readers get the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FillError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("upstream sent something else for a blob")]
    Mismatch(#[from] DigestMismatch),
    #[error("upstream has {actual} bytes for {digest}, whose manifest says {expected}")]
    Size {
        digest: Digest,
        expected: u64,
        actual: u64,
    },
    #[error("the store takes nothing, and as many blobs as `uncached_streams` allows are streamed past it")]
    Busy { retry_after: Duration },
    #[error("{MAX_FILLS} other blobs are on their way from there")]
    Crowded { retry_after: Duration },
    #[error("the store takes nothing, and nobody reads the blob")]
    Unwanted(#[source] FsError),
    #[error("another mirror of the store was told: {text}")]
    Told {
        /// What it means to a client.
        class: MirrorErrorClass,
        text: String,
    },
    #[error("the fill was abandoned")]
    Abandoned,
}

impl Progress {
    /// Returns how many bytes readers may have: all but the last until they have proved right.
    pub(super) fn visible(&self) -> u64 {
        match self.stage {
            Stage::Verified => self.received,
            Stage::Asking | Stage::Receiving | Stage::Failed(_) => {
                let all_but_one = self.size_bytes.unwrap_or(self.received).saturating_sub(1);
                self.received.min(all_but_one)
            }
        }
    }
}

impl Fill {
    /// Makes a fill that nobody works on yet.
    pub(super) fn new(repository: Repository, digest: Digest) -> Self {
        let progress = Progress {
            stage: Stage::Asking,
            received: 0,
            size_bytes: None,
        };
        Self {
            repository,
            digest,
            progress: watch::Sender::new(progress),
            window: Mutex::default(),
            reader_moved: Notify::new(),
            reader_left: Notify::new(),
        }
    }

    /// Returns what tells how far it is.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Locks what is in memory; never held across an await.
    pub(super) fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the task that a reader has moved.
    pub(super) fn note_reader_moved(&self) {
        self.reader_moved.notify_one();
    }

    /// Tells the task that a reader has left.
    pub(super) fn note_reader_left(&self) {
        self.reader_moved.notify_one();
        self.reader_left.notify_one();
    }

    /// Waits until nobody wants what arrives: neither a reader nor the store.
    async fn deserted(&self) {
        loop {
            let is_wanted = {
                let window = self.window();
                window.store_takes() || window.has_readers()
            };
            if !is_wanted {
                return;
            }
            self.reader_left.notified().await;
        }
    }

    /// Returns the blob's size, if it is known already.
    pub(super) fn size_bytes(&self) -> Option<u64> {
        self.progress.borrow().size_bytes
    }

    /// Tells whether bytes arrive that the store does not take.
    pub(super) fn is_uncached(&self) -> bool {
        let is_receiving = matches!(self.progress.borrow().stage, Stage::Receiving);
        is_receiving && !self.window().store_takes()
    }

    fn advance(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }
}

/// Whether the store took what it was last given. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct StoreHealth(Arc<Mutex<Option<Instant>>>);

impl StoreHealth {
    fn note_failure(&self) {
        *self.lock() = Some(Instant::now());
    }

    fn note_success(&self) {
        *self.lock() = None;
    }

    /// Tells whether a write failed lately.
    fn is_suspect(&self) -> bool {
        self.lock().is_some_and(|failed| failed.elapsed() < SUSPECT_FOR)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Permits of each upstream: to fill, or to stream past the store.
pub(super) struct HostPermits {
    configured: HashMap<RegistryHost, Arc<Semaphore>>,
    /// Hosts that are not configured share these: clients choose them, without number.
    others: Arc<Semaphore>,
}

impl HostPermits {
    pub(super) fn new<'a>(hosts: impl Iterator<Item = &'a RegistryHost>, each: usize) -> Self {
        Self {
            configured: hosts
                .map(|host| (host.clone(), Arc::new(Semaphore::new(each))))
                .collect(),
            others: Arc::new(Semaphore::new(each)),
        }
    }

    pub(super) fn of(&self, host: &RegistryHost) -> Arc<Semaphore> {
        Arc::clone(self.configured.get(host).unwrap_or(&self.others))
    }
}
