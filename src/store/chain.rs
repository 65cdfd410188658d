//! Chain records: what is known of a layer in its place on a stack.
//!
//! `chains/<algorithm>/<hex>/dir` says that the stack's topmost layer exists as a
//! directory, and which one: it is JSON, written once, after the directory has
//! its name. It names the layer by its id alone, so that a store can be moved and
//! be mounted anywhere. Two chains may name one directory. `diffs/…` has a mark
//! for each chain whose layer others may share, and leads from a DiffID to them;
//! a mark that is missing costs an extraction, and one too many nothing.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::fs::{self, FsError};
use crate::oci::config::MAX_LAYERS;
use crate::oci::{ChainId, DiffId, Digest, LayerId};
use crate::unpack::Compromises;

use super::Store;
use super::layout::{digest_of, file_name};
use super::repository::mark;

/// What is known of a layer that exists as a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRecord {
    /// The directory; of another chain's top layer if that has the same DiffID.
    pub layer_id: LayerId,
    pub diff_id: DiffId,
    /// The stack below; `None` for a bottom layer.
    pub parent: Option<ChainId>,
    /// The blob that it was extracted from.
    pub blob: Digest,
    /// Bytes of that blob.
    pub blob_size_bytes: u64,
    /// Bytes of the uncompressed tar stream.
    pub size_bytes: u64,
    pub entries: u64,
    /// A digest over names, kinds, metadata and contents.
    pub tree_digest: String,
    /// What the layer needs and the file system could not keep.
    #[serde(default)]
    pub compromises: Compromises,
    /// The directory depends on the layers below: it serves no other chain.
    #[serde(default)]
    pub expanded: bool,
    /// The archive has no entry for the root: the directory suits only stacks whose root looks the same.
    #[serde(default)]
    pub root_is_implied: bool,
}

