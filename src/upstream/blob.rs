//! Blobs: their size, and their bytes from any position on.
//!
//! A fetch that broke off is resumed with Range, and with If-Range where a strong
//! ETag is known. The registry is always asked anew, since the signed URL it
//! redirected to may have expired. What comes may be the whole blob again:
//! [`BlobBody::offset`] tells.

use std::fmt;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, RANGE};
use http::{Method, StatusCode};
use reqwest::Response;
use tokio::time::timeout;
use url::Url;

use super::Upstream;
use super::connections::Permit;
use super::error::{Nonsense, UpstreamError};
use super::request::{Answer, Question, content_length};
use super::send::{root_cause, server_of};
use crate::oci::{Digest, RepositoryName};
use crate::telemetry::labels::UpstreamKind;

/// What upstream's headers say of a blob; nothing of it is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobHead {
    /// `Content-Length`.
    pub size_bytes: Option<u64>,
}

/// Where a fetch goes on; the default is the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResumePoint {
    /// How many bytes of the blob are there already.
    pub offset: u64,
    /// The strong ETag of the answer that they came with ([`BlobBody::validator`]).
    pub validator: Option<String>,
}

/// The bytes of a blob as they arrive; holds its connection until the end, a failure, or until dropped.
pub struct BlobBody {
    upstream: Upstream,
    /// `None` if nothing is left to read.
    source: Option<Source>,
    url: Url,
    /// Where the bytes begin, and up to where they came.
    offset: u64,
    position: u64,
    size_bytes: Option<u64>,
    validator: Option<String>,
    failure: Option<UpstreamError>,
}

/// Where the bytes come from.
struct Source {
    response: Response,
    _permit: Permit,
}

/// A Content-Range header: `bytes 5-9/10`, `bytes 5-9/*`, or `bytes */10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ContentRange {
    /// Absent where no byte of the range exists.
    first: Option<u64>,
    total: Option<u64>,
}

impl Upstream {
    /// Asks whether a blob is there, and how large it is as far as upstream tells.
    ///
    /// # Errors
    /// Fails if no endpoint answers that the blob is there.
    pub async fn head_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<BlobHead, UpstreamError> {
        let mut question = question(UpstreamKind::BlobHead, name, digest);
        question.method = Method::HEAD;
        let is_endpoints = |server: &str| {
            let mut endpoints = self.0.endpoints.iter();
            endpoints.any(|endpoint| server_of(&endpoint.base) == server)
        };
        match self.ask(&question).await {
            Ok(answer) => Ok(BlobHead {
                size_bytes: content_length(answer.response.headers()),
            }),
            // The registry has told where the blob is; a URL that is signed for GET denies HEAD.
            Err(UpstreamError::Denied { server, .. }) if !is_endpoints(&server) => Ok(BlobHead::default()),
            Err(error) => Err(error),
        }
    }

    /// Starts to fetch a blob, or what is left of it.
    ///
    /// # Errors
    /// Fails if no endpoint gives it, or if it has no bytes from the offset on.
    pub async fn get_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        from: ResumePoint,
    ) -> Result<BlobBody, UpstreamError> {
        let mut question = question(UpstreamKind::BlobGet, name, digest);
        if let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", from.offset))
            && from.offset > 0
        {
            question.headers.insert(RANGE, range);
            let validator = from.validator.and_then(|tag| tag.parse::<HeaderValue>().ok());
            question.headers.extend(validator.map(|tag| (IF_RANGE, tag)));
        }
        let answer = self.ask(&question).await?;
        BlobBody::new(self.clone(), answer, from.offset)
    }
}

