//! The API's edge: the pull half of the OCI distribution spec 1.1, what agents ask, health and metrics.
//!
//! A request is identified ([`access`]), its path becomes a `route::Route`, and the route's
//! handler asks the [`Mirror`]. Every error becomes an answer in the spec's form in one place
//! (`error`). Sees no file and no upstream.

pub mod access;
mod blob;
mod drip;
mod error;
mod hold;
mod htpasswd;
mod image_reports;
mod listing;
mod manifest;
mod observe;
mod route;
mod wharf_v1;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::mirror::Mirror;
use crate::oci::ErrorCode;
use crate::telemetry::{Metrics, metrics};

pub use access::{Access, OpenAccessError};
pub use hold::Holds;

use access::Asker;
use error::ApiError;
use observe::Observed;
use route::{Route, Scope};

/// How long a question for readiness may take: kubelet gives up after a second.
const READINESS_TIMEOUT: Duration = Duration::from_millis(500);

/// What every request needs. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub mirror: Mirror,
    pub access: Arc<Access>,
    pub metrics: Metrics,
    /// One log line for each request.
    pub log_access: bool,
    /// Cancelled once the process is to end.
    pub draining: CancellationToken,
    /// Whose manifests are held.
    pub holds: Arc<Holds>,
}

/// Makes the service of all requests.
pub fn router(app: App) -> Router {
    let version = HeaderValue::from_static("registry/2.0");
    Router::new()
        .fallback(answer)
        .with_state(app)
        .layer(SetResponseHeaderLayer::overriding(
            http::HeaderName::from_static("docker-distribution-api-version"),
            version,
        ))
        .layer(CatchPanicLayer::custom(|_| {
            ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                ErrorCode::Unavailable,
                "wharf failed; its log says why",
            )
            .into_response()
        }))
}

/// Answers a request, and sees to it that it is counted and logged when its body has ended.
async fn answer(
    State(app): State<App>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let (request, body) = request.into_parts();
    let mut observed = Observed::start(&app, &request, address);
    let response = respond(&app, &request, body, address, &mut observed).await;
    observed.follow(response.unwrap_or_else(|error| error.into_response()))
}

async fn respond(
    app: &App,
    request: &Parts,
    body: Body,
    address: SocketAddr,
    observed: &mut Observed,
) -> Result<Response, ApiError> {
    let path = request.uri.path();
    match path {
        "/healthz" => return health(&request.method, observed, Ok("ok\n".to_owned())),
        "/readyz" => return health(&request.method, observed, readiness(app).await),
        "/metrics" => {
            observed.route("metrics");
            only_get(&request.method)?;
            return Ok((
                [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
                app.metrics.render(),
            )
                .into_response());
        }
        _ => {}
    }
    let asker = app.access.identify(&request.headers, address.ip()).await?;
    observed.user(asker.user.as_deref());
    if path.starts_with(wharf_v1::PREFIX) {
        observed.route("wharf");
        return wharf_v1::answer(app, request, body, &asker).await;
    }
    let route = Route::parse(path, request.uri.query());
    observed.route(route.as_ref().map_or("none", Route::name));
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(ApiError::unsupported());
    }
    let route = route?;
    if let Some(scope) = route.scope() {
        observed.repository(&scope.repository);
        app.access.check(&asker, &scope.repository)?;
    }
    let mut response = dispatch(app, request, address.ip(), &asker, &route).await?;
    if let Some(namespace) = route.scope().and_then(Scope::namespace)
        && let Ok(value) = HeaderValue::from_str(namespace)
    {
        response.headers_mut().insert("oci-namespace", value);
    }
    Ok(response)
}

async fn dispatch(
    app: &App,
    request: &Parts,
    address: IpAddr,
    asker: &Asker,
    route: &Route,
) -> Result<Response, ApiError> {
    let mirror = &app.mirror;
    match route {
        Route::Base => Ok(([(header::CONTENT_TYPE, "application/json")], "{}").into_response()),
        Route::Catalog(page) => {
            let is_visible = |repository: &_| app.access.check(asker, repository).is_ok();
            listing::catalog(mirror, page, is_visible).await
        }
        Route::Manifest { scope, reference } => {
            manifest::answer(app, request, address, scope, reference).await
        }
        Route::Blob { scope, digest } => {
            if request.method == Method::GET {
                app.holds.note_blob(mirror, &request.headers, address, digest);
            }
            let has_come = mirror.clone().layer_has_come(digest.clone(), address);
            let end = app.holds.blob_end(&request.headers, address, has_come);
            blob::answer(mirror, request, scope, digest, end).await
        }
        Route::Tags { scope, page } => listing::tags(mirror, &request.uri, scope, page).await,
        Route::Referrers {
            scope,
            digest,
            artifact_type,
        } => listing::referrers(mirror, scope, digest, artifact_type.as_deref()).await,
    }
}

fn only_get(method: &Method) -> Result<(), ApiError> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    Err(ApiError::unsupported())
}

fn health(
    method: &Method,
    observed: &mut Observed,
    text: Result<String, String>,
) -> Result<Response, ApiError> {
    observed.route("health");
    only_get(method)?;
    let (status, text) = match text {
        Ok(text) => (StatusCode::OK, text),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
    };
    Ok((
        status,
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        text,
    )
        .into_response())
}

/// A mirror whose store fails goes on past it, and so is ready: all mirrors of a store would fail together.
async fn readiness(app: &App) -> Result<String, String> {
    if app.draining.is_cancelled() {
        return Err("draining\n".to_owned());
    }
    Ok(match timeout(READINESS_TIMEOUT, app.mirror.check_store()).await {
        Ok(Ok(())) => "ready\n".to_owned(),
        Ok(Err(error)) => format!("ready, but the store fails: {}\n", error.full_text()),
        Err(_) => "ready, but the store does not answer\n".to_owned(),
    })
}
