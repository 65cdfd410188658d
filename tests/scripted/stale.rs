//! Upstream down, slow or limiting: the stale manifest with a warning, or 503.

use crate::support::curl::Answer;
use crate::support::gate::Gate;
use crate::support::mirror::{Mirror, Options};
use crate::support::upstream::{Upstream, anything, bytes, then};

use super::{APP, assert_unavailable, blob_path, manifest_path};

/// Makes an upstream fail.
type Failure = fn(&Upstream);

const FAILURES: [(&str, Failure); 6] = [
    ("429", |upstream| upstream.script(anything(), then().status(429))),
    ("429 with Retry-After", |upstream| {
        upstream.script(anything(), then().status(429).header("retry-after", "3600"));
    }),
    ("500", |upstream| upstream.script(anything(), then().status(500))),
    ("hang up", |upstream| {
        upstream.script(anything(), then().hang_up())
    }),
    ("down", Upstream::go_down),
    ("silent", |upstream| {
        upstream.script(anything(), then().hold(&Gate::new()))
    }),
];

fn start() -> (Upstream, Mirror) {
    let upstream = Upstream::start();
    let mut options = Options::new(upstream.address());
    options = options
        .upstream("docker.io", &[&upstream.url()])
        .upstream_keys("answer_timeout = \"300ms\"");
    options.tag_ttl = "0s";
    let mirror = Mirror::start(&options);
    (upstream, mirror)
}

fn assert_stale(answer: &Answer, body: &[u8], what: &str) {
    assert_eq!((answer.status, &*answer.body), (200, body), "{what}");
    let warning = answer.header("warning").unwrap_or_default();
    assert!(
        warning.starts_with("299 - \"") && warning.ends_with('"'),
        "{what}: {warning:?}"
    );
    let age = answer.header("age").and_then(|age| age.parse::<u64>().ok());
    assert!(age.is_some_and(|seconds| seconds < 60), "{what}: {age:?}");
}

#[test]
fn a_tag_that_cannot_be_checked_is_served_stale_with_a_warning_and_its_age() {
    for (what, fail) in FAILURES {
        let (upstream, mirror) = start();
        let image = upstream.add_image(APP, "v1", &[]);
        let fresh = mirror.ask(&manifest_path("v1")).send();
        assert_eq!((fresh.status, fresh.header("warning")), (200, None));
        fail(&upstream);
        for method in ["GET", "HEAD"] {
            let answer = mirror.ask(&manifest_path("v1")).method(method).send();
            let body = if method == "GET" { &*image.manifest } else { &[] };
            assert_stale(&answer, body, what);
            assert_eq!(answer.header("docker-content-digest"), Some(&*image.digest));
        }
        assert_eq!(
            mirror.metric("wharf_manifest_requests_total", "stale"),
            2.0,
            "{what}"
        );
        // By digest nothing can be stale.
        let by_digest = mirror.ask(&manifest_path(&image.digest)).send();
        assert_eq!(
            (by_digest.status, by_digest.header("warning")),
            (200, None),
            "{what}"
        );
    }
}

#[test]
fn what_is_not_cached_is_503_with_retry_after_and_never_429() {
    for (what, fail) in FAILURES {
        let (upstream, mirror) = start();
        let image = upstream.add_image(APP, "v1", &[bytes(1000, 1)]);
        fail(&upstream);
        let paths = [
            manifest_path("v1"),
            manifest_path(&image.digest),
            blob_path(&image.layers[0]),
        ];
        for path in paths {
            println!("{what}: {path}");
            assert_unavailable(&mirror.ask(&path).send());
        }
        assert_eq!(
            mirror.ask(&manifest_path("v1")).method("HEAD").send().status,
            503,
            "{what}"
        );
    }
}

#[test]
fn a_limit_that_names_its_end_is_passed_on_in_retry_after() {
    let (upstream, mirror) = start();
    upstream.script(anything(), then().status(429).header("retry-after", "7"));
    let answer = mirror.ask(&manifest_path("v1")).send();
    assert_unavailable(&answer);
    let seconds: u32 = answer
        .header("retry-after")
        .expect("a time")
        .parse()
        .expect("seconds");
    assert!((1..=7).contains(&seconds), "{seconds}");
}

#[test]
fn a_stale_tag_is_checked_again_once_upstream_is_back() {
    let (upstream, mirror) = start();
    upstream.add_image(APP, "v1", &[]);
    mirror.ask(&manifest_path("v1")).send();
    upstream.script(anything(), then().status(500));

    assert!(
        mirror
            .ask(&manifest_path("v1"))
            .send()
            .header("warning")
            .is_some()
    );
    upstream.clear_script();
    let changed = upstream.add_image(APP, "v1", &[bytes(1000, 2)]);

    let path = manifest_path("v1");
    let answer = super::ask_until(&mirror, &path, "the new manifest", |answer| {
        answer.header("warning").is_none()
    });
    assert_eq!(answer.body, changed.manifest);
}

#[test]
fn the_headroom_that_upstream_tells_is_a_metric() {
    let (upstream, mirror) = start();
    upstream.add_image(APP, "v1", &[]);
    upstream.script(
        anything(),
        then()
            .header("ratelimit-limit", "100;w=21600")
            .header("ratelimit-remaining", "20;w=21600"),
    );
    mirror.ask(&manifest_path("v1")).send();
    assert_eq!(mirror.metric("wharf_upstream_rate_limit", "docker.io"), 100.0);
    assert_eq!(mirror.metric("wharf_upstream_rate_remaining", "docker.io"), 20.0);
}
