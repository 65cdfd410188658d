//! Counts a request and logs it, once its body has ended or its client has left.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::App;
use crate::oci::Repository;
use crate::telemetry::Metrics;

/// The longest `User-Agent` and path that are logged.
const MAX_LOGGED: usize = 512;

/// A request under way.
pub(super) struct Observed {
    metrics: Metrics,
    line: Option<Line>,
    method: Method,
    route: &'static str,
    status: StatusCode,
    bytes: u64,
    /// How many bytes the body is to have, where that is known.
    promised: Option<u64>,
    has_ended: bool,
    started: Instant,
}

/// What is told of the request in the log, besides what is counted.
struct Line {
    client: SocketAddr,
    user: Option<String>,
    path: String,
    repository: String,
    range: String,
    user_agent: String,
}

impl Observed {
    pub(super) fn start(app: &App, request: &Parts, client: SocketAddr) -> Self {
        let line = app.log_access.then(|| Line {
            client,
            user: None,
            // Without the query, in which some clients put tokens.
            path: shortened(request.uri.path()),
            repository: String::new(),
            range: text_of(&request.headers, header::RANGE),
            user_agent: text_of(&request.headers, header::USER_AGENT),
        });
        Self {
            metrics: app.metrics.clone(),
            line,
            method: request.method.clone(),
            route: "none",
            status: StatusCode::OK,
            bytes: 0,
            promised: None,
            has_ended: false,
            started: Instant::now(),
        }
    }

    /// Notes the route's fixed name.
    pub(super) fn route(&mut self, name: &'static str) {
        self.route = name;
    }

    /// Notes the repository that is asked for.
    pub(super) fn repository(&mut self, repository: &Repository) {
        if let Some(line) = &mut self.line {
            line.repository = repository.to_string();
        }
    }

    /// Notes who asks.
    pub(super) fn user(&mut self, user: Option<&str>) {
        if let Some(line) = &mut self.line {
            line.user = user.map(str::to_owned);
        }
    }

    /// Follows the response to its end.
    pub(super) fn follow(mut self, response: Response) -> Response {
        self.status = response.status();
        self.promised = match number_of(response.headers(), header::CONTENT_LENGTH) {
            _ if self.method == Method::HEAD => Some(0),
            None => response.body().size_hint().exact(),
            length => length,
        };
        let (head, body) = response.into_parts();
        let observed = self;
        Response::from_parts(head, Body::new(ObservedBody { body, observed }))
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.metrics.http_request(&self.method, self.route, self.status);
        let Some(line) = &self.line else { return };
        let duration = self.started.elapsed();
        tracing::info!(
            target: "wharf::access",
            client = %line.client,
            user = line.user.as_deref().unwrap_or("-"),
            method = %self.method,
            path = line.path,
            repository = line.repository,
            status = self.status.as_u16(),
            bytes = self.bytes,
            duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            range = line.range,
            user_agent = line.user_agent,
            complete = self.has_ended || self.promised == Some(self.bytes),
            "request"
        );
    }
}

struct ObservedBody {
    body: Body,
    observed: Observed,
}

impl HttpBody for ObservedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.observed.bytes += length;
                self.observed.metrics.response_bytes(length);
            }
            Poll::Ready(Some(Err(error))) => {
                let cause: &dyn std::error::Error = error;
                tracing::warn!(error = cause, route = self.observed.route, "an answer is cut");
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
        // The server does not ask for the end of a body that has all its bytes.
        let is_whole = self.observed.promised == Some(self.observed.bytes);
        self.observed.has_ended |= is_whole || matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn text_of(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(shortened)
        .unwrap_or_default()
}

fn number_of(headers: &HeaderMap, name: header::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_LOGGED).collect()
}
