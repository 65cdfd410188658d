//! One question to an upstream: endpoints in order, authorization, redirects.
//!
//! An endpoint that does not answer, fails or limits is followed by the next
//! one; any other answer is the registry's own and final. A redirect is followed
//! by hand, and only the endpoint itself is sent the Authorization header. A
//! signed URL may have expired when it is used: its registry is then asked once
//! more for a fresh one.

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION, RANGE};
use http::{Method, StatusCode};
use reqwest::Response;
use url::Url;

use super::auth::{Authorization, Challenge};
use super::client::Trust;
use super::connections::Permit;
use super::error::{Nonsense, Refusal, UpstreamError, UpstreamErrorClass};
use super::public::is_public_host;
use super::send::{Outgoing, discard, is_same_origin};
use super::{Endpoint, Upstream, is_named};
use crate::oci::RepositoryName;
use crate::telemetry::labels::UpstreamKind;

/// How many redirects are followed: a registry's to its CDN's, and room for some more.
const MAX_REDIRECTS: usize = 5;

/// What is asked of a registry.
pub(super) struct Question<'a> {
    pub(super) kind: UpstreamKind,
    pub(super) method: Method,
    /// The repository, which is what tokens are for.
    pub(super) name: &'a RepositoryName,
    /// The path from `/v2/` on.
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) headers: HeaderMap,
}

/// An answer whose body was not read yet.
pub(super) struct Answer {
    pub(super) response: Response,
    /// Whoever reads the body holds the connection.
    pub(super) permit: Permit,
}

/// What may turn an answer into a better one; each is tried once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// The registry's challenge, answered anew.
    NewToken,
    /// The registry's redirect, asked for anew.
    FreshUrl,
}

impl<'a> Question<'a> {
    /// Asks with GET for a path without headers of its own.
    pub(super) fn get(kind: UpstreamKind, name: &'a RepositoryName, path: String) -> Self {
        Self {
            kind,
            method: Method::GET,
            name,
            path,
            query: None,
            headers: HeaderMap::new(),
        }
    }

    fn is_answered_by(&self, status: StatusCode) -> bool {
        let is_beyond = status == StatusCode::RANGE_NOT_SATISFIABLE && self.headers.contains_key(RANGE);
        status.is_success() || is_beyond
    }
}

impl Upstream {
    /// Asks the endpoints in order, and returns the first success, or 416 to a question for a range.
    ///
    /// # Errors
    /// Fails with the first final answer, or with what says most of the endpoints that gave none.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Answer, UpstreamError> {
        let mut failure: Option<UpstreamError> = None;
        for (index, endpoint) in self.0.endpoints.iter().enumerate() {
            match self.ask_endpoint(index, endpoint, question).await {
                Err(error) if is_worth_another(&error) => {
                    failure = Some(match failure {
                        Some(earlier) => more_telling(earlier, error),
                        None => error,
                    });
                }
                answer => return answer,
            }
        }
        Err(failure.unwrap_or_else(|| UpstreamError::Unreachable {
            host: self.0.host.clone(),
            server: self.0.host.to_string(),
            reason: "no endpoint is configured".to_owned(),
        }))
    }

    async fn ask_endpoint(
        &self,
        index: usize,
        endpoint: &Endpoint,
        question: &Question<'_>,
    ) -> Result<Answer, UpstreamError> {
        self.check_rest(&endpoint.base, question.kind)?;
        let (mut rejected, mut tried) = (None, Vec::new());
        loop {
            let authorization = self.authorize(index, question.name, rejected.take()).await?;
            let permit = self.connection(question.kind).await?;
            let header = authorization.as_ref().map(|used| &used.header);
            let response = self.follow(outgoing(endpoint, question), header).await?;
            if is_same_origin(response.url(), &endpoint.base) {
                self.note_rate_limit(response.headers());
            }
            if question.is_answered_by(response.status()) {
                return Ok(Answer { response, permit });
            }
            match endpoint.remedy(&response, authorization.as_ref()) {
                Some(remedy) if !tried.contains(&remedy) => {
                    if remedy == Remedy::NewToken {
                        rejected = authorization.map(|used| used.header);
                    }
                    tried.push(remedy);
                    discard(response).await;
                }
                Some(_) | None => {
                    return Err(self.judge(response.url(), response.status(), response.headers()));
                }
            }
        }
    }

    /// Sends a request and follows redirects; `authorization` is for the first server alone.
    ///
    /// # Errors
    /// As [`Upstream::send`], and if a redirect leads nowhere or where it must not.
    pub(super) async fn follow(
        &self,
        mut outgoing: Outgoing,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, UpstreamError> {
        let first = outgoing.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            outgoing.headers.remove(AUTHORIZATION);
            if let Some(header) = authorization.filter(|_| is_same_origin(&first, &outgoing.url)) {
                outgoing.headers.insert(AUTHORIZATION, header.clone());
            }
            let response = self.send(&outgoing).await?;
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            // A body is sent with a secret in it, to token servers alone.
            let location = match outgoing.body {
                Some(_) => None,
                None => response.headers().get(LOCATION).and_then(|to| to.to_str().ok()),
            };
            let next = location.and_then(|to| outgoing.url.join(to).ok());
            let next = next.ok_or_else(|| self.nonsense(&outgoing.url, Nonsense::Redirect))?;
            self.check_way(&outgoing.url, &next)?;
            discard(response).await;
            outgoing.url = next;
        }
        Err(self.nonsense(&first, Nonsense::ManyRedirects(MAX_REDIRECTS)))
    }

    /// Checks that one server may lead to another.
    ///
    /// # Errors
    /// Fails if `to` is no http or https URL, leaves TLS, or leads a host that nobody configured to this machine or to a denied host.
    pub(super) fn check_way(&self, from: &Url, to: &Url) -> Result<(), UpstreamError> {
        let is_web = matches!(to.scheme(), "http" | "https") && to.has_host();
        // reqwest would send what stands before an @ as credentials.
        if !is_web || !to.username().is_empty() || to.password().is_some() {
            return Err(self.nonsense(from, Nonsense::Redirect));
        }
        if from.scheme() == "https" && to.scheme() != "https" {
            return Err(self.nonsense(from, Nonsense::Downgrade));
        }
        let reason = match &self.0.trust {
            Trust::Configured => return Ok(()),
            Trust::Public(deny) if is_named(to, deny) => Refusal::Denied,
            Trust::Public(_) if is_public_host(to) => return Ok(()),
            Trust::Public(_) => Refusal::NotPublic,
        };
        Err(UpstreamError::Refused {
            host: self.0.host.clone(),
            reason,
        })
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// Fails if all are busy for long.
    pub(super) async fn connection(&self, kind: UpstreamKind) -> Result<Permit, UpstreamError> {
        let permit = self.0.connections.acquire(kind).await;
        permit.map_err(|after| UpstreamError::Busy {
            host: self.0.host.clone(),
            after,
        })
    }

    fn note_rate_limit(&self, headers: &HeaderMap) {
        // `100;w=21600`: how many, and in which window.
        let count = |name: &str| {
            let text = headers.get(name)?.to_str().ok()?;
            text.split(';').next()?.trim().parse::<u64>().ok()
        };
        let (limit, remaining) = (count("ratelimit-limit"), count("ratelimit-remaining"));
        if limit.is_some() || remaining.is_some() {
            self.0.metrics.rate_limit(&self.0.host, limit, remaining);
        }
    }
}

