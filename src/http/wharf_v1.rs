//! `/wharf/v1/`: what agents and `wharf pull --mirror` ask a mirror, besides the distribution API.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::App;
use super::access::Asker;
use super::error::ApiError;
use super::image_reports;
use crate::api::{ImageStoreQuestion, LayerWish, NodeId, NodeStatement};
use crate::oci::ErrorCode;

/// What the paths begin with.
pub(super) const PREFIX: &str = "/wharf/v1/";

/// A wish is a few names.
const MAX_WISH_BYTES: usize = 64 << 10;

/// Of a layer and its blob a statement has 150 bytes: this is room for a hundred thousand of them.
const MAX_STATEMENT_BYTES: usize = 16 << 20;

/// How long a request's body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers a request whose path begins with [`PREFIX`].
pub(super) async fn answer(
    app: &App,
    request: &Parts,
    body: Body,
    asker: &Asker,
) -> Result<Response, ApiError> {
    let path = request.uri.path();
    let rest = path.strip_prefix(PREFIX).unwrap_or_default();
    match rest {
        "layers" => {
            only(&request.method, &Method::POST)?;
            let wish: LayerWish = read(body, MAX_WISH_BYTES).await?;
            let may_read = |repository: &_| app.access.check(asker, repository).is_ok();
            Ok(Json(app.mirror.materialise(&wish, may_read).await).into_response())
        }
        "images" => {
            only(&request.method, &Method::POST)?;
            image_reports::answer(app, asker, read(body, MAX_WISH_BYTES).await?).await
        }
        "image-store" => {
            only(&request.method, &Method::GET)?;
            let question = ImageStoreQuestion::parse(request.uri.query().unwrap_or_default());
            let news = app.mirror.image_store_news(asker.address, &question);
            tokio::select! {
                answer = news => Ok(Json(answer).into_response()),
                () = app.draining.cancelled() => {
                    let message = "this mirror is to end; ask another one";
                    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, message))
                }
            }
        }
        _ => match rest.strip_prefix("nodes/") {
            Some(id) => {
                let id: NodeId = id.parse().map_err(|_| ApiError::no_endpoint(path))?;
                only(&request.method, &Method::PUT)?;
                let statement: NodeStatement = read(body, MAX_STATEMENT_BYTES).await?;
                let stated = app.mirror.state_node(&id, statement).await;
                let answer = stated.map_err(|error| ApiError::of_store(&error))?;
                Ok(Json(answer).into_response())
            }
            None => Err(ApiError::no_endpoint(path)),
        },
    }
}

fn only(method: &Method, allowed: &Method) -> Result<(), ApiError> {
    if method == allowed {
        return Ok(());
    }
    Err(ApiError::unsupported())
}

/// Reads a body of JSON.
async fn read<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, ApiError> {
    let bad = |status, message: String| ApiError::new(status, ErrorCode::Unsupported, message);
    let bytes = match timeout(BODY_TIMEOUT, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            let message =
                format!("the request's body cannot be read, or has more than {limit} bytes: {error}");
            return Err(bad(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        Err(_) => {
            return Err(bad(
                StatusCode::REQUEST_TIMEOUT,
                "the request's body does not come".to_owned(),
            ));
        }
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        bad(
            StatusCode::BAD_REQUEST,
            format!("the request's body makes no sense: {error}"),
        )
    })
}
