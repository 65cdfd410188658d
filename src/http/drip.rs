//! Bodies whose end is held: until then a byte of it is sent now and then, so that no idle timeout on the way strikes.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::future::Either;
use futures_util::{Stream, TryStreamExt as _, stream};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

/// Well below the minute after which proxies give an idle answer up.
const PAUSE: Duration = Duration::from_secs(5);

/// How much of a long body is kept back: at a byte a pause enough for twenty minutes.
const END: usize = 256;

/// Makes a body of bytes that are all kept back until `release`.
pub(super) fn whole(bytes: Bytes, release: impl Future<Output = ()> + Send + 'static) -> Body {
    Body::from_stream(Drip::new(bytes, PAUSE, release).into_stream())
}

/// Makes a body of a stream whose last bytes are kept back until `release`, which is polled only then.
pub(super) fn end_of<S, E>(stream: S, release: impl Future<Output = ()> + Send + 'static) -> Body
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<axum::BoxError> + Send + 'static,
{
    let state = Some((Box::pin(stream), Bytes::new(), release));
    let pieces = stream::try_unfold(state, |state| async move {
        let Some((mut stream, kept, release)) = state else {
            return Ok::<_, E>(None);
        };
        Ok(Some(match stream.try_next().await? {
            Some(piece) => {
                let (sent, kept) = keep_end(kept, piece);
                let sent = sent.into_iter().filter(|piece| !piece.is_empty());
                let sent = stream::iter(sent.map(Ok::<_, E>));
                (Either::Left(sent), Some((stream, kept, release)))
            }
            // The stream is dropped: what it has open would be so for minutes.
            None => {
                let drip = Drip::new(kept, PAUSE, release).into_stream();
                (Either::Right(drip.map_err(|never| match never {})), None)
            }
        }))
    });
    Body::from_stream(pieces.try_flatten())
}

/// Takes a piece to what is kept back; returns what of both is to be sent, and what is kept then.
fn keep_end(kept: Bytes, mut piece: Bytes) -> ([Bytes; 2], Bytes) {
    if let Some(surplus) = piece.len().checked_sub(END) {
        let end = piece.split_off(surplus);
        return ([kept, piece], end);
    }
    let mut joined = BytesMut::from(&kept[..]);
    joined.extend_from_slice(&piece);
    let end = joined.split_off(joined.len().saturating_sub(END));
    ([joined.freeze(), Bytes::new()], end.freeze())
}

/// Bytes that are sent one by one until they are released.
struct Drip<R> {
    bytes: Bytes,
    ticks: Interval,
    release: Pin<Box<R>>,
}

impl<R: Future<Output = ()> + Send + 'static> Drip<R> {
    fn new(bytes: Bytes, pause: Duration, release: R) -> Self {
        let mut ticks = interval_at(tokio::time::Instant::now() + pause, pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            bytes,
            ticks,
            release: Box::pin(release),
        }
    }

    fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
        stream::unfold(self, |mut drip| async move {
            if drip.bytes.is_empty() {
                return None;
            }
            tokio::select! {
                biased;
                () = &mut drip.release => {
                    let rest = std::mem::take(&mut drip.bytes);
                    return Some((Ok(rest), drip));
                }
                _ = drip.ticks.tick() => {}
            }
            // The last byte says that all is there.
            let sent = drip.bytes.split_to(usize::from(drip.bytes.len() > 1));
            Some((Ok(sent), drip))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use futures_util::StreamExt as _;
    use http_body_util::BodyExt as _;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn bytes_drip_until_they_are_released_and_the_last_one_is_kept() {
        let (release, released) = oneshot::channel::<()>();
        let drip = Drip::new(Bytes::from_static(b"abc"), Duration::from_millis(1), async {
            let _ = released.await;
        });
        let mut body = Body::from_stream(drip.into_stream());
        let mut seen = Vec::new();
        for _ in 0..5 {
            let frame = body.frame().await.unwrap().unwrap();
            seen.extend_from_slice(frame.data_ref().unwrap());
        }
        assert_eq!(seen, b"ab");
        release.send(()).unwrap();
        let rest = body.collect().await.unwrap().to_bytes();
        assert_eq!(rest, "c");
    }

    #[tokio::test]
    async fn what_is_released_before_it_is_asked_for_comes_whole() {
        let mut body = whole(Bytes::from_static(b"abc"), async {});
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap(), "abc");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn all_but_the_end_of_a_stream_comes_before_it_is_released() {
        for sizes in [
            vec![],
            vec![1],
            vec![END],
            vec![1000, 1],
            vec![100; 20],
            vec![70_000, 3, 70_000],
        ] {
            let total: usize = sizes.iter().sum();
            let content: Bytes = (0..total).map(|index| index as u8).collect::<Vec<_>>().into();
            let mut rest = content.clone();
            let pieces: Vec<io::Result<Bytes>> = sizes.iter().map(|size| Ok(rest.split_to(*size))).collect();
            let (release, released) = oneshot::channel::<()>();
            let open = Arc::new(());
            let file = Arc::clone(&open);
            let stream = stream::iter(pieces).inspect(move |_| drop(Arc::clone(&file)));
            let mut body = end_of(stream, async {
                let _ = released.await;
            });
            let mut seen = Vec::new();
            while seen.len() + END < total {
                let frame = body.frame().await.unwrap().unwrap();
                seen.extend_from_slice(frame.data_ref().unwrap());
            }
            assert!(total == 0 || seen.len() < total, "{sizes:?}");
            assert!(
                futures_util::poll!(body.frame()).is_pending() || total == 0,
                "{sizes:?}"
            );
            assert_eq!(Arc::strong_count(&open), 1, "{sizes:?}: the stream is dropped");
            release.send(()).unwrap_or(());
            seen.extend_from_slice(&body.collect().await.unwrap().to_bytes());
            assert_eq!(seen, content, "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_breaks_is_not_taken_for_whole() {
        let pieces = [Ok(Bytes::from_static(b"abc")), Err(io::Error::other("broken"))];
        let body = end_of(stream::iter(pieces), async {});
        assert!(body.collect().await.is_err());
    }
}
