//! The agent's way to the mirrors: asks one after the other until one answers.
//!
//! A mirror that cannot be reached is left alone for a pause that grows, so that no call of containerd waits for
//! it again and again; when all are, the answer comes at once.

mod reports;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::api::{ImageWish, LayerAnswer, LayerWish, NodeAnswer, NodeId, NodeStatement};
use crate::telemetry::full_text;
use crate::trust::{client_tls, system_roots};

pub use reports::ImageReports;

/// Mirrors are in the same cluster.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a mirror may take beyond what it is asked to wait: its store may be slow.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a mirror may say nothing: longer than the longest wait that it takes, and its answer.
const LONGEST_SILENCE: Duration = Duration::from_secs(75);

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What of an error's body is told.
const MAX_TOLD: usize = 300;

/// The mirrors of this node's store. Cheap to clone.
#[derive(Clone)]
pub struct Mirrors {
    inner: Arc<Inner>,
}

struct Inner {
    client: reqwest::Client,
    mirrors: Vec<Mirror>,
    /// None could be reached, and the log has said so.
    fails: AtomicBool,
}

struct Mirror {
    /// With a slash at its end, and without the login.
    base: Url,
    login: Option<(String, Option<String>)>,
    rest: Mutex<Rest>,
}

/// Until when a mirror is left alone.
#[derive(Default)]
struct Rest {
    until: Option<Instant>,
    pause: Duration,
}

/// Why mirrors cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum BuildMirrorsError {
    #[error("{0} is no mirror's address; write http://HOST:PORT or https://HOST:PORT")]
    Scheme(String),
    #[error("cannot speak TLS with mirrors")]
    Tls(#[source] rustls::Error),
    #[error("cannot ask mirrors")]
    Client(#[source] reqwest::Error),
}

/// Why no mirror has answered.
#[derive(Debug, thiserror::Error)]
pub enum MirrorsError {
    #[error("no mirror could be reached a short while ago")]
    Resting,
    #[error("the mirror {mirror} cannot be reached")]
    Unreachable {
        mirror: Url,
        #[source]
        source: reqwest::Error,
    },
    #[error("the mirror {mirror} answers {status}: {message}")]
    Refused {
        mirror: Url,
        status: StatusCode,
        message: String,
    },
    #[error("the mirror {mirror} answers what makes no sense")]
    Answer {
        mirror: Url,
        #[source]
        source: reqwest::Error,
    },
    #[error(
        "the mirror {mirror} ended its answer before the image was there; what is complete stays in its store"
    )]
    Cut { mirror: Url },
    #[error("the mirror {mirror} tells of an image what makes no sense; is it of this version?")]
    Report {
        mirror: Url,
        #[source]
        source: serde_json::Error,
    },
}

