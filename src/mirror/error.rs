//! Why the mirror cannot give what it was asked for.

use std::time::Duration;

use super::fill::FillError;
use crate::flight::Abandoned;
use crate::oci::DigestMismatch;
use crate::oci::manifest::ParseManifestError;
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// What a client of the mirror cannot have, and why.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MirrorError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Fill(#[from] FillError),
    #[error("the store does not have it, and the mirror is offline")]
    Offline,
    #[error("the store fails, and the mirror is offline")]
    StoreFails,
    #[error("upstream sent another manifest than the one asked for")]
    OtherManifest(#[from] DigestMismatch),
    #[error("upstream sent no manifest: {0}")]
    NoManifest(String),
    #[error("upstream has not answered in time")]
    Slow,
    #[error(transparent)]
    Abandoned(#[from] Abandoned),
}

/// What an error means to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorErrorClass {
    /// It does not exist, or upstream does not give it to the mirror.
    NotFound,
    /// The mirror may not ask that host.
    Refused,
    /// It may be had later.
    Unavailable { retry_after: Option<Duration> },
    /// Upstream gave something wrong.
    BadUpstream,
}

impl MirrorError {
    /// Returns what the error means to a client.
    pub fn class(&self) -> MirrorErrorClass {
        match self {
            Self::Upstream(error) | Self::Fill(FillError::Upstream(error)) => of_upstream(error),
            Self::Fill(FillError::Busy { retry_after } | FillError::Crowded { retry_after }) => {
                MirrorErrorClass::Unavailable {
                    retry_after: Some(*retry_after),
                }
            }
            Self::Fill(FillError::Told { class, .. }) => *class,
            Self::Fill(FillError::Unwanted(_) | FillError::Abandoned)
            | Self::StoreFails
            | Self::Slow
            | Self::Abandoned(_) => MirrorErrorClass::Unavailable { retry_after: None },
            Self::Fill(FillError::Mismatch(_) | FillError::Size { .. })
            | Self::OtherManifest(_)
            | Self::NoManifest(_) => MirrorErrorClass::BadUpstream,
            Self::Offline => MirrorErrorClass::NotFound,
        }
    }

    /// Tells whether upstream may know better later: then what is cached is served, stale as it is.
    pub(super) fn is_passing(&self) -> bool {
        match self.class() {
            MirrorErrorClass::Unavailable { .. } | MirrorErrorClass::BadUpstream => true,
            MirrorErrorClass::NotFound => matches!(self, Self::Offline),
            MirrorErrorClass::Refused => false,
        }
    }

    /// Tells whether upstream said that it does not have it, or does not give it.
    pub(super) fn is_final(&self) -> bool {
        self.class() == MirrorErrorClass::NotFound && !matches!(self, Self::Offline)
    }
}

impl From<ParseManifestError> for MirrorError {
    fn from(error: ParseManifestError) -> Self {
        Self::NoManifest(match error {
            ParseManifestError::Json(source) => format!("no JSON of one: {source}"),
            ParseManifestError::Shapeless => error.to_string(),
        })
    }
}

fn of_upstream(error: &UpstreamError) -> MirrorErrorClass {
    match error.class() {
        UpstreamErrorClass::NotFound | UpstreamErrorClass::Denied => MirrorErrorClass::NotFound,
        UpstreamErrorClass::Limited | UpstreamErrorClass::Unavailable | UpstreamErrorClass::Broken => {
            MirrorErrorClass::Unavailable {
                retry_after: error.retry_after(),
            }
        }
        UpstreamErrorClass::Invalid => MirrorErrorClass::BadUpstream,
        UpstreamErrorClass::Refused => MirrorErrorClass::Refused,
    }
}
