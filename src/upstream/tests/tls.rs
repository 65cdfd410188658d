//! Own certificate authorities, client certificates, and what is wrong with their files.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::WWW_AUTHENTICATE;
use axum::routing::get;
use axum_server::tls_rustls::RustlsConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;

use super::server::{Reply, Server, config, digest, host, name, tag, upstream_of};
use crate::config::{Config, Credentials, Secret, Upstream as UpstreamConfig};
use crate::telemetry::Metrics;
use crate::upstream::{Nonsense, ResumePoint, UpstreamError, UpstreamErrorClass, Upstreams};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of this name, and its key.
fn issue(authority: &Authority, name: &str) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (parameters.signed_by(&key, authority).unwrap(), key)
}

/// A registry at localhost that knows its clients by certificate.
async fn registry(authority: &Authority, routes: Router) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let (certificate, key) = issue(authority, "localhost");
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    tls.alpn_protocols = vec!["h2".into(), "http/1.1".into()];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let tls = RustlsConfig::from_config(Arc::new(tls));
    let server = axum_server::from_tcp_rustls(listener, tls).unwrap();
    tokio::spawn(server.serve(routes.into_make_service()));
    address
}

fn write(directory: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn settings(address: SocketAddr) -> UpstreamConfig {
    config([format!("https://localhost:{}", address.port()).parse().unwrap()])
}

/// Settings with the files that `registry` wants.
fn settings_with_files(address: SocketAddr, authority: &Authority, directory: &TempDir) -> UpstreamConfig {
    let (certificate, key) = issue(authority, "wharf");
    UpstreamConfig {
        ca: Some(write(directory, "ca.pem", &authority.pem())),
        client_certificate: Some(write(directory, "client.pem", &certificate.pem())),
        client_key: Some(write(directory, "client.key", &key.serialize_pem())),
        ..settings(address)
    }
}

async fn ask(config: UpstreamConfig) -> Result<(), UpstreamError> {
    let got = upstream_of(config)
        .0
        .get_manifest(&name("acme/app"), &tag("v1"))
        .await;
    got.map(|_| ())
}

#[tokio::test]
async fn a_registry_is_trusted_by_its_own_ca_and_trusts_wharf_by_its_certificate() {
    let (authority, directory) = (authority(), tempfile::tempdir().unwrap());
    let routes = Router::new().route("/v2/{*rest}", get(async || "{}"));
    let address = registry(&authority, routes).await;
    let trusted = settings_with_files(address, &authority, &directory);
    ask(trusted.clone()).await.unwrap();
    let without_certificate = UpstreamConfig {
        client_certificate: None,
        client_key: None,
        ..trusted
    };
    for config in [settings(address), without_certificate] {
        let error = ask(config).await.unwrap_err();
        assert_eq!(error.class(), UpstreamErrorClass::Unavailable, "{error}");
    }
}

#[tokio::test]
async fn questions_share_a_connection_by_http2_and_blobs_have_their_own() {
    let (authority, directory) = (authority(), tempfile::tempdir().unwrap());
    let version = async |request: Request| format!("{:?}", request.version());
    let address = registry(&authority, Router::new().route("/v2/{*rest}", get(version))).await;
    let (upstream, _) = upstream_of(settings_with_files(address, &authority, &directory));
    let manifest = upstream.get_manifest(&name("acme/app"), &tag("v1")).await;
    assert_eq!(manifest.unwrap().bytes, "HTTP/2.0");
    let from = ResumePoint::default();
    let blob = upstream.get_blob(&name("acme/app"), &digest(b""), from).await;
    assert_eq!(blob.unwrap().next().await.unwrap().unwrap(), "HTTP/1.1");
}

#[tokio::test]
async fn a_password_is_never_sent_to_a_token_server_without_tls() {
    let (authority, directory) = (authority(), tempfile::tempdir().unwrap());
    let tokens = Server::start(|_| Reply::ok(r#"{"token": "t"}"#)).await;
    let challenge = format!("Bearer realm=\"{}token\"", tokens.url());
    let unauthorized = async move || (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]);
    let routes = Router::new().route("/v2/{*rest}", get(unauthorized));
    let address = registry(&authority, routes).await;
    let config = UpstreamConfig {
        credentials: Credentials::Basic {
            username: "alice".to_owned(),
            password: Secret::new("open sesame"),
        },
        ..settings_with_files(address, &authority, &directory)
    };
    let error = ask(config).await.unwrap_err();
    let is_downgrade = matches!(
        &error,
        UpstreamError::Invalid {
            nonsense: Nonsense::Downgrade,
            ..
        }
    );
    assert!(is_downgrade, "{error}");
    assert!(tokens.seen().is_empty());
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority();
    let (certificate, _) = issue(&authority, "wharf");
    let (_, other_key) = issue(&authority, "wharf");
    let text = write(&directory, "text", "no PEM");
    let certificate = write(&directory, "client.pem", &certificate.pem());
    let other_key = write(&directory, "other.key", &other_key.serialize_pem());
    let missing = directory.path().join("missing");
    let of = |ca: Option<&Path>, pair: Option<(&Path, &Path)>| UpstreamConfig {
        ca: ca.map(Path::to_owned),
        client_certificate: pair.map(|(certificate, _)| certificate.to_owned()),
        client_key: pair.map(|(_, key)| key.to_owned()),
        ..UpstreamConfig::default()
    };
    for (config, key, path) in [
        (of(Some(&missing), None), "ca", &missing),
        (of(Some(&text), None), "ca", &text),
        (of(None, Some((&text, &other_key))), "client_certificate", &text),
        (of(None, Some((&certificate, &text))), "client_key", &text),
        (
            of(None, Some((&certificate, &other_key))),
            "client_certificate",
            &certificate,
        ),
    ] {
        let config = Config {
            upstreams: [(host(), config)].into(),
            ..Config::default()
        };
        let error = Upstreams::new(&config, Metrics::new([]))
            .err()
            .unwrap()
            .to_string();
        let start = format!("upstream.\"registry.test\".{key}: ");
        assert!(error.starts_with(&start), "{error}");
        assert!(
            error.contains(&path.display().to_string()) && !error.contains('\n'),
            "{error}"
        );
    }
}
