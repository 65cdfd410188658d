//! Tags, referrers and the catalog.

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use url::form_urlencoded;

use super::error::{ApiError, Subject};
use super::manifest::warn_if_stale;
use super::route::Scope;
use crate::mirror::{Mirror, MirrorError, Page};
use crate::oci::{Digest, ErrorCode, Repository, media_type, referrers};

/// The largest page of the catalog, which a client may make smaller.
const MAX_CATALOG: u32 = 1000;

/// `/v2/<name>/tags/list`
pub(super) async fn tags(
    mirror: &Mirror,
    uri: &Uri,
    scope: &Scope,
    page: &Page,
) -> Result<Response, ApiError> {
    let listed = mirror.tags(&scope.repository, page).await;
    let listed = listed.map_err(|error| ApiError::of_mirror(&error, Subject::Name))?;
    let mut headers = HeaderMap::new();
    if listed.has_more {
        let shown = u32::try_from(listed.names.len()).unwrap_or(u32::MAX);
        insert_next(
            &mut headers,
            uri.path(),
            page.n.unwrap_or(shown),
            listed.names.last(),
            scope.namespace(),
        );
    }
    if listed.is_stale {
        let text = "299 - \"the tags that wharf's store knows: upstream does not answer\"";
        headers.insert(header::WARNING, HeaderValue::from_static(text));
    }
    let body = serde_json::json!({"name": scope.asked_name, "tags": listed.names});
    Ok((headers, json(&body)).into_response())
}

/// `/v2/<name>/referrers/<digest>`
pub(super) async fn referrers(
    mirror: &Mirror,
    scope: &Scope,
    digest: &Digest,
    artifact_type: Option<&str>,
) -> Result<Response, ApiError> {
    let listed = mirror.referrers(&scope.repository, digest).await;
    let listed = listed.map_err(|error| ApiError::of_mirror(&error, Subject::Manifest))?;
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(media_type::OCI_INDEX),
    );
    warn_if_stale(&mut headers, listed.freshness);
    let Some(artifact_type) = artifact_type else {
        return Ok((headers, listed.bytes).into_response());
    };
    headers.insert("oci-filters-applied", HeaderValue::from_static("artifactType"));
    let filtered = referrers::filter(&listed.bytes, artifact_type).map_err(|error| {
        ApiError::of_mirror(&MirrorError::NoManifest(error.to_string()), Subject::Manifest)
    })?;
    Ok((headers, filtered).into_response())
}

/// `/v2/_catalog`: the repositories that the store holds and that the asker may see.
pub(super) async fn catalog(
    mirror: &Mirror,
    page: &Page,
    is_visible: impl Fn(&Repository) -> bool,
) -> Result<Response, ApiError> {
    let repositories = mirror.repositories().await.map_err(|error| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Unavailable,
            error.full_text(),
        )
    })?;
    let mut names: Vec<String> = repositories
        .iter()
        .filter(|r| is_visible(r))
        .map(Repository::to_string)
        .collect();
    names.sort();
    let n = page.n.unwrap_or(MAX_CATALOG).min(MAX_CATALOG);
    let page = Page {
        n: Some(n),
        last: page.last.clone(),
    };
    let (names, has_more) = page.of(names);
    let mut headers = HeaderMap::new();
    if has_more {
        insert_next(&mut headers, "/v2/_catalog", n, names.last(), None);
    }
    Ok((headers, json(&serde_json::json!({"repositories": names}))).into_response())
}

fn json(value: &serde_json::Value) -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string())
}

/// Links the next page (RFC 8288; distribution-spec, "Listing Tags").
fn insert_next(headers: &mut HeaderMap, path: &str, n: u32, last: Option<&String>, namespace: Option<&str>) {
    let Some(last) = last else { return };
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("n", &n.to_string()).append_pair("last", last);
    if let Some(namespace) = namespace {
        query.append_pair("ns", namespace);
    }
    if let Ok(value) = HeaderValue::from_str(&format!("<{path}?{}>; rel=\"next\"", query.finish())) {
        headers.insert(header::LINK, value);
    }
}
