//! The calls of the snapshots service, on this node's records and directories.
//!
//! Changes are made one after the other, on blocking threads; what waits for the store or for a mirror does so
//! before. A call that containerd gives up ends there; a change that has begun is finished.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::blobs::Links;
use super::content::ContentStore;
use super::error::SnapshotError;
use super::filter::Filters;
use super::label::{self, WantedLayer};
use super::layers::StoreLayers;
use super::local::Directories;
use super::mounts::{self, Stack};
use super::proto::types::Mount;
use super::record::{Kind, Place, Record, SharedLayer, Usage};
use super::records::{OpenRecordsError, Records};
use crate::agent::mirrors::Mirrors;
use crate::agent::references::References;
use crate::oci::{ChainId, Digest};

/// How long calls may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long a call waits for mirrors to bring a layer to the store.
    pub prepare_wait: Duration,
    /// How long a call waits until a mirror has written down what it uses.
    pub reference_wait: Duration,
}

/// This node's snapshots. Cheap to clone.
#[derive(Clone)]
pub struct Snapshots {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) records: Records,
    pub(super) directories: Directories,
    pub(super) layers: StoreLayers,
    pub(super) mirrors: Mirrors,
    pub(super) references: References,
    /// `None` if blobs are not to be linked into containerd's content store.
    pub(super) content: Option<ContentStore>,
    pub(super) bounds: Bounds,
    pub(super) links: Links,
    /// What is in use may be said: until then the node's last statement counts, which knows more.
    uses_are_known: AtomicBool,
    changing: Mutex<()>,
    clearing: Mutex<()>,
}

/// A snapshot that is asked for.
pub(super) struct NewSnapshot {
    pub(super) kind: Kind,
    pub(super) key: String,
    pub(super) parent: Option<String>,
    pub(super) labels: HashMap<String, String>,
}

/// What ends an active snapshot.
pub(super) struct Commit {
    pub(super) name: String,
    pub(super) key: String,
    pub(super) labels: HashMap<String, String>,
    /// What containerd believes to lie below, if it says so.
    pub(super) parent: Option<String>,
}

/// The parts that snapshots are made of.
pub struct Parts {
    pub layers: StoreLayers,
    pub mirrors: Mirrors,
    pub references: References,
    pub content: Option<ContentStore>,
    pub bounds: Bounds,
}

impl Snapshots {
    /// Puts this node's snapshots together, whose directories are below `root` and records in `db` too; needs a
    /// running tokio.
    ///
    /// # Errors
    /// Fails if the directories cannot be made, or the records be read.
    pub fn open(root: &Path, db: &sled::Db, parts: Parts) -> Result<Self, OpenRecordsError> {
        let directories = Directories::open(root)?;
        let inner = Arc::new(Inner {
            records: Records::open(root, &directories, db)?,
            directories,
            layers: parts.layers,
            mirrors: parts.mirrors,
            references: parts.references,
            content: parts.content,
            bounds: parts.bounds,
            links: Links::default(),
            uses_are_known: AtomicBool::new(false),
            changing: Mutex::default(),
            clearing: Mutex::default(),
        });
        let snapshots = Self { inner };
        // Records that had to be made know nothing of what this node has of the store.
        snapshots.state_uses(!db.was_recovered());
        if snapshots.inner.content.is_some() {
            tokio::spawn(snapshots.clone().watch_links());
        }
        Ok(snapshots)
    }

    /// Makes a snapshot and returns its mounts.
    ///
    /// # Errors
    /// [`SnapshotError::Shared`] if the store has the layer that was to be unpacked, which is a snapshot now.
    pub(super) async fn prepare(&self, new: NewSnapshot) -> Result<Vec<Mount>, SnapshotError> {
        if new.key.is_empty() {
            return Err(SnapshotError::NoKey);
        }
        if self.inner.records.get(&new.key).is_some() {
            return Err(SnapshotError::Exists(new.key));
        }
        let parent = match &new.parent {
            Some(name) => Some(self.parent(name).await?),
            None => None,
        };
        if new.kind == Kind::Active
            && let Some(wanted) = WantedLayer::of(&new.labels)
            && self.share(&new, parent.as_ref(), &wanted).await?
        {
            return Err(SnapshotError::Shared(wanted.chain_id));
        }
        let below = self.with_below(parent).await?;
        let stack = self.stack(&below).await?;
        self.inner.told(&below).await;
        self.on_disk(move |inner| {
            let record = inner.create(new, &stack)?;
            mounts::of(&inner.directories, &record, &stack)
        })
        .await
    }

