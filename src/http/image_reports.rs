//! `POST /wharf/v1/images`: brings an image, and tells how far it is, a line each, until nothing more will come.
//!
//! A line comes when something has changed, and now and then when nothing has, so that nobody on the way takes
//! the answer for dead. The last line has its `end`; an answer without one was cut, by the end of this process
//! say. The client that leaves ends nothing.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{StatusCode, header};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::App;
use super::access::Asker;
use super::error::{ApiError, Subject};
use crate::api::{ImageReport, ImageWish};
use crate::mirror::{Mirror, PullError, Pulled};
use crate::oci::{ErrorCode, Platform};

/// How often a change is told at most.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// After what time a line comes though nothing has changed; a client gives up after several of these.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// Answers a wish of somebody who may read the image's repository, or refuses it.
pub(super) async fn answer(app: &App, asker: &Asker, wish: ImageWish) -> Result<Response, ApiError> {
    app.access.check(asker, &wish.image.repository)?;
    let platform = wish.platform.unwrap_or_else(Platform::current);
    let pulled = app.mirror.pull(&wish.image, &platform).await;
    let pulled = pulled.map_err(|error| refused(&error))?;
    let mut ticks = interval(REPORT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reports = Reports {
        mirror: app.mirror.clone(),
        pulled,
        draining: app.draining.clone(),
        ticks,
        last: None,
        is_over: false,
    };
    let lines = stream::unfold(reports, async |mut reports| {
        let line = reports.next().await?;
        Some((Ok::<_, Infallible>(line), reports))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

fn refused(error: &PullError) -> ApiError {
    let (status, code) = match error {
        PullError::Mirror(error) => return ApiError::of_mirror(error, Subject::Manifest),
        PullError::NoPlatform { .. } => (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown),
        PullError::TooDeep | PullError::UnknownType(_) => {
            (StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::Unsupported)
        }
    };
    ApiError::new(status, code, error.to_string())
}

/// What is still to be told of an image.
struct Reports {
    mirror: Mirror,
    pulled: Pulled,
    draining: CancellationToken,
    ticks: Interval,
    last: Option<(ImageReport, Instant)>,
    is_over: bool,
}

impl Reports {
    /// Waits for the next line; `None` after the last one, and once the process is to end.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.is_over {
            let image = &self.pulled.image;
            tokio::select! {
                biased;
                () = image.ended() => self.is_over = true,
                () = self.draining.cancelled() => return None,
                _ = self.ticks.tick() => {}
            }
            let report = if self.is_over {
                // It has its place in the log; the client sees an answer that was cut.
                self.mirror.last_report(&self.pulled).await.ok()?
            } else {
                image.report()
            };
            let is_news = self
                .last
                .as_ref()
                .is_none_or(|(told, told_at)| *told != report || told_at.elapsed() >= LONGEST_SILENCE);
            if is_news {
                let mut line = serde_json::to_vec(&report).ok()?;
                line.push(b'\n');
                self.last = Some((report, Instant::now()));
                return Some(line.into());
            }
        }
        None
    }
}
