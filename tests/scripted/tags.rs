//! Tags: served from the store while fresh, then a HEAD, and a GET only for another digest.

use crate::support::gate::Gate;
use crate::support::mirror::{Mirror, Options};
use crate::support::upstream::{Image, Upstream, bytes, manifests, then};

use super::{APP, assert_error, end_all, manifest_path, settle, start};

/// How many HEADs and GETs of manifests upstream saw.
fn questions(upstream: &Upstream) -> (usize, usize) {
    (
        upstream.count(&manifests().head()),
        upstream.count(&manifests().get()),
    )
}

fn start_with(tag_ttl: &'static str, keys: &str) -> (Upstream, Mirror, Image) {
    let upstream = Upstream::start();
    let image = upstream.add_image(APP, "v1", &[]);
    let mut options = Options::new(upstream.address()).keys(keys);
    options.tag_ttl = tag_ttl;
    let mirror = Mirror::start(&options);
    (upstream, mirror, image)
}

fn assert_serves(mirror: &Mirror, reference: &str, image: &Image) {
    let answer = mirror.ask(&manifest_path(reference)).send();
    assert_eq!(
        (answer.status, &answer.body),
        (200, &image.manifest),
        "{reference}"
    );
    assert_eq!(answer.header("docker-content-digest"), Some(&*image.digest));
    assert_eq!(answer.header("warning"), None);
}

#[test]
fn a_fresh_tag_is_served_without_a_question() {
    let (upstream, mirror, image) = start_with("1h", "");
    assert_serves(&mirror, "v1", &image);
    let asked = questions(&upstream);
    assert_eq!(asked.1, 1);
    for _ in 0..3 {
        assert_serves(&mirror, "v1", &image);
        assert_eq!(mirror.ask(&manifest_path("v1")).method("HEAD").send().status, 200);
    }
    assert_eq!(questions(&upstream), asked);
}

#[test]
fn an_expired_tag_costs_a_head_and_a_changed_one_a_get() {
    let (upstream, mirror, image) = start_with("0s", "");
    assert_serves(&mirror, "v1", &image);
    let (heads, gets) = questions(&upstream);
    assert_serves(&mirror, "v1", &image);
    assert_serves(&mirror, "v1", &image);
    assert_eq!(questions(&upstream), (heads + 2, gets));
    let changed = upstream.add_image(APP, "v1", &[bytes(1000, 1)]);
    assert_serves(&mirror, "v1", &changed);
    assert_eq!(questions(&upstream), (heads + 3, gets + 1));
    assert_serves(&mirror, "v1", &changed);
    assert_eq!(questions(&upstream), (heads + 4, gets + 1));
}

#[test]
fn a_tag_that_moves_to_a_known_digest_costs_no_get() {
    let (upstream, mirror, image) = start_with("0s", "");
    assert_serves(&mirror, "v1", &image);
    let newer = upstream.add_image(APP, "v2", &[bytes(1000, 1)]);
    assert_serves(&mirror, "v2", &newer);
    let (_, gets) = questions(&upstream);
    upstream.tag(APP, "v1", &newer.digest);
    assert_serves(&mirror, "v1", &newer);
    assert_eq!(questions(&upstream).1, gets);
}

#[test]
fn a_digest_is_served_for_ever_without_a_question() {
    let (upstream, mirror, image) = start_with("0s", "");
    assert_serves(&mirror, &image.digest, &image);
    let asked = upstream.count(&manifests());
    assert_eq!(upstream.count(&manifests().get()), 1);
    for _ in 0..3 {
        assert_serves(&mirror, &image.digest, &image);
    }
    assert_eq!(upstream.count(&manifests()), asked);
}

#[test]
fn tags_that_never_change_are_asked_for_once() {
    let (upstream, mirror, image) = start_with("0s", "immutable_tags = [\"v[0-9]*\"]");
    assert_serves(&mirror, "v1", &image);
    let asked = questions(&upstream);
    upstream.add_image(APP, "v1", &[bytes(1000, 1)]);
    assert_serves(&mirror, "v1", &image);
    assert_eq!(questions(&upstream), asked);
    let latest = upstream.add_image(APP, "latest", &[]);
    assert_serves(&mirror, "latest", &latest);
    assert_serves(&mirror, "latest", &latest);
    assert!(questions(&upstream).0 > asked.0, "other tags are still asked for");
}

#[test]
fn everyone_who_asks_for_a_tag_shares_one_question() {
    let (upstream, mirror) = start();
    let image = upstream.add_image(APP, "v1", &[]);
    let gate = Gate::new();
    upstream.script(manifests(), then().hold(&gate));
    let clients: Vec<_> = (0..16)
        .map(|_| mirror.ask(&manifest_path("v1")).start())
        .collect();
    gate.wait_for(1);
    settle(&mirror);
    gate.open();
    for answer in end_all(clients) {
        assert_eq!((answer.status, &answer.body), (200, &image.manifest));
    }
    let (heads, gets) = questions(&upstream);
    assert!(heads <= 1 && gets == 1, "{heads} HEADs and {gets} GETs");
}

#[test]
fn a_tag_that_was_removed_upstream_is_404() {
    let (upstream, mirror, image) = start_with("0s", "negative_ttl = \"0s\"");
    assert_serves(&mirror, "v1", &image);
    upstream.remove_repository(APP);
    let answer = mirror.ask(&manifest_path("v1")).send();
    assert_error(&answer, 404, "MANIFEST_UNKNOWN");
    // What a digest names does not change by that.
    assert_serves(&mirror, &image.digest, &image);
}

#[test]
fn a_fresh_tag_is_fresh_after_a_restart_too() {
    let (upstream, mut mirror, image) = start_with("1h", "");
    assert_serves(&mirror, "v1", &image);
    mirror.stop();
    mirror.start_again();
    let asked = questions(&upstream);
    assert_serves(&mirror, "v1", &image);
    assert_eq!(questions(&upstream), asked);
}