impl Endpoint {
    /// Finds what may turn an answer into a better one.
    fn remedy(&self, response: &Response, used: Option<&Authorization>) -> Option<Remedy> {
        let status = response.status();
        if !is_same_origin(response.url(), &self.base) {
            return is_expired(status).then_some(Remedy::FreshUrl);
        }
        let is_refused = status == StatusCode::UNAUTHORIZED;
        (is_refused && self.is_worth_a_new_token(response, used)).then_some(Remedy::NewToken)
    }

    /// Remembers the challenge of a 401, and tells whether another token may help.
    fn is_worth_a_new_token(&self, response: &Response, used: Option<&Authorization>) -> bool {
        let Some(challenge) = Challenge::choose(response.headers()) else {
            return false;
        };
        let is_news = self.authorizations.remember(challenge);
        is_news || used.is_none_or(|used| !used.is_new)
    }
}

/// Returns what Content-Length says, also of an answer to HEAD.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn outgoing(endpoint: &Endpoint, question: &Question<'_>) -> Outgoing {
    let mut url = endpoint.base.clone();
    url.set_path(&question.path);
    url.set_query(question.query.as_deref());
    Outgoing {
        kind: question.kind,
        method: question.method.clone(),
        url,
        headers: question.headers.clone(),
        body: None,
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// What CDNs answer for a signed URL whose time is over: S3 says 403, Google 400, others 401, 404 or 410.
fn is_expired(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 401 | 403 | 404 | 410)
}

/// Tells whether another endpoint of the same registry may do better.
fn is_worth_another(error: &UpstreamError) -> bool {
    // Endpoints share the connections, and the wait for one was long enough.
    if matches!(error, UpstreamError::Busy { .. }) {
        return false;
    }
    match error.class() {
        UpstreamErrorClass::Unavailable | UpstreamErrorClass::Limited => true,
        UpstreamErrorClass::NotFound
        | UpstreamErrorClass::Denied
        | UpstreamErrorClass::Broken
        | UpstreamErrorClass::Invalid
        | UpstreamErrorClass::Refused => false,
    }
}

/// Chooses what to tell of two endpoints that failed: one that was asked, else the one to be asked first.
fn more_telling(one: UpstreamError, other: UpstreamError) -> UpstreamError {
    let is_paused = |error: &UpstreamError| matches!(error, UpstreamError::Paused { .. });
    match (is_paused(&one), is_paused(&other)) {
        (true, true) if one.retry_after() <= other.retry_after() => one,
        (false, true) => one,
        (true, _) | (false, false) => other,
    }
}
