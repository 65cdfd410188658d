//! Many clients on a blob that is not there yet: one fill, whoever asks, leaves or is slow.

use crate::support::client::Response;
use crate::support::gate::Gate;
use crate::support::process::wait_until;
use crate::support::store::{assert_blobs_are_whole, has_blob, wait_until_nothing_is_staged};
use crate::support::upstream::{Upstream, blob, blobs, bytes, then};

use super::{
    APP, MIB, SOON, ask_until, assert_unavailable, at_once, blob_path, end_all, manifest_path, settle, start,
    wait_for_metric,
};

/// What upstream sends before it stalls.
const FIRST: usize = 100_000;

/// Adds a blob that upstream stalls in.
fn add_stalling(upstream: &Upstream, length: usize) -> (String, Vec<u8>, Gate) {
    let whole = bytes(length, 1);
    let digest = upstream.add_blob(APP, whole.clone());
    let gate = Gate::new();
    upstream.script(blob(&digest).get(), then().pause(FIRST, &gate));
    (digest, whole, gate)
}

#[test]
fn sixteen_clients_cause_one_get_though_half_leave_midway_and_one_reads_byte_by_byte() {
    let (upstream, mirror) = start();
    let (digest, whole, gate) = add_stalling(&upstream, 8 * MIB);
    let mut clients = at_once(16, |_| {
        let mut response = mirror.ask(&blob_path(&digest)).open();
        assert_eq!(response.status, 200);
        assert_eq!(
            response.read(FIRST),
            whole[..FIRST],
            "what arrived is served during a stall"
        );
        response
    });
    // The leader is among them or not: it must make no difference.
    clients.drain(..8);
    let mut slow = clients.pop().expect("a client");
    gate.open();
    let read_all = |response: Response| response.end().expect("a whole body").body;
    for client in clients {
        assert!(read_all(client) == whole[FIRST..], "other bytes");
    }
    for byte in &whole[FIRST..FIRST + 100] {
        assert_eq!(slow.read(1), [*byte]);
    }
    assert!(
        read_all(slow) == whole[FIRST + 100..],
        "other bytes for the slow client"
    );
    assert_eq!(upstream.blob_gets(&digest), 1);
    assert_eq!(upstream.bytes_sent(&digest), whole.len());
}

#[test]
fn a_fill_goes_on_when_every_client_has_left() {
    let (upstream, mirror) = start();
    let (digest, whole, gate) = add_stalling(&upstream, MIB);
    for client in at_once(4, |_| mirror.ask(&blob_path(&digest)).open()) {
        drop(client);
    }
    gate.open();
    wait_until("the blob to be published", SOON, || {
        has_blob(mirror.store(), &digest).then_some(())
    });
    assert!(
        mirror.ask(&blob_path(&digest)).send().body == whole,
        "other bytes"
    );
    assert_eq!(
        (upstream.blob_gets(&digest), upstream.bytes_sent(&digest)),
        (1, whole.len())
    );
    wait_for_metric(&mirror, "wharf_fills_total", "published", |count| count == 1.0);
}

#[test]
fn a_cached_blob_is_served_without_a_question() {
    let (upstream, mirror) = start();
    let whole = bytes(MIB, 2);
    let digest = upstream.add_blob(APP, whole.clone());
    let first = mirror.ask(&blob_path(&digest)).send();
    wait_until("the blob to be published", SOON, || {
        has_blob(mirror.store(), &digest).then_some(())
    });
    let asked = upstream.asked().len();
    for answer in [first, mirror.ask(&blob_path(&digest)).send()] {
        assert_eq!((answer.status, answer.body == whole), (200, true));
        let headers = [
            "content-length",
            "docker-content-digest",
            "content-encoding",
            "accept-ranges",
        ];
        let told = headers.map(|name| answer.header(name));
        let length = whole.len().to_string();
        assert_eq!(told, [Some(&*length), Some(&*digest), None, Some("bytes")]);
    }
    let head = mirror.ask(&blob_path(&digest)).method("HEAD").send();
    assert_eq!(
        (head.status, head.header("docker-content-digest")),
        (200, Some(&*digest))
    );
    assert_eq!(upstream.asked().len(), asked);
    assert_eq!(mirror.metric("wharf_blob_requests_total", "fill"), 1.0);
    assert_eq!(
        mirror.metric("wharf_upstream_bytes_total", "docker.io"),
        whole.len() as f64
    );
    assert_eq!(assert_blobs_are_whole(mirror.store()), 1);
    wait_until_nothing_is_staged(mirror.store());
}

