//! Blobs that upstream redirects to a CDN by URLs that expire.

use std::time::Duration;

use crate::support::gate::Gate;
use crate::support::mirror::Mirror;
use crate::support::upstream::{Asked, Auth, Upstream, blob, bytes, cdn, then};

use super::{APP, at_once, blob_path, start};

const LENGTH: usize = 300_000;

fn start_with_cdn() -> (Upstream, Mirror, String, Vec<u8>) {
    let (upstream, mirror) = start();
    upstream.redirect_blobs();
    upstream.demand(Auth::AnonymousToken {
        lifetime: Duration::from_secs(3600),
    });
    let whole = bytes(LENGTH, 1);
    let digest = upstream.add_blob(APP, whole.clone());
    (upstream, mirror, digest, whole)
}

/// The GETs of the CDN: their ranges, and what they were answered.
fn cdn_gets(upstream: &Upstream, digest: &str) -> Vec<(Option<String>, u16)> {
    let tell = |asked: Asked| (asked.header("range").map(str::to_owned), asked.status);
    upstream
        .asked_for(&cdn(digest).get())
        .into_iter()
        .map(tell)
        .collect()
}

#[test]
fn a_redirected_blob_comes_from_the_cdn_without_credentials() {
    let (upstream, mirror, digest, whole) = start_with_cdn();
    for answer in at_once(4, |_| mirror.ask(&blob_path(&digest)).send()) {
        assert!(answer.body == whole, "other bytes");
    }
    assert_eq!(cdn_gets(&upstream, &digest), [(None, 200)]);
    for asked in upstream.asked_for(&cdn(&digest)) {
        assert_eq!(asked.header("authorization"), None);
    }
    let asked = upstream.asked_for(&blob(&digest).get());
    let granted = asked.iter().filter(|asked| asked.status == 307).count();
    assert_eq!(granted, 1, "{asked:?}");
    assert_eq!(upstream.bytes_sent(&digest), LENGTH);
}

#[test]
fn a_url_that_expires_midway_is_asked_for_again() {
    let (upstream, mirror, digest, whole) = start_with_cdn();
    let gate = Gate::new();
    upstream.script(
        cdn(&digest),
        then().pause(100_000, &gate).truncate(100_000).once(),
    );
    let response = mirror.ask(&blob_path(&digest)).open();
    gate.wait_for(1);
    upstream.expire_urls();
    gate.open();
    assert!(response.end().expect("a whole body").body == whole, "other bytes");
    let gets = cdn_gets(&upstream, &digest);
    assert_eq!(gets.first(), Some(&(None, 200)));
    assert_eq!(gets.last(), Some(&(Some("bytes=100000-".to_owned()), 206)));
    assert!(gets.len() <= 3, "{gets:?}");
    assert_eq!(upstream.bytes_sent(&digest), LENGTH);
}

#[test]
fn a_url_that_has_expired_before_its_first_use_is_asked_for_again() {
    let (upstream, mirror, digest, whole) = start_with_cdn();
    upstream.script(cdn(&digest), then().status(403).once());
    assert!(
        mirror.ask(&blob_path(&digest)).send().body == whole,
        "other bytes"
    );
    assert_eq!(cdn_gets(&upstream, &digest).len(), 2);
}

#[test]
fn a_cdn_that_always_refuses_ends_the_fill() {
    let (upstream, mirror, digest, _) = start_with_cdn();
    upstream.script(cdn(&digest), then().status(403));
    let answer = mirror.ask(&blob_path(&digest)).send();
    assert!(matches!(answer.status, 404 | 503), "{}", answer.status);
    assert!(cdn_gets(&upstream, &digest).len() < 20);
}

#[test]
fn redirects_without_an_end_are_not_followed_for_ever() {
    let (upstream, mirror) = start();
    let digest = upstream.add_blob(APP, bytes(1000, 1));
    let to_itself = format!("{}{}", upstream.url(), blob_path(&digest));
    upstream.script(blob(&digest), then().status(307).header("location", &to_itself));
    let answer = mirror.ask(&blob_path(&digest)).send();
    assert!(matches!(answer.status, 502 | 503), "{}", answer.status);
    assert!(
        upstream.blob_gets(&digest) < 100,
        "{}",
        upstream.blob_gets(&digest)
    );
}
