//! Who asks, and what he may ask for.

use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, StatusCode, header};

use super::error::ApiError;
use super::htpasswd::Htpasswd;
use crate::config::{AccessRule, Client, Config};
use crate::oci::{ErrorCode, RegistryHost, Repository};

pub use super::htpasswd::OpenAccessError;

/// The rules of the configuration, and the users of the htpasswd file.
pub struct Access {
    htpasswd: Option<Htpasswd>,
    upstreams: Vec<(RegistryHost, Vec<Client>)>,
    rules: Vec<AccessRule>,
}

/// A client whose credentials, if they are asked for, have proved right.
pub(super) struct Asker {
    pub(super) user: Option<String>,
    pub(super) address: IpAddr,
}

impl Access {
    /// Reads the htpasswd file, if there is one.
    ///
    /// # Errors
    /// Fails if it cannot be read, or has a line that wharf cannot use.
    pub fn open(config: &Config) -> Result<Self, OpenAccessError> {
        let clients = config
            .upstreams
            .iter()
            .map(|(host, upstream)| (host.clone(), upstream.clients.clone()));
        Ok(Self {
            htpasswd: config.htpasswd.as_deref().map(Htpasswd::open).transpose()?,
            upstreams: clients.filter(|(_, clients)| !clients.is_empty()).collect(),
            rules: config.access.clone(),
        })
    }

    /// Reads the htpasswd file again.
    ///
    /// # Errors
    /// As [`Access::open`]; the users stay as they were then.
    pub fn reload(&self) -> Result<(), OpenAccessError> {
        self.htpasswd.as_ref().map_or(Ok(()), Htpasswd::reload)
    }

    /// Finds out who asks.
    ///
    /// Without an htpasswd file, credentials that a client sends (docker sends those of Docker Hub to
    /// mirrors) are not looked at.
    pub(super) async fn identify(&self, headers: &HeaderMap, address: IpAddr) -> Result<Asker, ApiError> {
        let Some(htpasswd) = &self.htpasswd else {
            return Ok(Asker { user: None, address });
        };
        let Some((user, password)) = basic_credentials(headers) else {
            return Err(unauthorized("this mirror asks for a user and password"));
        };
        if !htpasswd.accepts(&user, &password).await {
            return Err(unauthorized("the user or the password is wrong"));
        }
        Ok(Asker {
            user: Some(user),
            address,
        })
    }

    /// Checks that somebody may have what a repository holds.
    ///
    /// The upstream's `clients` must name him, if there are any, and so must one of the `[[access]]`
    /// rules that name the repository, if there are any.
    pub(super) fn check(&self, asker: &Asker, repository: &Repository) -> Result<(), ApiError> {
        let is_named = |clients: &[Client]| {
            clients
                .iter()
                .any(|client| client.matches(asker.user.as_deref(), asker.address))
        };
        let by_upstream = self.upstreams.iter().filter(|(host, _)| *host == repository.host);
        let full_name = repository.to_string();
        let mut by_rule = self
            .rules
            .iter()
            .filter(|rule| rule.repositories.is_match(&full_name))
            .peekable();
        let is_allowed = by_upstream.into_iter().all(|(_, clients)| is_named(clients))
            && (by_rule.peek().is_none() || by_rule.any(|rule| is_named(&rule.clients)));
        if is_allowed {
            return Ok(());
        }
        let message = format!("this mirror does not give {full_name} to you");
        Err(ApiError::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message))
    }
}

/// Reads `Authorization: Basic …` (RFC 7617).
fn basic_credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message).with_header(
        header::WWW_AUTHENTICATE,
        "Basic realm=\"wharf\", charset=\"UTF-8\"",
    )
}
