//! What is known of one snapshot.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::proto::snapshots::{Info, Kind as ProtoKind};
use super::{label, name};
use crate::oci::{ChainId, Digest, LayerId};

/// A snapshot, as containerd has been told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// containerd's key of it, or the name that was given to a layer of the store.
    pub(super) name: String,
    /// Names its directory if it has one, and the short link to its layer. Never used twice at a time.
    pub(super) id: u64,
    pub(super) kind: Kind,
    pub(super) parent: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) created: SystemTime,
    pub(super) updated: SystemTime,
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    View,
    Active,
    Committed,
}

/// Where a snapshot's files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Place {
    /// On this node.
    Local {
        /// What it takes; of an active one it is counted when asked for.
        usage: Usage,
    },
    /// On the store.
    Shared(SharedLayer),
}

/// A layer on the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SharedLayer {
    pub(super) chain_id: ChainId,
    pub(super) layer_id: LayerId,
    /// The compressed layer, by the digest that the image has it under.
    pub(super) blob: Option<Digest>,
    /// containerd's namespaces that have asked for it.
    pub(super) namespaces: BTreeSet<String>,
}

/// What a snapshot takes of this node's disk, without those below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Usage {
    pub(super) size_bytes: u64,
    pub(super) inodes: u64,
}

impl Record {
    /// Returns the layer on the store, of a snapshot that is one.
    pub(super) fn shared(&self) -> Option<&SharedLayer> {
        match &self.place {
            Place::Shared(layer) => Some(layer),
            Place::Local { .. } => None,
        }
    }

    /// Returns the stack whose topmost layer this is, if that is known.
    pub(super) fn chain_id(&self) -> Option<ChainId> {
        match &self.place {
            Place::Shared(layer) => Some(layer.chain_id.clone()),
            Place::Local { .. } => {
                let label = self
                    .labels
                    .get(label::CHAIN)
                    .and_then(|chain_id| chain_id.parse().ok());
                label.or_else(|| name::chain_of(&self.name))
            }
        }
    }

    /// Returns what containerd is told.
    pub(super) fn info(&self) -> Info {
        let kind = match self.kind {
            Kind::View => ProtoKind::View,
            Kind::Active => ProtoKind::Active,
            Kind::Committed => ProtoKind::Committed,
        };
        Info {
            name: self.name.clone(),
            parent: self.parent.clone().unwrap_or_default(),
            kind: kind.into(),
            created_at: Some(self.created.into()),
            updated_at: Some(self.updated.into()),
            labels: self.labels.clone().into_iter().collect::<HashMap<_, _>>(),
        }
    }
}
