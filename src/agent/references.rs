//! Tells mirrors what this node uses of the store, so that nobody removes it.
//!
//! A statement is the whole of what is in use, under a number that rises: the last one counts, whichever mirror it
//! went to and whenever it arrives. One task sends them, one at a time; what changes meanwhile goes into the next.
//! What is new is stated at once, what is not used any more goes along a little later.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::mirrors::Mirrors;
use crate::api::{NodeId, NodeStatement, ParseNodeIdError};
use crate::fs::{self, FsError};
use crate::oci::{ChainId, Digest};
use crate::telemetry::full_text;

/// How long what is not used any more waits for company.
const REMOVAL_PAUSE: Duration = Duration::from_secs(2);

/// How often everything is stated again: somebody may have removed what mirrors wrote.
const RESTATE_EVERY: Duration = Duration::from_secs(600);

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why a node's id cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenReferencesError {
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error("{path} does not hold this node's id; remove it, and the node gets a new one")]
    Id {
        path: String,
        #[source]
        source: ParseNodeIdError,
    },
}

/// What this node uses of the store. Cheap to clone.
#[derive(Clone)]
pub struct References {
    inner: Arc<Inner>,
}

struct Inner {
    id: NodeId,
    host_name: String,
    mirrors: Mirrors,
    in_use: Mutex<InUse>,
    changes: watch::Sender<Changes>,
    told: watch::Sender<Told>,
}

#[derive(Default)]
struct InUse {
    layers: BTreeSet<ChainId>,
    blobs: BTreeSet<Digest>,
}

/// How often something changed.
#[derive(Clone, Copy, Default)]
struct Changes {
    additions: u64,
    removals: u64,
}

/// What a mirror has written.
#[derive(Clone, Copy, Default)]
struct Told {
    /// The changes that it covers.
    changes: Changes,
    /// The last attempt failed.
    fails: bool,
}

impl References {
    /// Reads this node's id, or makes one, and begins to state what is in use.
    ///
    /// # Errors
    /// Fails if the id cannot be read or written.
    pub fn open(root: &Path, mirrors: Mirrors) -> Result<Self, OpenReferencesError> {
        let inner = Arc::new(Inner {
            id: node_id(&root.join("node-id"))?,
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            mirrors,
            in_use: Mutex::default(),
            changes: watch::Sender::default(),
            told: watch::Sender::default(),
        });
        tokio::spawn(Arc::clone(&inner).state_all());
        Ok(Self { inner })
    }

    /// Returns this node's id.
    pub fn node_id(&self) -> &NodeId {
        &self.inner.id
    }

    /// Replaces all that is in use.
    pub fn set(&self, layers: BTreeSet<ChainId>, blobs: BTreeSet<Digest>) {
        *self.inner.in_use() = InUse { layers, blobs };
        self.inner.note(true);
    }

    /// Adds a layer.
    pub fn add_layer(&self, chain_id: &ChainId) {
        if self.inner.in_use().layers.insert(chain_id.clone()) {
            self.inner.note(true);
        }
    }

    /// Adds a blob.
    pub fn add_blob(&self, digest: &Digest) {
        if self.inner.in_use().blobs.insert(digest.clone()) {
            self.inner.note(true);
        }
    }

    /// Takes a layer away.
    pub fn remove_layer(&self, chain_id: &ChainId) {
        if self.inner.in_use().layers.remove(chain_id) {
            self.inner.note(false);
        }
    }

    /// Takes a blob away.
    pub fn remove_blob(&self, digest: &Digest) {
        if self.inner.in_use().blobs.remove(digest) {
            self.inner.note(false);
        }
    }

    /// Waits until a mirror has written all that was added so far; false if that does not happen in time, and at
    /// once while mirrors cannot be reached.
    pub async fn told(&self, patience: Duration) -> bool {
        let added = self.inner.changes.borrow().additions;
        let is_told = |told: &Told| told.changes.additions >= added;
        let mut told = self.inner.told.subscribe();
        let ended = timeout(patience, told.wait_for(|told| is_told(told) || told.fails)).await;
        matches!(ended, Ok(Ok(told)) if is_told(&told))
    }
}

impl Inner {
    fn in_use(&self) -> MutexGuard<'_, InUse> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, is_addition: bool) {
        self.changes.send_modify(|changes| {
            if is_addition {
                changes.additions += 1;
            } else {
                changes.removals += 1;
            }
        });
    }

    /// States what is in use, for ever.
    async fn state_all(self: Arc<Self>) {
        let mut changes = self.changes.subscribe();
        let (mut sequence, mut pause) = (0, FIRST_PAUSE);
        loop {
            let told = *self.told.borrow();
            if !told.fails {
                let is_new = |now: &Changes| now.additions > told.changes.additions;
                let is_due = |now: &Changes| is_new(now) || now.removals > told.changes.removals;
                let _ = timeout(RESTATE_EVERY, changes.wait_for(is_due)).await;
                // Without an addition there is time.
                let _ = timeout(REMOVAL_PAUSE, changes.wait_for(is_new)).await;
            }
            let covered = *changes.borrow_and_update();
            sequence = next_sequence(sequence);
            match self.mirrors.state_node(&self.id, &self.statement(sequence)).await {
                Ok(answer) if answer.sequence > sequence => {
                    // This machine's clock was ahead once.
                    sequence = answer.sequence;
                }
                Ok(_) => {
                    pause = FIRST_PAUSE;
                    self.told.send_replace(Told {
                        changes: covered,
                        fails: false,
                    });
                }
                Err(error) => {
                    tracing::debug!(error = full_text(&error), "what this node uses is not stated");
                    self.told.send_modify(|told| told.fails = true);
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn statement(&self, sequence: u64) -> NodeStatement {
        let in_use = self.in_use();
        NodeStatement {
            sequence,
            host_name: self.host_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            layers: in_use.layers.clone(),
            blobs: in_use.blobs.clone(),
        }
    }
}

/// Returns a number above the last one, and above those of this node's earlier processes if its clock is right.
fn next_sequence(last: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or_default().max(last + 1)
}

fn node_id(path: &Path) -> Result<NodeId, OpenReferencesError> {
    let Some(text) = fs::read(path)? else {
        let id = NodeId::random();
        fs::create_new(path, format!("{id}\n").as_bytes())?;
        if let Some(dir) = path.parent() {
            fs::sync_dir(dir)?;
        }
        return Ok(id);
    };
    let text = String::from_utf8_lossy(&text);
    text.trim().parse().map_err(|source| OpenReferencesError::Id {
        path: path.display().to_string(),
        source,
    })
}