impl BlobBody {
    fn new(upstream: Upstream, answer: Answer, asked_offset: u64) -> Result<Self, UpstreamError> {
        let Answer { response, permit } = answer;
        let validator = strong_etag(response.headers());
        let (url, headers) = (response.url().clone(), response.headers());
        let range = headers.get(CONTENT_RANGE).and_then(ContentRange::parse);
        let (has_bytes, offset, size_bytes) = match (response.status(), range) {
            (StatusCode::PARTIAL_CONTENT, Some(range)) if range.first == Some(asked_offset) => {
                (true, asked_offset, range.total)
            }
            // Nothing was missing but the word that this was the end.
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(range)) if range.total == Some(asked_offset) => {
                (false, asked_offset, range.total)
            }
            (StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE, _) => {
                let offset = asked_offset;
                return Err(upstream.nonsense(&url, Nonsense::Range { offset }));
            }
            _ => (true, 0, content_length(headers)),
        };
        Ok(Self {
            upstream,
            validator,
            source: has_bytes.then_some(Source {
                response,
                _permit: permit,
            }),
            url,
            offset,
            position: offset,
            size_bytes,
            failure: None,
        })
    }

    /// Returns where the bytes begin: 0 if upstream sends the whole blob though it was asked for its end.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the size of the whole blob, where upstream tells it.
    pub fn size_bytes(&self) -> Option<u64> {
        self.size_bytes
    }

    /// Returns the strong ETag of these bytes, to resume them with.
    pub fn validator(&self) -> Option<&str> {
        self.validator.as_deref()
    }

    /// Waits for the next bytes; `None` at the end of the blob.
    ///
    /// Cancellation loses no bytes.
    ///
    /// # Errors
    /// Fails if the bytes end, or pause for too long, before the promised size, and if they go on
    /// after it. What fails once fails again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let next = self.receive().await;
        if let Err(failure) = &next {
            self.failure = Some(failure.clone());
            self.source = None;
        }
        next
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let Some(source) = &mut self.source else {
            return Ok(None);
        };
        let idle_timeout = self.upstream.0.idle_timeout;
        let bytes = match timeout(idle_timeout, source.response.chunk()).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(self.broken(root_cause(&error))),
            Err(_) => return Err(self.broken(format!("no bytes for {idle_timeout:?}"))),
        };
        let Some(bytes) = bytes else {
            self.source = None;
            return match self.size_bytes {
                Some(size_bytes) if self.position < size_bytes => {
                    Err(self.broken(format!("it ended before its {size_bytes} bytes")))
                }
                Some(_) | None => Ok(None),
            };
        };
        self.upstream.0.received.inc_by(bytes.len() as u64);
        self.position += bytes.len() as u64;
        match self.size_bytes {
            Some(size_bytes) if self.position > size_bytes => Err(self
                .upstream
                .nonsense(&self.url, Nonsense::Overlong { size_bytes })),
            Some(_) | None => Ok(Some(bytes)),
        }
    }

    fn broken(&self, reason: String) -> UpstreamError {
        UpstreamError::Broken {
            host: self.upstream.0.host.clone(),
            position: self.position,
            reason,
        }
    }
}

impl fmt::Debug for BlobBody {
    /// Leaves out the URL, which may be signed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobBody")
            .field("offset", &self.offset)
            .field("position", &self.position)
            .field("size_bytes", &self.size_bytes)
            .finish_non_exhaustive()
    }
}

impl ContentRange {
    /// Reads the header (RFC 9110 §14.4).
    fn parse(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?.trim();
        let (unit, rest) = text.split_once(' ')?;
        let (range, total) = rest.trim().split_once('/')?;
        let first = match range {
            "*" => None,
            _ => Some(range.split_once('-')?.0.parse().ok()?),
        };
        let total = match total {
            "*" => None,
            _ => Some(total.parse().ok()?),
        };
        unit.eq_ignore_ascii_case("bytes")
            .then_some(Self { first, total })
    }
}

fn question<'a>(kind: UpstreamKind, name: &'a RepositoryName, digest: &Digest) -> Question<'a> {
    let mut question = Question::get(kind, name, format!("/v2/{name}/blobs/{digest}"));
    // A digest is of the bytes as they are stored.
    let identity = HeaderValue::from_static("identity");
    question.headers.insert(ACCEPT_ENCODING, identity);
    question
}

fn strong_etag(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get(ETAG)?.to_str().ok()?;
    tag.starts_with('"').then(|| tag.to_owned())
}
