//! What nodes have in use: `nodes/<id>/<sequence>`, a statement each, the highest of which counts.
//!
//! A statement is written whole under a new name, by whichever mirror the node reached; those below it are removed
//! then. So a late one of a slow mirror changes nothing.

use crate::api::{NodeId, NodeStatement};
use crate::fs::{self, FsError};

use super::Store;

/// How often a list is read again because another mirror has removed what it named.
const READ_ATTEMPTS: usize = 3;

impl Store {
    /// Writes what a node has in use, unless a later statement is there; returns the sequence that counts.
    ///
    /// # Errors
    /// Any errno.
    pub fn state_node(&self, id: &NodeId, statement: &NodeStatement) -> Result<u64, FsError> {
        let dir = self.layout().node(id);
        let present = self.statements(id)?;
        let highest = present.iter().copied().max();
        if let Some(highest) = highest
            && highest >= statement.sequence
        {
            return Ok(highest);
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
        Ok(statement.sequence)
    }

    /// Returns what a node has in use; `None` if it has never said so.
    ///
    /// # Errors
    /// Any errno but ENOENT, and that the statement is not readable as one.
    pub fn node(&self, id: &NodeId) -> Result<Option<NodeStatement>, FsError> {
        for _ in 0..READ_ATTEMPTS {
            let Some(sequence) = self.statements(id)?.into_iter().max() else {
                return Ok(None);
            };
            let path = self.layout().statement(id, sequence);
            if let Some(text) = fs::read(&path)? {
                return serde_json::from_slice(&text)
                    .map(Some)
                    .map_err(|error| FsError::new("decode", &path, error.into()));
            }
        }
        Ok(None)
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
        for (sequence, counts) in [(5, 5), (9, 9), (7, 9), (9, 9), (10, 10)] {
            let stated = store.state_node(&id, &statement(sequence, &sequence.to_string()));
            assert_eq!(stated.unwrap(), counts);
            let seen = store.node(&id).unwrap().unwrap();
            assert_eq!((seen.sequence, seen.host_name), (counts, counts.to_string()));
            assert_eq!(fs::list(&store.layout().node(&id)).unwrap().len(), 1);
        }
    }
}