impl Mirrors {
    /// Takes the mirrors' addresses, the preferred one first; a user and password in one is its login.
    ///
    /// # Errors
    /// Names the address that is none.
    pub fn new(addresses: &[Url]) -> Result<Self, BuildMirrorsError> {
        let tls = client_tls(Arc::new(system_roots())).map_err(BuildMirrorsError::Tls)?;
        let client = reqwest::Client::builder()
            .user_agent(concat!("wharf-agent/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(LONGEST_SILENCE)
            .tls_backend_preconfigured(tls.with_no_client_auth())
            .build()
            .map_err(BuildMirrorsError::Client)?;
        let mirrors = addresses.iter().map(Mirror::new).collect::<Result<_, _>>()?;
        let inner = Inner {
            client,
            mirrors,
            fails: AtomicBool::new(false),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Asks that a layer be on the store, and waits for it as long as the wish says.
    ///
    /// # Errors
    /// Says which mirror could not be reached, or what it answers instead.
    pub async fn layer(&self, wish: &LayerWish) -> Result<LayerAnswer, MirrorsError> {
        let wait = Duration::from_millis(wish.wait_ms);
        self.ask(Method::POST, "layers", wish, wait + ANSWER_TIMEOUT)
            .await
    }

    /// Has a mirror write down what this node uses; returns the sequence that counts.
    ///
    /// # Errors
    /// As [`Mirrors::layer`].
    pub async fn state_node(
        &self,
        id: &NodeId,
        statement: &NodeStatement,
    ) -> Result<NodeAnswer, MirrorsError> {
        let path = format!("nodes/{id}");
        self.ask(Method::PUT, &path, statement, ANSWER_TIMEOUT).await
    }

    /// Has a mirror bring an image, and tell how far it is; dropping the answer ends nothing.
    ///
    /// # Errors
    /// As [`Mirrors::layer`].
    pub async fn image(&self, wish: &ImageWish) -> Result<ImageReports, MirrorsError> {
        let (mirror, response) = self.send(Method::POST, "images", wish, None).await?;
        Ok(ImageReports::new(mirror.base.clone(), response))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        message: &impl Serialize,
        patience: Duration,
    ) -> Result<T, MirrorsError> {
        let (mirror, response) = self.send(method, path, message, Some(patience)).await?;
        let answer = response.json().await;
        answer
            .map_err(|source| mirror.failed(source, |mirror, source| MirrorsError::Answer { mirror, source }))
    }

    /// Asks mirror after mirror until one answers; `patience` bounds the whole answer, if it is given.
    async fn send(
        &self,
        method: Method,
        path: &str,
        message: &impl Serialize,
        patience: Option<Duration>,
    ) -> Result<(&Mirror, Response), MirrorsError> {
        let mut last = MirrorsError::Resting;
        for mirror in self.inner.mirrors.iter().filter(|mirror| !mirror.rests()) {
            let Ok(url) = mirror.base.join(&format!("wharf/v1/{path}")) else {
                continue;
            };
            let request = mirror.log_in(self.inner.client.request(method.clone(), url));
            let request = match patience {
                Some(patience) => request.timeout(patience),
                None => request,
            };
            let sent = request.json(message).send().await;
            match mirror.answer(sent).await {
                Ok(response) => {
                    mirror.note(true);
                    self.tell(None);
                    return Ok((mirror, response));
                }
                // An answer, which another mirror of the same store would give too.
                Err(error) if error.is_answer() => {
                    mirror.note(true);
                    return Err(error);
                }
                Err(error) => {
                    mirror.note(false);
                    last = error;
                }
            }
        }
        self.tell(Some(&last));
        Err(last)
    }

    /// Says once that no mirror can be reached, and once that one can again.
    fn tell(&self, error: Option<&MirrorsError>) {
        let failed = self.inner.fails.swap(error.is_some(), Ordering::AcqRel);
        match error {
            Some(error) if !failed => tracing::warn!(
                error = full_text(error),
                "no mirror can be reached: layers that are on the store serve, others are unpacked on this node"
            ),
            None if failed => tracing::info!("a mirror can be reached again"),
            Some(_) | None => {}
        }
    }
}

impl Mirror {
    fn new(address: &Url) -> Result<Self, BuildMirrorsError> {
        let login = (!address.username().is_empty())
            .then(|| (decoded(address.username()), address.password().map(decoded)));
        let mut base = address.clone();
        let is_http = matches!(base.scheme(), "http" | "https") && base.has_host();
        // Neither can fail where there is a host.
        let _ = base.set_username("").and_then(|()| base.set_password(None));
        if !is_http {
            return Err(BuildMirrorsError::Scheme(base.to_string()));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self {
            base,
            login,
            rest: Mutex::default(),
        })
    }

    fn log_in(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.login {
            Some((user, password)) => request.basic_auth(user, password.as_deref()),
            None => request,
        }
    }

    async fn answer(&self, sent: reqwest::Result<Response>) -> Result<Response, MirrorsError> {
        let response = sent.map_err(|source| {
            self.failed(source, |mirror, source| MirrorsError::Unreachable {
                mirror,
                source,
            })
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let message = response.text().await.unwrap_or_default();
        Err(MirrorsError::Refused {
            mirror: self.base.clone(),
            status,
            message: told(&message).chars().take(MAX_TOLD).collect(),
        })
    }

    fn failed(
        &self,
        source: reqwest::Error,
        error: impl FnOnce(Url, reqwest::Error) -> MirrorsError,
    ) -> MirrorsError {
        error(self.base.clone(), source.without_url())
    }

    fn rests(&self) -> bool {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.until.is_some_and(|until| Instant::now() < until)
    }

    /// Notes whether the mirror has answered.
    fn note(&self, answered: bool) {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            *rest = Rest::default();
            return;
        }
        rest.pause = (rest.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        rest.until = Some(Instant::now() + rest.pause);
    }
}

impl MirrorsError {
    /// Tells whether the mirror works, and refuses what it was asked.
    fn is_answer(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                status.is_client_error()
                    && !matches!(
                        *status,
                        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
                    )
            }
            Self::Answer { .. } | Self::Cut { .. } | Self::Report { .. } => true,
            Self::Resting | Self::Unreachable { .. } => false,
        }
    }
}

impl fmt::Debug for Mirrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bases = self.inner.mirrors.iter().map(|mirror| mirror.base.as_str());
        f.debug_list().entries(bases).finish()
    }
}

/// Returns what an error's body says, which has the distribution spec's form or any other.
fn told(body: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let message = parsed
        .as_ref()
        .and_then(|body| body["errors"][0]["message"].as_str());
    message.unwrap_or(body.trim()).to_owned()
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}
