//! The agent's way to the mirrors: asks one after the other until one answers.
//!
//! The first mirror in the given order that is believed to answer is asked. No connection, no answer in time, 408, 429
//! and 5xx are failures of the mirror: the next one is asked, and the one that failed rests, 1 s at first and up to
//! 30 s (`rest`). Every other answer is an answer, also a refusal. That no mirror answers, and that one does again,
//! is in the log once, not once a request.
//!
//! Leaves to others: what is asked and when ([`crate::snapshotter`], [`super::references`]).

mod mirror_url;
mod reports;
mod rest;
#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use reqwest::Response;
use reqwest::redirect::Policy;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::api::{
    ImageStoreAnswer, ImageStoreQuestion, ImageWish, LayerAnswer, LayerWish, NodeAnswer, NodeId,
    NodeStatement,
};
use crate::telemetry::full_text;
use crate::trust::{client_tls, system_roots};

pub use mirror_url::{MirrorUrl, ParseMirrorUrlError};
pub use reports::ImageReports;
use rest::Rest;

/// How long a mirror may take to take a connection: it is in the same cluster.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// After how much silence of the network a connection is dead, also in the middle of a long poll.
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// How often a connection is asked whether it still is one.
const KEEPALIVE: Duration = Duration::from_secs(3);

/// How much longer than it may wait for a layer a mirror may take to answer.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// How long a mirror may take to write a statement to the store.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a mirror may take to find out what an image is: upstream may take 20 s for each of two manifests.
const IMAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// How much of an answer is read; they are a few lines.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// What mirrors see in their logs.
const USER_AGENT: &str = concat!("wharf-agent/", env!("CARGO_PKG_VERSION"));

/// The mirrors of the store. Cheap to clone.
#[derive(Clone)]
pub struct Mirrors(Arc<Known>);

struct Known {
    client: reqwest::Client,
    mirrors: Vec<Mirror>,
    /// What the log has last said of all of them together.
    are_silent: AtomicBool,
}

struct Mirror {
    url: MirrorUrl,
    rest: Rest,
}

/// Why no mirror did what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MirrorsError {
    /// None of them answered, or all failed.
    #[error("no mirror answers ({0})")]
    Silent(String),
    /// A mirror refused.
    #[error("mirror {mirror} refuses: {message} (status {status})")]
    Refused {
        /// Its host and port.
        mirror: String,
        /// The status.
        status: StatusCode,
        /// What it says.
        message: String,
    },
    /// A mirror gave an answer that makes no sense.
    #[error("mirror {mirror} gave an answer that makes no sense: {reason}; is it a wharf of this version?")]
    Nonsense {
        /// Its host and port.
        mirror: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A mirror's answer about an image ended before the image was there.
    #[error(
        "mirror {mirror} ended its answer before the image was there; what is complete stays in its store"
    )]
    Cut {
        /// Its host and port.
        mirror: String,
    },
}

/// Why there can be no client of mirrors.
#[derive(Debug, thiserror::Error)]
pub enum OpenMirrorsError {
    /// TLS cannot be set up.
    #[error("cannot set up TLS for mirrors")]
    Tls(#[from] rustls::Error),
    /// The client cannot be made.
    #[error("cannot set up a client for mirrors")]
    Client(#[from] reqwest::Error),
}

/// A question to a mirror.
struct Question<'a, B> {
    method: Method,
    /// With its query.
    path: String,
    body: Option<&'a B>,
    /// When the answer must be there.
    until: Instant,
    /// The answer comes bit by bit: then only its head must be there.
    is_streamed: bool,
}

/// A mirror's answer, whatever it is.
struct Answer {
    mirror: String,
    status: StatusCode,
    body: Vec<u8>,
    /// Of an answer that comes bit by bit.
    stream: Option<Response>,
}

impl Mirrors {
    /// Makes the way to mirrors, the preferred one first; none is asked yet.
    ///
    /// # Errors
    /// Fails if the HTTP client cannot be set up.
    pub fn new(urls: &[MirrorUrl]) -> Result<Self, OpenMirrorsError> {
        let tls = client_tls(Arc::new(system_roots()))?;
        let client = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            .tcp_keepalive_interval(KEEPALIVE)
            .tcp_user_timeout(DEAD_AFTER)
            .tls_backend_preconfigured(tls.with_no_client_auth())
            .build()?;
        let mirrors = urls.iter().cloned().map(|url| Mirror {
            url,
            rest: Rest::default(),
        });
        Ok(Self(Arc::new(Known {
            client,
            mirrors: mirrors.collect(),
            are_silent: AtomicBool::new(false),
        })))
    }

