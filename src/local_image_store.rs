//! A node's own image store of containers/storage: its lists are on this node's disk, its layers on the
//! store.
//!
//! Podman, CRI-O and Buildah read an additional image store under POSIX locks, and by files that are
//! replaced. Where the store's file system is weak in either, they are given this directory instead:
//!
//! ```text
//! <dir>/
//!   layers -> <store>/layers/overlay                 the layers themselves
//!   overlay/<layer id> -> ../layers/<layer id>       those that are listed
//!   overlay/l -> ../layers/l                         their short names
//!   overlay-layers/layers.json                       made of the names in <store>/layers/entries/
//!   overlay-layers/layers.lock                       64 bytes, new ones after each change, for readers
//!   overlay-layers/<layer id>.tar-split.gz -> <store>/layers/overlay-layers/…
//!   overlay-images/{images.json,images.lock}         no image: they are pulled, and found to be there
//! ```
//! One process at a time keeps a directory, by a lock on it. An entry's file never changes, so it is read once; after a
//! start those of the list that is there count as read. A layer that is there and not listed makes pulls fail
//! (containers/storage takes it for what a killed process has left), so it gets its links after that; its directory is then
//! there. The list follows the store: what is no longer named there goes. But a store that is not there says nothing, and
//! everything stays.
//!
//! Leaves to others: when the store has something new ([`crate::agent`]).

mod files;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::fs::{Disk, FsError};
use crate::oci::LayerId;
use crate::store::{EntryName, EntryTexts, OpenStoreError, Store, layer_list};
use crate::telemetry::full_text;
use files::{Files, Written};

/// How many entries one call to the store reads: few enough that a slow one ends within its deadline.
const ENTRIES_A_CALL: usize = 32;

/// How many such calls are under way: round trips are what the first filling waits for.
const CALLS: usize = 8;

/// A node's image store, which this process keeps.
pub struct LocalImageStore {
    files: Arc<Files>,
    store: PathBuf,
    disk: Disk,
    entries: EntryTexts,
    /// The list on the disk has exactly these entries.
    is_written: bool,
    /// What the log has said.
    told_away: bool,
    told_unreadable: BTreeSet<EntryName>,
    told_foreign: BTreeSet<String>,
}

/// Why a directory cannot be a node's image store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process keeps it.
    #[error(
        "another process keeps {}; stop it, or choose another directory (--podman DIR)", dir.display()
    )]
    Kept { dir: PathBuf },
    /// It is something else.
    #[error(
        "{} is there and is not wharf's; choose an empty directory (--podman DIR)", path.display()
    )]
    Foreign { path: PathBuf },
    /// The local disk fails.
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// Why the lists are not up to date; what was there is there still.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// Nothing is mounted, or another directory.
    #[error(
        "the store {} is not there: is its file system mounted on this node, and this its directory (the one with \
         wharf.json; --store DIR)?", root.display()
    )]
    Missing { root: PathBuf },
    /// A directory is there, which may be what the store is to be mounted on.
    #[error(
        "{} is no store, as it has no wharf.json: mount the store's file system if it is not mounted there, or name the \
         store's own directory in it (--store DIR)", root.display()
    )]
    NoStore { root: PathBuf },
    /// It cannot be read.
    #[error(transparent)]
    Unusable(#[from] OpenStoreError),
    /// The store's file system fails, or does not answer in time.
    #[error(transparent)]
    Store(FsError),
    /// This node's own disk fails.
    #[error(transparent)]
    Local(FsError),
    /// A blocking thread died.
    #[error("a blocking thread died")]
    Died(#[from] tokio::task::JoinError),
}

/// What a refresh has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refreshed {
    /// How many layers and aliases the list has.
    pub entries: usize,
    /// How many are named in the store and cannot be read, or have no directory yet.
    pub unreadable: usize,
    /// Whether the list was written anew.
    pub is_changed: bool,
    /// Whether every entry was read or could not be the last time either: file systems err for a moment.
    pub is_settled: bool,
}

/// Why an entry is not listed.
enum Unlisted {
    /// Its mirror is about to give the directory its name, or has died before.
    NotThere,
    Unreadable(String),
}

/// Whose entry a text is.
#[derive(Deserialize)]
struct Listed {
    id: LayerId,
}

