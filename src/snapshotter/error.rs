//! Why a snapshot's call fails, and the status that containerd reads it by.

use std::path::PathBuf;

use tonic::{Code, Status};

use crate::fs::{FsError, FsErrorKind};
use crate::oci::ChainId;
use crate::store::OpenStoreError;
use crate::telemetry::full_text;

use super::filter::ParseFilterError;

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("snapshot {0:?} exists already")]
    Exists(String),
    #[error("the layer {0} is on the store: nothing is to be unpacked")]
    Shared(ChainId),
    #[error("there is no snapshot {0:?}")]
    NotFound(String),
    #[error("parent {0:?} is not committed")]
    ParentNotCommitted(String),
    #[error("snapshot {0:?} is not active")]
    NotActive(String),
    #[error("snapshot {0:?} is committed, and has no mounts")]
    Committed(String),
    #[error("snapshot {name:?} has {children} snapshots on it")]
    HasChildren { name: String, children: usize },
    #[error("snapshot {name:?} lies on {parent:?}, and not on {wanted:?}")]
    OtherParent {
        name: String,
        parent: String,
        wanted: String,
    },
    #[error("a snapshot needs a key")]
    NoKey,
    #[error("the field {0:?} of a snapshot cannot be changed; labels can")]
    FixedField(String),
    #[error(transparent)]
    Filter(#[from] ParseFilterError),
    #[error(transparent)]
    Store(#[from] StoreTrouble),
    #[error(
        "the layer {chain_id} is not on the store any more ({}); {why}; it comes back when a mirror extracts it again: \
         start one, or pull the image there (`wharf pull`)", path.display()
    )]
    LayerGone {
        chain_id: ChainId,
        path: PathBuf,
        /// What mirrors say.
        why: String,
    },
    /// This node's own disk.
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error("a blocking thread died")]
    Died(#[source] tokio::task::JoinError),
}

/// Why the store cannot be used at present.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreTrouble {
    #[error(
        "the store {} is not there: is its file system mounted on this node, and this its directory (the one with \
         wharf.json)?", root.display()
    )]
    Missing { root: PathBuf },
    #[error(
        "{} is the store {found}, and this node's snapshots are of the store {expected}; mount that one there, \
         or give the agent another --root", root.display()
    )]
    Other {
        root: PathBuf,
        expected: String,
        found: String,
    },
    #[error("the store {} cannot be used: {reason}", root.display())]
    Unusable { root: PathBuf, reason: String },
    #[error("the store {} fails: {reason}", root.display())]
    Fails { root: PathBuf, reason: String },
}

impl StoreTrouble {
    /// Tells what a failed call means, of the store at `root`.
    pub(super) fn of(root: PathBuf, error: &FsError) -> Self {
        Self::Fails {
            root,
            reason: error.full_text(),
        }
    }

    /// Tells why a store cannot be opened.
    pub(super) fn of_opening(root: PathBuf, error: &OpenStoreError) -> Self {
        match error {
            OpenStoreError::Missing { .. } => Self::Missing { root },
            error => Self::Unusable {
                root,
                reason: full_text(error),
            },
        }
    }
}

impl From<&SnapshotError> for Code {
    /// containerd tells these apart by its `errdefs`; each stands for what it does then.
    fn from(error: &SnapshotError) -> Self {
        match error {
            SnapshotError::Exists(_) | SnapshotError::Shared(_) => Self::AlreadyExists,
            SnapshotError::NotFound(_) => Self::NotFound,
            SnapshotError::ParentNotCommitted(_)
            | SnapshotError::NotActive(_)
            | SnapshotError::Committed(_)
            | SnapshotError::HasChildren { .. } => Self::FailedPrecondition,
            SnapshotError::OtherParent { .. }
            | SnapshotError::NoKey
            | SnapshotError::FixedField(_)
            | SnapshotError::Filter(_) => Self::InvalidArgument,
            SnapshotError::Store(_) | SnapshotError::LayerGone { .. } => Self::Unavailable,
            SnapshotError::Fs(error) if error.kind() == FsErrorKind::Full => Self::ResourceExhausted,
            SnapshotError::Fs(_) | SnapshotError::Died(_) => Self::Internal,
        }
    }
}

impl From<SnapshotError> for Status {
    fn from(error: SnapshotError) -> Self {
        Self::new(Code::from(&error), full_text(&error))
    }
}