    async fn parent(&self, name: &str) -> Result<Record, SnapshotError> {
        let parent = self.known(name).await?;
        if parent.kind == Kind::Committed {
            return Ok(parent);
        }
        Err(SnapshotError::ParentNotCommitted(name.to_owned()))
    }

    /// Returns the mounts of a snapshot that is in use.
    ///
    /// # Errors
    /// Names the layer that is not on the store any more, and the store that is not there.
    pub(super) async fn mounts(&self, key: &str) -> Result<Vec<Mount>, SnapshotError> {
        let record = self.inner.records.find(key)?;
        if record.kind == Kind::Committed {
            return Err(SnapshotError::Committed(key.to_owned()));
        }
        let parent = match &record.parent {
            Some(name) => Some(self.known(name).await?),
            None => None,
        };
        let below = self.with_below(parent).await?;
        let stack = self.stack(&below).await?;
        self.inner.told(&below).await;
        self.on_disk(move |inner| mounts::of(&inner.directories, &record, &stack))
            .await
    }

    /// Ends an active snapshot: from now on others may lie on it.
    pub(super) async fn commit(&self, commit: Commit) -> Result<(), SnapshotError> {
        self.on_disk(move |inner| inner.commit(commit)).await
    }

    /// Forgets a snapshot; of a layer on the store that is all.
    pub(super) async fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        let key = key.to_owned();
        let removed = self.on_disk(move |inner| inner.remove(&key)).await?;
        if removed.shared().is_none() {
            let inner = Arc::clone(&self.inner);
            // containerd waits for the files to be gone with Cleanup.
            tokio::task::spawn_blocking(move || {
                if let Err(error) = inner.clear() {
                    tracing::warn!(%error, "the files of a removed snapshot stay");
                }
            });
        }
        Ok(())
    }

    /// Returns what is known of a snapshot, and sees to it that its blob is linked.
    pub(super) async fn stat(&self, key: &str) -> Result<Record, SnapshotError> {
        let record = self.known(key).await?;
        self.link_again(&record);
        Ok(record)
    }

    /// Replaces labels, all or those that `paths` name; returns what is known then.
    pub(super) async fn update(
        &self,
        key: &str,
        labels: HashMap<String, String>,
        paths: Vec<String>,
    ) -> Result<Record, SnapshotError> {
        self.known(key).await?;
        let key = key.to_owned();
        self.on_disk(move |inner| inner.update(&key, labels, &paths))
            .await
    }

    /// Returns what a snapshot takes of this node's disk: nothing, if it is a layer of the store.
    pub(super) async fn usage(&self, key: &str) -> Result<Usage, SnapshotError> {
        let record = self.known(key).await?;
        match record.place {
            Place::Shared(_) => Ok(Usage::default()),
            Place::Local { usage } if record.kind != Kind::Active => Ok(usage),
            Place::Local { .. } => {
                let directories = self.inner.directories.clone();
                let count = move || Ok(directories.usage(record.id)?);
                tokio::task::spawn_blocking(count)
                    .await
                    .map_err(SnapshotError::Died)?
            }
        }
    }

    /// Returns the snapshots that filters choose.
    pub(super) fn list(&self, filters: &Filters) -> Vec<Record> {
        self.inner.records.list(filters)
    }

    /// Waits until the files of removed snapshots are gone, and looks which blobs containerd has let go.
    pub(super) async fn cleanup(&self) -> Result<(), SnapshotError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.clear())
            .await
            .map_err(SnapshotError::Died)??;
        self.note_links().await;
        Ok(())
    }

    /// Returns a snapshot and what it lies on, the nearest first; lost records of layers of the store are made again.
    async fn with_below(&self, top: Option<Record>) -> Result<Vec<Record>, SnapshotError> {
        let Some(top) = top else { return Ok(Vec::new()) };
        loop {
            match self.inner.records.below(&top) {
                // With it all below it are known again, down to a local one.
                Err(SnapshotError::NotFound(lost)) => drop(self.known(&lost).await?),
                below => {
                    let mut stack = vec![top];
                    stack.extend(below?);
                    return Ok(stack);
                }
            }
        }
    }

    /// Runs a change of records and directories, one at a time.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Inner) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, SnapshotError> {
        let inner = Arc::clone(&self.inner);
        let change = move || {
            let _one_at_a_time = inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
            change(&inner)
        };
        tokio::task::spawn_blocking(change)
            .await
            .map_err(SnapshotError::Died)?
    }
}

