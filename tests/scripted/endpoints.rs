//! Several endpoints of an upstream, dead ones among them, and bounds on what they are asked.

use std::time::{Duration, Instant};

use crate::support::gate::Gate;
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::tls::Authority;
use crate::support::upstream::{Dead, Upstream, anything, blobs, bytes, refusing_address, then};

use super::{APP, SOON, assert_unavailable, blob_path, end_all, manifest_path, settle};

fn mirror_of(endpoints: &[&str], keys: &str) -> Mirror {
    let options = Options::new(refusing_address());
    Mirror::start(&options.upstream("docker.io", endpoints).upstream_keys(keys))
}

/// Endpoints that do not work, each in its way, with what keeps them up.
fn dead_endpoints() -> Vec<(&'static str, String, Option<Dead>)> {
    let (unreachable, silent) = (Dead::unreachable(), Dead::silent());
    vec![
        ("refuses", format!("http://{}", refusing_address()), None),
        ("is unreachable", unreachable.url(), Some(unreachable)),
        ("is silent", silent.url(), Some(silent)),
    ]
}

const SHORT_TIMEOUTS: &str = "connect_timeout = \"300ms\"\nanswer_timeout = \"300ms\"";
/// Longer than any client should wait for a dead host that is known to be dead.
const LONG_TIMEOUTS: &str = "connect_timeout = \"1100ms\"\nanswer_timeout = \"1100ms\"";

#[test]
fn a_dead_endpoint_is_passed_over() {
    for (what, dead, _kept) in dead_endpoints() {
        let upstream = Upstream::start();
        let image = upstream.add_image(APP, "v1", &[bytes(1000, 1)]);
        let mirror = mirror_of(&[&dead, &upstream.url()], SHORT_TIMEOUTS);
        let answer = mirror.ask(&manifest_path("v1")).send();
        assert_eq!((answer.status, answer.body), (200, image.manifest), "{what}");
        assert_eq!(
            mirror.ask(&blob_path(&image.layers[0])).send().body,
            bytes(1000, 1),
            "{what}"
        );
    }
}

#[test]
fn a_dead_endpoint_costs_the_second_request_less_than_a_second() {
    for (what, dead, _kept) in dead_endpoints() {
        let upstream = Upstream::start();
        upstream.add_image(APP, "v1", &[]);
        upstream.add_image(APP, "v2", &[]);
        for (endpoints, expected) in [(vec![&*dead, &*upstream.url()], 200), (vec![&*dead], 503)] {
            let mirror = mirror_of(&endpoints, LONG_TIMEOUTS);
            assert_eq!(mirror.ask(&manifest_path("v1")).send().status, expected, "{what}");
            let start = Instant::now();
            assert_eq!(mirror.ask(&manifest_path("v2")).send().status, expected, "{what}");
            assert!(
                start.elapsed() < Duration::from_secs(1),
                "{what}: {:?}",
                start.elapsed()
            );
        }
    }
}

#[test]
fn endpoints_are_asked_in_order_and_the_next_one_only_when_one_fails() {
    let (first, second) = (Upstream::start(), Upstream::start());
    for upstream in [&first, &second] {
        for tag in ["v1", "v2", "v3"] {
            upstream.add_image(APP, tag, &[]);
        }
    }
    let mirror = mirror_of(&[&first.url(), &second.url()], "");
    assert_eq!(mirror.ask(&manifest_path("v1")).send().status, 200);
    assert_eq!(second.asked().len(), 0);
    first.script(anything(), then().status(500));
    assert_eq!(mirror.ask(&manifest_path("v2")).send().status, 200);
    assert!(!second.asked().is_empty());
    second.go_down();
    first.clear_script();
    wait_until("the first endpoint to be tried again", SOON, || {
        (mirror.ask(&manifest_path("v3")).send().status == 200).then_some(())
    });
}

#[test]
fn an_upstream_that_is_back_is_asked_again() {
    let upstream = Upstream::start();
    upstream.add_image(APP, "v1", &[]);
    let mirror = mirror_of(&[&upstream.url()], "");
    upstream.go_down();
    assert_unavailable(&mirror.ask(&manifest_path("v1")).send());
    upstream.come_back();
    wait_until("the pause to end", SOON, || {
        (mirror.ask(&manifest_path("v1")).send().status == 200).then_some(())
    });
}

#[test]
fn connections_are_bounded_and_blobs_leave_one_for_manifests() {
    let upstream = Upstream::start();
    let digests: Vec<String> = (0..12)
        .map(|seed| upstream.add_blob(APP, bytes(50_000, seed)))
        .collect();
    upstream.add_image(APP, "v1", &[]);
    let gate = Gate::new();
    upstream.script(blobs().get(), then().hold(&gate));
    let mirror = mirror_of(&[&upstream.url()], "max_connections = 4");
    let clients: Vec<_> = digests
        .iter()
        .map(|digest| mirror.ask(&blob_path(digest)).start())
        .collect();
    gate.wait_for(3);
    settle(&mirror);
    assert_eq!(mirror.ask(&manifest_path("v1")).send().status, 200);
    assert_eq!(gate.arrived(), 3);
    gate.open();
    for (answer, seed) in end_all(clients).iter().zip(0..) {
        assert!(answer.body == bytes(50_000, seed), "other bytes for {seed}");
    }
    assert_eq!(upstream.most_requests_at_once(), 4);
}

#[test]
fn an_upstream_with_an_authority_of_its_own_is_reached_with_a_client_certificate() {
    let authority = Authority::new();
    let upstream = Upstream::start_tls(authority.server_for_certified_clients());
    upstream.add_image(APP, "v1", &[]);
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    authority.write(&path("ca.pem"));
    authority
        .identity()
        .write(&path("client.pem"), &path("client.key"));
    let trust = format!("ca = {:?}\n", path("ca.pem"));
    let identity = format!(
        "client_certificate = {:?}\nclient_key = {:?}",
        path("client.pem"),
        path("client.key")
    );
    let url = upstream.url();
    for (keys, expected) in [
        (String::new(), 503),
        (trust.clone(), 503),
        (trust + &identity, 200),
    ] {
        let mirror = mirror_of(&[&url], &keys);
        assert_eq!(mirror.ask(&manifest_path("v1")).send().status, expected, "{keys}");
    }
}
