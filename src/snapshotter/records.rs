//! The records of all snapshots: in memory to answer from, in sled and beside each local snapshot to last.
//!
//! A change is durable before it is answered: sled is flushed, and a local snapshot's own record was
//! written before. Where the two differ after a crash, the one beside the snapshot is right, since it is
//! written first. What sled alone knows, and has no directory, is lost data and is told so.
//! sled on a disk that was full once fails for as long as the process lives; what it alone would keep, layers of
//! the store, can be made again, so that no call fails for that.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::SnapshotError;
use super::filter::Filters;
use super::local::Directories;
use super::record::{Place, Record};
use crate::fs::FsError;

/// Why the records cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenRecordsError {
    #[error("the records of snapshots under {} cannot be read", path.display())]
    Sled {
        path: PathBuf,
        #[source]
        source: sled::Error,
    },
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// The records. Changing them blocks.
pub(super) struct Records {
    root: PathBuf,
    tree: sled::Tree,
    /// sled keeps nothing any more, and the log has said so.
    fails: AtomicBool,
    set: Mutex<Set>,
}

/// What is in memory.
#[derive(Default)]
struct Set {
    by_name: BTreeMap<String, Record>,
    children: HashMap<String, usize>,
    next_id: u64,
}

impl Set {
    fn insert(&mut self, record: Record) {
        if let Some(parent) = &record.parent {
            *self.children.entry(parent.clone()).or_default() += 1;
        }
        self.next_id = self.next_id.max(record.id + 1);
        self.by_name.insert(record.name.clone(), record);
    }

    fn remove(&mut self, name: &str) {
        let Some(record) = self.by_name.remove(name) else {
            return;
        };
        if let Some(parent) = record.parent
            && let Some(children) = self.children.get_mut(&parent)
        {
            *children -= 1;
            if *children == 0 {
                self.children.remove(&parent);
            }
        }
    }
}

impl Records {
    /// Reads the records from sled and from beside the snapshots, whose directories are below `root`.
    ///
    /// # Errors
    /// Fails if either cannot be read or mended.
    pub(super) fn open(
        root: &Path,
        directories: &Directories,
        db: &sled::Db,
    ) -> Result<Self, OpenRecordsError> {
        let failed = |source| OpenRecordsError::Sled {
            path: root.to_owned(),
            source,
        };
        let tree = db.open_tree("snapshots").map_err(failed)?;
        let mut set = Set::default();
        let found: HashMap<u64, Record> = directories
            .scan()?
            .into_iter()
            .map(|record| (record.id, record))
            .collect();
        for entry in &tree {
            let (name, text) = entry.map_err(failed)?;
            match serde_json::from_slice::<Record>(&text) {
                Ok(record) if matches!(record.place, Place::Shared(_)) => set.insert(record),
                Ok(record) if found.get(&record.id) == Some(&record) => {}
                known => {
                    tracing::warn!(
                        snapshot = %String::from_utf8_lossy(&name),
                        is_readable = known.is_ok(),
                        "the record of a snapshot does not fit what is on the disk, and is dropped"
                    );
                    tree.remove(name).map_err(failed)?;
                }
            }
        }
        for record in found.into_values() {
            let name = record.name.as_bytes();
            let text = serde_json::to_vec(&record).map_err(|error| failed(sled::Error::Io(error.into())))?;
            if tree.get(name).map_err(failed)?.as_deref() != Some(text.as_slice()) {
                tracing::info!(
                    snapshot = record.name,
                    "a snapshot is known again by its own record"
                );
                tree.insert(name, text).map_err(failed)?;
            }
            set.insert(record);
        }
        tree.flush().map_err(failed)?;
        Ok(Self {
            root: root.to_owned(),
            tree,
            fails: AtomicBool::new(false),
            set: Mutex::new(set),
        })
    }

    /// Returns a number that no snapshot has.
    pub(super) fn new_id(&self) -> u64 {
        let mut set = self.set();
        let id = set.next_id;
        set.next_id += 1;
        id
    }

    pub(super) fn get(&self, name: &str) -> Option<Record> {
        self.set().by_name.get(name).cloned()
    }

    /// Returns a snapshot's record.
    pub(super) fn find(&self, name: &str) -> Result<Record, SnapshotError> {
        self.get(name)
            .ok_or_else(|| SnapshotError::NotFound(name.to_owned()))
    }

    /// Returns what a snapshot lies on, the nearest first.
    ///
    /// # Errors
    /// Names the first that is not there.
    pub(super) fn below(&self, record: &Record) -> Result<Vec<Record>, SnapshotError> {
        let set = self.set();
        let (mut below, mut next) = (Vec::new(), record.parent.as_ref());
        while let Some(name) = next {
            let parent = set
                .by_name
                .get(name)
                .ok_or_else(|| SnapshotError::NotFound(name.clone()))?;
            below.push(parent.clone());
            next = parent.parent.as_ref();
        }
        Ok(below)
    }

