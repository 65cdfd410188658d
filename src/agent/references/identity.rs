//! Who this node is, for ever: an id below the agent's root.

use std::path::{Path, PathBuf};

use crate::api::NodeId;
use crate::fs::{self, FsError, StagedFile, random_name};

/// The file of the node's id, below the agent's root.
const ID_FILE: &str = "node-id";

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
}
