//! Certificates that tests make up.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A certificate authority of a test's own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    /// Makes an authority.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).expect("an authority"),
        }
    }

    /// Certifies 127.0.0.1 and registry.test, as server or client.
    pub fn identity(&self) -> Identity {
        let params =
            CertificateParams::new(["127.0.0.1", "registry.test"].map(str::to_owned)).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { certificate, key }
    }

    /// Writes the authority's certificate.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.issuer.pem()).expect("write a certificate");
    }

    /// A server that shows a certificate of this authority.
    pub fn server(&self) -> Arc<ServerConfig> {
        let (chain, key) = self.identity().der();
        let config = server_builder().with_no_client_auth();
        Arc::new(config.with_single_cert(chain, key).expect("a server"))
    }

    /// A server that refuses clients without a certificate of this authority.
    pub fn server_for_certified_clients(&self) -> Arc<ServerConfig> {
        let (chain, key) = self.identity().der();
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider);
        let config = server_builder().with_client_cert_verifier(verifier.build().expect("a verifier"));
        Arc::new(config.with_single_cert(chain, key).expect("a server"))
    }

    /// A client that trusts this authority alone.
    pub fn client(&self) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS versions");
        Arc::new(config.with_root_certificates(self.roots()).with_no_client_auth())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        roots
    }
}

impl Identity {
    /// Writes the certificate and the key.
    pub fn write(&self, certificate: &Path, key: &Path) {
        std::fs::write(certificate, self.certificate.pem()).expect("write a certificate");
        std::fs::write(key, self.key.serialize_pem()).expect("write a key");
    }

    fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key");
        (vec![self.certificate.der().clone()], key)
    }
}

fn server_builder() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
}