impl LocalImageStore {
    /// Takes a directory, and makes it one if it is new, for the store at `store`, which need not be there
    /// yet.
    ///
    /// Blocks, and touches this node's disk alone. `disk` is the way to the store.
    ///
    /// # Errors
    /// Fails if another process keeps the directory, if it is something else, or with any errno.
    pub fn open(dir: &Path, store: &Path, disk: Disk) -> Result<Self, OpenError> {
        let (files, list) = Files::open(dir, Store::image_store_path(store))?;
        Ok(Self {
            files: Arc::new(files),
            store: store.to_owned(),
            disk,
            entries: known(&list),
            is_written: false,
            told_away: false,
            told_unreadable: BTreeSet::new(),
            told_foreign: BTreeSet::new(),
        })
    }

    /// Brings the lists up to date with the store. What cannot be read is tried again by the next call.
    ///
    /// The log says once that the store is away and once that it is back, and names an unreadable entry once.
    ///
    /// # Errors
    /// Fails if the store is not there or does not answer, or if this node's disk fails; the lists stay as
    /// they are.
    pub async fn refresh(&mut self) -> Result<Refreshed, RefreshError> {
        let named = self.named().await;
        self.tell_away(named.as_ref().err());
        self.list(named?).await
    }

    /// Does the same for a caller that reports the failure itself: the log does not say that the store is away.
    ///
    /// # Errors
    /// As [`LocalImageStore::refresh`].
    pub async fn refresh_once(&mut self) -> Result<Refreshed, RefreshError> {
        let named = self.named().await?;
        self.list(named).await
    }

    /// Lists what the store names.
    async fn list(&mut self, named: BTreeSet<EntryName>) -> Result<Refreshed, RefreshError> {
        let before = self.entries.len();
        self.entries.retain(|name, _| named.contains(name));
        let mut is_changed = self.entries.len() != before;
        let unread: Vec<EntryName> = named
            .iter()
            .filter(|name| !self.entries.contains_key(*name))
            .cloned()
            .collect();
        let (read, unreadable) = self.read(unread).await;
        is_changed |= !read.is_empty();
        self.entries.extend(read);
        let is_settled = unreadable.keys().all(|name| self.told_unreadable.contains(name));
        self.tell_unreadable(&unreadable);
        self.is_written &= !is_changed;
        let is_changed = !self.is_written && self.write().await?;
        Ok(Refreshed {
            entries: self.entries.len(),
            unreadable: unreadable.len(),
            is_changed,
            is_settled,
        })
    }

    /// Returns what the store names.
    async fn named(&self) -> Result<BTreeSet<EntryName>, RefreshError> {
        let root = self.store.clone();
        let asked = self.disk.run("list layers of", &self.store, move || {
            let answer = || -> Result<BTreeSet<EntryName>, RefreshError> {
                let missing = || match root.is_dir() {
                    true => RefreshError::NoStore { root: root.clone() },
                    false => RefreshError::Missing { root: root.clone() },
                };
                let store = match Store::open_read_only(&root) {
                    Err(OpenStoreError::Missing { .. }) => return Err(missing()),
                    opened => opened?,
                };
                let names = store.entry_names().map_err(RefreshError::Store)?;
                // Unmounted meanwhile, it would have shown an empty directory.
                match store.check() {
                    Err(error) if error.is_missing() => Err(missing()),
                    Err(error) => Err(RefreshError::Store(error)),
                    Ok(()) => Ok(names.into_iter().collect()),
                }
            };
            Ok(answer())
        });
        asked.await.map_err(RefreshError::Store)?
    }

    /// Reads entries, and returns those that can be with the reasons why others cannot.
    async fn read(&self, names: Vec<EntryName>) -> (EntryTexts, BTreeMap<EntryName, Unlisted>) {
        let chunks = names.chunks(ENTRIES_A_CALL).map(<[EntryName]>::to_vec);
        let calls = chunks.map(|chunk| self.read_chunk(chunk));
        let chunks: Vec<_> = stream::iter(calls.collect::<Vec<_>>())
            .buffer_unordered(CALLS)
            .collect()
            .await;
        let (mut read, mut unreadable) = (EntryTexts::new(), BTreeMap::new());
        for (name, entry) in chunks.into_iter().flatten() {
            match entry {
                Ok(entry) => drop(read.insert(name, entry)),
                Err(why) => drop(unreadable.insert(name, why)),
            }
        }
        (read, unreadable)
    }

