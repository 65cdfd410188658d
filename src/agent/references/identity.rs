//! Who this node is, for ever: an id below the agent's root, and numbers that only go up.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::api::NodeId;
use crate::fs::{self, FsError, StagedFile, random_name};

/// The file of the node's id, below the agent's root.
const ID_FILE: &str = "node-id";

/// The tree of the node's numbers in the agent's records.
const TREE: &str = "node";

/// The key of the first number that no statement has.
const NEXT: &str = "next-sequence";

/// How many numbers are taken at a time, so that a statement costs no write to this node's disk.
const RESERVED: u64 = 1024;

/// Why this node does not know who it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenReferencesError {
    /// The id cannot be read or made.
    #[error("cannot take up this node's id")]
    Id(#[from] FsError),
    /// The file holds something else.
    #[error(
        "{} holds no node's id (32 hexadecimal digits); restore it, or remove it for a new id and then the old one \
         with `wharf nodes rm` on a mirror's host",
        .0.display()
    )]
    NoId(PathBuf),
    /// The numbers cannot be read.
    #[error("cannot take up the numbers of this node's statements")]
    Sequence(#[from] sled::Error),
}

/// Returns this node's id, which is made at the first call.
///
/// # Errors
/// Fails if it cannot be read or made, or is none.
pub(super) fn node_id(root: &Path) -> Result<NodeId, OpenReferencesError> {
    let path = root.join(ID_FILE);
    if let Some(content) = fs::read(&path)? {
        let text = String::from_utf8_lossy(&content);
        return text.trim().parse().map_err(|_| OpenReferencesError::NoId(path));
    }
    let id = NodeId::random();
    let mut staged = StagedFile::create(root.join(format!(".{ID_FILE}-{}", random_name())))?;
    staged.write(&[format!("{id}\n")])?;
    staged.publish(&path)?;
    Ok(id)
}

/// The numbers of this node's statements.
///
/// They begin at the time in milliseconds, or higher: what was lost with the records is passed over.
pub(super) struct Sequence {
    tree: sled::Tree,
    next: u64,
    /// The first number that is not reserved.
    end: u64,
}

impl Sequence {
    /// Takes up the numbers where an earlier process left them.
    ///
    /// # Errors
    /// Fails if they cannot be read.
    pub(super) fn open(db: &sled::Db) -> Result<Self, OpenReferencesError> {
        let tree = db.open_tree(TREE)?;
        let kept = tree.get(NEXT)?;
        let kept = kept.and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?)));
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since_epoch.as_millis()).unwrap_or_default();
        let next = kept.unwrap_or_default().max(now);
        Ok(Self {
            tree,
            next,
            end: next,
        })
    }

    /// Takes the next number.
    ///
    /// A disk that does not keep it is no reason to state nothing: the clock and the mirrors remember too.
    pub(super) async fn take(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        if number >= self.end {
            self.end = self.next + RESERVED;
            if let Err(error) = self.keep().await {
                tracing::warn!(%error, "the numbers of this node's statements cannot be kept");
            }
        }
        number
    }

    /// Goes on above a number that is taken.
    pub(super) fn pass(&mut self, taken: u64) {
        self.next = self.next.max(taken.saturating_add(1));
    }

    async fn keep(&self) -> sled::Result<()> {
        self.tree.insert(NEXT, &self.end.to_be_bytes())?;
        self.tree.flush_async().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_id_and_says_what_is_wrong_with_it() {
        let root = tempfile::tempdir().unwrap();
        let id = node_id(root.path()).unwrap();
        assert_eq!(node_id(root.path()).unwrap(), id);
        assert_eq!(fs::list(root.path()).unwrap(), [ID_FILE]);
        std::fs::write(root.path().join(ID_FILE), "").unwrap();
        let error = node_id(root.path()).unwrap_err();
        assert!(
            error.to_string().contains("node-id holds no node's id"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn numbers_go_up_over_restarts_and_a_lost_disk() {
        let root = tempfile::tempdir().unwrap();
        let db = sled::open(root.path()).unwrap();
        let mut last = 0;
        for _ in 0..3 {
            let mut sequence = Sequence::open(&db).unwrap();
            for _ in 0..RESERVED + 2 {
                let number = sequence.take().await;
                assert!(number > last, "{number} after {last}");
                last = number;
            }
        }
        let mut sequence = Sequence::open(&db).unwrap();
        sequence.pass(last + 1_000_000);
        assert_eq!(sequence.take().await, last + 1_000_001);
        assert!(Sequence::open(&db).unwrap().take().await > last + 1_000_001);
        db.drop_tree(TREE).unwrap();
        assert!(Sequence::open(&db).unwrap().take().await > 1_500_000_000_000);
    }
}
