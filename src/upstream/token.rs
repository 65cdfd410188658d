//! Gets tokens, as distribution's token specification has it.
//!
//! With a user and password, or anonymously: `GET realm?service=…&scope=…`. With
//! an identity token: `POST realm` with `grant_type=refresh_token`.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;
use url::{Url, form_urlencoded};

use super::Upstream;
use super::auth::{Authorization, Challenge};
use super::credentials::{Login, secret_header};
use super::error::{Nonsense, UpstreamError};
use super::send::{Outgoing, server_of};
use crate::oci::RepositoryName;
use crate::telemetry::labels::UpstreamKind;

/// The largest answer of a token server that is read; tokens that name many rights have some kilobytes.
const MAX_TOKEN_BYTES: usize = 1 << 20;

/// How long a token is good for if its server does not say (token specification).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// The longest lifetime that is believed.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How long a password is used before it is read again.
const PASSWORD_LIFETIME: Duration = Duration::from_secs(60);

/// What token servers know wharf as.
const CLIENT_ID: &str = "wharf";

/// What a token server answers; a secret, so it cannot be printed.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Upstream {
    /// Returns the Authorization that the endpoint at `index` wants; none if it has not asked for one.
    ///
    /// # Errors
    /// Fails if the token server does not give one that is not `rejected`.
    pub(super) async fn authorize(
        &self,
        index: usize,
        name: &RepositoryName,
        rejected: Option<HeaderValue>,
    ) -> Result<Option<Authorization>, UpstreamError> {
        let endpoint = &self.0.endpoints[index];
        let known = &endpoint.authorizations;
        if known.challenge().is_none() {
            return Ok(None);
        }
        if let Some(header) = known.kept(name, rejected.as_ref(), Instant::now()) {
            let is_new = false;
            return Ok(Some(Authorization { header, is_new }));
        }
        let asked = known.questions.ask(name.clone(), || {
            let (upstream, name, rejected) = (self.clone(), name.clone(), rejected.clone());
            async move { upstream.obtain(index, name, rejected).await }
        });
        let header = asked.await.unwrap_or_else(|abandoned| {
            Err(UpstreamError::Unreachable {
                host: self.0.host.clone(),
                server: server_of(&endpoint.base).to_owned(),
                reason: abandoned.to_string(),
            })
        })?;
        let is_new = true;
        Ok(Some(Authorization { header, is_new }))
    }

    async fn obtain(
        &self,
        index: usize,
        name: RepositoryName,
        rejected: Option<HeaderValue>,
    ) -> Result<HeaderValue, UpstreamError> {
        let endpoint = &self.0.endpoints[index];
        let known = &endpoint.authorizations;
        // Another asker may have got one while this one was on its way.
        if let Some(header) = known.kept(&name, rejected.as_ref(), Instant::now()) {
            return Ok(header);
        }
        let login = self.0.keychain.login().await;
        let (header, lifetime) = match known.challenge() {
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                self.check_way(&endpoint.base, &realm)?;
                let parameters = parameters(&name, service.as_deref(), scope.as_deref());
                self.fetch_token(realm, &parameters, &login).await?
            }
            Some(Challenge::Basic) | None => {
                let header = login.basic_header().ok_or_else(|| UpstreamError::Denied {
                    host: self.0.host.clone(),
                    server: server_of(&endpoint.base).to_owned(),
                    status: StatusCode::UNAUTHORIZED,
                })?;
                (header, PASSWORD_LIFETIME)
            }
        };
        known.keep(name, header.clone(), lifetime, Instant::now());
        Ok(header)
    }

    async fn fetch_token(
        &self,
        realm: Url,
        parameters: &[(&str, String)],
        login: &Login,
    ) -> Result<(HeaderValue, Duration), UpstreamError> {
        let _permit = self.connection(UpstreamKind::Token).await?;
        let outgoing = token_request(realm, parameters, login);
        let response = self.follow(outgoing, login.basic_header().as_ref()).await?;
        let (url, status) = (response.url().clone(), response.status());
        if !status.is_success() {
            return Err(match self.judge(&url, status, response.headers()) {
                // It is the token server that is not there, not the image.
                UpstreamError::NotFound { .. } => self.nonsense(&url, Nonsense::Status(status)),
                error => error,
            });
        }
        let bytes = self.read_short(response, MAX_TOKEN_BYTES).await?;
        // What serde says of it may quote it.
        let token = serde_json::from_slice::<TokenAnswer>(&bytes).ok();
        let token = token.and_then(TokenAnswer::into_header);
        token.ok_or_else(|| self.nonsense(&url, Nonsense::Token))
    }
}

impl TokenAnswer {
    fn into_header(self) -> Option<(HeaderValue, Duration)> {
        let mut texts = [self.token, self.access_token].into_iter().flatten();
        let text = texts.find(|text| !text.is_empty())?;
        let header = secret_header(&format!("Bearer {text}"))?;
        let seconds = self.expires_in.as_u64().filter(|seconds| *seconds > 0);
        let lifetime = seconds.map_or(DEFAULT_LIFETIME, Duration::from_secs);
        Some((header, lifetime.min(MAX_LIFETIME)))
    }
}

fn parameters(
    name: &RepositoryName,
    service: Option<&str>,
    scope: Option<&str>,
) -> Vec<(&'static str, String)> {
    let mut parameters = Vec::new();
    parameters.extend(service.map(|service| ("service", service.to_owned())));
    parameters.push(("scope", format!("repository:{name}:pull")));
    parameters.extend(scope.map(|scope| ("scope", scope.to_owned())));
    parameters
}

fn token_request(mut realm: Url, parameters: &[(&str, String)], login: &Login) -> Outgoing {
    let mut headers = HeaderMap::new();
    let (method, body) = match login {
        Login::Anonymous | Login::Password(..) => {
            realm.query_pairs_mut().extend_pairs(parameters);
            (Method::GET, None)
        }
        Login::Identity(token) => {
            let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(CONTENT_TYPE, form_type);
            let scopes: Vec<&str> = named(parameters, "scope").collect();
            let form = form_urlencoded::Serializer::new(String::new())
                .append_pair("grant_type", "refresh_token")
                .append_pair("client_id", CLIENT_ID)
                .extend_pairs(named(parameters, "service").map(|service| ("service", service)))
                .append_pair("scope", &scopes.join(" "))
                .append_pair("refresh_token", token.expose())
                .finish();
            (Method::POST, Some(Bytes::from(form)))
        }
    };
    Outgoing {
        kind: UpstreamKind::Token,
        method,
        url: realm,
        headers,
        body,
    }
}

fn named<'a>(parameters: &'a [(&str, String)], name: &str) -> impl Iterator<Item = &'a str> {
    parameters
        .iter()
        .filter(move |(key, _)| *key == name)
        .map(|(_, value)| value.as_str())
}
