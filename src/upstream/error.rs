//! What can go wrong upstream, and the one class of it that callers branch on.

use std::time::Duration;

use http::StatusCode;

use crate::oci::RegistryHost;

/// Why upstream did not give what it was asked for.
///
/// `host` is the upstream as image names write it, `server` the host and port
/// that was really asked: an endpoint, a token server, a CDN. Neither is a URL,
/// so no message holds a password or a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The configuration, or what a host resolves to, forbids to ask it.
    #[error("{host} may not be asked: {reason}")]
    Refused {
        /// The upstream.
        host: RegistryHost,
        /// Which rule forbids it.
        reason: Refusal,
    },
    /// 404.
    #[error("{host} does not have it")]
    NotFound {
        /// The upstream.
        host: RegistryHost,
    },
    /// 401 or 403, after all that could be done about it.
    #[error("{server} denies access to {host} (status {status})")]
    Denied {
        /// The upstream.
        host: RegistryHost,
        /// Who denied it.
        server: String,
        /// The status.
        status: StatusCode,
    },
    /// 429, now or a while ago.
    #[error("{server} limits requests to {host}; to be asked again in {} s", .retry_after.as_secs_f32().ceil())]
    Limited {
        /// The upstream.
        host: RegistryHost,
        /// Who limits.
        server: String,
        /// How long it is left alone.
        retry_after: Duration,
    },
    /// Not asked, because it did not answer a while ago.
    #[error("{server} of {host} did not answer; to be asked again in {} s", .retry_after.as_secs_f32().ceil())]
    Paused {
        /// The upstream.
        host: RegistryHost,
        /// Who did not answer.
        server: String,
        /// How long it is left alone.
        retry_after: Duration,
    },
    /// 5xx.
    #[error("{server} of {host} failed (status {status})")]
    Failed {
        /// The upstream.
        host: RegistryHost,
        /// Who failed.
        server: String,
        /// The status.
        status: StatusCode,
        /// What its Retry-After says.
        retry_after: Option<Duration>,
    },
    /// No connection, or one that broke before there was a whole answer.
    #[error("no answer from {server} of {host}: {reason}")]
    Unreachable {
        /// The upstream.
        host: RegistryHost,
        /// Who did not answer.
        server: String,
        /// What the network says.
        reason: String,
    },
    /// No connection, or no answer, in time.
    #[error("{server} of {host} did not {wait} within {after:?}")]
    Timeout {
        /// The upstream.
        host: RegistryHost,
        /// Who was waited for.
        server: String,
        /// What was waited for.
        wait: Wait,
        /// How long.
        after: Duration,
    },
    /// All connections that are allowed were busy for long.
    #[error("all connections to {host} were busy for {after:?}")]
    Busy {
        /// The upstream.
        host: RegistryHost,
        /// How long one was waited for.
        after: Duration,
    },
    /// A blob's body ended or stalled before its end; asking from `position` on may go on.
    #[error("a blob from {host} broke off at byte {position}: {reason}")]
    Broken {
        /// The upstream.
        host: RegistryHost,
        /// The position in the blob up to which bytes came.
        position: u64,
        /// What the network says.
        reason: String,
    },
    /// An answer that no registry should give.
    #[error("{server} of {host} gave an answer that makes no sense: {nonsense}")]
    Invalid {
        /// The upstream.
        host: RegistryHost,
        /// Who gave it.
        server: String,
        /// What is wrong with it.
        nonsense: Nonsense,
    },
}

/// Which rule forbids to ask a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `allow` does not name it.
    #[error("`allow` does not name it")]
    NotAllowed,
    /// `deny` names it.
    #[error("`deny` names it")]
    Denied,
    /// It leads to this machine or its link, and is not configured.
    #[error(
        "it leads to a loopback, link-local, unspecified or multicast address, or to one that `deny` names"
    )]
    NotPublic,
}

/// What was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// The connection.
    #[error("take a connection")]
    Connection,
    /// An answer's headers.
    #[error("answer")]
    Answer,
    /// The rest of an answer's body.
    #[error("end its answer")]
    Body,
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// A status that means nothing here.
    #[error("status {0}")]
    Status(StatusCode),
    /// A body that is larger than anything sensible.
    #[error("a body of more than {limit_bytes} bytes")]
    TooLarge {
        /// What would have been taken.
        limit_bytes: usize,
    },
    /// A body that is not the JSON it should be.
    #[error("no JSON of the expected shape ({0})")]
    Json(String),
    /// A redirect without a place to go to.
    #[error("a redirect to no http or https URL")]
    Redirect,
    /// A redirect or token server without TLS, named over TLS.
    #[error("a way from https to http")]
    Downgrade,
    /// Redirects without end.
    #[error("more than {0} redirects")]
    ManyRedirects(usize),
    /// Pages without end.
    #[error("more than {0} pages")]
    ManyPages(usize),
    /// A token that cannot be sent.
    #[error("no usable token")]
    Token,
    /// Other bytes than were asked for.
    #[error("not the bytes from {offset} on")]
    Range {
        /// The first byte that was asked for.
        offset: u64,
    },
    /// More bytes than were promised.
    #[error("a body longer than the {size_bytes} bytes promised")]
    Overlong {
        /// What was promised.
        size_bytes: u64,
    },
}

/// What an [`UpstreamError`] means to who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamErrorClass {
    /// Upstream does not have it.
    NotFound,
    /// Upstream does not give it to wharf.
    Denied,
    /// Upstream has been asked too often.
    Limited,
    /// Upstream cannot be asked now; asking later may help.
    Unavailable,
    /// A body broke off; resuming may help.
    Broken,
    /// Upstream's answer makes no sense; asking again will not help.
    Invalid,
    /// wharf will not ask this host.
    Refused,
}

impl UpstreamError {
    /// Returns what the error means to who asked.
    pub fn class(&self) -> UpstreamErrorClass {
        match self {
            Self::Refused { .. } => UpstreamErrorClass::Refused,
            Self::NotFound { .. } => UpstreamErrorClass::NotFound,
            Self::Denied { .. } => UpstreamErrorClass::Denied,
            Self::Limited { .. } => UpstreamErrorClass::Limited,
            Self::Paused { .. }
            | Self::Failed { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Busy { .. } => UpstreamErrorClass::Unavailable,
            Self::Broken { .. } => UpstreamErrorClass::Broken,
            Self::Invalid { .. } => UpstreamErrorClass::Invalid,
        }
    }

    /// Returns when asking again makes sense, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limited { retry_after, .. } | Self::Paused { retry_after, .. } => Some(*retry_after),
            Self::Failed { retry_after, .. } => *retry_after,
            Self::Refused { .. }
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Busy { .. }
            | Self::Broken { .. }
            | Self::Invalid { .. } => None,
        }
    }
}
