//! The manifest of an image is held until its layers are published, for clients that read them from the store.
//!
//! Extracting needs root; the upstream is the scripted one.

use std::time::Duration;

use crate::support::client::{Request, Response};
use crate::support::gate::Gate;
use crate::support::layers::{Layered, add, record, tar_of};
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::upstream::{Upstream, blob, bytes, then};

const APP: &str = "library/app";
const SOON: Duration = Duration::from_secs(20);
const DOCKER: (&str, &str) = ("User-Agent", "docker/28.5.2 go/go1.24 storage-driver/wharf");

/// An upstream whose image's second layer waits at a gate, and a mirror of it.
struct Waiting {
    upstream: Upstream,
    mirror: Mirror,
    image: Layered,
    gate: Gate,
}

fn start(keys: &str) -> Waiting {
    let upstream = Upstream::start();
    let mirror = Mirror::start(&Options::new(upstream.address()).keys(keys));
    let layer = |seed| tar_of(&[("file", &bytes(50_000, seed))]);
    let image = add(&upstream, APP, "v1", &[layer(1), layer(2)]);
    let gate = Gate::new();
    upstream.script(blob(&image.layers[1]), then().hold(&gate));
    Waiting {
        upstream,
        mirror,
        image,
        gate,
    }
}

impl Waiting {
    fn manifest(&self) -> Request {
        self.mirror.ask(&format!("/v2/{APP}/manifests/v1"))
    }

    fn docker(&self) -> Request {
        self.manifest().header(DOCKER.0, DOCKER.1)
    }

    fn are_published(&self) -> bool {
        let chain_ids = self.image.chain_ids.iter();
        chain_ids
            .into_iter()
            .all(|chain_id| record(self.mirror.store(), chain_id).is_some())
    }

    fn held(&self, outcome: &str) -> f64 {
        self.mirror
            .metric("wharf_manifests_held_total", &format!("outcome=\"{outcome}\""))
    }

    /// Asserts that an answer whose head is there ends with the whole manifest.
    fn ends(&self, response: Response) {
        let answer = response.end().unwrap_or_else(|cut| panic!("{cut:?}"));
        assert_eq!(crate::support::sha256(&answer.body), self.image.digest);
    }
}

#[test]
fn the_headers_come_at_once_and_the_body_when_every_layer_is_published() {
    let waiting = start("");
    let held = waiting.docker().open();
    assert_eq!(held.status, 200);
    assert_eq!(
        held.header("docker-content-digest"),
        Some(waiting.image.digest.as_str())
    );
    assert!(held.header("content-length").is_some());
    waiting.gate.wait_for(1);
    assert!(!waiting.are_published());
    let by_header = waiting.manifest().header("Wharf-Reads-Store", "true").open();
    // Whoever does not read from the store, or has nothing to wait with, waits for nothing.
    assert_eq!(waiting.manifest().send().status, 200);
    assert_eq!(waiting.docker().method("HEAD").send().status, 200);
    let known = format!("\"{}\"", waiting.image.digest);
    assert_eq!(
        waiting.docker().header("If-None-Match", &known).send().status,
        304
    );
    assert!(!waiting.are_published());
    waiting.gate.open();
    waiting.ends(held);
    assert!(waiting.are_published());
    waiting.ends(by_header);
    assert_eq!(waiting.held("published"), 2.0);
    // What is published is not held.
    waiting.ends(waiting.docker().open());
    assert_eq!(waiting.held("published"), 2.0);
}

#[test]
fn a_layer_that_cannot_be_extracted_releases_the_manifest() {
    let waiting = start("");
    waiting.upstream.clear_script();
    let gate = Gate::new();
    waiting
        .upstream
        .script(blob(&waiting.image.layers[0]), then().hold(&gate));
    waiting
        .upstream
        .script(blob(&waiting.image.layers[1]), then().status(404));
    waiting.ends(waiting.docker().open());
    assert_eq!(waiting.held("failed"), 1.0);
    gate.open();
}

#[test]
fn an_image_that_is_not_extracted_is_not_held_until_its_blobs_are_there() {
    let waiting = start("extract = false");
    waiting.ends(waiting.docker().open());
    waiting.gate.open();
}

#[test]
fn a_manifest_is_held_no_longer_than_is_configured() {
    let waiting = start("hold_timeout = \"300ms\"");
    waiting.ends(waiting.docker().open());
    assert_eq!(waiting.held("timeout"), 1.0);
    assert!(!waiting.are_published());
    waiting.gate.open();
}

#[test]
fn a_mirror_that_ends_releases_what_it_holds() {
    let mut waiting = start("drain_timeout = \"20s\"");
    let held = waiting.docker().open();
    waiting.gate.wait_for(1);
    waiting.mirror.terminate();
    waiting.ends(held);
    waiting.gate.open();
    waiting.mirror.wait(SOON);
}

#[test]
fn a_client_that_leaves_ends_nothing() {
    let waiting = start("");
    drop(waiting.docker().open());
    waiting.gate.wait_for(1);
    waiting.gate.open();
    wait_until("the layers", SOON, || waiting.are_published().then_some(()));
}

#[test]
fn who_was_held_and_fetches_the_layers_all_the_same_is_not_held_again() {
    let waiting = start("");
    let held = waiting.docker().open();
    waiting.gate.wait_for(1);
    waiting.gate.open();
    waiting.ends(held);
    let blob_of = |digest: &str| waiting.mirror.ask(&format!("/v2/{APP}/blobs/{digest}"));
    // A config is what everybody fetches.
    let config = blob_of(&waiting.image.config).header(DOCKER.0, DOCKER.1);
    assert_eq!(config.send().status, 200);
    let gate = Gate::new();
    let hold = |seed, tag, user_agent: &str| {
        let image = add(
            &waiting.upstream,
            APP,
            tag,
            &[tar_of(&[("other", &bytes(1000, seed))])],
        );
        waiting
            .upstream
            .script(blob(&image.layers[0]), then().hold(&gate));
        waiting
            .mirror
            .ask(&format!("/v2/{APP}/manifests/{tag}"))
            .header("User-Agent", user_agent)
    };
    let still_held = hold(3, "v3", DOCKER.1).open();
    let layer = blob_of(&waiting.image.layers[0]).header(DOCKER.0, DOCKER.1);
    assert_eq!(layer.send().status, 200);
    // At once: the gate is shut.
    assert_eq!(hold(4, "v4", DOCKER.1).send().status, 200);
    let other = hold(5, "v5", "docker/26.1 storage-driver/wharf").open();
    gate.open();
    still_held.end().expect("a manifest");
    other.end().expect("a manifest");
    assert_eq!(waiting.held("published"), 3.0);
}
