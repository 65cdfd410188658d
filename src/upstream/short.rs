//! Answers that are read whole: manifests, tokens, lists.

use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use reqwest::Response;
use tokio::time::timeout;
use url::Url;

use super::Upstream;
use super::error::{Nonsense, UpstreamError, Wait};
use super::request::{Answer, Question, content_length};
use super::send::{root_cause, server_of};

/// How long a short body may take as a whole, however steadily it comes.
const MAX_SHORT_BODY_TIME: Duration = Duration::from_secs(60);

/// How often a short answer is asked for, if it breaks off.
const MAX_SHORT_ATTEMPTS: usize = 2;

/// An answer whose body was read.
pub(super) struct ShortAnswer {
    pub(super) headers: HeaderMap,
    /// The URL that answered, after redirects.
    pub(super) url: Url,
    pub(super) bytes: Bytes,
}

impl Upstream {
    /// Asks, and reads the body if it is not longer than `limit_bytes`.
    ///
    /// # Errors
    /// As [`Upstream::ask`], and if the body is too long or breaks off again.
    pub(super) async fn ask_short(
        &self,
        question: &Question<'_>,
        limit_bytes: usize,
    ) -> Result<ShortAnswer, UpstreamError> {
        let mut attempt = 1;
        loop {
            let Answer { response, permit } = self.ask(question).await?;
            let (url, headers) = (response.url().clone(), response.headers().clone());
            let read = self.read_short(response, limit_bytes).await;
            drop(permit);
            match read {
                Err(UpstreamError::Unreachable { .. }) if attempt < MAX_SHORT_ATTEMPTS => attempt += 1,
                read => return read.map(|bytes| ShortAnswer { headers, url, bytes }),
            }
        }
    }

    /// Reads a body of at most `limit_bytes`.
    ///
    /// # Errors
    /// Fails if it is longer, breaks off or takes too long.
    pub(super) async fn read_short(
        &self,
        mut response: Response,
        limit_bytes: usize,
    ) -> Result<Bytes, UpstreamError> {
        let url = response.url().clone();
        let too_large = || self.nonsense(&url, Nonsense::TooLarge { limit_bytes });
        if content_length(response.headers()).is_some_and(|length| length > limit_bytes as u64) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        let read = async {
            loop {
                let next = timeout(self.0.idle_timeout, response.chunk()).await;
                let next = next.map_err(|_| self.late(&url, self.0.idle_timeout))?;
                match next.map_err(|error| self.broke(&url, &error))? {
                    None => return Ok(()),
                    Some(bytes) if body.len() + bytes.len() > limit_bytes => return Err(too_large()),
                    Some(bytes) => body.extend_from_slice(&bytes),
                }
            }
        };
        let read = timeout(MAX_SHORT_BODY_TIME, read).await;
        self.0.received.inc_by(body.len() as u64);
        read.unwrap_or_else(|_| Err(self.late(&url, MAX_SHORT_BODY_TIME)))?;
        Ok(body.into())
    }

    fn late(&self, url: &Url, after: Duration) -> UpstreamError {
        UpstreamError::Timeout {
            host: self.0.host.clone(),
            server: server_of(url).to_owned(),
            wait: Wait::Body,
            after,
        }
    }

    fn broke(&self, url: &Url, error: &reqwest::Error) -> UpstreamError {
        UpstreamError::Unreachable {
            host: self.0.host.clone(),
            server: server_of(url).to_owned(),
            reason: root_cause(error),
        }
    }
}
