//! Where registries send their clients, and what is sent along.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::server::{Reply, Server, config, digest, name, tag, upstream, upstream_of};
use crate::config::{Credentials, Secret};
use crate::upstream::{Nonsense, ResumePoint, Upstream, UpstreamError, UpstreamErrorClass};

async fn blob(upstream: &Upstream) -> Result<Vec<u8>, UpstreamError> {
    let mut body = upstream
        .get_blob(&name("acme/app"), &digest(b"blob"), ResumePoint::default())
        .await?;
    let mut bytes = Vec::new();
    while let Some(more) = body.next().await? {
        bytes.extend_from_slice(&more);
    }
    Ok(bytes)
}

fn nonsense(error: UpstreamError) -> Option<Nonsense> {
    match error {
        UpstreamError::Invalid { nonsense, .. } => Some(nonsense),
        _ => None,
    }
}

#[tokio::test]
async fn the_cdn_is_never_sent_the_authorization() {
    let cdn = Server::start(|_| Reply::ok("blob")).await;
    let signed = format!("{}blob?signature=s3cret", cdn.url());
    let registry = Server::start(move |seen| match seen.authorization() {
        None => Reply::unauthorized("Basic realm=\"x\""),
        // By way of the registry itself, which is sent it.
        Some(_) if seen.path() != "/moved" => Reply::redirect("/moved"),
        Some(_) => Reply::redirect(signed.clone()),
    })
    .await;
    let mut config = config([registry.url()]);
    config.credentials = Credentials::Basic {
        username: "alice".to_owned(),
        password: Secret::new("open sesame"),
    };
    assert_eq!(blob(&upstream_of(config).0).await.unwrap(), b"blob");
    assert_eq!(cdn.targets(), ["/blob?signature=s3cret"]);
    assert_eq!(cdn.seen()[0].authorization(), None);
    let authorized = registry
        .seen()
        .iter()
        .filter(|s| s.authorization().is_some())
        .count();
    assert_eq!((authorized, registry.seen().len()), (2, 3));
}

#[tokio::test]
async fn an_expired_url_is_asked_for_again_once() {
    for status in [400, 401, 403, 404] {
        let cdn = Server::start(move |seen| match &*seen.target {
            "/fresh" => Reply::ok("blob"),
            _ => Reply::new(status),
        })
        .await;
        let (cdn_url, asked) = (cdn.url(), AtomicUsize::new(0));
        let registry = Server::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::redirect(format!("{cdn_url}expired")),
            _ => Reply::redirect(format!("{cdn_url}fresh")),
        })
        .await;
        assert_eq!(blob(&upstream(&registry)).await.unwrap(), b"blob");
        assert_eq!(cdn.targets(), ["/expired", "/fresh"]);
    }
}

#[tokio::test]
async fn a_cdn_that_denies_again_is_believed_and_its_url_not_told() {
    let cdn = Server::start(|_| Reply::new(403)).await;
    let cdn_url = cdn.url();
    let registry = Server::start(move |_| Reply::redirect(format!("{cdn_url}blob?signature=s3cret"))).await;
    let error = blob(&upstream(&registry)).await.unwrap_err();
    assert_eq!(error.class(), UpstreamErrorClass::Denied);
    assert_eq!((cdn.seen().len(), registry.seen().len()), (2, 2));
    let shown = format!("{error} {error:?}");
    assert!(
        !shown.contains("s3cret") && shown.contains(&cdn.address().to_string()),
        "{shown}"
    );
}

#[tokio::test]
async fn redirects_end_somewhere() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let registry =
        Server::start(move |_| Reply::redirect(format!("/{}", counted.fetch_add(1, Ordering::SeqCst)))).await;
    let error = blob(&upstream(&registry)).await.unwrap_err();
    assert_eq!(nonsense(error), Some(Nonsense::ManyRedirects(5)));
    assert_eq!(asked.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn a_redirect_must_lead_to_a_url_without_a_user() {
    for location in ["ftp://cdn.example/", "http://user:word@cdn.example/", "http://"] {
        let registry = Server::start(move |_| Reply::redirect(location)).await;
        let error = blob(&upstream(&registry)).await.unwrap_err();
        assert_eq!(nonsense(error), Some(Nonsense::Redirect), "{location}");
    }
    let registry = Server::start(|_| Reply::new(302)).await;
    let error = blob(&upstream(&registry)).await.unwrap_err();
    assert_eq!(nonsense(error), Some(Nonsense::Redirect));
}

#[tokio::test]
async fn a_manifest_may_be_redirected_too() {
    let elsewhere = Server::start(|_| Reply::ok("{}")).await;
    let url = elsewhere.url();
    let registry = Server::start(move |seen| Reply::redirect(url.join(&seen.target).unwrap())).await;
    let got = upstream(&registry)
        .get_manifest(&name("acme/app"), &tag("v1"))
        .await;
    assert_eq!(got.unwrap().bytes, "{}");
    let accepted = elsewhere.seen()[0].header("accept").map(str::to_owned);
    assert!(
        accepted
            .unwrap()
            .contains("application/vnd.oci.image.manifest.v1+json")
    );
}

#[test]
fn tls_is_never_left() {
    let registry = super::server::url_of("127.0.0.1:1".parse().unwrap());
    let upstream = upstream_of(config([registry])).0;
    let way = |from: &str, to: &str| upstream.check_way(&from.parse().unwrap(), &to.parse().unwrap());
    way("http://a.example", "http://b.example").unwrap();
    way("http://a.example", "https://b.example").unwrap();
    way("https://a.example", "https://127.0.0.1:5000").unwrap();
    let error = way("https://a.example", "http://a.example").unwrap_err();
    assert_eq!(nonsense(error), Some(Nonsense::Downgrade));
}
