//! What upstream does not have: 404 with the specification's code, asked for once in a while.

use crate::support::gate::Gate;
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::sha256;
use crate::support::upstream::{Upstream, anything, bytes, then};

use super::{APP, SOON, assert_error, blob_path, end_all, manifest_path, settle, start};

/// Paths of what upstream does not have, and the codes for it.
fn table() -> [(String, &'static str); 3] {
    let absent = sha256(b"what nobody has");
    [
        (manifest_path("absent"), "MANIFEST_UNKNOWN"),
        (manifest_path(&absent), "MANIFEST_UNKNOWN"),
        (blob_path(&absent), "BLOB_UNKNOWN"),
    ]
}

#[test]
fn what_does_not_exist_is_404_and_upstream_is_asked_once() {
    for (path, code) in table() {
        let (upstream, mirror) = start();
        upstream.add_image(APP, "v1", &[]);
        let gate = Gate::new();
        upstream.script(anything().of(APP), then().hold(&gate));
        let clients = (0..8).map(|_| mirror.ask(&path).start()).collect();
        gate.wait_for(1);
        settle(&mirror);
        gate.open();
        for answer in end_all(clients) {
            assert_error(&answer, 404, code);
        }
        assert_eq!(mirror.ask(&path).method("HEAD").send().status, 404);
        assert_error(&mirror.ask(&path).send(), 404, code);
        assert_eq!(upstream.asked_for(&anything().of(APP)).len(), 1, "{path}");
    }
}

#[test]
fn a_repository_that_does_not_exist_is_404() {
    let (_upstream, mirror) = start();
    let answer = mirror.ask("/v2/library/none/manifests/v1").send();
    assert_eq!(answer.status, 404);
    assert!(
        ["NAME_UNKNOWN", "MANIFEST_UNKNOWN"].contains(&answer.error_code().as_str()),
        "{answer:?}"
    );
    assert_error(
        &mirror.ask("/v2/library/none/tags/list").send(),
        404,
        "NAME_UNKNOWN",
    );
}

#[test]
fn what_appears_upstream_is_served_once_negative_ttl_is_over() {
    let upstream = Upstream::start();
    let options = Options::new(upstream.address()).keys("negative_ttl = \"300ms\"");
    let mirror = Mirror::start(&options);
    let (layer, layer_bytes) = (sha256(&bytes(1000, 1)), bytes(1000, 1));
    for path in [manifest_path("v1"), blob_path(&layer)] {
        assert_eq!(mirror.ask(&path).send().status, 404, "{path}");
    }
    upstream.add_image(APP, "v1", &[layer_bytes]);
    for path in [manifest_path("v1"), blob_path(&layer)] {
        wait_until("negative_ttl to end", SOON, || {
            (mirror.ask(&path).send().status == 200).then_some(())
        });
    }
}

#[test]
fn an_upstream_that_refuses_wharf_looks_as_if_it_had_nothing() {
    for status in [401, 403] {
        let (upstream, mirror) = start();
        let image = upstream.add_image(APP, "v1", &[bytes(1000, 1)]);
        upstream.script(anything(), then().status(status));
        for path in [
            manifest_path("v1"),
            manifest_path(&image.digest),
            blob_path(&image.layers[0]),
        ] {
            let answer = mirror.ask(&path).send();
            // A client that got 401 would start to ask for a token.
            assert_eq!(answer.status, 404, "{path} for upstream's {status}");
            assert_eq!(answer.header("www-authenticate"), None);
        }
    }
}

#[test]
fn an_answer_is_remembered_though_its_asker_has_left() {
    for (path, code) in table() {
        for method in ["GET", "HEAD"] {
            let (upstream, mirror) = start();
            upstream.add_image(APP, "v1", &[]);
            let gate = Gate::new();
            upstream.script(anything().of(APP), then().hold(&gate));
            let asker = mirror.ask(&path).method(method).start();
            gate.wait_for(1);
            drop(asker);
            settle(&mirror);
            gate.open();
            wait_until("upstream to have answered", SOON, || {
                (upstream.asked_for(&anything().of(APP))[0].status == 404).then_some(())
            });
            settle(&mirror);
            assert_error(&mirror.ask(&path).send(), 404, code);
            assert_eq!(upstream.count(&anything().of(APP)), 1, "{method} {path}");
        }
    }
}
