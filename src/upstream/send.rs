//! One request to one server: leave to send it, its deadline, its count, its log line.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HeaderMap, RETRY_AFTER};
use http::{Method, StatusCode};
use reqwest::Response;
use tokio::time::{Instant, timeout};
use url::{Position, Url};

use super::Upstream;
use super::error::{Nonsense, Refusal, UpstreamError, Wait};
use super::health::{Health, Rest};
use super::public::NotPublic;
use crate::telemetry::labels::{UpstreamKind, UpstreamOutcome};

/// How long a server that answers 429 is left alone if it does not say.
const DEFAULT_LIMIT: Duration = Duration::from_secs(5);
/// The shortest and the longest time that is believed: Docker Hub may say hours, and be wrong after one.
const LIMITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How much of a body that nobody wants is read, and for how long, to keep its connection.
const DISCARDED_BYTES: usize = 16 << 10;
const MAX_DISCARD_TIME: Duration = Duration::from_millis(200);

/// A request as it is sent.
pub(super) struct Outgoing {
    pub(super) kind: UpstreamKind,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
}

/// Why there was no answer.
enum NoAnswer {
    Timeout(Wait, Duration),
    NoConnection(String),
    /// The connection broke; a pooled one may have been dead before.
    Broke(String),
    NotPublic,
}

impl Upstream {
    /// Sends a request and returns what was answered, whatever the status.
    ///
    /// # Errors
    /// Fails if the server is left alone now, or did not answer.
    pub(super) async fn send(&self, outgoing: &Outgoing) -> Result<Response, UpstreamError> {
        let health = self.health_of(&outgoing.url);
        let pass = health
            .admit(outgoing.kind, Instant::now())
            .map_err(|rest| self.resting(&outgoing.url, rest))?;
        let mut sent = self.send_once(outgoing).await;
        if let Err(NoAnswer::Broke(_)) = sent {
            sent = self.send_once(outgoing).await;
        }
        match sent {
            Ok(response) => {
                pass.answered();
                if response.status() == StatusCode::TOO_MANY_REQUESTS {
                    let until = Instant::now() + limit_of(response.headers());
                    health.limit(outgoing.kind, until);
                }
                Ok(response)
            }
            Err(no_answer) => {
                if !matches!(no_answer, NoAnswer::NotPublic) {
                    pass.unanswered(Instant::now());
                }
                Err(self.unanswered(&outgoing.url, no_answer))
            }
        }
    }

    /// Tells whether a server is left alone now, before anything else is waited for.
    ///
    /// # Errors
    /// Fails if it is.
    pub(super) fn check_rest(&self, url: &Url, kind: UpstreamKind) -> Result<(), UpstreamError> {
        let rest = self.health_of(url).check(kind, Instant::now());
        rest.map_err(|rest| self.resting(url, rest))
    }

    async fn send_once(&self, outgoing: &Outgoing) -> Result<Response, NoAnswer> {
        let client = match outgoing.kind {
            UpstreamKind::BlobGet => &self.0.clients.bodies,
            UpstreamKind::ManifestHead
            | UpstreamKind::ManifestGet
            | UpstreamKind::BlobHead
            | UpstreamKind::Token
            | UpstreamKind::Other => &self.0.clients.api,
        };
        let mut request = reqwest::Request::new(outgoing.method.clone(), outgoing.url.clone());
        request.headers_mut().clone_from(&outgoing.headers);
        *request.body_mut() = outgoing.body.clone().map(Into::into);
        let (started, after) = (Instant::now(), self.0.answer_timeout);
        let sent = match timeout(after, client.execute(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.sort(&error)),
            Err(_) => Err(NoAnswer::Timeout(Wait::Answer, after)),
        };
        self.note(outgoing, &sent, started.elapsed());
        sent
    }

    fn sort(&self, error: &reqwest::Error) -> NoAnswer {
        let mut source: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(cause) = source {
            if cause.is::<NotPublic>() {
                return NoAnswer::NotPublic;
            }
            source = cause.source();
        }
        match (error.is_connect(), error.is_timeout()) {
            (true, true) => NoAnswer::Timeout(Wait::Connection, self.0.connect_timeout),
            (true, false) => NoAnswer::NoConnection(root_cause(error)),
            (false, _) => NoAnswer::Broke(root_cause(error)),
        }
    }

