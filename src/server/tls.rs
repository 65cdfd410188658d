//! The mirror's own certificate and key.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::ServerTls;

/// Reads certificate and key.
///
/// # Errors
/// Fails if one of them cannot be read or is no PEM, or if they do not belong together.
pub(super) fn load(files: &ServerTls) -> anyhow::Result<RustlsConfig> {
    Ok(RustlsConfig::from_config(read(files)?))
}

/// Reads them again, for the connections to come.
///
/// # Errors
/// As [`load`]; what was read before stays in use.
pub(super) fn reload(current: &RustlsConfig, files: &ServerTls) -> anyhow::Result<()> {
    current.reload_from_config(read(files)?);
    Ok(())
}

fn read(files: &ServerTls) -> anyhow::Result<Arc<ServerConfig>> {
    let ServerTls { certificate, key } = files;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&content("tls.certificate", certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|_| anyhow!("tls.certificate: {} is no PEM", certificate.display()))?;
    if chain.is_empty() {
        return Err(anyhow!(
            "tls.certificate: {} holds no certificate in PEM",
            certificate.display()
        ));
    }
    let private_key = PrivateKeyDer::from_pem_slice(&content("tls.key", key)?)
        .map_err(|_| anyhow!("tls.key: {} holds no private key in PEM", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private_key))
        .with_context(|| {
            format!(
                "tls: {} and {} cannot be used together",
                certificate.display(),
                key.display()
            )
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn content(key: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{key}: cannot read {}", path.display()))
}
