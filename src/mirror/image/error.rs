//! Why a layer is not extracted.

use std::io;
use std::time::Duration;

use tokio::task::JoinError;

use crate::flight::Abandoned;
use crate::fs::FsError;
use crate::mirror::{FillError, MirrorError};
use crate::oci::config::{MAX_LAYERS, ParseConfigError};
use crate::oci::{DiffId, DigestMismatch};
use crate::store::StackError;
use crate::unpack::UnpackError;

/// How long a layer that cannot be unpacked is not tried again: its bytes will not change, wharf may.
pub(in crate::mirror) const REMEMBER_LAYER: Duration = Duration::from_secs(600);

/// How long it is not tried again after the store failed.
const REMEMBER_STORE: Duration = Duration::from_secs(20);

/// Why a layer, or its blob, is not in the store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LayerError {
    #[error("its blob cannot be fetched")]
    Fetch(#[source] MirrorError),
    #[error("the store does not take its blob")]
    NotStored,
    #[error("its blob in the store is damaged; remove it")]
    Damaged(#[source] DigestMismatch),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error("its uncompressed bytes have the digest {actual}, and the image's config says {expected}")]
    WrongDiffId { expected: DiffId, actual: DiffId },
    #[error("another mirror of the store could not extract it: {0}")]
    Told(String),
    #[error("a layer below it is not extracted")]
    Below,
    #[error(transparent)]
    Stack(#[from] StackError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error("its extraction was ended before it was done")]
    Stopped,
    #[error("its extraction crashed; the log says where, please report it")]
    Crashed,
}

/// Why an image's layers are not extracted though they look like some.
#[derive(Debug, thiserror::Error)]
pub(in crate::mirror) enum NoImage {
    #[error(transparent)]
    Config(#[from] ParseConfigError),
    #[error("it is for {0:?}, and only layers of linux can be stacked")]
    OtherSystem(String),
    #[error("its manifest has {layers} layers and its config {diff_ids}")]
    Counts { layers: usize, diff_ids: usize },
    #[error("it has {0} layers, and overlayfs takes {MAX_LAYERS}")]
    TooHigh(usize),
    #[error("its config has {0} bytes, which is more than any has")]
    LargeConfig(u64),
    #[error("its DiffIDs are not of sha256")]
    OtherAlgorithm,
}

impl LayerError {
    /// Returns how long the layer is not to be tried again, if it was the layer or the store that failed.
    ///
    /// What upstream refuses is remembered elsewhere.
    pub(in crate::mirror) fn remembered_for(&self) -> Option<Duration> {
        match self {
            Self::Fetch(_) | Self::Below | Self::Stopped | Self::Unpack(UnpackError::Cancelled) => None,
            Self::NotStored | Self::Damaged(_) | Self::Stack(_) | Self::Fs(_) => Some(REMEMBER_STORE),
            Self::Unpack(
                UnpackError::Fs(_) | UnpackError::Read(_) | UnpackError::Thread(_) | UnpackError::Died,
            ) => Some(REMEMBER_STORE),
            Self::Unpack(_) | Self::WrongDiffId { .. } | Self::Told(_) | Self::Crashed => {
                Some(REMEMBER_LAYER)
            }
        }
    }

    /// Tells whether the layer itself is at fault, and not what brought or took it.
    pub(in crate::mirror) fn is_lasting(&self) -> bool {
        self.remembered_for() == Some(REMEMBER_LAYER)
    }

    /// Returns the store's own failure, to be counted as one.
    pub(in crate::mirror) fn store_error(&self) -> Option<&FsError> {
        match self {
            Self::Fs(error) | Self::Unpack(UnpackError::Fs(error)) | Self::Stack(StackError::Fs(error)) => {
                Some(error)
            }
            _ => None,
        }
    }

    /// Returns the error and its causes in one line.
    pub fn full_text(&self) -> String {
        crate::telemetry::full_text(self)
    }
}

impl From<MirrorError> for LayerError {
    fn from(error: MirrorError) -> Self {
        Self::Fetch(error)
    }
}

impl From<FillError> for LayerError {
    fn from(error: FillError) -> Self {
        match error {
            // Nobody but the store wanted it.
            FillError::Unwanted(_) => Self::NotStored,
            error => Self::Fetch(error.into()),
        }
    }
}

impl From<Abandoned> for LayerError {
    fn from(_: Abandoned) -> Self {
        Self::Stopped
    }
}

impl From<JoinError> for LayerError {
    fn from(error: JoinError) -> Self {
        if error.is_panic() {
            Self::Crashed
        } else {
            Self::Stopped
        }
    }
}

impl From<LayerError> for io::Error {
    fn from(error: LayerError) -> Self {
        Self::other(error)
    }
}
