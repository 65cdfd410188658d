//! Builds the HTTP clients: roots, certificates, timeouts.
//!
//! Redirects are followed by [`super::request`], which knows whom to send
//! credentials to, and bodies stay as they are sent: a digest is of those bytes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use globset::GlobSet;
use reqwest::redirect::Policy;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::connections::body_connections;
use super::public::PublicResolver;
use crate::config::Upstream as UpstreamConfig;
use crate::oci::RegistryHost;
use crate::trust::{client_tls, system_roots};

/// What registries see in their logs.
const USER_AGENT: &str = concat!("wharf/", env!("CARGO_PKG_VERSION"));

/// How long an unused connection is kept: less than the 60 s after which load balancers drop it silently.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no client for an upstream, in one line that names the key.
#[derive(Debug, thiserror::Error)]
pub enum BuildUpstreamError {
    /// A file cannot be read.
    #[error("{key}: cannot read {}", .path.display())]
    Read {
        /// The key that names the file.
        key: String,
        /// The file.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file is no PEM, or holds nothing of what it should.
    #[error("{key}: {} holds no {expected} in PEM; name a file that begins with -----BEGIN", .path.display())]
    Pem {
        /// The key that names the file.
        key: String,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// A certificate that cannot be trusted, or shown, or that does not belong to its key.
    #[error("{key}: {} cannot be used", .path.display())]
    Certificate {
        /// The key that names the file.
        key: String,
        /// The file.
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    /// A pattern of `allow` or `deny` is no glob.
    #[error("{key} cannot be used")]
    Glob {
        /// `allow` or `deny`.
        key: &'static str,
        #[source]
        source: globset::Error,
    },
    /// rustls or reqwest cannot be set up.
    #[error("cannot set up a client for upstream {host:?}")]
    Client {
        /// The upstream, or `*`.
        host: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The clients of one upstream.
#[derive(Clone)]
pub(super) struct Clients {
    /// For short questions; HTTP/2 where the server has it.
    pub(super) api: reqwest::Client,
    /// For blobs. HTTP/1.1: over one HTTP/2 connection, bodies that are read slowly fill its window
    /// and stop everything else on it.
    pub(super) bodies: reqwest::Client,
}

/// Whom a client may connect to.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    /// Anyone: an administrator has named the host.
    Configured,
    /// Public addresses over https, but for those that the globs name: a client has named the host.
    Public(Arc<GlobSet>),
}

/// Makes clients; the system's roots are read once.
pub(super) struct ClientFactory {
    roots: Arc<RootCertStore>,
}

impl ClientFactory {
    /// Reads the system's roots, or takes Mozilla's where the system has none.
    pub(super) fn new() -> Self {
        Self {
            roots: Arc::new(system_roots()),
        }
    }

    /// Makes the clients of an upstream.
    ///
    /// # Errors
    /// Fails if a certificate or key cannot be read or used.
    pub(super) fn configured(
        &self,
        host: &RegistryHost,
        config: &UpstreamConfig,
    ) -> Result<Clients, BuildUpstreamError> {
        let tls = self.tls(host, config)?;
        clients(host.as_str(), config, tls, &Trust::Configured)
    }

    /// Makes the clients that all hosts share that are not configured.
    ///
    /// # Errors
    /// Fails if TLS cannot be set up.
    pub(super) fn public(
        &self,
        config: &UpstreamConfig,
        deny: &Arc<GlobSet>,
    ) -> Result<Clients, BuildUpstreamError> {
        let host = "*";
        let tls = tls_builder(host, Arc::clone(&self.roots))?.with_no_client_auth();
        clients(host, config, tls, &Trust::Public(Arc::clone(deny)))
    }

    fn tls(&self, host: &RegistryHost, config: &UpstreamConfig) -> Result<ClientConfig, BuildUpstreamError> {
        let key = |name: &str| format!("upstream.\"{host}\".{name}");
        let roots = match &config.ca {
            Some(path) => Arc::new(self.roots_with(path, key("ca"))?),
            None => Arc::clone(&self.roots),
        };
        let builder = tls_builder(host.as_str(), roots)?;
        let (Some(certificate), Some(private_key)) = (&config.client_certificate, &config.client_key) else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates(certificate, &key("client_certificate"))?;
        let private_key = private_key_of(private_key, key("client_key"))?;
        builder
            .with_client_auth_cert(chain, private_key)
            .map_err(|source| BuildUpstreamError::Certificate {
                key: key("client_certificate"),
                path: certificate.clone(),
                source,
            })
    }

    fn roots_with(&self, path: &Path, key: String) -> Result<RootCertStore, BuildUpstreamError> {
        let mut roots = (*self.roots).clone();
        for certificate in certificates(path, &key)? {
            roots
                .add(certificate)
                .map_err(|source| BuildUpstreamError::Certificate {
                    key: key.clone(),
                    path: path.to_owned(),
                    source,
                })?;
        }
        Ok(roots)
    }
}

type TlsBuilder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn tls_builder(host: &str, roots: Arc<RootCertStore>) -> Result<TlsBuilder, BuildUpstreamError> {
    client_tls(roots).map_err(|source| unbuildable(host, source))
}

fn clients(
    host: &str,
    config: &UpstreamConfig,
    tls: ClientConfig,
    trust: &Trust,
) -> Result<Clients, BuildUpstreamError> {
    let client = |protocols: &[&str], most_idle: usize| {
        let mut tls = tls.clone();
        tls.alpn_protocols = protocols.iter().map(|name| (*name).into()).collect();
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(config.connect_timeout)
            // Without it, a pooled connection that died silently would cost many requests their timeout.
            .tcp_user_timeout(config.answer_timeout)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(most_idle)
            .tls_backend_preconfigured(tls);
        if let Trust::Public(deny) = trust {
            builder = builder.dns_resolver(PublicResolver::from_env(Arc::clone(deny)));
        }
        builder.build().map_err(|source| unbuildable(host, source))
    };
    let most_bodies = body_connections(config.max_connections);
    Ok(Clients {
        api: client(&["h2", "http/1.1"], (config.max_connections - most_bodies).max(1))?,
        bodies: client(&["http/1.1"], most_bodies)?,
    })
}

fn unbuildable(host: &str, source: impl std::error::Error + Send + Sync + 'static) -> BuildUpstreamError {
    BuildUpstreamError::Client {
        host: host.to_owned(),
        source: Box::new(source),
    }
}

fn certificates(path: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, BuildUpstreamError> {
    let text = read(path, key)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    found
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| BuildUpstreamError::Pem {
            key: key.to_owned(),
            path: path.to_owned(),
            expected: "certificate",
        })
}

fn private_key_of(path: &Path, key: String) -> Result<PrivateKeyDer<'static>, BuildUpstreamError> {
    let text = read(path, &key)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| BuildUpstreamError::Pem {
        key,
        path: path.to_owned(),
        expected: "private key",
    })
}

fn read(path: &Path, key: &str) -> Result<Vec<u8>, BuildUpstreamError> {
    std::fs::read(path).map_err(|source| BuildUpstreamError::Read {
        key: key.to_owned(),
        path: path.to_owned(),
        source,
    })
}
