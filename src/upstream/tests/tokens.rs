//! Bearer and Basic, as registries and token servers want them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::server::{Reply, Seen, Server, config, name, tag, upstream_of};
use crate::config::{Credentials, Secret};
use crate::upstream::{Nonsense, Upstream, UpstreamError, UpstreamErrorClass};

/// Gives tokens `t1`, `t2`, …, and answers with that JSON around them.
async fn token_server(json: &'static str) -> Server {
    let given = AtomicUsize::new(0);
    Server::start(move |_| {
        let number = given.fetch_add(1, Ordering::SeqCst) + 1;
        Reply::ok(json.replace("TOKEN", &format!("t{number}")))
    })
    .await
}

fn challenge(tokens: &Server, seen: &Seen) -> Reply {
    let repository = seen.path().split("/manifests/").next().unwrap();
    let repository = repository.strip_prefix("/v2/").unwrap();
    Reply::unauthorized(format!(
        r#"Bearer realm="{}token",service="the registry",scope="repository:{repository}:pull""#,
        tokens.url(),
    ))
}

/// A registry that takes the tokens that `is_good` likes.
async fn registry(tokens: &Arc<Server>, is_good: impl Fn(&str) -> bool + Send + Sync + 'static) -> Server {
    let tokens = Arc::clone(tokens);
    Server::start(move |seen| match seen.authorization() {
        Some(header) if is_good(header) => Reply::ok("{}"),
        _ => challenge(&tokens, seen),
    })
    .await
}

fn upstream(registry: &Server, credentials: Credentials) -> Upstream {
    let mut config = config([registry.url()]);
    config.credentials = credentials;
    upstream_of(config).0
}

fn alice() -> Credentials {
    Credentials::Basic {
        username: "alice".to_owned(),
        password: Secret::new("open sesame"),
    }
}