    /// Asks that a layer be on the store, and waits as long as the wish says, and a little for the answer.
    ///
    /// Dropping the future ends the question; what the mirror has begun goes on.
    ///
    /// # Errors
    /// Fails if no mirror answers in time, or one refuses.
    pub async fn layer(&self, wish: &LayerWish) -> Result<LayerAnswer, MirrorsError> {
        let question = Question {
            method: Method::POST,
            path: "/wharf/v1/layers".to_owned(),
            body: Some(wish),
            until: self.until(Duration::from_millis(wish.wait_ms)),
            is_streamed: false,
        };
        self.ask(&question).await?.json()
    }

    /// Has a mirror bring an image, and tell how far it is; dropping the answer ends nothing.
    ///
    /// # Errors
    /// As [`Mirrors::layer`].
    pub async fn image(&self, wish: &ImageWish) -> Result<ImageReports, MirrorsError> {
        let question = Question {
            method: Method::POST,
            path: "/wharf/v1/images".to_owned(),
            body: Some(wish),
            until: Instant::now() + IMAGE_TIMEOUT,
            is_streamed: true,
        };
        ImageReports::new(self.ask(&question).await?)
    }

    /// Gives a mirror what a node has in use, and waits until it is on the store; says which statement counts.
    ///
    /// # Errors
    /// Fails if no mirror answers, or one refuses.
    pub async fn state_node(
        &self,
        id: &NodeId,
        statement: &NodeStatement,
    ) -> Result<NodeAnswer, MirrorsError> {
        let question = Question {
            method: Method::PUT,
            path: format!("/wharf/v1/nodes/{id}"),
            body: Some(statement),
            until: Instant::now() + STATEMENT_TIMEOUT,
            is_streamed: false,
        };
        self.ask(&question).await?.json()
    }

    /// Asks what is new in the store's image store, and waits for it as long as the question says.
    ///
    /// # Errors
    /// As [`Mirrors::layer`].
    pub async fn image_store(&self, question: &ImageStoreQuestion) -> Result<ImageStoreAnswer, MirrorsError> {
        let question = Question {
            method: Method::GET,
            path: format!("/wharf/v1/image-store?{}", question.query()),
            body: None::<&()>,
            until: self.until(Duration::from_secs(question.wait)),
            is_streamed: false,
        };
        self.ask(&question).await?.json()
    }

    /// Returns when an answer must be there for which a mirror may wait that long.
    fn until(&self, wait: Duration) -> Instant {
        let connecting = CONNECT_TIMEOUT * u32::try_from(self.0.mirrors.len()).unwrap_or(u32::MAX);
        Instant::now() + wait + connecting + ANSWER_MARGIN
    }

    /// Asks mirror after mirror until one answers.
    async fn ask(&self, question: &Question<'_, impl Serialize>) -> Result<Answer, MirrorsError> {
        let known = &self.0;
        let mut failures = Vec::new();
        for mirror in known.in_order(Instant::now()) {
            if Instant::now() >= question.until {
                break;
            }
            match known.ask_one(mirror, question).await {
                Ok(answer) => {
                    mirror.rest.end();
                    if known.are_silent.swap(false, Ordering::Relaxed) {
                        tracing::info!(mirror = mirror.url.server(), "mirrors answer again");
                    }
                    return Ok(answer);
                }
                Err(Failure { reason, is_slow }) => {
                    mirror.rest.begin(Instant::now(), is_slow);
                    tracing::debug!(mirror = mirror.url.server(), reason, "a mirror does not answer");
                    failures.push(format!("{}: {reason}", mirror.url.server()));
                }
            }
        }
        Err(MirrorsError::Silent(known.all_silent(&failures)))
    }
}

/// Why a mirror counts as not answering.
struct Failure {
    reason: String,
    /// It made the asker wait.
    is_slow: bool,
}

impl Known {
    /// Returns whom to ask: who is believed to answer, then those who rest and say no at once.
    fn in_order(&self, now: Instant) -> Vec<&Mirror> {
        let (resting, mut order): (Vec<_>, Vec<_>) =
            self.mirrors.iter().partition(|mirror| mirror.rest.is_on(now));
        order.extend(resting.into_iter().filter(|mirror| !mirror.rest.is_slow()));
        order
    }