/// Why a stack cannot be mounted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StackError {
    #[error("{0} is not extracted: its chain record is not there")]
    NoRecord(ChainId),
    #[error("the chain record of {chain_id} names {}, which is not there; remove the record, and the layer is extracted again", path.display())]
    NoDirectory { chain_id: ChainId, path: PathBuf },
    #[error("the stack of {0} has more than {MAX_LAYERS} layers, which overlayfs does not take")]
    TooHigh(ChainId),
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl Store {
    /// Returns the record of a stack whose topmost layer exists as a directory.
    ///
    /// # Errors
    /// Any errno but ENOENT, and that the record is not readable as one.
    pub fn chain(&self, chain_id: &ChainId) -> Result<Option<ChainRecord>, FsError> {
        let path = self.chain_path(chain_id);
        let Some(text) = fs::read(&path)? else {
            return Ok(None);
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| FsError::new("decode", &path, error.into()))
    }

    /// Publishes a record, whose layer has its name, and lets others with the DiffID find it.
    ///
    /// A record that is there stays.
    ///
    /// # Errors
    /// Any errno.
    pub fn publish_chain(&self, chain_id: &ChainId, record: &ChainRecord) -> Result<(), FsError> {
        let path = self.chain_path(chain_id);
        let mut text =
            serde_json::to_vec_pretty(record).map_err(|error| FsError::new("encode", &path, error.into()))?;
        text.push(b'\n');
        let mut staged = self.stage()?;
        staged.write(&[text])?;
        staged.publish(&path)?;
        if record.expanded {
            return Ok(());
        }
        let marks = self.layout().diff_marks(&record.diff_id);
        mark(&marks, &marks.join(file_name(chain_id.digest())))
    }

    /// Removes the record of a stack whose directory is gone; it can be published again.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn forget_chain(&self, chain_id: &ChainId) -> Result<(), FsError> {
        let path = self.chain_path(chain_id);
        if let Some(record) = self.chain(chain_id)? {
            // First, or readers would look for the directory.
            self.forget_layer(&record.layer_id)?;
        }
        fs::remove(&path)?;
        match path.parent() {
            Some(dir) if fs::stat(dir)?.is_some() => fs::sync_dir(dir),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns a record whose directory other chains with this DiffID can share.
    ///
    /// # Errors
    /// Any errno but ENOENT, and that a record is not readable as one.
    pub fn shareable(&self, diff_id: &DiffId) -> Result<Option<ChainRecord>, FsError> {
        let names = fs::list(&self.layout().diff_marks(diff_id))?;
        for chain_id in names.iter().filter_map(|name| digest_of(name)).map(ChainId::new) {
            if let Some(record) = self.chain(&chain_id)?
                && record.diff_id == *diff_id
                && !record.expanded
                && self.has_layer(&record.layer_id)?
            {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Returns the directories of a whole stack, the topmost first, as overlayfs takes them.
    ///
    /// A directory that is in the stack twice is named where it is topmost alone: overlayfs refuses it
    /// otherwise, and what it holds hides the same below.
    ///
    /// # Errors
    /// What of the stack is missing.
    pub fn lowerdirs(&self, chain_id: &ChainId) -> Result<Vec<PathBuf>, StackError> {
        let (mut dirs, mut seen) = (Vec::new(), HashSet::new());
        let mut next = Some(chain_id.clone());
        for _ in 0..MAX_LAYERS {
            let Some(current) = next else {
                return Ok(dirs);
            };
            let record = self.record_of(&current)?;
            if seen.insert(record.layer_id.clone()) {
                dirs.push(self.directory_of(current, &record)?);
            }
            next = record.parent;
        }
        match next {
            None => Ok(dirs),
            Some(_) => Err(StackError::TooHigh(chain_id.clone())),
        }
    }

    /// Returns the directory of a stack's topmost layer alone.
    ///
    /// # Errors
    /// As [`Store::lowerdirs`].
    pub fn top_dir(&self, chain_id: &ChainId) -> Result<PathBuf, StackError> {
        let record = self.record_of(chain_id)?;
        self.directory_of(chain_id.clone(), &record)
    }

    fn record_of(&self, chain_id: &ChainId) -> Result<ChainRecord, StackError> {
        let record = self.chain(chain_id)?;
        record.ok_or_else(|| StackError::NoRecord(chain_id.clone()))
    }

    fn directory_of(&self, chain_id: ChainId, record: &ChainRecord) -> Result<PathBuf, StackError> {
        let path = self.layer_path(&record.layer_id);
        match fs::stat(&path)? {
            Some(_) => Ok(path),
            None => Err(StackError::NoDirectory { chain_id, path }),
        }
    }

    /// Returns every stack whose topmost layer exists as a directory, sorted.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn chains(&self) -> Result<Vec<ChainId>, FsError> {
        let mut found = Vec::new();
        for (algorithm, dir) in self.layout().chain_dirs() {
            for hex in fs::list(&dir)? {
                if let Ok(chain_id) = format!("{}:{hex}", algorithm.as_str()).parse::<ChainId>()
                    && fs::stat(&self.chain_path(&chain_id))?.is_some()
                {
                    found.push(chain_id);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Returns the path of the marks of a DiffID, for messages and for [`crate::fs::Disk`].
    pub fn diff_path(&self, diff_id: &DiffId) -> PathBuf {
        self.layout().diff_marks(diff_id)
    }

    /// Returns the path of a record, for messages and for [`crate::fs::Disk`].
    pub fn chain_path(&self, chain_id: &ChainId) -> PathBuf {
        self.layout().chain_form(chain_id, DIRECTORY)
    }
}

/// The form of a layer that is a directory.
const DIRECTORY: &str = "dir";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::chain::{ChainLink, chain};
    use crate::oci::{Algorithm, Digest};

    fn links(seeds: &[&str]) -> Vec<ChainLink> {
        let diff_ids: Vec<_> = seeds
            .iter()
            .map(|seed| DiffId::new(Digest::of(Algorithm::Sha256, seed.as_bytes())))
            .collect();
        chain(&diff_ids)
    }

    fn record(link: &ChainLink, layer_id: &LayerId) -> ChainRecord {
        ChainRecord {
            layer_id: layer_id.clone(),
            diff_id: link.diff_id.clone(),
            parent: link.parent.clone(),
            blob: Digest::of(Algorithm::Sha256, b"blob"),
            blob_size_bytes: 4,
            size_bytes: 5,
            entries: 6,
            tree_digest: "x".to_owned(),
            compromises: Compromises::default(),
            expanded: false,
            root_is_implied: false,
        }
    }

    fn publish(store: &Store, link: &ChainLink) {
        let staged = store.stage_layer().unwrap();
        store.publish_layer(staged, &link.layer_id).unwrap();
        store
            .publish_chain(&link.chain_id, &record(link, &link.layer_id))
            .unwrap();
    }

    #[test]
    fn a_stack_is_told_the_topmost_first_and_each_directory_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let links = links(&["a", "b", "a"]);
        let missing = store.lowerdirs(&links[0].chain_id).unwrap_err();
        assert!(matches!(missing, StackError::NoRecord(chain_id) if chain_id == links[0].chain_id));
        publish(&store, &links[0]);
        publish(&store, &links[1]);
        let shared = store.shareable(&links[2].diff_id).unwrap().unwrap();
        assert_eq!(shared.layer_id, links[0].layer_id);
        store
            .publish_chain(&links[2].chain_id, &record(&links[2], &shared.layer_id))
            .unwrap();
        let expected = [&links[0], &links[1]].map(|link| store.layer_path(&link.layer_id));
        assert_eq!(store.lowerdirs(&links[2].chain_id).unwrap(), expected);
        assert_eq!(store.top_dir(&links[2].chain_id).unwrap(), expected[0]);
        let mut all: Vec<_> = links.iter().map(|link| link.chain_id.clone()).collect();
        all.sort();
        assert_eq!(store.chains().unwrap(), all);
    }

    #[test]
    fn a_directory_that_is_gone_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let links = links(&["a", "b"]);
        links.iter().for_each(|link| publish(&store, link));
        let gone = store.layer_path(&links[0].layer_id);
        std::fs::remove_dir(&gone).unwrap();
        let error = store.lowerdirs(&links[1].chain_id).unwrap_err();
        assert!(
            matches!(&error, StackError::NoDirectory { path, .. } if *path == gone),
            "{error}"
        );
        assert_eq!(store.shareable(&links[0].diff_id).unwrap(), None);
    }

    #[test]
    fn a_layer_that_is_bound_to_its_chain_is_not_shared() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let links = links(&["a"]);
        let mut expanded = record(&links[0], &links[0].layer_id);
        expanded.expanded = true;
        let staged = store.stage_layer().unwrap();
        store.publish_layer(staged, &links[0].layer_id).unwrap();
        store.publish_chain(&links[0].chain_id, &expanded).unwrap();
        assert_eq!(store.chain(&links[0].chain_id).unwrap(), Some(expanded));
        assert_eq!(store.shareable(&links[0].diff_id).unwrap(), None);
    }

    #[test]
    fn a_record_that_is_there_stays_and_one_that_is_damaged_is_no_miss() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let link = links(&["a"]).remove(0);
        publish(&store, &link);
        let mut other = record(&link, &link.layer_id);
        other.entries = 7;
        store.publish_chain(&link.chain_id, &other).unwrap();
        assert_eq!(store.chain(&link.chain_id).unwrap().unwrap().entries, 6);
        std::fs::write(store.chain_path(&link.chain_id), b"{}").unwrap();
        assert_eq!(store.chain(&link.chain_id).unwrap_err().operation(), "decode");
    }
}
