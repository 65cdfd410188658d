//! The list of nodes: what each says that it has in use.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use bytesize::ByteSize;
use serde::Serialize;

use super::age::{Age, rfc3339};
use super::counted;
use crate::api::NodeId;
use crate::fs::FsError;
use crate::oci::{ChainId, Digest};
use crate::store::{StatedNode, Store};

/// The nodes that a store knows, sorted by id.
#[derive(Debug, Serialize)]
pub struct Nodes {
    pub nodes: Vec<ListedNode>,
}

/// One node, by its last statement.
#[derive(Debug, Serialize)]
pub struct ListedNode {
    pub id: NodeId,
    pub host_name: String,
    /// The version of wharf that it runs.
    pub version: String,
    pub layers: BTreeSet<ChainId>,
    pub blobs: BTreeSet<Digest>,
    /// Bytes that the layers and blobs have on the store, roughly: those of the layers' archives.
    pub kept_bytes: u64,
    /// When the statement was written, by the file system's clock (RFC 3339).
    pub stated_at: String,
    #[serde(skip)]
    age: Age,
}

/// Reads what nodes keep; what many have in common once.
struct Sizes<'a> {
    store: &'a Store,
    layers: HashMap<ChainId, u64>,
    blobs: HashMap<Digest, u64>,
}

impl Nodes {
    /// Reads what the nodes of a store have in use.
    ///
    /// # Errors
    /// Any errno but ENOENT, and that a statement is not readable as one.
    pub fn read(store: &Store) -> Result<Self, FsError> {
        let mut sizes = Sizes::new(store);
        let mut nodes = Vec::new();
        for id in store.nodes()? {
            if let Some(node) = store.node(&id)? {
                nodes.push(ListedNode::new(node, &mut sizes)?);
            }
        }
        Ok(Self { nodes })
    }

    /// Writes it as JSON.
    pub fn to_json(&self) -> String {
        // Plain fields with text keys can always be written.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

impl ListedNode {
    /// Reads what one node has in use; `None` if the store knows no such node.
    ///
    /// # Errors
    /// As [`Nodes::read`].
    pub fn read(store: &Store, id: &NodeId) -> Result<Option<Self>, FsError> {
        let node = store.node(id)?;
        node.map(|node| Self::new(node, &mut Sizes::new(store)))
            .transpose()
    }

    fn new(node: StatedNode, sizes: &mut Sizes<'_>) -> Result<Self, FsError> {
        let StatedNode {
            id,
            statement,
            written_at,
        } = node;
        Ok(Self {
            id,
            kept_bytes: sizes.all(&statement.layers, &statement.blobs)?,
            host_name: statement.host_name,
            version: statement.version,
            layers: statement.layers,
            blobs: statement.blobs,
            stated_at: rfc3339(written_at),
            age: Age::of(written_at),
        })
    }
}

impl<'a> Sizes<'a> {
    fn new(store: &'a Store) -> Self {
        Self {
            store,
            layers: HashMap::new(),
            blobs: HashMap::new(),
        }
    }

    fn all(&mut self, layers: &BTreeSet<ChainId>, blobs: &BTreeSet<Digest>) -> Result<u64, FsError> {
        let mut sum = 0_u64;
        for chain_id in layers {
            sum = sum.saturating_add(self.layer(chain_id)?);
        }
        for digest in blobs {
            sum = sum.saturating_add(self.blob(digest)?);
        }
        Ok(sum)
    }

    fn layer(&mut self, chain_id: &ChainId) -> Result<u64, FsError> {
        if let Some(size) = self.layers.get(chain_id) {
            return Ok(*size);
        }
        let record = self.store.chain(chain_id)?;
        let size = record.map_or(0, |record| record.size_bytes);
        self.layers.insert(chain_id.clone(), size);
        Ok(size)
    }

    fn blob(&mut self, digest: &Digest) -> Result<u64, FsError> {
        if let Some(size) = self.blobs.get(digest) {
            return Ok(*size);
        }
        let size = self.store.stat_blob(digest)?.unwrap_or_default();
        self.blobs.insert(digest.clone(), size);
        Ok(size)
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes.is_empty() {
            return writeln!(f, "no agent has told of a node that uses this store");
        }
        self.nodes.iter().try_for_each(|node| writeln!(f, "{node}"))
    }
}

impl fmt::Display for ListedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            // Its host name is what somebody sent.
            "{} {} wharf {}, keeps {} and {}, {}, stated {}",
            self.id,
            self.host_name.escape_debug(),
            self.version.escape_debug(),
            counted(self.layers.len(), "layer"),
            counted(self.blobs.len(), "blob"),
            ByteSize(self.kept_bytes),
            self.age
        )
    }
}