#[test]
fn a_head_asks_upstream_once_for_all_askers_and_starts_no_fill() {
    let (upstream, mirror) = start();
    let digest = upstream.add_blob(APP, bytes(5000, 3));
    let gate = Gate::new();
    upstream.script(blob(&digest).head(), then().hold(&gate));
    let clients: Vec<_> = (0..8)
        .map(|_| mirror.ask(&blob_path(&digest)).method("HEAD").start())
        .collect();
    gate.wait_for(1);
    settle(&mirror);
    gate.open();
    for answer in end_all(clients) {
        assert_eq!(
            (answer.status, answer.header("content-length")),
            (200, Some("5000"))
        );
        assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
    }
    assert_eq!(upstream.count(&blob(&digest).head()), 1);
    assert_eq!(upstream.blob_gets(&digest), 0);
    assert!(!has_blob(mirror.store(), &digest));
}

#[test]
fn a_head_during_a_fill_needs_no_question() {
    let (upstream, mirror) = start();
    let whole = bytes(MIB, 3);
    let layer = upstream
        .add_image(APP, "v1", std::slice::from_ref(&whole))
        .layers
        .remove(0);
    let gate = Gate::new();
    upstream.script(blob(&layer).get(), then().pause(FIRST, &gate));
    mirror.ask(&manifest_path("v1")).send();
    let reader = mirror.ask(&blob_path(&layer)).open();
    let head = mirror.ask(&blob_path(&layer)).method("HEAD").send();
    assert_eq!(head.header("content-length"), Some(&*whole.len().to_string()));
    gate.open();
    assert!(reader.end().expect("a whole body").body == whole, "other bytes");
    assert_eq!(
        (upstream.blob_gets(&layer), upstream.count(&blob(&layer))),
        (1, 1)
    );
}

#[test]
fn a_head_of_a_blob_whose_length_nobody_knows_tells_none() {
    let (upstream, mirror) = start();
    let digest = upstream.add_blob(APP, bytes(5000, 6));
    upstream.script(blobs(), then().without_length());
    let answer = mirror.ask(&blob_path(&digest)).method("HEAD").send();
    // A client would take 0 for the blob's length.
    assert_eq!((answer.status, answer.header("content-length")), (200, None));
}

#[test]
fn an_empty_and_a_one_byte_blob_are_blobs() {
    let (upstream, mirror) = start();
    for whole in [Vec::new(), vec![7]] {
        let digest = upstream.add_blob(APP, whole.clone());
        for _ in 0..2 {
            let answer = mirror.ask(&blob_path(&digest)).send();
            assert_eq!((answer.status, answer.body), (200, whole.clone()));
        }
        assert_eq!(upstream.blob_gets(&digest), 1);
    }
}

#[test]
fn a_sha512_blob_is_filled_and_served() {
    let (upstream, mirror) = start();
    let whole = bytes(10_000, 4);
    let hash = <sha2::Sha512 as sha2::Digest>::digest(&whole);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = format!("sha512:{hex}");
    upstream.add_blob_as(APP, &digest, whole.clone());
    for _ in 0..2 {
        assert!(
            mirror.ask(&blob_path(&digest)).send().body == whole,
            "other bytes"
        );
    }
    assert_eq!(upstream.blob_gets(&digest), 1);
}

#[test]
fn a_length_that_upstream_does_not_say_is_no_hindrance() {
    let (upstream, mirror) = start();
    let whole = bytes(300_000, 5);
    let digest = upstream.add_blob(APP, whole.clone());
    upstream.script(blobs(), then().without_length());
    let answers = at_once(4, |_| mirror.ask(&blob_path(&digest)).send());
    for answer in answers {
        assert_eq!((answer.status, answer.body == whole), (200, true));
    }
    let cached = ask_until(&mirror, &blob_path(&digest), "a length", |answer| {
        answer.header("content-length").is_some()
    });
    assert!(cached.body == whole, "other bytes");
    assert_eq!(upstream.blob_gets(&digest), 1);
}

#[test]
fn clients_cannot_start_fills_without_number() {
    let (upstream, mirror) = start();
    let whole = bytes(1000, 1);
    let digest = upstream.add_blob(APP, whole.clone());
    let gate = Gate::new();
    upstream.script(blobs().get(), then().hold(&gate).times(12));
    let path = |number: usize| blob_path(&format!("sha256:{number:064x}"));
    for begun in (0..512).step_by(128) {
        let clients = begun..begun + 128;
        let clients: Vec<_> = clients.map(|number| mirror.ask(&path(number)).start()).collect();
        wait_for_metric(&mirror, "wharf_fills_running", "", |count| {
            count == (begun + clients.len()) as f64
        });
        // They leave; their fills go on.
    }
    assert_unavailable(&mirror.ask(&blob_path(&digest)).send());
    let elsewhere = format!("/v2/example.test/{APP}/blobs/{digest}");
    assert!(mirror.ask(&elsewhere).send().body == whole, "other bytes");
    gate.open();
    let answer = ask_until(&mirror, &blob_path(&digest), "a place", |answer| {
        answer.status == 200
    });
    assert!(answer.body == whole, "other bytes");
}
