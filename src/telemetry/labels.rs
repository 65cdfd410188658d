//! The values of the metrics' labels: closed sets, each with the word that Prometheus sees.

use std::fmt::{self, Write as _};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// How a blob was answered.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum BlobResult {
    /// From the store.
    Hit,
    /// From a fill that was under way.
    Follow,
    /// From a fill that this request started.
    Fill,
    /// From upstream, past a store that is full or fails.
    Uncached,
    /// Not at all.
    Error,
}

impl BlobResult {
    pub(super) const ALL: &[Self] = &[Self::Hit, Self::Follow, Self::Fill, Self::Uncached, Self::Error];
}

impl EncodeLabelValue for BlobResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(match self {
            BlobResult::Hit => "hit",
            BlobResult::Follow => "follow",
            BlobResult::Fill => "fill",
            BlobResult::Uncached => "uncached",
            BlobResult::Error => "error",
        })
    }
}

/// How a manifest was answered.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum ManifestResult {
    /// From the store, without asking upstream.
    Hit,
    /// From the store, after upstream said that the tag has not changed.
    Revalidated,
    /// From upstream.
    Fetched,
    /// From the store, because upstream could not say whether the tag has changed.
    Stale,
    /// Neither the store nor upstream has it.
    NotFound,
    /// Not at all.
    Error,
}

impl ManifestResult {
    pub(super) const ALL: &[Self] = &[
        Self::Hit,
        Self::Revalidated,
        Self::Fetched,
        Self::Stale,
        Self::NotFound,
        Self::Error,
    ];
}

impl EncodeLabelValue for ManifestResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(match self {
            ManifestResult::Hit => "hit",
            ManifestResult::Revalidated => "revalidated",
            ManifestResult::Fetched => "fetched",
            ManifestResult::Stale => "stale",
            ManifestResult::NotFound => "not_found",
            ManifestResult::Error => "error",
        })
    }
}

/// What upstream was asked for.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum UpstreamKind {
    /// A manifest's headers.
    ManifestHead,
    /// A manifest; what Docker Hub counts as a pull.
    ManifestGet,
    /// A blob's headers.
    BlobHead,
    /// A blob, or the rest of one.
    BlobGet,
    /// A token.
    Token,
    /// Tags, referrers, the API's root.
    Other,
}

impl UpstreamKind {
    pub(super) const ALL: &[Self] = &[
        Self::ManifestHead,
        Self::ManifestGet,
        Self::BlobHead,
        Self::BlobGet,
        Self::Token,
        Self::Other,
    ];
}

impl EncodeLabelValue for UpstreamKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(match self {
            UpstreamKind::ManifestHead => "manifest_head",
            UpstreamKind::ManifestGet => "manifest_get",
            UpstreamKind::BlobHead => "blob_head",
            UpstreamKind::BlobGet => "blob_get",
            UpstreamKind::Token => "token",
            UpstreamKind::Other => "other",
        })
    }
}

/// What came of a request to upstream.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum UpstreamOutcome {
    /// 2xx, 3xx.
    Ok,
    /// 404.
    NotFound,
    /// 401, 403.
    Denied,
    /// 429.
    Limited,
    /// Any other 4xx or 5xx.
    Failed,
    /// No answer in time.
    Timeout,
    /// No connection, or one that broke.
    Unreachable,
}

impl UpstreamOutcome {
    pub(super) const ALL: &[Self] = &[
        Self::Ok,
        Self::NotFound,
        Self::Denied,
        Self::Limited,
        Self::Failed,
        Self::Timeout,
        Self::Unreachable,
    ];
}

impl EncodeLabelValue for UpstreamOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(match self {
            UpstreamOutcome::Ok => "ok",
            UpstreamOutcome::NotFound => "not_found",
            UpstreamOutcome::Denied => "denied",
            UpstreamOutcome::Limited => "limited",
            UpstreamOutcome::Failed => "failed",
            UpstreamOutcome::Timeout => "timeout",
            UpstreamOutcome::Unreachable => "unreachable",
        })
    }
}

/// How a fill ended.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum FillOutcome {
    /// The blob is in the store.
    Published,
    /// Upstream did not give the blob, or gave wrong bytes.
    Failed,
    /// The store could not take the blob.
    Uncached,
    /// The mirror stopped before the end.
    Abandoned,
}

impl FillOutcome {
    pub(super) const ALL: &[Self] = &[Self::Published, Self::Failed, Self::Uncached, Self::Abandoned];
}

impl EncodeLabelValue for FillOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(match self {
            FillOutcome::Published => "published",
            FillOutcome::Failed => "failed",
            FillOutcome::Uncached => "uncached",
            FillOutcome::Abandoned => "abandoned",
        })
    }
}

/// How a layer of an image ended.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum LayerOutcome {
    /// It was extracted, and is published.
    Published,
    /// It names the directory of another stack's layer.
    Shared,
    /// It could not be extracted or published.
    Failed,
}

impl LayerOutcome {
    pub(super) const ALL: &[Self] = &[Self::Published, Self::Shared, Self::Failed];
}

impl EncodeLabelValue for LayerOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(match self {
            LayerOutcome::Published => "published",
            LayerOutcome::Shared => "shared",
            LayerOutcome::Failed => "failed",
        })
    }
}

/// Why a manifest was held no longer.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum HoldOutcome {
    /// Every layer is published.
    Published,
    /// A layer could not be, or the image is not extracted.
    Failed,
    /// It took too long.
    TimedOut,
    /// The mirror was to end.
    Draining,
}

impl HoldOutcome {
    pub(super) const ALL: &[Self] = &[Self::Published, Self::Failed, Self::TimedOut, Self::Draining];
}

impl EncodeLabelValue for HoldOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(match self {
            HoldOutcome::Published => "published",
            HoldOutcome::Failed => "failed",
            HoldOutcome::TimedOut => "timeout",
            HoldOutcome::Draining => "draining",
        })
    }
}

/// What kind of error a call of the store ended with.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// No space or quota left, or a file larger than may be.
    Full,
    /// The device or the file system fails.
    Io,
    /// No answer in time.
    Timeout,
    /// Not permitted, or read-only.
    Denied,
    /// Anything else.
    Other,
}

impl StoreErrorKind {
    pub(super) const ALL: &[Self] = &[Self::Full, Self::Io, Self::Timeout, Self::Denied, Self::Other];
}

impl EncodeLabelValue for StoreErrorKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(match self {
            StoreErrorKind::Full => "full",
            StoreErrorKind::Io => "io",
            StoreErrorKind::Timeout => "timeout",
            StoreErrorKind::Denied => "denied",
            StoreErrorKind::Other => "other",
        })
    }
}

impl StoreErrorKind {
    /// Sorts an error of the file system.
    pub fn of(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        // std has no stable kind for EIO.
        if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) {
            return Self::Io;
        }
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Self::Full,
            Kind::StaleNetworkFileHandle | Kind::NotConnected | Kind::HostUnreachable => Self::Io,
            Kind::TimedOut => Self::Timeout,
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Self::Denied,
            _ => Self::Other,
        }
    }
}
