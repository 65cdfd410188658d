//! From a path to what is asked for: pure, and tested by a table.
//!
//! A repository's host comes from `?ns=HOST` (containerd), from the name's first
//! component (`/v2/HOST/NAME/…`: Podman, CRI-O), or is docker.io.

use http::StatusCode;
use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use super::error::ApiError;
use crate::mirror::Page;
use crate::oci::{Digest, ErrorCode, Reference, RegistryHost, Repository};

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Base,
    Catalog(Page),
    Manifest {
        scope: Scope,
        reference: Reference,
    },
    Blob {
        scope: Scope,
        digest: Digest,
    },
    Tags {
        scope: Scope,
        page: Page,
    },
    Referrers {
        scope: Scope,
        digest: Digest,
        artifact_type: Option<String>,
    },
}

/// The repository that a route is about, and how the client named it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) repository: Repository,
    /// The name as it stands in the path.
    pub(super) asked_name: String,
    namespace: Option<String>,
}

impl Scope {
    /// Returns the `ns` that chose the host, which the answer repeats as `OCI-Namespace`.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
}

impl Route {
    /// Reads a request's path and query.
    pub(super) fn parse(path: &str, query: Option<&str>) -> Result<Self, ApiError> {
        let no_endpoint = || ApiError::no_endpoint(path);
        let decoded = percent_decode_str(path)
            .decode_utf8()
            .map_err(|_| no_endpoint())?;
        let query = Query::parse(query);
        let rest = match decoded.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Self::Base),
            Some("/_catalog") => return Ok(Self::Catalog(query.page()?)),
            Some(rest) => rest.strip_prefix('/').ok_or_else(no_endpoint)?,
            None => return Err(no_endpoint()),
        };
        if rest.ends_with("/blobs/uploads") || rest.contains("/blobs/uploads/") {
            return Err(ApiError::unsupported());
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Ok(Self::Tags {
                scope: query.scope(name)?,
                page: query.page()?,
            });
        }
        let (front, last) = rest.rsplit_once('/').ok_or_else(no_endpoint)?;
        let (name, kind) = front.rsplit_once('/').ok_or_else(no_endpoint)?;
        let digest = || {
            last.parse()
                .map_err(|error| ApiError::invalid(ErrorCode::DigestInvalid, &error))
        };
        match kind {
            "manifests" => Ok(Self::Manifest {
                scope: query.scope(name)?,
                reference: reference(last)?,
            }),
            "blobs" => Ok(Self::Blob {
                scope: query.scope(name)?,
                digest: digest()?,
            }),
            "referrers" => Ok(Self::Referrers {
                scope: query.scope(name)?,
                digest: digest()?,
                artifact_type: query.artifact_type,
            }),
            _ => Err(no_endpoint()),
        }
    }

    /// Returns the repository that the route is about; none for those about the whole mirror.
    pub(super) fn scope(&self) -> Option<&Scope> {
        match self {
            Self::Base | Self::Catalog(_) => None,
            Self::Manifest { scope, .. }
            | Self::Blob { scope, .. }
            | Self::Tags { scope, .. }
            | Self::Referrers { scope, .. } => Some(scope),
        }
    }

    /// Returns the route's name in metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Catalog(_) => "catalog",
            Self::Manifest { .. } => "manifest",
            Self::Blob { .. } => "blob",
            Self::Tags { .. } => "tags",
            Self::Referrers { .. } => "referrers",
        }
    }
}

/// A tag that cannot be is one that does not exist; a digest that cannot be is a mistake.
fn reference(text: &str) -> Result<Reference, ApiError> {
    text.parse::<Reference>().map_err(|error| {
        if text.contains(':') {
            return ApiError::invalid(ErrorCode::DigestInvalid, &error);
        }
        ApiError::new(
            StatusCode::NOT_FOUND,
            ErrorCode::ManifestUnknown,
            error.to_string(),
        )
    })
}

/// The parameters that the API knows.
#[derive(Default)]
struct Query {
    namespace: Option<String>,
    n: Option<String>,
    last: Option<String>,
    artifact_type: Option<String>,
}

