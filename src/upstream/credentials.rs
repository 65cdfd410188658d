//! What wharf logs in to an upstream with, read anew whenever a login is needed.
//!
//! Credentials that cannot be read are told in the log, and upstream is asked
//! anonymously: what is public stays available.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use http::HeaderValue;
use tokio::time::timeout;

use crate::config::{Credentials, Secret};
use crate::flight::Questions;
use crate::oci::RegistryHost;

/// How long a file or a credential helper may take; the helpers of clouds ask the network themselves.
const MAX_READ_TIME: Duration = Duration::from_secs(20);

/// The name of Docker Hub in Docker's own configuration.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What a credential helper prints where it knows nothing; the helpers' protocol has no better sign.
const HELPER_KNOWS_NOTHING: &str = "credentials not found";

/// The credentials of one upstream.
pub(super) struct Keychain {
    host: RegistryHost,
    credentials: Credentials,
    /// A helper that hangs holds one thread, and not one for each request.
    readings: Questions<(), Login>,
}

/// What a login is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Login {
    Anonymous,
    /// A user and a password.
    Password(Arc<str>, Secret),
    /// A token that token servers take for a password; Docker calls it an identity token.
    Identity(Secret),
}

/// Why credentials cannot be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("cannot read {}: {source}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("no credentials for {key:?} in Docker's config.json; run docker login, or remove docker_config")]
    NoEntry { key: String },
    #[error("{} cannot be read as Docker's config.json", .0.as_deref().unwrap_or(Path::new("~/.docker/config.json")).display())]
    Config(Option<PathBuf>),
    #[error("credential helper {0} failed; run it by hand with the argument \"get\" to see why")]
    Helper(String),
    #[error("{0}")]
    Docker(CredentialRetrievalError),
    #[error("the thread that reads them stopped")]
    Stopped,
}

impl Login {
    /// Returns the Authorization header of a user and a password.
    pub(super) fn basic_header(&self) -> Option<HeaderValue> {
        let Self::Password(username, password) = self else {
            return None;
        };
        let encoded = STANDARD.encode(format!("{username}:{}", password.expose()));
        secret_header(&format!("Basic {encoded}"))
    }
}

/// Makes a header that is not printed.
pub(super) fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

impl Keychain {
    /// Holds the credentials of `host`.
    pub(super) fn new(host: RegistryHost, credentials: Credentials) -> Self {
        Self {
            host,
            credentials,
            readings: Questions::default(),
        }
    }

    /// Reads the credentials.
    pub(super) async fn login(&self) -> Login {
        let reading = self.readings.ask((), || {
            let (host, credentials) = (self.host.clone(), self.credentials.clone());
            async move {
                read(&host, credentials).await.unwrap_or_else(|error| {
                    tracing::error!(%host, %error, "cannot log in to upstream, asking anonymously");
                    Login::Anonymous
                })
            }
        });
        match timeout(MAX_READ_TIME, reading).await {
            Ok(Ok(login)) => login,
            Ok(Err(_)) | Err(_) => {
                tracing::error!(host = %self.host, "credentials are not told in time, asking anonymously");
                Login::Anonymous
            }
        }
    }
}

async fn read(host: &RegistryHost, credentials: Credentials) -> Result<Login, ReadError> {
    let key = match host.is_docker_hub() {
        true => DOCKER_HUB_KEY.to_owned(),
        false => host.to_string(),
    };
    let blocking = match credentials {
        Credentials::None => return Ok(Login::Anonymous),
        Credentials::Basic { username, password } => return Ok(Login::Password(username.into(), password)),
        Credentials::PasswordFile { username, path } => {
            tokio::task::spawn_blocking(move || password_file(username, path))
        }
        Credentials::DockerConfig(file) => {
            tokio::task::spawn_blocking(move || docker_config(file.as_deref(), key))
        }
    };
    blocking.await.map_err(|_| ReadError::Stopped)?
}

fn password_file(username: String, path: PathBuf) -> Result<Login, ReadError> {
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Login::Password(username.into(), Secret::new(text.trim_end()))),
        Err(source) => Err(ReadError::File { path, source }),
    }
}

fn docker_config(path: Option<&Path>, key: String) -> Result<Login, ReadError> {
    let found = match path {
        None => docker_credential::get_credential(&key),
        Some(path) => {
            let file = File::open(path).map_err(|source| ReadError::File {
                path: path.to_owned(),
                source,
            })?;
            docker_credential::get_credential_from_reader(file, &key)
        }
    };
    match found {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Ok(Login::Password(username.into(), Secret::new(password)))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Login::Identity(Secret::new(token))),
        // What a helper prints may hold a secret.
        Err(CredentialRetrievalError::HelperFailure { helper, stdout, .. }) => {
            match stdout.contains(HELPER_KNOWS_NOTHING) {
                true => Err(ReadError::NoEntry { key }),
                false => Err(ReadError::Helper(helper)),
            }
        }
        Err(CredentialRetrievalError::NoCredentialConfigured) => Err(ReadError::NoEntry { key }),
        Err(CredentialRetrievalError::ConfigNotFound | CredentialRetrievalError::ConfigReadError) => {
            Err(ReadError::Config(path.map(Path::to_owned)))
        }
        Err(error) => Err(ReadError::Docker(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    async fn login(host: &str, credentials: Credentials) -> Login {
        Keychain::new(host.parse().unwrap(), credentials).login().await
    }

    fn password(username: &str, password: &str) -> Login {
        Login::Password(username.into(), Secret::new(password))
    }

    fn docker_config(text: &str) -> (tempfile::NamedTempFile, Credentials) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let credentials = Credentials::DockerConfig(Some(file.path().to_owned()));
        (file, credentials)
    }

    #[tokio::test]
    async fn a_password_file_is_read_anew_and_without_its_last_line_break() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let credentials = Credentials::PasswordFile {
            username: "alice".to_owned(),
            path: file.path().to_owned(),
        };
        let keychain = Keychain::new("ghcr.io".parse().unwrap(), credentials);
        for word in ["first", "second"] {
            std::fs::write(file.path(), format!("{word}\n")).unwrap();
            assert_eq!(keychain.login().await, password("alice", word));
        }
        drop(file);
        assert_eq!(keychain.login().await, Login::Anonymous);
    }

    #[tokio::test]
    async fn docker_s_configuration_knows_docker_hub_by_its_old_url() {
        let auth = STANDARD.encode("bob:s3cret");
        let (_file, credentials) = docker_config(&format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{auth}"}},
                "ghcr.io": {{"identitytoken": "refresh"}}}}}}"#
        ));
        assert_eq!(
            login("docker.io", credentials.clone()).await,
            password("bob", "s3cret")
        );
        let identity = Login::Identity(Secret::new("refresh"));
        assert_eq!(login("ghcr.io", credentials.clone()).await, identity);
        assert_eq!(login("quay.io", credentials).await, Login::Anonymous);
    }

    #[tokio::test]
    async fn a_helper_that_fails_leaves_wharf_anonymous() {
        let (_file, credentials) = docker_config(r#"{"credsStore": "wharf-has-no-such-helper"}"#);
        assert_eq!(login("ghcr.io", credentials).await, Login::Anonymous);
    }

    #[test]
    fn a_basic_header_is_never_printed() {
        let header = password("Aladdin", "open sesame").basic_header().unwrap();
        assert_eq!(header, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(format!("{header:?}"), "Sensitive");
    }
}