    fn note(&self, outgoing: &Outgoing, sent: &Result<Response, NoAnswer>, duration: Duration) {
        let (outcome, status) = match sent {
            Ok(response) => (outcome_of(response.status()), response.status().as_u16()),
            Err(NoAnswer::Timeout(..)) => (UpstreamOutcome::Timeout, 0),
            Err(NoAnswer::NoConnection(_) | NoAnswer::Broke(_) | NoAnswer::NotPublic) => {
                (UpstreamOutcome::Unreachable, 0)
            }
        };
        let Outgoing {
            kind, method, url, ..
        } = outgoing;
        self.0.metrics.upstream_request(&self.0.host, *kind, outcome);
        tracing::debug!(
            upstream = %self.0.host,
            server = server_of(url),
            %method,
            ?kind,
            ?outcome,
            status,
            duration_ms = duration.as_millis(),
            "asked upstream"
        );
    }

    fn health_of(&self, url: &Url) -> Arc<Health> {
        let mut endpoints = self.0.endpoints.iter();
        if let Some(endpoint) = endpoints.find(|endpoint| is_same_origin(&endpoint.base, url)) {
            return Arc::clone(&endpoint.health);
        }
        let origin = url.origin().ascii_serialization();
        let made = self
            .0
            .servers
            .get_or_insert_with(&origin, || Ok::<_, std::convert::Infallible>(Arc::default()));
        match made {
            Ok(health) => health,
            Err(never) => match never {},
        }
    }

    fn resting(&self, url: &Url, rest: Rest) -> UpstreamError {
        let (host, server) = (self.0.host.clone(), server_of(url).to_owned());
        match rest {
            Rest::Paused(retry_after) => UpstreamError::Paused {
                host,
                server,
                retry_after,
            },
            Rest::Limited(retry_after) => UpstreamError::Limited {
                host,
                server,
                retry_after,
            },
        }
    }

    fn unanswered(&self, url: &Url, no_answer: NoAnswer) -> UpstreamError {
        let (host, server) = (self.0.host.clone(), server_of(url).to_owned());
        match no_answer {
            NoAnswer::NotPublic => UpstreamError::Refused {
                host,
                reason: Refusal::NotPublic,
            },
            NoAnswer::Timeout(wait, after) => UpstreamError::Timeout {
                host,
                server,
                wait,
                after,
            },
            NoAnswer::NoConnection(reason) | NoAnswer::Broke(reason) => {
                UpstreamError::Unreachable { host, server, reason }
            }
        }
    }

    /// Says what an answer means that is no success.
    pub(super) fn judge(&self, url: &Url, status: StatusCode, headers: &HeaderMap) -> UpstreamError {
        let (host, server) = (self.0.host.clone(), server_of(url).to_owned());
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => UpstreamError::NotFound { host },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                UpstreamError::Denied { host, server, status }
            }
            StatusCode::TOO_MANY_REQUESTS => UpstreamError::Limited {
                host,
                server,
                retry_after: limit_of(headers),
            },
            _ if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => UpstreamError::Failed {
                host,
                server,
                status,
                retry_after: retry_after(headers),
            },
            _ => self.nonsense(url, Nonsense::Status(status)),
        }
    }

    /// Says what is wrong with an answer.
    pub(super) fn nonsense(&self, url: &Url, nonsense: Nonsense) -> UpstreamError {
        UpstreamError::Invalid {
            host: self.0.host.clone(),
            server: server_of(url).to_owned(),
            nonsense,
        }
    }
}

/// Returns a URL's host and port, the only parts of it that may be printed.
pub(super) fn server_of(url: &Url) -> &str {
    &url[Position::BeforeHost..Position::AfterPort]
}

/// Tells whether two URLs mean the same server.
pub(super) fn is_same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

/// Returns the last cause of an error, which says most; no cause holds a URL.
pub(super) fn root_cause(error: &dyn StdError) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Reads what is left of a short answer that nobody wants, so that its connection can be used again.
pub(super) async fn discard(mut response: Response) {
    let mut left = DISCARDED_BYTES;
    let read = async {
        while let Ok(Some(bytes)) = response.chunk().await {
            match left.checked_sub(bytes.len()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Too slow: the connection is closed, and another one made.
    let _ = timeout(MAX_DISCARD_TIME, read).await;
}

fn outcome_of(status: StatusCode) -> UpstreamOutcome {
    match status {
        StatusCode::NOT_FOUND => UpstreamOutcome::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => UpstreamOutcome::Denied,
        StatusCode::TOO_MANY_REQUESTS => UpstreamOutcome::Limited,
        _ if status.is_client_error() || status.is_server_error() => UpstreamOutcome::Failed,
        _ => UpstreamOutcome::Ok,
    }
}

fn limit_of(headers: &HeaderMap) -> Duration {
    let (shortest, longest) = LIMITS;
    retry_after(headers)
        .unwrap_or(DEFAULT_LIMIT)
        .clamp(shortest, longest)
}

/// Reads Retry-After: seconds, or a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}