async fn get(upstream: &Upstream, repository: &str) -> Result<(), UpstreamError> {
    let got = upstream.get_manifest(&name(repository), &tag("v1")).await;
    got.map(|_| ())
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_the_challenge_is_remembered() {
    let tokens = Arc::new(token_server(r#"{"token": "TOKEN", "expires_in": 300}"#).await);
    let registry = registry(&tokens, |header| header.starts_with("Bearer t")).await;
    let upstream = upstream(&registry, Credentials::None);
    for repository in ["acme/one", "acme/one", "acme/two"] {
        get(&upstream, repository).await.unwrap();
    }
    let headers: Vec<_> = registry
        .seen()
        .iter()
        .map(|s| s.authorization().map(str::to_owned))
        .collect();
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    assert_eq!(headers, [None, bearer("t1"), bearer("t1"), bearer("t2")]);
    assert_eq!(
        tokens.targets(),
        [
            "/token?service=the+registry&scope=repository%3Aacme%2Fone%3Apull",
            "/token?service=the+registry&scope=repository%3Aacme%2Ftwo%3Apull",
        ]
    );
    assert_eq!(tokens.seen()[0].authorization(), None);
}

#[tokio::test]
async fn a_password_goes_to_the_token_server_and_not_to_the_registry() {
    let tokens = Arc::new(token_server(r#"{"access_token": "TOKEN"}"#).await);
    let registry = registry(&tokens, |header| header == "Bearer t1").await;
    get(&upstream(&registry, alice()), "acme/one").await.unwrap();
    let basic = format!("Basic {}", STANDARD.encode("alice:open sesame"));
    assert_eq!(tokens.seen()[0].authorization(), Some(&*basic));
    assert!(
        registry
            .seen()
            .iter()
            .all(|seen| seen.authorization() != Some(&*basic))
    );
}

#[tokio::test]
async fn a_token_that_is_no_longer_taken_is_refreshed_once() {
    let tokens = Arc::new(token_server(r#"{"token": "TOKEN"}"#).await);
    let uses = AtomicUsize::new(0);
    let registry = registry(&tokens, move |header| match header {
        "Bearer t1" => uses.fetch_add(1, Ordering::SeqCst) == 0,
        other => other == "Bearer t2",
    })
    .await;
    let upstream = upstream(&registry, Credentials::None);
    get(&upstream, "acme/one").await.unwrap();
    get(&upstream, "acme/one").await.unwrap();
    assert_eq!(tokens.seen().len(), 2);
    assert_eq!(registry.seen().len(), 4);
}

#[tokio::test]
async fn a_new_token_that_is_not_taken_is_a_denial() {
    let tokens = Arc::new(token_server(r#"{"token": "TOKEN"}"#).await);
    let registry = registry(&tokens, |_| false).await;
    let upstream = upstream(&registry, Credentials::None);
    let error = get(&upstream, "acme/private").await.unwrap_err();
    assert_eq!(error.class(), UpstreamErrorClass::Denied, "{error}");
    assert_eq!((tokens.seen().len(), registry.seen().len()), (1, 2));
    // The challenge is known by now, and the token that failed is refreshed.
    get(&upstream, "acme/private").await.unwrap_err();
    assert_eq!((tokens.seen().len(), registry.seen().len()), (2, 4));
    // Of another repository, the first token is new, and no second one is asked for.
    get(&upstream, "acme/other").await.unwrap_err();
    assert_eq!((tokens.seen().len(), registry.seen().len()), (3, 5));
}

#[tokio::test]
async fn a_short_lived_token_is_not_used_after_its_end() {
    let tokens = Arc::new(token_server(r#"{"token": "TOKEN", "expires_in": 1}"#).await);
    let registry = registry(&tokens, |_| true).await;
    let upstream = upstream(&registry, Credentials::None);
    get(&upstream, "acme/one").await.unwrap();
    // The lifetime counts, not how fast the test is.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    get(&upstream, "acme/one").await.unwrap();
    assert_eq!(tokens.seen().len(), 2);
}

#[tokio::test]
async fn many_requests_share_one_token_request() {
    let tokens = Arc::new(token_server(r#"{"token": "TOKEN"}"#).await);
    let registry = registry(&tokens, |_| true).await;
    let mut config = config([registry.url()]);
    config.max_connections = 8;
    let upstream = upstream_of(config).0;
    let asked = (0..32).map(|_| get(&upstream, "acme/one"));
    for result in futures_util::future::join_all(asked).await {
        result.unwrap();
    }
    assert_eq!(tokens.seen().len(), 1);
}

#[tokio::test]
async fn an_identity_token_is_posted() {
    let tokens = Arc::new(token_server(r#"{"access_token": "TOKEN"}"#).await);
    let registry = registry(&tokens, |header| header == "Bearer t1").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        r#"{"auths": {"registry.test": {"identitytoken": "a b"}}}"#,
    )
    .unwrap();
    let credentials = Credentials::DockerConfig(Some(file.path().to_owned()));
    get(&upstream(&registry, credentials), "acme/one").await.unwrap();
    let seen = &tokens.seen()[0];
    assert_eq!((&*seen.method, &*seen.target), ("POST", "/token"));
    assert_eq!(
        seen.header("content-type"),
        Some("application/x-www-form-urlencoded")
    );
    assert_eq!(
        seen.body,
        "grant_type=refresh_token&client_id=wharf&service=the+registry\
         &scope=repository%3Aacme%2Fone%3Apull&refresh_token=a+b"
    );
}

#[tokio::test]
async fn an_identity_token_is_never_sent_after_a_redirect() {
    let elsewhere = token_server(r#"{"token": "TOKEN"}"#).await;
    let url = elsewhere.url();
    let tokens = Arc::new(Server::start(move |_| Reply::redirect(url.clone())).await);
    let registry = registry(&tokens, |_| true).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        r#"{"auths": {"registry.test": {"identitytoken": "x"}}}"#,
    )
    .unwrap();
    let credentials = Credentials::DockerConfig(Some(file.path().to_owned()));
    let error = get(&upstream(&registry, credentials), "acme/one")
        .await
        .unwrap_err();
    assert_eq!(error.class(), UpstreamErrorClass::Invalid, "{error}");
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn basic_is_sent_where_it_is_asked_for() {
    let basic = format!("Basic {}", STANDARD.encode("alice:open sesame"));
    let expected = basic.clone();
    let registry = Server::start(move |seen| match seen.authorization() {
        Some(header) if header == expected => Reply::ok("{}"),
        _ => Reply::unauthorized("Basic realm=\"registry\""),
    })
    .await;
    let with_password = upstream(&registry, alice());
    get(&with_password, "acme/one").await.unwrap();
    get(&with_password, "acme/two").await.unwrap();
    let headers: Vec<_> = registry
        .seen()
        .iter()
        .map(|s| s.authorization().map(str::to_owned))
        .collect();
    assert_eq!(headers, [None, Some(basic.clone()), Some(basic)]);
    let error = get(&upstream(&registry, Credentials::None), "acme/one")
        .await
        .unwrap_err();
    assert_eq!(error.class(), UpstreamErrorClass::Denied);
}

#[tokio::test]
async fn what_is_no_token_is_an_error_that_quotes_nothing() {
    for json in [
        "<html>s3cret</html>",
        r#"{"token": ["s3cret"]}"#,
        r#"{"token": ""}"#,
        r#"{"token": "s3\ncret"}"#,
        "{}",
    ] {
        let tokens = Arc::new(token_server(json).await);
        let registry = registry(&tokens, |_| true).await;
        let error = get(&upstream(&registry, alice()), "acme/one").await.unwrap_err();
        let nonsense = matches!(
            &error,
            UpstreamError::Invalid {
                nonsense: Nonsense::Token,
                ..
            }
        );
        assert!(nonsense, "{error}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("s3") && !shown.contains("sesame"), "{shown}");
    }
}

#[tokio::test]
async fn a_token_server_s_status_says_what_its_error_means() {
    for (status, expected) in [
        (401, UpstreamErrorClass::Denied),
        (403, UpstreamErrorClass::Denied),
        (404, UpstreamErrorClass::Invalid),
        (429, UpstreamErrorClass::Limited),
        (503, UpstreamErrorClass::Unavailable),
    ] {
        let tokens = Arc::new(Server::start(move |_| Reply::new(status)).await);
        let registry = registry(&tokens, |_| true).await;
        let error = get(&upstream(&registry, alice()), "acme/one").await.unwrap_err();
        assert_eq!(error.class(), expected, "{error}");
    }
}

#[tokio::test]
async fn a_token_is_not_read_without_end() {
    let tokens = Server::start(|_| Reply::ok("x".repeat((1 << 20) + 1))).await;
    let registry = registry(&Arc::new(tokens), |_| true).await;
    let error = get(&upstream(&registry, alice()), "acme/one").await.unwrap_err();
    let is_too_large = matches!(
        &error,
        UpstreamError::Invalid {
            nonsense: Nonsense::TooLarge { .. },
            ..
        }
    );
    assert!(is_too_large, "{error}");
}
