//! The client of upstream registries: requests, tokens, credentials, redirects, resuming.
//!
//! [`Upstreams`] knows which hosts may be asked, [`Upstream`] asks one of them.
//! It gives what upstream sent and verifies none of it: that is for whoever
//! hashes the bytes. It knows no store, and retries nothing but what is the
//! protocol's own (a token that expired, a signed URL that did, a connection that
//! was dead in the pool): when to try again is the caller's matter, and
//! [`UpstreamErrorClass`] says whether it makes sense.
//!
//! In the order of a request: `request` (endpoints, redirects), `auth` and `token`
//! and `credentials` (who wharf is), `connections` (how many at a time), `health`
//! (whom to leave alone), `send` (one request to one server), `short` (answers that are read whole); `manifest`, `blob`
//! and `listing` are what is asked; `client` and `public` build what it is sent with.

mod auth;
mod blob;
mod client;
mod connections;
mod credentials;
mod error;
mod health;
mod listing;
mod manifest;
mod public;
mod request;
mod send;
mod short;
#[cfg(test)]
mod tests;
mod token;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use prometheus_client::metrics::counter::Counter;
use quick_cache::sync::Cache;
use url::Url;

use crate::config::{Config, Upstream as UpstreamConfig};
use crate::oci::RegistryHost;
use crate::telemetry::Metrics;

use auth::Authorizations;
use client::{ClientFactory, Clients, Trust};
use connections::Connections;
use credentials::Keychain;
use health::Health;
use public::is_public_host;

pub use blob::{BlobBody, BlobHead, ResumePoint};
pub use client::BuildUpstreamError;
pub use error::{Nonsense, Refusal, UpstreamError, UpstreamErrorClass, Wait};
pub use listing::TagPage;
pub use manifest::{FetchedManifest, ManifestHead};

/// Of how many hosts that are not configured tokens and pauses are remembered.
const MAX_OTHERS: usize = 256;

/// Of how many CDNs and token servers of one upstream pauses are remembered.
const MAX_SERVERS: usize = 64;

/// All upstreams, and the rules about hosts that are not configured. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams(Arc<Known>);

struct Known {
    configured: BTreeMap<RegistryHost, Upstream>,
    allow: GlobSet,
    deny: Arc<GlobSet>,
    /// What every host that is not configured shares, and its own of those asked last.
    clients: Clients,
    others: Cache<RegistryHost, Upstream>,
    metrics: Metrics,
}

/// One upstream registry. Cheap to clone; clones share its connections, tokens and pauses.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    host: RegistryHost,
    endpoints: Vec<Endpoint>,
    trust: Trust,
    clients: Clients,
    keychain: Keychain,
    connections: Connections,
    /// The health of servers that are no endpoint, by origin.
    servers: Cache<String, Arc<Health>>,
    connect_timeout: Duration,
    answer_timeout: Duration,
    idle_timeout: Duration,
    metrics: Metrics,
    received: Counter<u64, AtomicU64>,
}

/// One way to reach a registry.
struct Endpoint {
    base: Url,
    health: Arc<Health>,
    authorizations: Authorizations,
}

impl Upstreams {
    /// Builds the clients of all configured upstreams; reads certificates and keys.
    ///
    /// # Errors
    /// Fails with one line that names the key and the file.
    pub fn new(config: &Config, metrics: Metrics) -> Result<Self, BuildUpstreamError> {
        let factory = ClientFactory::new();
        let mut configured = BTreeMap::new();
        for (host, upstream) in &config.upstreams {
            let clients = factory.configured(host, upstream)?;
            let parts = (clients, Trust::Configured, metrics.clone());
            configured.insert(host.clone(), Upstream::new(host.clone(), upstream, parts));
        }
        let deny = Arc::new(globs("deny", &config.deny)?);
        Ok(Self(Arc::new(Known {
            configured,
            allow: globs("allow", &config.allow)?,
            clients: factory.public(&UpstreamConfig::default(), &deny)?,
            deny,
            others: Cache::new(MAX_OTHERS),
            metrics,
        })))
    }

    /// Tells whether a host has an upstream of its own in the configuration.
    pub fn is_configured(&self, host: &RegistryHost) -> bool {
        self.0.configured.contains_key(host)
    }

    /// Returns the upstream of a host: a configured one, or one that `allow` names and `deny` does not.
    ///
    /// # Errors
    /// `Refused`, if it is neither.
    pub fn get(&self, host: &RegistryHost) -> Result<Upstream, UpstreamError> {
        if let Some(upstream) = self.0.configured.get(host) {
            return Ok(upstream.clone());
        }
        let refused = |reason| UpstreamError::Refused {
            host: host.clone(),
            reason,
        };
        // As it is asked: 0xa000001 is 10.0.0.1, and a port changes nothing.
        let url = Url::parse(&format!("https://{host}")).ok();
        let is_denied = |url: &Url| is_named(url, &self.0.deny);
        if self.0.deny.is_match(host.as_str()) || url.as_ref().is_some_and(is_denied) {
            return Err(refused(Refusal::Denied));
        }
        if !self.0.allow.is_match(host.as_str()) {
            return Err(refused(Refusal::NotAllowed));
        }
        self.0.others.get_or_insert_with(host, || {
            let url = url.clone().filter(is_public_host);
            let endpoints = vec![url.ok_or_else(|| refused(Refusal::NotPublic))?];
            let config = UpstreamConfig {
                endpoints,
                ..UpstreamConfig::default()
            };
            let trust = Trust::Public(Arc::clone(&self.0.deny));
            let parts = (self.0.clients.clone(), trust, self.0.metrics.clone());
            Ok(Upstream::new(host.clone(), &config, parts))
        })
    }
}

impl Upstream {
    fn new(
        host: RegistryHost,
        config: &UpstreamConfig,
        (clients, trust, metrics): (Clients, Trust, Metrics),
    ) -> Self {
        let endpoints = config.endpoints.iter().map(|base| Endpoint {
            base: base.clone(),
            health: Arc::default(),
            authorizations: Authorizations::new(),
        });
        Self(Arc::new(Inner {
            endpoints: endpoints.collect(),
            trust,
            clients,
            keychain: Keychain::new(host.clone(), config.credentials.clone()),
            connections: Connections::new(config.max_connections, config.answer_timeout),
            servers: Cache::new(MAX_SERVERS),
            connect_timeout: config.connect_timeout,
            answer_timeout: config.answer_timeout,
            idle_timeout: config.idle_timeout,
            received: metrics.upstream_bytes(&host),
            metrics,
            host,
        }))
    }
}

/// Tells whether a glob names a URL's host, with its port or without.
fn is_named(url: &Url, globs: &GlobSet) -> bool {
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    let port = url.port_or_known_default().unwrap_or_default();
    globs.is_match(host) || globs.is_match(format!("{host}:{port}"))
}

fn globs(key: &'static str, texts: &[String]) -> Result<GlobSet, BuildUpstreamError> {
    let set = texts.iter().try_fold(GlobSetBuilder::new(), |mut set, text| {
        // Hosts are compared in lower case.
        set.add(GlobBuilder::new(text).case_insensitive(true).build()?);
        Ok(set)
    });
    set.and_then(|set| set.build())
        .map_err(|source| BuildUpstreamError::Glob { key, source })
}
