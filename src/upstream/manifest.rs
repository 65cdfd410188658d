//! Manifests: their headers, and their bytes.

use bytes::Bytes;
use http::header::{ACCEPT, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use super::Upstream;
use super::error::{Nonsense, UpstreamError};
use super::request::Question;
use crate::oci::manifest::MAX_MANIFEST_BYTES;
use crate::oci::media_type::ACCEPT_ALL_MANIFESTS;
use crate::oci::{Digest, Reference, RepositoryName};
use crate::telemetry::labels::UpstreamKind;

/// What upstream's headers say of a manifest; nothing of it is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestHead {
    /// `Docker-Content-Digest`.
    pub digest: Option<Digest>,
}

/// A manifest as upstream sent it; nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedManifest {
    /// The bytes, at most [`MAX_MANIFEST_BYTES`].
    pub bytes: Bytes,
    /// `Docker-Content-Digest`.
    pub digest: Option<Digest>,
}

impl Upstream {
    /// Asks which manifest a reference names; Docker Hub does not count this as a pull.
    ///
    /// A registry that does not know HEAD tells nothing, and that is no error.
    ///
    /// # Errors
    /// Fails if no endpoint answers that the manifest is there.
    pub async fn head_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestHead, UpstreamError> {
        let mut question = question(UpstreamKind::ManifestHead, name, reference);
        question.method = Method::HEAD;
        match self.ask(&question).await {
            Ok(answer) => Ok(ManifestHead {
                digest: content_digest(answer.response.headers()),
            }),
            Err(UpstreamError::Invalid {
                nonsense: Nonsense::Status(StatusCode::METHOD_NOT_ALLOWED),
                ..
            }) => Ok(ManifestHead::default()),
            Err(error) => Err(error),
        }
    }

    /// Fetches a manifest.
    ///
    /// # Errors
    /// Fails if no endpoint gives it, or if it is too large to be one.
    pub async fn get_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<FetchedManifest, UpstreamError> {
        let question = question(UpstreamKind::ManifestGet, name, reference);
        let answer = self.ask_short(&question, MAX_MANIFEST_BYTES).await?;
        Ok(FetchedManifest {
            digest: content_digest(&answer.headers),
            bytes: answer.bytes,
        })
    }
}

fn question<'a>(kind: UpstreamKind, name: &'a RepositoryName, reference: &Reference) -> Question<'a> {
    let mut question = Question::get(kind, name, format!("/v2/{name}/manifests/{reference}"));
    let accepted = HeaderValue::from_static(ACCEPT_ALL_MANIFESTS);
    question.headers.insert(ACCEPT, accepted);
    question
}

fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}