impl Query {
    fn parse(query: Option<&str>) -> Self {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let slot = match &*name {
                "ns" => &mut parsed.namespace,
                "n" => &mut parsed.n,
                "last" => &mut parsed.last,
                "artifactType" => &mut parsed.artifact_type,
                _ => continue,
            };
            *slot = Some(value.into_owned()).filter(|value| !value.is_empty());
        }
        parsed
    }

    fn page(&self) -> Result<Page, ApiError> {
        let n = match &self.n {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                let message = format!("n={text:?} is no number of entries");
                ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::RangeInvalid, message)
            })?),
        };
        Ok(Page {
            n,
            last: self.last.clone(),
        })
    }

    fn scope(&self, asked_name: &str) -> Result<Scope, ApiError> {
        let invalid = |error| ApiError::invalid(ErrorCode::NameInvalid, &error);
        let (host, name) = match &self.namespace {
            Some(namespace) => (namespace.parse().map_err(invalid)?, asked_name),
            None => match asked_name.split_once('/') {
                Some((host, name)) if RegistryHost::looks_like_host(host) => {
                    (host.parse().map_err(invalid)?, name)
                }
                _ => (RegistryHost::docker_hub(), asked_name),
            },
        };
        Ok(Scope {
            repository: Repository::new(host, name.parse().map_err(invalid)?),
            asked_name: asked_name.to_owned(),
            namespace: self.namespace.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(uri: &str) -> Result<Route, ApiError> {
        let (path, query) = uri
            .split_once('?')
            .map_or((uri, None), |(path, query)| (path, Some(query)));
        Route::parse(path, query)
    }

    #[test]
    fn a_repository_is_named_by_ns_by_prefix_or_by_default() {
        for (uri, expected) in [
            ("/v2/busybox/manifests/latest", "docker.io/library/busybox"),
            (
                "/v2/library/busybox/manifests/latest",
                "docker.io/library/busybox",
            ),
            ("/v2/a/b/c/manifests/latest?ns=ghcr.io", "ghcr.io/a/b/c"),
            ("/v2/ghcr.io/a/b/manifests/latest", "ghcr.io/a/b"),
            ("/v2/localhost:5000/a/manifests/latest", "localhost:5000/a"),
            (
                "/v2/docker.io/busybox/manifests/latest",
                "docker.io/library/busybox",
            ),
            (
                "/v2/manifests/manifests/manifests/latest",
                "docker.io/manifests/manifests",
            ),
            ("/v2/tags/list/tags/list?ns=quay.io", "quay.io/tags/list"),
        ] {
            let route = parse(uri).unwrap();
            assert_eq!(route.scope().unwrap().repository.to_string(), expected, "{uri}");
        }
    }

    #[test]
    fn every_endpoint_is_told_apart() {
        let encoded = DIGEST.replace(':', "%3A");
        for (uri, name) in [
            ("/v2/".to_owned(), "base"),
            ("/v2".to_owned(), "base"),
            ("/v2/_catalog?n=3&last=a".to_owned(), "catalog"),
            (format!("/v2/a/manifests/{DIGEST}"), "manifest"),
            (format!("/v2/a/blobs/{encoded}"), "blob"),
            ("/v2/a/tags/list?n=0".to_owned(), "tags"),
            (
                format!("/v2/a/referrers/{DIGEST}?artifactType=a%2Fb"),
                "referrers",
            ),
        ] {
            assert_eq!(parse(&uri).unwrap().name(), name, "{uri}");
        }
    }

    #[test]
    fn what_is_no_endpoint_gets_an_error_that_fits() {
        for (uri, status) in [
            ("/", 404),
            ("/v1/search", 404),
            ("/v2x/", 404),
            ("/v2/a", 404),
            ("/v2/a/b/c", 404),
            ("/v2/a/manifests/.bad", 404),
            ("/v2/a/manifests/sha256:abc", 400),
            ("/v2/a/blobs/latest", 400),
            ("/v2/A/manifests/latest", 400),
            ("/v2/../x/manifests/latest", 400),
            ("/v2/a/tags/list?n=many", 400),
            ("/v2/a/manifests/latest?ns=not%20a%20host", 400),
            ("/v2/a/blobs/uploads/", 405),
            ("/v2/a/blobs/uploads/1-2", 405),
            ("/v2/%ff/manifests/latest", 404),
        ] {
            assert_eq!(parse(uri).unwrap_err().into_response().status(), status, "{uri}");
        }
    }
}
