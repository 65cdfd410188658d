//! What this node has in use on the store, and that a mirror has written it down.
//!
//! Nodes mount the store read-only, so a mirror writes what they use; whoever removes layers goes by it. A statement
//! is whole: all layers and all blobs. One is under way at a time, and every change meanwhile goes into the next
//! (`sender`). An addition is sent at once and can be waited for ([`References::told`]); a removal waits a little,
//! since it harms nobody. Everything is stated again now and then, so that a store that has lost it gets it back.
//!
//! Leaves to others: what is in use ([`crate::snapshotter`]), whom to tell ([`super::mirrors`]).

mod identity;
mod sender;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::mirrors::Mirrors;
use crate::api::NodeId;
use crate::oci::{ChainId, Digest};

pub use identity::OpenReferencesError;
use identity::node_id;
use sender::Sender;

/// How soon after a failed statement nobody waits for the next one: with containerd's locks held.
const NO_WAIT_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// How often everything is stated again: a store may have lost it.
const RESTATE_INTERVAL: Duration = Duration::from_secs(600);

/// What this node has in use. Cheap to clone; the last one dropped ends the sending.
#[derive(Clone)]
pub struct References {
    id: NodeId,
    shared: Arc<Shared>,
    _sender: Arc<AbortOnDropHandle<()>>,
}

struct Shared {
    in_use: Mutex<InUse>,
    progress: watch::Sender<Progress>,
    /// An addition is to be sent.
    added: Notify,
    /// A removal is to be sent.
    removed: Notify,
    /// Somebody waits: a pause between attempts ends.
    asked: Notify,
}

/// The sets, and a count of their changes.
#[derive(Clone, Default)]
struct InUse {
    layers: BTreeSet<ChainId>,
    blobs: BTreeSet<Digest>,
    /// Changes so far; nothing is stated before the first, which would give everything free.
    changes: u64,
    /// The number of the last change that must be known before this node may use what it uses.
    last_addition: u64,
}

/// How far the sender is.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// The number of the last change that a mirror has written down.
    written: u64,
    /// Attempts that failed, in all.
    failures: u64,
    /// When the last attempt failed, if it did.
    failed_at: Option<Instant>,
}

impl References {
    /// Takes up this node's id, and begins to state what is in use once that is set.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Fails if the node's id below `root` cannot be read or made.
    pub fn open(root: &Path, mirrors: Mirrors) -> Result<Self, OpenReferencesError> {
        Self::start(root, mirrors, RESTATE_INTERVAL)
    }

    fn start(root: &Path, mirrors: Mirrors, restate_interval: Duration) -> Result<Self, OpenReferencesError> {
        let id = node_id(root)?;
        let shared = Arc::new(Shared {
            in_use: Mutex::default(),
            progress: watch::Sender::default(),
            added: Notify::new(),
            removed: Notify::new(),
            asked: Notify::new(),
        });
        let sender = Sender::new(id.clone(), mirrors, Arc::clone(&shared));
        let sending = tokio::spawn(sender.run(restate_interval));
        Ok(Self {
            id,
            shared,
            _sender: Arc::new(AbortOnDropHandle::new(sending)),
        })
    }

    /// Returns this node's id.
    pub fn node_id(&self) -> &NodeId {
        &self.id
    }

    /// Sets all that is in use, as a start knows it.
    pub fn set(&self, layers: BTreeSet<ChainId>, blobs: BTreeSet<Digest>) {
        let mut in_use = self.shared.in_use();
        in_use.layers = layers;
        in_use.blobs = blobs;
        in_use.note_addition();
        self.shared.added.notify_one();
    }

    /// Adds a stack whose topmost layer is in use.
    pub fn add_layer(&self, chain_id: &ChainId) {
        self.add(|in_use| in_use.layers.insert(chain_id.clone()));
    }

    /// Adds a blob that is in use.
    pub fn add_blob(&self, digest: &Digest) {
        self.add(|in_use| in_use.blobs.insert(digest.clone()));
    }

    /// Takes out a stack whose topmost layer is not in use any more.
    pub fn remove_layer(&self, chain_id: &ChainId) {
        self.remove(|in_use| in_use.layers.remove(chain_id));
    }

    /// Takes out a blob that is not in use any more.
    pub fn remove_blob(&self, digest: &Digest) {
        self.remove(|in_use| in_use.blobs.remove(digest));
    }

    /// Sets which blobs are in use.
    pub fn set_blobs(&self, blobs: BTreeSet<Digest>) {
        let mut in_use = self.shared.in_use();
        if in_use.blobs == blobs {
            return;
        }
        let is_removal = blobs.is_subset(&in_use.blobs);
        in_use.blobs = blobs;
        if is_removal {
            in_use.changes += 1;
            self.shared.removed.notify_one();
        } else {
            in_use.note_addition();
            self.shared.added.notify_one();
        }
    }

    /// Waits until a mirror has written down all that was in use when this was called.
    ///
    /// False if that takes longer than `patience`, or no mirror could be told now or a moment ago. It is told
    /// later then, as soon as one can be.
    pub async fn told(&self, patience: Duration) -> bool {
        let needed = self.shared.in_use().last_addition;
        let mut progress = self.shared.progress.subscribe();
        let now = *progress.borrow_and_update();
        if now.written >= needed {
            return true;
        }
        if now
            .failed_at
            .is_some_and(|at| at.elapsed() < NO_WAIT_AFTER_FAILURE)
        {
            return false;
        }
        // If the sender does not pause, its attempt under way decides.
        self.shared.asked.notify_waiters();
        let is_decided = |then: &Progress| then.written >= needed || then.failures > now.failures;
        match timeout(patience, progress.wait_for(is_decided)).await {
            Ok(Ok(then)) => then.written >= needed,
            Ok(Err(_)) | Err(_) => false,
        }
    }

    fn add(&self, insert: impl FnOnce(&mut InUse) -> bool) {
        let mut in_use = self.shared.in_use();
        if insert(&mut in_use) {
            in_use.note_addition();
            self.shared.added.notify_one();
        }
    }

    fn remove(&self, take: impl FnOnce(&mut InUse) -> bool) {
        let mut in_use = self.shared.in_use();
        if take(&mut in_use) {
            in_use.changes += 1;
            self.shared.removed.notify_one();
        }
    }
}

impl InUse {
    fn note_addition(&mut self) {
        self.changes += 1;
        self.last_addition = self.changes;
    }
}

impl Shared {
    /// No code that holds the lock can panic half-way, so a poisoned state is whole.
    fn in_use(&self) -> MutexGuard<'_, InUse> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