impl Inner {
    fn create(&self, new: NewSnapshot, stack: &Stack) -> Result<Record, SnapshotError> {
        if self.records.get(&new.key).is_some() {
            return Err(SnapshotError::Exists(new.key));
        }
        if let Some(parent) = &new.parent {
            self.records.find(parent)?;
        }
        let now = SystemTime::now();
        let record = Record {
            name: new.key,
            id: self.records.new_id(),
            kind: new.kind,
            parent: new.parent,
            labels: new.labels.into_iter().collect(),
            created: now,
            updated: now,
            place: Place::Local {
                usage: Usage::default(),
            },
        };
        self.directories.create(&record, stack.top())?;
        self.records.put(record.clone())?;
        Ok(record)
    }

    fn commit(&self, commit: Commit) -> Result<(), SnapshotError> {
        let active = self.records.find(&commit.key)?;
        if active.kind != Kind::Active {
            return Err(SnapshotError::NotActive(commit.key));
        }
        if self.records.get(&commit.name).is_some() {
            return Err(SnapshotError::Exists(commit.name));
        }
        if commit.parent.is_some() && commit.parent != active.parent {
            return Err(SnapshotError::OtherParent {
                name: commit.key,
                parent: active.parent.unwrap_or_default(),
                wanted: commit.parent.unwrap_or_default(),
            });
        }
        let committed = Record {
            name: commit.name,
            kind: Kind::Committed,
            labels: commit.labels.into_iter().collect(),
            updated: SystemTime::now(),
            place: Place::Local {
                usage: self.directories.usage(active.id)?,
            },
            ..active
        };
        self.directories.rewrite(&committed)?;
        self.records.rename(&commit.key, committed)
    }

    fn remove(&self, key: &str) -> Result<Record, SnapshotError> {
        let record = self.records.find(key)?;
        let children = self.records.children(key);
        if children > 0 {
            return Err(SnapshotError::HasChildren {
                name: key.to_owned(),
                children,
            });
        }
        self.records.remove(key);
        self.directories.remove(record.id)?;
        if let Some(layer) = record.shared() {
            self.release(layer);
        }
        Ok(record)
    }

    fn update(
        &self,
        key: &str,
        labels: HashMap<String, String>,
        paths: &[String],
    ) -> Result<Record, SnapshotError> {
        let mut record = self.records.find(key)?;
        record.labels = label::updated(&record.labels, labels, paths)?;
        record.updated = SystemTime::now();
        if record.shared().is_none() {
            self.directories.rewrite(&record)?;
        }
        self.records.put(record.clone())?;
        Ok(record)
    }

    fn clear(&self) -> Result<(), SnapshotError> {
        let _one_at_a_time = self.clearing.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.directories.clear()?)
    }

    /// Says what this node uses of the store, as its records know it, and these blobs.
    pub(super) fn state_references(&self, mut blobs: BTreeSet<Digest>) {
        self.uses_are_known.store(true, Ordering::Release);
        let shared = self.records.shared();
        let layers: BTreeSet<ChainId> = shared.iter().filter_map(Record::chain_id).collect();
        let known_blobs = shared.iter().filter_map(|record| record.shared()?.blob.clone());
        blobs.extend(known_blobs);
        self.references.set(layers, blobs);
    }

    /// Gives a layer free, unless another snapshot is the same layer.
    fn release(&self, layer: &SharedLayer) {
        let shared = self.records.shared();
        let mut others = shared.iter().filter_map(Record::shared);
        if others.all(|other| other.chain_id != layer.chain_id) {
            self.with_references(|references| references.remove_layer(&layer.chain_id));
        }
        // Of one that may be linked, the link tells.
        let mut others = shared.iter().filter_map(Record::shared);
        if let Some(blob) = &layer.blob
            && self.content.is_none()
            && others.all(|other| other.blob.as_ref() != Some(blob))
        {
            self.with_references(|references| references.remove_blob(blob));
        }
    }

    /// Changes what is said to be in use, once that may be.
    pub(super) fn with_references(&self, change: impl FnOnce(&References)) {
        if self.uses_are_known.load(Ordering::Acquire) {
            change(&self.references);
        }
    }

    /// Waits until a mirror has written down that this node uses what it uses, or cannot be reached.
    pub(super) async fn told(&self, below: &[Record]) {
        if below.iter().any(|record| record.shared().is_some()) {
            self.references.told(self.bounds.reference_wait).await;
        }
    }
}
