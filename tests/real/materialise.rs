//! `POST /wharf/v1/layers`: what a node asks that misses a layer.
//!
//! Extracting needs root; the upstream is the scripted one.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::gate::Gate;
use crate::support::layers::{Layered, add, add_as, config_of, directory, record, tar_of};
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::sha256;
use crate::support::store::{blob_path, has_blob};
use crate::support::upstream::{Upstream, blob, bytes, then};

const APP: &str = "library/app";
const SOON: Duration = Duration::from_secs(20);

fn start() -> (Upstream, Mirror) {
    let upstream = Upstream::start();
    let mirror = Mirror::start(&Options::new(upstream.address()));
    (upstream, mirror)
}

fn layer(seed: u64) -> Vec<u8> {
    tar_of(&[("file", &bytes(50_000, seed))])
}

fn post(mirror: &Mirror, wish: &Value) -> (u16, Value) {
    let body = wish.to_string().into_bytes();
    let answer = mirror.ask("/wharf/v1/layers").method("POST").body(&body).send();
    let text = String::from_utf8(answer.body).expect("text");
    let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    (answer.status, value)
}

fn wish(mirror: &Mirror, wish: &Value) -> Value {
    let (status, answer) = post(mirror, wish);
    assert_eq!(status, 200, "{answer}");
    answer
}

fn is_state(answer: &Value, state: &str) {
    assert_eq!(answer["state"], state, "{answer}");
}

fn pull(mirror: &Mirror, image: &Layered) {
    let path = format!("/v2/{APP}/manifests/{}", image.digest);
    assert_eq!(mirror.ask(&path).send().status, 200);
    for chain_id in &image.chain_ids {
        wait_until("the layers", SOON, || record(mirror.store(), chain_id));
    }
}

#[test]
fn a_layer_of_a_named_image_is_brought_with_those_below_it() {
    let (upstream, mirror) = start();
    let image = add(&upstream, APP, "v1", &[layer(1), layer(2), layer(3)]);
    let name = format!("docker.io/{APP}@{}", image.digest);
    let asked = json!({"chain_id": image.chain_ids[1], "image": name, "wait_ms": 20_000});
    is_state(&wish(&mirror, &asked), "ready");
    directory(mirror.store(), &image.chain_ids[0]);
    directory(mirror.store(), &image.chain_ids[1]);
    is_state(&wish(&mirror, &asked), "ready");
    assert_eq!(upstream.blob_gets(&image.layers[1]), 1);
}

#[test]
fn a_layer_that_nobody_pulled_is_unknown_and_one_of_another_image_fails() {
    let (upstream, mirror) = start();
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    let unknown = sha256(b"unknown");
    let answer = wish(&mirror, &json!({"chain_id": unknown, "wait_ms": 20_000}));
    is_state(&answer, "unknown");
    assert!(
        answer["message"]
            .as_str()
            .is_some_and(|text| text.contains("no image")),
        "{answer}"
    );
    let name = format!("docker.io/{APP}@{}", image.digest);
    let answer = wish(
        &mirror,
        &json!({"chain_id": unknown, "image": name, "wait_ms": 20_000}),
    );
    is_state(&answer, "failed");
    let name = format!("docker.io/{APP}:absent");
    let answer = wish(
        &mirror,
        &json!({"chain_id": unknown, "image": name, "wait_ms": 20_000}),
    );
    is_state(&answer, "failed");
}

#[test]
fn the_wait_ends_in_time_and_tells_how_far_the_layer_is() {
    let (upstream, mirror) = start();
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    let gate = Gate::new();
    upstream.script(blob(&image.layers[0]), then().pause(20_000, &gate));
    let name = format!("docker.io/{APP}@{}", image.digest);
    let asked = |wait_ms: u64| json!({"chain_id": image.chain_ids[0], "image": name, "wait_ms": wait_ms});
    is_state(&wish(&mirror, &asked(0)), "running");
    gate.wait_for(1);
    let arrived = wait_until("progress", SOON, || {
        let answer = wish(&mirror, &asked(50));
        is_state(&answer, "running");
        answer["bytes"]
            .as_u64()
            .filter(|bytes| *bytes > 0)
            .map(|bytes| (bytes, answer))
    });
    assert!(
        arrived.1["size_bytes"]
            .as_u64()
            .is_some_and(|size| size > arrived.0),
        "{arrived:?}"
    );
    gate.open();
    is_state(&wish(&mirror, &asked(20_000)), "ready");
}