    async fn read_chunk(&self, names: Vec<EntryName>) -> Vec<(EntryName, Result<Arc<str>, Unlisted>)> {
        let (root, wanted) = (self.store.clone(), names.clone());
        let asked = self.disk.run("read layers of", &self.store, move || {
            let opened = Store::open_read_only(&root);
            let read = |name: &EntryName| {
                let unreadable = |error: FsError| Unlisted::Unreadable(error.full_text());
                let store = opened
                    .as_ref()
                    .map_err(|error| Unlisted::Unreadable(full_text(error)))?;
                match store.read_entry(name).map_err(unreadable)? {
                    Some(_) if !store.is_complete(name).map_err(unreadable)? => Err(Unlisted::NotThere),
                    Some(text) => Ok(text),
                    None => Err(Unlisted::Unreadable("its file is gone".to_owned())),
                }
            };
            Ok(wanted.iter().map(read).collect::<Vec<_>>())
        });
        match asked.await {
            Ok(read) => names.into_iter().zip(read).collect(),
            Err(error) => {
                let why = error.full_text();
                let unreadable = |name| (name, Err(Unlisted::Unreadable(why.clone())));
                names.into_iter().map(unreadable).collect()
            }
        }
    }

    /// Writes the list that the entries make; false if it is there already.
    async fn write(&mut self) -> Result<bool, RefreshError> {
        let list = layer_list(&self.entries).into_bytes();
        let layer = |name: &EntryName| match name {
            EntryName::Layer(id) => Some(id.to_string()),
            EntryName::Alias(_) => None,
        };
        let layers = self.entries.keys().filter_map(layer).collect();
        let files = Arc::clone(&self.files);
        let written = tokio::task::spawn_blocking(move || files.write(&list, &layers)).await?;
        let Written { is_changed, foreign } = written.map_err(RefreshError::Local)?;
        // Podman may remove them, and then the layers need their links again.
        self.is_written = foreign.is_empty();
        self.tell_foreign(foreign);
        Ok(is_changed)
    }

    fn tell_foreign(&mut self, foreign: BTreeSet<String>) {
        let mut untold = foreign.difference(&self.told_foreign);
        if let Some(layer) = untold.next() {
            tracing::warn!(
                layer, others = untold.count(), dir = %self.files.overlay().display(),
                "Podman has put a directory in the place of a layer's link; it is left alone, and its disk space is \
                 Podman's until that removes the image"
            );
        }
        self.told_foreign = foreign;
    }

    fn tell_away(&mut self, error: Option<&RefreshError>) {
        match error {
            Some(error) if !self.told_away => tracing::warn!(
                error = full_text(error),
                "the store cannot be read: the layers that were listed stay listed, and new ones are not"
            ),
            None if self.told_away => {
                tracing::info!(store = %self.store.display(), "the store can be read again");
            }
            Some(_) | None => {}
        }
        self.told_away = error.is_some();
    }

    fn tell_unreadable(&mut self, unreadable: &BTreeMap<EntryName, Unlisted>) {
        let mut untold = unreadable.iter().filter_map(|(name, why)| match why {
            Unlisted::Unreadable(why) if !self.told_unreadable.contains(name) => Some((name, why)),
            Unlisted::Unreadable(_) | Unlisted::NotThere => None,
        });
        if let Some((name, why)) = untold.next() {
            tracing::warn!(
                entry = %name, why, others = untold.count(),
                "a layer's entry in the store cannot be read; the layer is left out until it can"
            );
        }
        self.told_unreadable = unreadable.keys().cloned().collect();
    }
}

/// Takes what is in the list of an earlier process as read.
fn known(list: &[u8]) -> EntryTexts {
    let objects: Vec<Box<RawValue>> = serde_json::from_slice(list).unwrap_or_default();
    let mut entries = EntryTexts::new();
    for object in objects {
        let Ok(listed) = serde_json::from_str::<Listed>(object.get()) else {
            continue;
        };
        // Which of the two it was listed for does not show; the other one is not named by the store, and
        // goes.
        let text: Arc<str> = object.get().into();
        entries.insert(EntryName::Alias(listed.id.clone()), Arc::clone(&text));
        entries.insert(EntryName::Layer(listed.id), text);
    }
    entries
}
