//! Every error as the spec's answer: one mapping from what failed to status, code and headers.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::fs::FsError;
use crate::mirror::{MirrorError, MirrorErrorClass};
use crate::oci::ErrorCode;
use crate::telemetry::full_text;

/// What a client is told to wait when upstream does not say how long.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);

/// An error as a client gets it (distribution-spec, "Error Codes").
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    headers: Vec<(header::HeaderName, String)>,
}

/// What a 404 is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject {
    Manifest,
    Blob,
    Name,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            headers: Vec::new(),
        }
    }

    pub(super) fn with_header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// A push, an upload, a delete, or anything else that a mirror does not do.
    pub(super) fn unsupported() -> Self {
        let message = "this is a mirror: it is pulled from, and never pushed to";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message)
            .with_header(header::ALLOW, "GET, HEAD")
    }

    /// The store does not take what it is to keep; a client asks again.
    pub(super) fn of_store(error: &FsError) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Unavailable,
            error.full_text(),
        )
    }

    /// Nothing is at that path.
    pub(super) fn no_endpoint(path: &str) -> Self {
        let message = format!("the API has nothing at {path:?}");
        Self::new(StatusCode::NOT_FOUND, ErrorCode::Unsupported, message)
    }

    /// A value of the request that cannot be read.
    pub(super) fn invalid(code: ErrorCode, error: &impl std::error::Error) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, error.to_string())
    }

    /// Maps what the mirror says; `subject` is what a client is told not to exist.
    pub(super) fn of_mirror(error: &MirrorError, subject: Subject) -> Self {
        let message = full_text(error);
        match error.class() {
            MirrorErrorClass::NotFound => {
                let code = match subject {
                    Subject::Manifest => ErrorCode::ManifestUnknown,
                    Subject::Blob => ErrorCode::BlobUnknown,
                    Subject::Name => ErrorCode::NameUnknown,
                };
                Self::new(StatusCode::NOT_FOUND, code, message)
            }
            MirrorErrorClass::Refused => Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message),
            // Never 429, which containerd answers with five immediate retries.
            MirrorErrorClass::Unavailable { retry_after } => {
                let seconds = retry_after.unwrap_or(DEFAULT_RETRY_AFTER).as_secs().max(1);
                Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, message)
                    .with_header(header::RETRY_AFTER, seconds.to_string())
            }
            MirrorErrorClass::BadUpstream => {
                Self::new(StatusCode::BAD_GATEWAY, ErrorCode::Unavailable, message)
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "errors": [{"code": self.code.as_str(), "message": self.message, "detail": null}],
        });
        let mut response = (
            self.status,
            [(header::CONTENT_TYPE, "application/json")],
            body.to_string(),
        )
            .into_response();
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}
