//! `/v2/<name>/blobs/<digest>`, whole and in ranges.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::drip;
use super::error::{ApiError, Subject};
use super::manifest::{etag, is_unchanged, of_content};
use super::route::Scope;
use crate::mirror::{BlobStream, Mirror};
use crate::oci::{ByteRange, Digest, ErrorCode, RangeOutcome};

/// What is named by its content never changes; a year is what RFC 9111 takes for ever.
const CACHE_CONTROL: &str = "max-age=31536000, immutable";

/// Answers GET and HEAD; HEAD starts no fill. The end of a body waits for `end`.
pub(super) async fn answer(
    mirror: &Mirror,
    request: &Parts,
    scope: &Scope,
    digest: &Digest,
    end: Option<impl Future<Output = ()> + Send + 'static>,
) -> Result<Response, ApiError> {
    let failed = |error| ApiError::of_mirror(&error, Subject::Blob);
    if request.method == Method::HEAD {
        let size = mirror
            .stat_blob(&scope.repository, digest)
            .await
            .map_err(failed)?;
        let mut headers = headers(digest);
        if is_unchanged(&request.headers, digest) {
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
        insert_length(&mut headers, size);
        // Not Body::empty(): its length would be told in place of one that nobody knows.
        let empty = Body::from_stream(stream::empty::<std::io::Result<bytes::Bytes>>());
        return Ok((headers, empty).into_response());
    }
    let range = range(&request.headers, digest);
    let blob = mirror
        .open_blob(&scope.repository, digest, range)
        .await
        .map_err(failed)?;
    let mut headers = headers(digest);
    if is_unchanged(&request.headers, digest) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let Some((range, size)) = range.zip(blob.size_bytes) else {
        insert_length(&mut headers, blob.size_bytes);
        return Ok((headers, body(blob.read(0, None), end)).into_response());
    };
    match range.within(size) {
        RangeOutcome::Unsatisfiable => {
            let message = format!("the blob has {size} bytes");
            Err(ApiError::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                ErrorCode::RangeInvalid,
                message,
            )
            .with_header(header::CONTENT_RANGE, format!("bytes */{size}")))
        }
        RangeOutcome::Satisfiable { start, end: stop } => {
            insert_length(&mut headers, Some(stop - start));
            if let Ok(value) = HeaderValue::from_str(&format!("bytes {start}-{}/{size}", stop - 1)) {
                headers.insert(header::CONTENT_RANGE, value);
            }
            Ok((
                StatusCode::PARTIAL_CONTENT,
                headers,
                body(blob.read(start, Some(stop)), end),
            )
                .into_response())
        }
    }
}

/// Returns the asked range; none if the client has another blob's beginning (`If-Range`).
fn range(headers: &HeaderMap, digest: &Digest) -> Option<ByteRange> {
    let mut lines = headers.get_all(header::RANGE).iter();
    let range = ByteRange::parse(lines.next()?.to_str().ok()?)?;
    let condition = headers.get(header::IF_RANGE);
    let holds = condition.is_none_or(|condition| condition.as_bytes() == etag(digest).as_bytes());
    (holds && lines.next().is_none()).then_some(range)
}

fn headers(digest: &Digest) -> HeaderMap {
    let mut headers = of_content(digest);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE_CONTROL));
    headers
}

fn insert_length(headers: &mut HeaderMap, length: Option<u64>) {
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// An error in the stream makes the server cut the connection, so that nobody takes a part for the whole.
fn body(stream: BlobStream, end: Option<impl Future<Output = ()> + Send + 'static>) -> Body {
    let chunks = stream::try_unfold(stream, |mut stream| async move {
        Ok::<_, std::io::Error>(stream.next().await?.map(|bytes| (bytes, stream)))
    });
    match end {
        Some(end) => drip::end_of(chunks, end),
        None => Body::from_stream(chunks),
    }
}
