//! `/v2/<name>/manifests/<reference>`.

use std::net::IpAddr;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::App;
use super::error::{ApiError, Subject};
use super::hold::Reader;
use super::route::Scope;
use crate::mirror::{Freshness, ServedManifest};
use crate::oci::{Accept, Digest, Reference};

/// Answers GET and HEAD; only GET starts the fills of the image's blobs, and may be held.
pub(super) async fn answer(
    app: &App,
    request: &Parts,
    address: IpAddr,
    scope: &Scope,
    reference: &Reference,
) -> Result<Response, ApiError> {
    let mirror = &app.mirror;
    let accept = Accept::parse(
        request
            .headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|line| line.to_str().ok()),
    );
    let is_head = request.method == Method::HEAD;
    let served = if is_head {
        mirror.manifest(&scope.repository, reference, &accept).await
    } else {
        mirror
            .manifest_to_pull(&scope.repository, reference, &accept)
            .await
    };
    let served = served.map_err(|error| ApiError::of_mirror(&error, Subject::Manifest))?;
    let headers = headers(&served);
    if is_unchanged(&request.headers, &served.digest) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let length = [(header::CONTENT_LENGTH, served.bytes.len())];
    if is_head {
        return Ok((length, headers, Body::empty()).into_response());
    }
    let awaited = |reader| match reader {
        Reader::Snapshotter => mirror.publishing(&scope.repository, &served),
        Reader::ImageStore => mirror.listing(&scope.repository, &served, address),
    };
    let bytes = served.bytes.clone();
    let body = app
        .holds
        .body(&request.headers, address, bytes, awaited, &app.metrics);
    Ok((length, headers, body).into_response())
}

fn headers(served: &ServedManifest) -> HeaderMap {
    let mut headers = of_content(&served.digest);
    if let Ok(value) = HeaderValue::from_str(&served.media_type) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    // Of a tag that means an index, some clients get an image.
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    warn_if_stale(&mut headers, served.freshness);
    headers
}

/// Returns the headers that name content by its digest.
pub(super) fn of_content(digest: &Digest) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // A digest is plain ASCII.
    if let Ok(value) = HeaderValue::from_str(&digest.to_string()) {
        headers.insert("docker-content-digest", value);
    }
    if let Ok(value) = HeaderValue::from_str(&etag(digest)) {
        headers.insert(header::ETAG, value);
    }
    headers
}

/// Returns the strong entity tag of content.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Tells whether the client has it already (RFC 9110, section 13.1.2).
pub(super) fn is_unchanged(headers: &HeaderMap, digest: &Digest) -> bool {
    let etag = etag(digest);
    let lines = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*" || tag == etag || tag == etag.trim_matches('"')
    })
}

/// Says of a stale answer that it is, and how old (distribution-spec, "Warnings"; RFC 9111, section 5.1).
pub(super) fn warn_if_stale(headers: &mut HeaderMap, freshness: Freshness) {
    let Freshness::Stale { age } = freshness else {
        return;
    };
    let text = format!(
        "299 - \"served from wharf's store, last checked {} s ago: upstream does not answer\"",
        age.as_secs()
    );
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(header::WARNING, value);
    }
    headers.insert(header::AGE, HeaderValue::from(age.as_secs()));
}
