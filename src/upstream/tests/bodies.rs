//! Blobs: whole, resumed, cut short, and as many at a time as allowed.

use std::time::Duration;

use bytes::Bytes;

use super::server::{Reply, Seen, Server, config, digest, name, tag, upstream, upstream_of};
use crate::upstream::{BlobBody, Nonsense, ResumePoint, Upstream, UpstreamError, UpstreamErrorClass};

const CONTENT: &[u8] = b"0123456789";

async fn get(upstream: &Upstream, offset: u64, validator: Option<&str>) -> Result<BlobBody, UpstreamError> {
    let from = ResumePoint {
        offset,
        validator: validator.map(str::to_owned),
    };
    upstream.get_blob(&name("acme/app"), &digest(CONTENT), from).await
}

async fn rest(body: &mut BlobBody) -> Result<Vec<u8>, UpstreamError> {
    let mut bytes = Vec::new();
    while let Some(more) = body.next().await? {
        bytes.extend_from_slice(&more);
    }
    Ok(bytes)
}

/// Honours Range, unless If-Range names another ETag.
fn ranged(seen: &Seen) -> Reply {
    let offset = seen.header("range").map(|range| {
        let offset = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap();
        offset.parse::<usize>().unwrap()
    });
    let is_same = seen.header("if-range").is_none_or(|tag| tag == "\"v1\"");
    let reply = match offset {
        Some(offset) if is_same && offset >= CONTENT.len() => {
            Reply::new(416).header("content-range", format!("bytes */{}", CONTENT.len()))
        }
        Some(offset) if is_same => Reply::new(206)
            .header("content-range", format!("bytes {offset}-9/10"))
            .body(&CONTENT[offset..]),
        _ => Reply::ok(CONTENT),
    };
    reply.header("etag", "\"v1\"")
}

