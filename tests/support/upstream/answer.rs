//! What a sound registry, and its CDN, answer.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::wire::{Headers, header};

use super::content::{OCI_INDEX, Repository};
use super::record::{Asked, Route, query};
use super::script::{Ranges, Then};
use super::{Shared, State};

/// An answer before the script makes something else of it.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Headers,
    pub(super) body: Arc<Vec<u8>>,
    /// The part of `body` that is sent.
    pub(super) part: Range<usize>,
    /// Whose bytes are counted.
    pub(super) digest: Option<String>,
}

impl Reply {
    fn new(status: u16, body: Arc<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Headers::new(),
            part: 0..body.len(),
            body,
            digest: None,
        }
    }

    pub(super) fn json(body: &Value) -> Self {
        let reply = Self::new(200, Arc::new(body.to_string().into_bytes()));
        reply.header("content-type", "application/json")
    }

    pub(super) fn error(status: u16, code: &str) -> Self {
        let reply = Self::json(&json!({"errors": [{"code": code, "message": "as the script says"}]}));
        Self { status, ..reply }
    }

    /// Sets a header.
    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(key, _)| key != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn of(digest: &str, media_type: &str, bytes: &Arc<Vec<u8>>) -> Self {
        let reply = Self {
            digest: Some(digest.to_owned()),
            ..Self::new(200, Arc::clone(bytes))
        };
        reply
            .header("content-type", media_type)
            .header("docker-content-digest", digest)
            .header("etag", &format!("\"{digest}\""))
    }

    /// Cuts the part out that was asked for, as RFC 9110 has it.
    fn cut(mut self, asked: &Asked, ranges: Ranges) -> Self {
        self = self.header("accept-ranges", "bytes");
        let is_other = asked
            .header("if-range")
            .is_some_and(|tag| Some(tag) != header(&self.headers, "etag"));
        let range = asked
            .header("range")
            .and_then(|range| range.strip_prefix("bytes="));
        let (Some(range), false, true) = (range, is_other, ranges != Ranges::Ignored) else {
            return self;
        };
        let length = self.body.len();
        let Some(mut part) = parse_range(range, length) else {
            let reply = Self::error(416, "RANGE_INVALID");
            return reply.header("content-range", &format!("bytes */{length}"));
        };
        if let Ranges::Shifted(by) = ranges {
            part.start = part.end.min(part.start + by);
        }
        self.status = 206;
        self.part = part.clone();
        self.header(
            "content-range",
            &format!("bytes {}-{}/{length}", part.start, part.end - 1),
        )
    }
}

fn parse_range(text: &str, length: usize) -> Option<Range<usize>> {
    let (first, last) = text.split_once('-')?;
    if first.is_empty() {
        return Some(length.saturating_sub(last.parse().ok()?)..length);
    }
    let first: usize = first.parse().ok()?;
    let last = if last.is_empty() {
        length - 1
    } else {
        last.parse().ok()?
    };
    (first < length && first <= last).then_some(first..(last + 1).min(length))
}

/// Answers as the registry, and as its endpoint for tokens.
pub(super) fn registry(shared: &Shared, asked: &Asked, then: &Then) -> Reply {
    let mut state = shared.state();
    if asked.route == Route::Token {
        return state.auth.give(asked);
    }
    if let Some(challenge) = state.auth.refuse(asked, &shared.url(shared.registry)) {
        return challenge;
    }
    if asked.route == Route::Base {
        return Reply::json(&json!({}));
    }
    if asked.route == Route::Blob && state.settings.redirects_blobs {
        return redirect(&mut state, shared, &asked.reference);
    }
    let Some(repository) = state.content.repository(&asked.repository) else {
        return Reply::error(404, "NAME_UNKNOWN");
    };
    match asked.route {
        Route::Manifest => match repository.manifest(&asked.reference) {
            Some((digest, manifest)) => Reply::of(digest, &manifest.media_type, &manifest.bytes),
            None => Reply::error(404, "MANIFEST_UNKNOWN"),
        },
        Route::Blob => match repository.blobs.get(&asked.reference) {
            Some(bytes) => {
                Reply::of(&asked.reference, "application/octet-stream", bytes).cut(asked, then.ranges)
            }
            None => Reply::error(404, "BLOB_UNKNOWN"),
        },
        Route::Tags => tags(repository, asked, state.settings.page_limit),
        Route::Referrers if state.settings.has_referrers_api => referrers(repository, asked),
        Route::Base | Route::Token | Route::Referrers | Route::Cdn | Route::Other => {
            Reply::error(404, "UNSUPPORTED")
        }
    }
}

/// Answers as the CDN, which is not the registry's host: credentials must not come here.
pub(super) fn cdn(shared: &Shared, asked: &Asked, then: &Then) -> Reply {
    let state = shared.state();
    if asked.header("authorization").is_some() {
        return Reply::error(400, "CREDENTIALS_SENT_TO_CDN");
    }
    let signature = query(&asked.target, "signature").unwrap_or_default();
    if !state.signatures.contains(&signature) {
        return Reply::error(403, "EXPIRED");
    }
    match state.content.blob(&asked.reference) {
        Some(bytes) => Reply::of(&asked.reference, "application/octet-stream", bytes).cut(asked, then.ranges),
        None => Reply::error(404, "BLOB_UNKNOWN"),
    }
}

fn redirect(state: &mut State, shared: &Shared, digest: &str) -> Reply {
    if state.content.blob(digest).is_none() {
        return Reply::error(404, "BLOB_UNKNOWN");
    }
    let signature = format!("secret-signature-{}", state.record.asked.len());
    let url = format!("{}/cdn/{digest}?signature={signature}", shared.url(shared.cdn));
    state.signatures.push(signature);
    Reply::error(307, "ELSEWHERE").header("location", &url)
}

fn tags(repository: &Repository, asked: &Asked, page_limit: usize) -> Reply {
    let last = query(&asked.target, "last").unwrap_or_default();
    let wanted = query(&asked.target, "n").and_then(|n| n.parse().ok());
    let limit: usize = wanted.unwrap_or(page_limit).min(page_limit);
    let mut after = repository.tags.keys().filter(|tag| **tag > last);
    let page: Vec<&String> = after.by_ref().take(limit).collect();
    let reply = Reply::json(&json!({"name": asked.repository, "tags": page}));
    match (after.next(), page.last()) {
        (Some(_), Some(last)) => {
            let target = format!("/v2/{}/tags/list?last={last}&n={limit}", asked.repository);
            reply.header("link", &format!("<{target}>; rel=\"next\""))
        }
        _ => reply,
    }
}

fn referrers(repository: &Repository, asked: &Asked) -> Reply {
    let mut manifests = repository.referrers(&asked.reference);
    let wanted = query(&asked.target, "artifactType");
    if let Some(wanted) = &wanted {
        manifests.retain(|manifest| manifest["artifactType"] == **wanted);
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    let reply = Reply::json(&index).header("content-type", OCI_INDEX);
    match wanted {
        Some(_) => reply.header("oci-filters-applied", "artifactType"),
        None => reply,
    }
}
