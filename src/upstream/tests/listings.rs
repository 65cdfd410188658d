//! Tags and referrers.

use serde_json::{Value, json};

use super::server::{Reply, Server, digest, name, upstream};
use crate::upstream::UpstreamErrorClass;

#[tokio::test]
async fn tags_come_page_by_page_and_more_are_told_by_link() {
    let registry = Server::start(|seen| match &*seen.target {
        "/v2/acme/app/tags/list" => Reply::ok(r#"{"name": "acme/app", "tags": ["a", "b"]}"#),
        "/v2/acme/app/tags/list?n=2&last=b+c" => Reply::ok(r#"{"tags": ["c", "d"]}"#),
        "/v2/acme/app/tags/list?n=9" => Reply::ok(r#"{"tags": ["a"]}"#)
            .header("link", "</v2/acme/app/tags/list?n=9&last=a>; rel=\"next\""),
        "/v2/acme/app/tags/list?n=8" => Reply::ok(r#"{"tags": null}"#),
        other => panic!("asked for {other}"),
    })
    .await;
    let upstream = upstream(&registry);
    let list = async |n, last| upstream.list_tags(&name("acme/app"), n, last).await.unwrap();
    let page = list(None, None).await;
    assert_eq!(
        (page.tags, page.has_more),
        (vec!["a".to_owned(), "b".to_owned()], false)
    );
    let page = list(Some(2), Some("b c")).await;
    assert_eq!(
        (page.tags, page.has_more),
        (vec!["c".to_owned(), "d".to_owned()], false)
    );
    assert!(list(Some(9), None).await.has_more);
    assert_eq!(list(Some(8), None).await.tags, Vec::<String>::new());
}

#[tokio::test]
async fn tags_that_are_no_json_are_an_error() {
    let registry = Server::start(|_| Reply::ok("<html>")).await;
    let error = upstream(&registry)
        .list_tags(&name("acme/app"), None, None)
        .await
        .unwrap_err();
    assert_eq!(error.class(), UpstreamErrorClass::Invalid, "{error}");
}

fn page(digests: &[&str]) -> Value {
    json!({"schemaVersion": 2, "manifests": digests.iter().map(|d| json!({"digest": d})).collect::<Vec<_>>()})
}

#[tokio::test]
async fn one_page_of_referrers_comes_as_sent_and_more_are_put_together() {
    let (one, many) = (digest(b"one"), digest(b"many"));
    let (one_path, many_path) = (
        format!("/v2/acme/app/referrers/{one}"),
        format!("/v2/acme/app/referrers/{many}"),
    );
    let registry = Server::start(move |seen| {
        let page_of_many = format!("{many_path}?page=");
        match &*seen.target {
            path if path == one_path => Reply::ok("{ \"manifests\" : [ ] }"),
            path if path == many_path => {
                let link = format!("<{page_of_many}2>; rel=\"next\"");
                Reply::ok(page(&["a"]).to_string()).header("link", link)
            }
            path if path == format!("{page_of_many}2") => {
                let link = format!("<{page_of_many}3>; rel=next");
                Reply::ok(page(&["b", "c"]).to_string()).header("link", link)
            }
            _ => Reply::ok(page(&["d"]).to_string()),
        }
    })
    .await;
    let upstream = upstream(&registry);
    let bytes = upstream.get_referrers(&name("acme/app"), &one).await.unwrap();
    assert_eq!(bytes, "{ \"manifests\" : [ ] }");
    let bytes = upstream.get_referrers(&name("acme/app"), &many).await.unwrap();
    let merged: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(merged, page(&["a", "b", "c", "d"]));
}

#[tokio::test]
async fn pages_of_referrers_end_and_stay_with_the_registry() {
    for link in ["<?again>; rel=next", "<http://other.example/v2/>; rel=next"] {
        let registry = Server::start(move |_| Reply::ok(page(&["a"]).to_string()).header("link", link)).await;
        let got = upstream(&registry)
            .get_referrers(&name("acme/app"), &digest(b""))
            .await;
        assert_eq!(got.unwrap_err().class(), UpstreamErrorClass::Invalid, "{link}");
        assert!(registry.seen().len() <= 32);
    }
}

#[tokio::test]
async fn a_registry_without_the_referrers_api_has_none() {
    for status in [404, 405] {
        let registry = Server::start(move |_| Reply::new(status)).await;
        let got = upstream(&registry)
            .get_referrers(&name("acme/app"), &digest(b""))
            .await;
        assert_eq!(got.unwrap_err().class(), UpstreamErrorClass::NotFound);
    }
}