#[tokio::test]
async fn a_blob_comes_whole_and_is_counted() {
    let registry = Server::start(ranged).await;
    let (upstream, metrics) = upstream_of(config([registry.url()]));
    let mut body = get(&upstream, 0, None).await.unwrap();
    assert_eq!((body.offset(), body.size_bytes()), (0, Some(10)));
    assert_eq!(body.validator(), Some("\"v1\""));
    assert_eq!(rest(&mut body).await.unwrap(), CONTENT);
    assert_eq!(body.next().await.unwrap(), None);
    let seen = &registry.seen()[0];
    assert_eq!(
        (seen.header("range"), seen.header("accept-encoding")),
        (None, Some("identity"))
    );
    assert!(seen.header("user-agent").unwrap().starts_with("wharf/"));
    let rendered = metrics.render();
    assert!(rendered.contains(r#"upstream_bytes_total{upstream="registry.test"} 10"#));
    assert!(rendered.contains(r#"kind="blob_get",outcome="ok"} 1"#));
}

#[tokio::test]
async fn a_blob_is_resumed_where_upstream_honours_range() {
    let registry = Server::start(ranged).await;
    let upstream = upstream(&registry);
    let mut body = get(&upstream, 4, Some("\"v1\"")).await.unwrap();
    assert_eq!((body.offset(), body.size_bytes()), (4, Some(10)));
    assert_eq!(rest(&mut body).await.unwrap(), &CONTENT[4..]);
    let seen = &registry.seen()[0];
    assert_eq!(
        (seen.header("range"), seen.header("if-range")),
        (Some("bytes=4-"), Some("\"v1\""))
    );
}

#[tokio::test]
async fn a_blob_begins_anew_where_it_changed_or_range_is_ignored() {
    let ignoring = Server::start(|_| Reply::ok(CONTENT)).await;
    let honouring = Server::start(ranged).await;
    for (registry, validator) in [(&ignoring, None), (&honouring, Some("\"v0\""))] {
        let mut body = get(&upstream(registry), 4, validator).await.unwrap();
        assert_eq!((body.offset(), body.size_bytes()), (0, Some(10)));
        assert_eq!(rest(&mut body).await.unwrap(), CONTENT);
    }
}

#[tokio::test]
async fn a_blob_that_is_all_there_has_nothing_left() {
    let registry = Server::start(ranged).await;
    let upstream = upstream(&registry);
    let mut body = get(&upstream, 10, None).await.unwrap();
    assert_eq!((body.offset(), body.size_bytes()), (10, Some(10)));
    assert_eq!(body.next().await.unwrap(), None);
    let error = get(&upstream, 11, None).await.unwrap_err();
    assert_eq!(error.class(), UpstreamErrorClass::Invalid, "{error}");
}

#[tokio::test]
async fn other_bytes_than_asked_for_are_not_taken() {
    for range in ["bytes 0-9/10", "bytes 5-9/10", "lines 4-9/10", ""] {
        let registry = Server::start(move |_| {
            let reply = Reply::new(206).body(CONTENT);
            reply.header("content-range", range)
        })
        .await;
        let error = get(&upstream(&registry), 4, None).await.unwrap_err();
        let is_range = matches!(
            &error,
            UpstreamError::Invalid {
                nonsense: Nonsense::Range { offset: 4 },
                ..
            }
        );
        assert!(is_range, "{range}: {error}");
    }
}

#[tokio::test]
async fn a_body_that_ends_early_is_broken_and_stays_so() {
    let cut = Server::start(|_| Reply::ok(CONTENT).cut_after(4)).await;
    // The end is in order, but it is not the blob's.
    let short = Server::start(|_| {
        let reply = Reply::new(206).body(&CONTENT[..4]);
        reply.header("content-range", "bytes 0-3/10")
    })
    .await;
    for registry in [cut, short] {
        let mut body = get(&upstream(&registry), 0, None).await.unwrap();
        assert_eq!(body.next().await.unwrap(), Some(Bytes::from_static(b"0123")));
        for _ in 0..2 {
            let error = body.next().await.unwrap_err();
            assert_eq!(error.class(), UpstreamErrorClass::Broken);
            assert!(
                matches!(error, UpstreamError::Broken { position: 4, .. }),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn a_chunked_body_that_ends_early_is_broken() {
    let registry = Server::start(|_| {
        let reply = Reply::ok("4\r\n0123\r\n").header("transfer-encoding", "chunked");
        reply.cut_after(9)
    })
    .await;
    let mut body = get(&upstream(&registry), 0, None).await.unwrap();
    assert_eq!(body.size_bytes(), None);
    assert_eq!(body.next().await.unwrap(), Some(Bytes::from_static(b"0123")));
    assert_eq!(body.next().await.unwrap_err().class(), UpstreamErrorClass::Broken);
}

#[tokio::test]
async fn a_body_that_stalls_is_broken_after_the_idle_timeout() {
    let registry = Server::start(|_| Reply::ok(CONTENT).stall_after(4)).await;
    let mut config = config([registry.url()]);
    config.idle_timeout = Duration::from_millis(100);
    let mut body = get(&upstream_of(config).0, 0, None).await.unwrap();
    assert_eq!(body.next().await.unwrap(), Some(Bytes::from_static(b"0123")));
    let error = body.next().await.unwrap_err();
    assert_eq!(error.class(), UpstreamErrorClass::Broken, "{error}");
}

#[tokio::test]
async fn a_body_that_is_too_long_is_not_taken() {
    let registry = Server::start(|_| {
        let reply = Reply::new(206).body(CONTENT);
        reply.header("content-range", "bytes 4-9/10")
    })
    .await;
    let mut body = get(&upstream(&registry), 4, None).await.unwrap();
    assert_eq!(
        rest(&mut body).await.unwrap_err().class(),
        UpstreamErrorClass::Invalid
    );
}

#[tokio::test]
async fn blobs_wait_for_each_other_and_manifests_do_not_wait_for_them() {
    let registry = Server::start(|seen| match seen.path().contains("/blobs/") {
        true => Reply::ok(CONTENT).stall_after(4),
        false => Reply::ok("{}"),
    })
    .await;
    let mut config = config([registry.url()]);
    config.max_connections = 4;
    let upstream = upstream_of(config).0;
    let mut bodies = Vec::new();
    for _ in 0..3 {
        bodies.push(get(&upstream, 0, None).await.unwrap());
    }
    let fourth = get(&upstream, 0, None);
    tokio::pin!(fourth);
    assert!(futures_util::poll!(&mut fourth).is_pending());
    upstream
        .get_manifest(&name("acme/app"), &tag("v1"))
        .await
        .unwrap();
    assert!(futures_util::poll!(&mut fourth).is_pending());
    assert_eq!(registry.seen().len(), 4);
    bodies.pop();
    fourth.await.unwrap();
}

#[tokio::test]
async fn the_head_of_a_blob_tells_its_size() {
    let registry = Server::start(|_| Reply::new(200).header("content-length", "12345678901")).await;
    let head = upstream(&registry)
        .head_blob(&name("acme/app"), &digest(CONTENT))
        .await;
    assert_eq!(head.unwrap().size_bytes, Some(12_345_678_901));
    assert_eq!(registry.seen()[0].method, "HEAD");
}
