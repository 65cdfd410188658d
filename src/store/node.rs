//! What nodes have in use: `nodes/<id>/<sequence>`, a statement each, the highest of which counts.
//!
//! A statement is written whole under a new name, by whichever mirror the node reached; those below it are removed
//! then. So a late one of a slow mirror changes nothing.

use std::io;
use std::time::SystemTime;

use crate::api::{NodeAnswer, NodeId, NodeStatement};
use crate::fs::{self, FsError};

use super::Store;

/// How often a list is read again because a mirror has removed what it named, having written a later one.
const READ_ATTEMPTS: usize = 10;

/// What a node has last said, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatedNode {
    pub id: NodeId,
    pub statement: NodeStatement,
    /// When it was written, by the clock of the file system.
    pub written_at: SystemTime,
}

impl Store {
    /// Writes what a node has in use, unless a later statement is there; returns which counts.
    ///
    /// # Errors
    /// Any errno.
    pub fn state_node(&self, id: &NodeId, statement: &NodeStatement) -> Result<NodeAnswer, FsError> {
        let dir = self.layout().node(id);
        let present = self.statements(id)?;
        let previous = present.iter().copied().max();
        let answer = NodeAnswer {
            sequence: statement.sequence.max(previous.unwrap_or_default()),
            previous,
        };
        if previous.is_some_and(|previous| previous >= statement.sequence) {
            return Ok(answer);
        }
        let path = self.layout().statement(id, statement.sequence);
        let text =
            serde_json::to_vec(statement).map_err(|error| FsError::new("encode", &path, error.into()))?;
        let mut staged = self.stage()?;
        staged.write(&[text])?;
        fs::make_dirs_durably(&dir)?;
        staged.publish(&path)?;
        for sequence in present {
            fs::remove(&self.layout().statement(id, sequence))?;
        }
        Ok(answer)
    }

    /// Returns what a node has in use; `None` if the store knows no such node.
    ///
    /// # Errors
    /// Any errno but ENOENT, and that the statement is not readable as one.
    pub fn node(&self, id: &NodeId) -> Result<Option<StatedNode>, FsError> {
        let mut lost = None;
        for _ in 0..READ_ATTEMPTS {
            let Some(sequence) = self.statements(id)?.into_iter().max() else {
                return Ok(None);
            };
            let path = self.layout().statement(id, sequence);
            match fs::read_dated(&path)? {
                Some((text, written_at)) => {
                    let statement = serde_json::from_slice(&text)
                        .map_err(|error| FsError::new("decode", &path, error.into()))?;
                    return Ok(Some(StatedNode {
                        id: id.clone(),
                        statement,
                        written_at,
                    }));
                }
                None => lost = Some(path),
            }
        }
        // Never as if the node used nothing.
        let path = lost.unwrap_or_else(|| self.layout().node(id));
        Err(FsError::new(
            "read",
            &path,
            io::Error::other("it is listed, and not there"),
        ))
    }

    /// Returns the nodes that have said what they use, sorted.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn nodes(&self) -> Result<Vec<NodeId>, FsError> {
        let names = fs::list(&self.layout().nodes())?;
        let mut ids: Vec<NodeId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// Forgets what a node has in use, for good unless it says so again.
    ///
    /// # Errors
    /// Any errno but ENOENT; ENOTEMPTY if the node has just said more, or if the directory holds anything else.
    pub fn forget_node(&self, id: &NodeId) -> Result<(), FsError> {
        for sequence in self.statements(id)? {
            fs::remove(&self.layout().statement(id, sequence))?;
        }
        let dir = self.layout().node(id);
        match std::fs::remove_dir(&dir) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(FsError::new("remove", &dir, source))
            }
            _ => fs::sync_dir(&self.layout().nodes()),
        }
    }

    fn statements(&self, id: &NodeId) -> Result<Vec<u64>, FsError> {
        let names = fs::list(&self.layout().node(id))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_statement_with_the_highest_sequence_counts() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = NodeId::random();
        assert_eq!(store.node(&id).unwrap(), None);
        let statement = |sequence, host_name: &str| NodeStatement {
            sequence,
            host_name: host_name.to_owned(),
            version: "1".to_owned(),
            layers: BTreeSet::new(),
            blobs: BTreeSet::new(),
        };
        let mut previous = None;
        for (sequence, counts) in [(5, 5), (9, 9), (7, 9), (9, 9), (10, 10)] {
            let stated = store.state_node(&id, &statement(sequence, &sequence.to_string()));
            let answer = stated.unwrap();
            assert_eq!((answer.sequence, answer.previous), (counts, previous));
            previous = Some(counts);
            let seen = store.node(&id).unwrap().unwrap().statement;
            assert_eq!((seen.sequence, seen.host_name), (counts, counts.to_string()));
            assert_eq!(fs::list(&store.layout().node(&id)).unwrap().len(), 1);
        }
    }
    #[test]
    fn a_node_is_forgotten_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut ids = [NodeId::random(), NodeId::random()];
        ids.sort();
        let statement = NodeStatement {
            sequence: 1,
            host_name: "n".to_owned(),
            version: "1".to_owned(),
            layers: BTreeSet::new(),
            blobs: BTreeSet::new(),
        };
        assert_eq!(store.nodes().unwrap(), []);
        for id in &ids {
            store.state_node(id, &statement).unwrap();
        }
        assert_eq!(store.nodes().unwrap(), ids);
        store.forget_node(&ids[0]).unwrap();
        assert_eq!(store.nodes().unwrap(), ids[1..]);
        assert_eq!(store.node(&ids[0]).unwrap(), None);
        assert!(store.node(&ids[1]).unwrap().is_some());
        store.forget_node(&ids[0]).unwrap();
    }

    #[test]
    fn a_statement_that_is_listed_and_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = NodeId::random();
        std::fs::create_dir_all(store.layout().node(&id)).unwrap();
        std::os::unix::fs::symlink("nowhere", store.layout().statement(&id, 1)).unwrap();
        let error = store.node(&id).unwrap_err();
        assert!(!error.is_missing(), "{}", error.full_text());
    }
}