    async fn ask_one(
        &self,
        mirror: &Mirror,
        question: &Question<'_, impl Serialize>,
    ) -> Result<Answer, Failure> {
        let asked = timeout_at(question.until, self.send(mirror, question)).await;
        let answer = asked.unwrap_or_else(|_| {
            Err(Failure {
                reason: "no answer in time".to_owned(),
                is_slow: true,
            })
        })?;
        let is_failure = answer.status.is_server_error()
            || matches!(
                answer.status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
            );
        if is_failure {
            return Err(Failure {
                reason: format!("{} (status {})", answer.message(), answer.status),
                is_slow: false,
            });
        }
        Ok(answer)
    }

    async fn send(
        &self,
        mirror: &Mirror,
        question: &Question<'_, impl Serialize>,
    ) -> Result<Answer, Failure> {
        let mut request = self
            .client
            .request(question.method.clone(), mirror.url.join(&question.path));
        if let Some(body) = question.body {
            request = request.json(body);
        }
        if let Some((user, password)) = mirror.url.credentials() {
            request = request.basic_auth(user, Some(password.expose()));
        }
        let failed = |error: reqwest::Error| Failure {
            is_slow: error.is_timeout(),
            reason: full_text(&error.without_url()),
        };
        let mut response = request.send().await.map_err(failed)?;
        let mut answer = Answer {
            mirror: mirror.url.server().to_owned(),
            status: response.status(),
            body: Vec::new(),
            stream: None,
        };
        if question.is_streamed && answer.status.is_success() {
            answer.stream = Some(response);
            return Ok(answer);
        }
        let body = &mut answer.body;
        while let Some(bytes) = response.chunk().await.map_err(failed)? {
            let room = MAX_ANSWER_BYTES - body.len();
            body.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if bytes.len() > room {
                break;
            }
        }
        Ok(answer)
    }

    /// Says once that no mirror answers, and returns why.
    fn all_silent(&self, failures: &[String]) -> String {
        let why = if failures.is_empty() {
            let servers: Vec<&str> = self.mirrors.iter().map(|mirror| mirror.url.server()).collect();
            format!("{}: not asked, did not answer a moment ago", servers.join(", "))
        } else {
            failures.join("; ")
        };
        if !self.are_silent.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                why,
                "no mirror answers: layers that are on the store still serve, others are unpacked on this node"
            );
        }
        why
    }
}

impl Answer {
    fn json<T: DeserializeOwned>(self) -> Result<T, MirrorsError> {
        if !self.status.is_success() {
            return Err(self.refused());
        }
        serde_json::from_slice(&self.body).map_err(|error| MirrorsError::Nonsense {
            mirror: self.mirror,
            reason: error.to_string(),
        })
    }

    fn refused(self) -> MirrorsError {
        MirrorsError::Refused {
            message: self.message(),
            mirror: self.mirror,
            status: self.status,
        }
    }

    /// Returns the text of an error in the distribution spec's form.
    fn message(&self) -> String {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<Error>,
        }
        #[derive(Deserialize)]
        struct Error {
            message: String,
        }
        let parsed: Option<Errors> = serde_json::from_slice(&self.body).ok();
        let first = parsed.and_then(|parsed| parsed.errors.into_iter().next());
        first.map_or_else(|| "it does not say why".to_owned(), |error| error.message)
    }
}