    /// Returns the records that filters choose.
    pub(super) fn list(&self, filters: &Filters) -> Vec<Record> {
        let set = self.set();
        set.by_name
            .values()
            .filter(|record| filters.choose(record))
            .cloned()
            .collect()
    }

    /// Returns the records of layers on the store.
    pub(super) fn shared(&self) -> Vec<Record> {
        let set = self.set();
        set.by_name
            .values()
            .filter(|record| record.shared().is_some())
            .cloned()
            .collect()
    }

    /// Returns what snapshots lie on and is not known.
    pub(super) fn lost_parents(&self) -> Vec<String> {
        let set = self.set();
        let parents = set.by_name.values().filter_map(|record| record.parent.as_ref());
        parents
            .filter(|parent| !set.by_name.contains_key(*parent))
            .cloned()
            .collect()
    }

    /// Returns how many snapshots lie on one.
    pub(super) fn children(&self, name: &str) -> usize {
        self.set().children.get(name).copied().unwrap_or_default()
    }

    /// Adds a record, or replaces the one of its name.
    pub(super) fn put(&self, record: Record) -> Result<(), SnapshotError> {
        let text = encode(&record)?;
        self.keep(|tree| tree.insert(record.name.as_bytes(), text).map(drop));
        let mut set = self.set();
        set.remove(&record.name);
        set.insert(record);
        Ok(())
    }

    /// Replaces a record by one with another name.
    pub(super) fn rename(&self, name: &str, record: Record) -> Result<(), SnapshotError> {
        let mut batch = sled::Batch::default();
        batch.remove(name.as_bytes());
        batch.insert(record.name.as_bytes(), encode(&record)?);
        self.keep(|tree| tree.apply_batch(batch));
        let mut set = self.set();
        set.remove(name);
        set.insert(record);
        Ok(())
    }

    pub(super) fn remove(&self, name: &str) {
        self.keep(|tree| tree.remove(name.as_bytes()).map(drop));
        self.set().remove(name);
    }

    /// Makes a change last. Nothing depends on it: what sled does not keep is made again.
    fn keep(&self, change: impl FnOnce(&sled::Tree) -> sled::Result<()>) {
        let kept = change(&self.tree).and_then(|()| self.tree.flush().map(drop));
        let failed = self.fails.swap(kept.is_err(), Ordering::AcqRel);
        if let Err(error) = kept
            && !failed
        {
            tracing::error!(
                %error, root = %self.root.display(),
                "the records of snapshots are not kept; after a restart they are made again from the snapshots \
                 and the store. Once there is room on the disk, restart the agent"
            );
        }
    }

    fn set(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a record as it is kept.
pub(super) fn encode(record: &Record) -> Result<Vec<u8>, FsError> {
    let failed = |error: serde_json::Error| {
        FsError::new("encode the record of", Path::new(&record.name), error.into())
    };
    serde_json::to_vec(record).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::snapshotter::layers::RootAttributes;
    use crate::snapshotter::record::{Kind, Usage};

    fn local(id: u64, name: &str, parent: Option<&str>) -> Record {
        Record {
            name: name.to_owned(),
            id,
            kind: Kind::Active,
            parent: parent.map(str::to_owned),
            labels: BTreeMap::new(),
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            place: Place::Local {
                usage: Usage::default(),
            },
        }
    }

    #[test]
    fn what_sled_has_lost_is_known_by_what_lies_beside_the_snapshots() {
        let root = tempfile::tempdir().unwrap();
        let directories = Directories::open(root.path()).unwrap();
        let own = RootAttributes::of(root.path()).unwrap();
        let records = [
            local(3, "moby/1/init", Some("sha256:layer")),
            local(5, "moby/2/box", Some("moby/1/init")),
        ];
        for record in &records {
            directories.create(record, own).unwrap();
        }
        let db = sled::Config::new().temporary(true).open().unwrap();
        let opened = Records::open(root.path(), &directories, &db).unwrap();
        for record in &records {
            assert_eq!(opened.get(&record.name).as_ref(), Some(record));
        }
        assert_eq!(opened.lost_parents(), ["sha256:layer"]);
        assert_eq!(opened.new_id(), 6);
        // Begun, and not told to sled.
        let committed = Record {
            name: "moby/3/image".to_owned(),
            kind: Kind::Committed,
            ..records[1].clone()
        };
        directories.rewrite(&committed).unwrap();
        let opened = Records::open(root.path(), &directories, &db).unwrap();
        assert_eq!(opened.get("moby/2/box"), None);
        assert_eq!(opened.get("moby/3/image"), Some(committed));
        // Removed, and not told to the disk's directory.
        directories.remove(5).unwrap();
        let opened = Records::open(root.path(), &directories, &db).unwrap();
        assert_eq!(opened.get("moby/3/image"), None);
        assert_eq!(opened.children("moby/1/init"), 0);
    }
}
