//! Manifests, and the headers about them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::server::{Reply, Server, config, digest, name, tag, upstream, upstream_of};
use crate::oci::manifest::MAX_MANIFEST_BYTES;
use crate::upstream::{FetchedManifest, ManifestHead, UpstreamErrorClass};

#[tokio::test]
async fn a_manifest_comes_as_it_is_with_what_its_headers_say() {
    let registry = Server::start(|_| {
        Reply::ok("{ }")
            .header("docker-content-digest", digest(b"{ }").to_string())
            .header("ratelimit-limit", "100;w=21600")
            .header("ratelimit-remaining", "76;w=21600")
    })
    .await;
    let (upstream, metrics) = upstream_of(config([registry.url()]));
    let head = upstream.head_manifest(&name("acme/app"), &tag("v1")).await;
    let expected = ManifestHead {
        digest: Some(digest(b"{ }")),
    };
    assert_eq!(head.unwrap(), expected);
    let by_digest = tag(&digest(b"{ }").to_string());
    let manifest = upstream.get_manifest(&name("acme/app"), &by_digest).await;
    let expected = FetchedManifest {
        bytes: "{ }".into(),
        digest: Some(digest(b"{ }")),
    };
    assert_eq!(manifest.unwrap(), expected);
    let targets = registry.targets();
    assert_eq!(targets[0], "/v2/acme/app/manifests/v1");
    assert_eq!(targets[1], format!("/v2/acme/app/manifests/{by_digest}"));
    let rendered = metrics.render();
    assert!(
        rendered.contains(r#"rate_limit{upstream="registry.test"} 100"#),
        "{rendered}"
    );
    assert!(rendered.contains(r#"rate_remaining{upstream="registry.test"} 76"#));
}

#[tokio::test]
async fn headers_that_are_missing_or_wrong_are_none() {
    let registry = Server::start(|_| Reply::ok("{}").header("docker-content-digest", "md5:x")).await;
    let got = upstream(&registry)
        .get_manifest(&name("acme/app"), &tag("v1"))
        .await
        .unwrap();
    assert_eq!(got.digest, None);
}

#[tokio::test]
async fn a_registry_without_head_tells_nothing() {
    let registry = Server::start(|_| Reply::new(405)).await;
    let head = upstream(&registry)
        .head_manifest(&name("acme/app"), &tag("v1"))
        .await;
    assert_eq!(head.unwrap(), ManifestHead::default());
}

#[tokio::test]
async fn a_manifest_is_not_read_without_end() {
    let large = "x".repeat(MAX_MANIFEST_BYTES + 1);
    let chunk = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let replies: [fn(&str, &str) -> Reply; 2] = [
        |large, _| Reply::ok(large),
        |_, chunk| Reply::ok(chunk).header("transfer-encoding", "chunked"),
    ];
    for reply in replies {
        let (large, chunk) = (large.clone(), chunk.clone());
        let registry = Server::start(move |_| reply(&large, &chunk)).await;
        let got = upstream(&registry)
            .get_manifest(&name("acme/app"), &tag("v1"))
            .await;
        assert_eq!(got.unwrap_err().class(), UpstreamErrorClass::Invalid);
    }
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_asked_for_once_more() {
    let asked = AtomicUsize::new(0);
    let once = Server::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::ok("{ }").cut_after(1),
        _ => Reply::ok("{ }"),
    })
    .await;
    let got = upstream(&once).get_manifest(&name("acme/app"), &tag("v1")).await;
    assert_eq!(got.unwrap().bytes, "{ }");
    let always = Server::start(|_| Reply::ok("{ }").cut_after(1)).await;
    let got = upstream(&always)
        .get_manifest(&name("acme/app"), &tag("v1"))
        .await;
    assert_eq!(got.unwrap_err().class(), UpstreamErrorClass::Unavailable);
    assert_eq!(always.seen().len(), 2);
}