#[test]
fn why_a_layer_does_not_come_is_told() {
    let (upstream, mirror) = start();
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    upstream.script(blob(&image.layers[0]), then().status(404));
    let name = format!("docker.io/{APP}@{}", image.digest);
    let answer = wish(
        &mirror,
        &json!({"chain_id": image.chain_ids[0], "image": name, "wait_ms": 20_000}),
    );
    is_state(&answer, "failed");
    assert!(answer["message"].is_string(), "{answer}");
}

#[test]
fn a_layer_whose_directory_was_removed_comes_back() {
    let (upstream, mut mirror) = start();
    let image = add(&upstream, APP, "v1", &[layer(1), layer(2)]);
    pull(&mirror, &image);
    let asked = json!({"chain_id": image.chain_ids[1], "wait_ms": 20_000});
    for is_new_process in [false, true] {
        if is_new_process {
            // What images a layer has is known from the store alone.
            mirror.stop();
            std::fs::remove_dir_all(mirror.index()).expect("lose the index");
            mirror.start_again();
        }
        let directory_of_it = directory(mirror.store(), &image.chain_ids[1]);
        std::fs::remove_dir_all(directory_of_it.parent().expect("a layer")).expect("remove a layer");
        is_state(&wish(&mirror, &asked), "ready");
        let file = directory(mirror.store(), &image.chain_ids[1]).join("file");
        assert!(
            std::fs::read(file).expect("read") == bytes(50_000, 2),
            "other bytes"
        );
    }
    assert_eq!(
        upstream.blob_gets(&image.layers[1]),
        1,
        "the blob was on the store"
    );
}

#[test]
fn a_blob_that_was_not_fetched_because_its_layer_was_there_is_fetched() {
    let (upstream, mirror) = start();
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    pull(&mirror, &image);
    // The same layer in another compression.
    let stored = zstd::encode_all(&layer(1)[..], 1).expect("compress");
    let config = config_of(&image.diff_ids, "other");
    let other = add_as(&upstream, APP, "v2", &config, &[stored], image.diff_ids.clone());
    assert_eq!(image.chain_ids, other.chain_ids);
    let name = format!("docker.io/{APP}@{}", other.digest);
    let mut asked = json!({"chain_id": image.chain_ids[0], "image": name, "wait_ms": 20_000});
    is_state(&wish(&mirror, &asked), "ready");
    assert!(
        !has_blob(mirror.store(), &other.layers[0]),
        "it was not asked for"
    );
    asked["blob"] = json!(other.layers[0]);
    is_state(&wish(&mirror, &asked), "ready");
    assert!(has_blob(mirror.store(), &other.layers[0]));
    // And one that somebody has removed.
    std::fs::remove_file(blob_path(mirror.store(), &image.layers[0])).expect("remove a blob");
    asked["blob"] = json!(image.layers[0]);
    asked["image"] = json!(format!("docker.io/{APP}@{}", image.digest));
    is_state(&wish(&mirror, &asked), "ready");
    assert!(has_blob(mirror.store(), &image.layers[0]));
}

#[test]
fn an_image_that_the_asker_may_not_read_is_not_brought() {
    let upstream = Upstream::start();
    let rule = "[[access]]\nrepositories = [\"docker.io/library/app\"]\nclients = [\"10.9.9.9\"]";
    let mirror = Mirror::start(&Options::new(upstream.address()).table(rule));
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    let name = format!("docker.io/{APP}@{}", image.digest);
    let answer = wish(
        &mirror,
        &json!({"chain_id": image.chain_ids[0], "image": name, "wait_ms": 1000}),
    );
    is_state(&answer, "unknown");
    assert_eq!(upstream.asked().len(), 0);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (_upstream, mirror) = start();
    for wish in [json!({}), json!({"chain_id": "../x", "wait_ms": 1}), json!([1])] {
        let (status, answer) = post(&mirror, &wish);
        assert_eq!(status, 400, "{answer}");
        assert!(answer["errors"][0]["message"].is_string(), "{answer}");
    }
    let large = vec![b' '; 100_000];
    let large = mirror.ask("/wharf/v1/layers").method("POST").body(&large).send();
    assert_eq!(large.status, 413);
    assert_eq!(mirror.ask("/wharf/v1/layers").send().status, 405);
    assert_eq!(mirror.ask("/wharf/v1/other").send().status, 404);
    assert_eq!(mirror.ask("/v2/").method("POST").body(b"{}").send().status, 405);
}
