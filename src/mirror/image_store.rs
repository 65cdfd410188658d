//! Keeps the store's layers.json, and tells when it lists a layer.
//!
//! ```text
//! chain record ──→ complete ──→ its entry ──→ layers.json ──→ all that wait for it go on
//! ```
//! layers.json follows from the names of the entries alone. One task of each mirror keeps it: it lists the names, reads
//! those that it does not know, writes the list by a rename, and lists once more until nothing is missing. A mirror that
//! was stopped may rename an old list into place late, so each one looks now and then whose list it is, and writes it
//! again if an entry lacks; the last to look has listed all that was there before. Nothing of this is needed for a right
//! answer: a layer that is not listed is fetched from the mirror as a blob.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::Inner;
use crate::fs::{FileIdentity, FsError, Kind, Mount, Place};
use crate::store::{EntryName, EntryTexts, Store};

/// How often it is looked whether the list is still the one that this mirror knows.
const INTERVAL: Duration = Duration::from_secs(30);

/// How soon it is tried again after the store has failed.
const RETRY: Duration = Duration::from_secs(5);

/// How many entries are read in one call of the store, so that none takes long.
const READ_AT_ONCE: usize = 64;

/// How often the list is written anew in a row, because entries came meanwhile, before others have their turn.
const MAX_REWRITES: usize = 8;

/// How late another node sees that a file was replaced, where its attributes are kept for a second (facts/dfs.md 2c).
const NETWORK_LAG: Duration = Duration::from_millis(1100);

/// The list of layers as this mirror knows it.
pub(super) struct ImageStore {
    wanted: Notify,
    listed: Mutex<HashSet<EntryName>>,
    /// Counts the lists that this process has seen to be whole.
    sequence: watch::Sender<u64>,
    /// How late nodes see a new list.
    lag: Duration,
    /// When the last one was written.
    written_at: Mutex<Option<Instant>>,
}

/// What the task that keeps the list remembers.
#[derive(Default)]
struct Known {
    entries: EntryTexts,
    /// The file that was seen to list just these.
    seen: Option<FileIdentity>,
    is_prepared: bool,
}

impl ImageStore {
    /// Makes the list of a store that nothing is known of yet.
    pub(super) fn new(store: &Store) -> Self {
        let lag = match Mount::of(store.root()).map(|mount| mount.kind) {
            Ok(kind) => lag_of(&kind),
            Err(_) => NETWORK_LAG,
        };
        Self {
            wanted: Notify::new(),
            listed: Mutex::default(),
            sequence: watch::Sender::new(0),
            lag,
            written_at: Mutex::default(),
        }
    }

    /// Has the list brought up to date soon.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Tells whether all these are listed, as far as this process knows.
    pub(super) fn lists(&self, names: &[EntryName]) -> bool {
        let listed = self.lock();
        names.iter().all(|name| listed.contains(name))
    }

    /// Waits until all these are listed, and another node can see it.
    pub(super) async fn listed(&self, names: &[EntryName]) {
        let mut sequence = self.sequence.subscribe();
        self.want();
        // The sender is this one's own.
        let _ = sequence.wait_for(|_| self.lists(names)).await;
        let written_at = *self.written_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(written_at) = written_at {
            tokio::time::sleep_until(written_at + self.lag).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<EntryName>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns how late another node sees a replaced file on such a file system.
fn lag_of(kind: &Kind) -> Duration {
    match kind.place() {
        Place::Local => Duration::ZERO,
        Place::Network | Place::Unknown => NETWORK_LAG,
    }
}

impl Inner {
    /// Keeps layers.json as long as the process lives.
    pub(super) async fn keep_image_store(self: Arc<Self>) {
        let mut known = Known::default();
        loop {
            let pause = match self.refresh(&mut known).await {
                Ok(()) => INTERVAL,
                // It is in the log.
                Err(_) => RETRY,
            };
            let _ = timeout(pause, self.image_store.wanted.notified()).await;
        }
    }

    /// Brings layers.json up to date once; what fails is in the log.
    pub(super) async fn refresh_once(&self) {
        let _ = self.refresh(&mut Known::default()).await;
    }

    /// Brings layers.json up to date.
    async fn refresh(&self, known: &mut Known) -> Result<(), FsError> {
        if !known.is_prepared {
            self.on_store(Store::prepare_image_store).await?;
            known.is_prepared = true;
        }
        for _ in 0..MAX_REWRITES {
            let changed = self.read_entries(known).await?;
            if !changed && self.is_current(known).await? {
                break;
            }
            let entries = known.entries.clone();
            known.seen = self
                .on_store(move |store| store.write_layer_list(&entries))
                .await?;
            *self
                .image_store
                .written_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            self.show(known);
        }
        Ok(())
    }

    /// Reads the entries that are not known, and forgets those that are gone; tells whether there were any.
    async fn read_entries(&self, known: &mut Known) -> Result<bool, FsError> {
        let names = self.on_store(Store::entry_names).await?;
        let before = known.entries.len();
        known.entries.retain(|name, _| names.contains(name));
        let mut changed = known.entries.len() < before;
        let new: Vec<EntryName> = names
            .into_iter()
            .filter(|name| !known.entries.contains_key(name))
            .collect();
        for part in new.chunks(READ_AT_ONCE) {
            let part = part.to_vec();
            let read = move |store: &Store| {
                let mut found = Vec::new();
                for name in part {
                    if let Some(text) = store.read_or_remove_entry(&name)? {
                        found.push((name, text));
                    }
                }
                Ok(found)
            };
            let found = self.on_store(read).await?;
            changed |= !found.is_empty();
            known.entries.extend(found);
        }
        Ok(changed)
    }

    /// Tells whether layers.json lists what is known, whoever has written it.
    async fn is_current(&self, known: &mut Known) -> Result<bool, FsError> {
        let identity = self.on_store(Store::layer_list_identity).await?;
        if identity.is_some() && identity == known.seen {
            return Ok(true);
        }
        let entries = known.entries.clone();
        let lists = self.on_store(move |store| store.lists(&entries)).await?;
        if lists {
            known.seen = identity;
            self.show(known);
        }
        Ok(lists)
    }

    /// Lets those go on that wait for what is listed now.
    fn show(&self, known: &Known) {
        *self.image_store.lock() = known.entries.keys().cloned().collect();
        self.image_store.sequence.send_modify(|sequence| *sequence += 1);
    }
}
