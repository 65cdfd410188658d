//! Endpoints that fail, do not answer, or limit.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::server::{Nobody, Reply, Server, config, digest, name, tag, upstream, upstream_of};
use crate::upstream::{ResumePoint, Upstream, UpstreamError, UpstreamErrorClass, Wait};

/// More than a refusal takes, and less than any timeout of these tests.
const AT_ONCE: Duration = Duration::from_millis(500);

async fn get(upstream: &Upstream) -> Result<(), UpstreamError> {
    let got = upstream.get_manifest(&name("acme/app"), &tag("v1")).await;
    got.map(|_| ())
}

#[tokio::test]
async fn the_next_endpoint_is_asked_where_the_first_fails_or_does_not_answer() {
    let good = Server::start(|_| Reply::ok("{}")).await;
    for status in [500, 502, 503, 429] {
        let bad = Server::start(move |_| Reply::new(status)).await;
        get(&upstream_of(config([bad.url(), good.url()])).0)
            .await
            .unwrap();
        assert_eq!(bad.seen().len(), 1);
    }
    let nobody = Nobody::new();
    get(&upstream_of(config([nobody.url(), good.url()])).0)
        .await
        .unwrap();
    assert_eq!(good.seen().len(), 5);
}

#[tokio::test]
async fn what_the_first_endpoint_says_is_final() {
    let good = Server::start(|_| Reply::ok("{}")).await;
    for (status, expected) in [
        (404, UpstreamErrorClass::NotFound),
        (403, UpstreamErrorClass::Denied),
        (418, UpstreamErrorClass::Invalid),
    ] {
        let first = Server::start(move |_| Reply::new(status)).await;
        let error = get(&upstream_of(config([first.url(), good.url()])).0)
            .await
            .unwrap_err();
        assert_eq!(error.class(), expected, "{error}");
    }
    assert!(good.seen().is_empty());
}

#[tokio::test]
async fn a_dead_endpoint_is_refused_at_once_and_probed_after_its_pause() {
    let nobody = Nobody::new();
    let (upstream, metrics) = upstream_of(config([nobody.url()]));
    let error = get(&upstream).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Unreachable { .. }), "{error}");

    let started = Instant::now();
    let error = get(&upstream).await.unwrap_err();
    assert!(started.elapsed() < AT_ONCE);
    assert_eq!(error.class(), UpstreamErrorClass::Unavailable);
    assert!(matches!(error, UpstreamError::Paused { .. }), "{error}");
    let pause = error.retry_after().unwrap();
    assert!(pause <= Duration::from_secs(1));
    let counted = r#"upstream="registry.test",kind="manifest_get",outcome="unreachable"} 1"#;
    assert!(metrics.render().contains(counted), "{}", metrics.render());

    let _alive = nobody.replaced_by(|_| Reply::ok("{}"));
    tokio::time::sleep(pause).await;
    get(&upstream).await.unwrap();
    get(&upstream).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_takes_too_long_is_left_alone_too() {
    let silent = Server::start(|_| Reply::hang()).await;
    let mut config = config([silent.url()]);
    config.answer_timeout = Duration::from_millis(100);
    let upstream = upstream_of(config).0;
    let error = get(&upstream).await.unwrap_err();
    let is_timeout = matches!(
        error,
        UpstreamError::Timeout {
            wait: Wait::Answer,
            ..
        }
    );
    assert!(is_timeout, "{error}");
    assert!(matches!(get(&upstream).await, Err(UpstreamError::Paused { .. })));
    assert_eq!(silent.seen().len(), 1);
}

#[tokio::test]
async fn a_cdn_that_is_dead_is_refused_at_once_and_the_registry_is_not() {
    let nobody = Nobody::new();
    let cdn = nobody.url();
    let registry = Server::start(move |seen| match seen.path().contains("/blobs/") {
        true => Reply::redirect(cdn.clone()),
        false => Reply::ok("{}"),
    })
    .await;
    let upstream = upstream(&registry);
    let blob = async || {
        let (name, digest) = (name("acme/app"), digest(b""));
        upstream
            .get_blob(&name, &digest, ResumePoint::default())
            .await
            .unwrap_err()
    };
    assert!(matches!(blob().await, UpstreamError::Unreachable { .. }));
    assert!(matches!(blob().await, UpstreamError::Paused { .. }));
    get(&upstream).await.unwrap();
}

#[tokio::test]
async fn a_limit_is_remembered_for_its_kind_of_request() {
    let registry = Server::start(|seen| match &*seen.method {
        "GET" => Reply::new(429).header("retry-after", "7"),
        _ => Reply::new(200),
    })
    .await;
    let upstream = upstream(&registry);
    for _ in 0..3 {
        let error = get(&upstream).await.unwrap_err();
        assert_eq!(error.class(), UpstreamErrorClass::Limited, "{error}");
        let left = error.retry_after().unwrap();
        assert!(left > Duration::from_secs(5) && left <= Duration::from_secs(7));
    }
    assert_eq!(registry.seen().len(), 1);
    upstream
        .head_manifest(&name("acme/app"), &tag("v1"))
        .await
        .unwrap();
    assert_eq!(registry.seen().len(), 2);
}

#[tokio::test]
async fn a_limit_has_bounds_whatever_upstream_says() {
    for (header, expected) in [
        ("86400", 60),
        ("0", 1),
        ("soon", 5),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60),
    ] {
        let registry = Server::start(move |_| Reply::new(429).header("retry-after", header)).await;
        let error = get(&upstream(&registry)).await.unwrap_err();
        assert_eq!(
            error.retry_after(),
            Some(Duration::from_secs(expected)),
            "{header}"
        );
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_is_tried_once_more() {
    let asked = AtomicUsize::new(0);
    let registry = Server::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::ok("{}").header("transfer-encoding", "bad\0").cut_after(0),
        _ => Reply::ok("{}"),
    })
    .await;
    get(&upstream(&registry)).await.unwrap();
    assert_eq!(registry.seen().len(), 2);
}

#[tokio::test]
async fn the_last_resort_s_error_is_told_and_not_the_pauses() {
    let nobody = Nobody::new();
    let failing = Server::start(|_| Reply::new(503).header("retry-after", "9")).await;
    let upstream = upstream_of(config([nobody.url(), failing.url()])).0;
    for _ in 0..2 {
        let error = get(&upstream).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Failed { .. }), "{error}");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(9)));
    }
}
