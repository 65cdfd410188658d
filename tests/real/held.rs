//! The manifest of an image is held until its layers are published, for clients that read them from the store.
//!
//! Extracting needs root; the upstream is the scripted one.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::json;

use crate::support::client::{Request, Response};
use crate::support::gate::Gate;
use crate::support::layers::{Layered, add, record, tar_of};
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::sha256;
use crate::support::upstream::{Then, Upstream, blob, bytes, then};

const APP: &str = "library/app";
const SOON: Duration = Duration::from_secs(20);
const DOCKER: (&str, &str) = ("User-Agent", "docker/28.5.2 go/go1.24 storage-driver/wharf");

const PODMAN: (&str, &str) = ("User-Agent", "libpod/5.8.6");

/// As much of a blob as is held at most.
const END: usize = 256;

/// An upstream one of whose image's two layers waits at a gate, and a mirror of it.
struct Waiting {
    upstream: Upstream,
    mirror: Mirror,
    image: Layered,
    gate: Gate,
}

/// Has the upper layer wait.
fn start(keys: &str) -> Waiting {
    start_without(1, keys, then())
}

/// Has one of the layers wait, and then be answered so.
fn start_without(held: usize, keys: &str, answer: Then) -> Waiting {
    let upstream = Upstream::start();
    let mirror = Mirror::start(&Options::new(upstream.address()).keys(keys));
    let layer = |seed| tar_of(&[("file", &bytes(50_000, seed))]);
    let image = add(&upstream, APP, "v1", &[layer(1), layer(2)]);
    let gate = Gate::new();
    upstream.script(blob(&image.layers[held]), answer.hold(&gate));
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

    /// Asks for the upper layer, whose bytes are there.
    fn upper_layer(&self) -> Request {
        self.mirror
            .ask(&format!("/v2/{APP}/blobs/{}", self.image.layers[1]))
    }

    /// Tells whether a layer has a directory and is in layers.json.
    fn is_listed(&self, index: usize) -> bool {
        let layers = self.mirror.store().join("layers");
        let id = &self.image.layer_ids()[index];
        let list = fs::read_to_string(layers.join("overlay-layers/layers.json")).unwrap_or_default();
        list.contains(id) && layers.join("overlay").join(id).join("diff").is_dir()
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
        assert_eq!(sha256(&answer.body), self.image.digest);
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

#[test]
fn the_end_of_a_blob_waits_until_its_layer_is_listed_if_podman_asks() {
    let waiting = start_without(0, "", then());
    assert_eq!(waiting.manifest().send().status, 200);
    waiting.gate.wait_for(1);
    // Others wait for nothing, and who waits has all but the end.
    let whole = waiting.upper_layer().send().body;
    let docker = waiting.upper_layer().header(DOCKER.0, DOCKER.1).send();
    assert!(docker.body == whole);
    let podman = || waiting.upper_layer().header(PODMAN.0, PODMAN.1);
    let (mut held, mut part) = (podman().open(), podman().range("1000-").open());
    let mut seen = held.read(whole.len() - END);
    let mut seen_of_part = part.read(whole.len() - 1000 - END);
    assert!(!waiting.is_listed(1));
    waiting.gate.open();
    seen.extend(held.end().expect("the whole blob").body);
    assert!(waiting.is_listed(1));
    assert_eq!(sha256(&seen), waiting.image.layers[1]);
    seen_of_part.extend(part.end().expect("the rest of the blob").body);
    assert!(seen_of_part == whole[1000..]);
}

#[test]
fn a_layer_whose_directory_is_there_is_listed_before_its_blob_ends_also_if_its_record_is_not() {
    let waiting = start_without(0, "", then());
    // A record cannot be written there, and none is found; so nothing is published on this layer.
    let hex = waiting.image.chain_ids[0].trim_start_matches("sha256:");
    let chains = waiting.mirror.store().join("chains/sha256");
    fs::create_dir_all(&chains).expect("a directory");
    symlink("nowhere", chains.join(hex)).expect("a link");
    assert_eq!(waiting.manifest().send().status, 200);
    waiting.gate.wait_for(1);
    waiting.gate.open();
    let lower_layer = format!("/v2/{APP}/blobs/{}", waiting.image.layers[0]);
    let podman = waiting.mirror.ask(&lower_layer).header(PODMAN.0, PODMAN.1);
    assert_eq!(podman.send().status, 200);
    assert!(waiting.is_listed(0));
    assert!(record(waiting.mirror.store(), &waiting.image.chain_ids[0]).is_none());
}

#[test]
fn a_layer_is_found_by_its_blob_also_if_a_mirror_that_died_had_another_of_it() {
    let waiting = start_without(0, "", then());
    let entries = waiting.mirror.store().join("layers/entries");
    fs::create_dir_all(&entries).expect("a directory");
    let id = &waiting.image.layer_ids()[0];
    let entry = json!({
        "id": id, "created": "2026-11-24T00:00:00Z",
        "diff-digest": waiting.image.diff_ids[0], "diff-size": 51_200,
        "compressed-diff-digest": sha256(b"another compression"), "compressed-size": 512, "compression": 4,
    });
    fs::write(entries.join(id), entry.to_string()).expect("an entry");
    let pull = waiting.manifest().header(PODMAN.0, PODMAN.1).open();
    waiting.gate.open();
    waiting.ends(pull);
    assert_eq!(waiting.held("published"), 1.0);
    let list = waiting.mirror.store().join("layers/overlay-layers/layers.json");
    let list = fs::read_to_string(list).expect("a list");
    for layer in &waiting.image.layers {
        assert!(list.contains(layer.as_str()), "{layer}: {list}");
    }
    assert_eq!(waiting.upstream.blob_gets(&waiting.image.layers[0]), 1);
}

#[test]
fn a_layer_that_will_not_come_releases_its_blob() {
    let waiting = start_without(0, "", then().status(404));
    assert_eq!(waiting.manifest().send().status, 200);
    waiting.gate.wait_for(1);
    let mut held = waiting.upper_layer().header(PODMAN.0, PODMAN.1).open();
    assert_eq!(held.status, 200);
    held.read(1000);
    // The lower layer does not come from upstream.
    waiting.gate.open();
    held.end().expect("the whole blob");
    assert!(!waiting.is_listed(1));
}

#[test]
fn a_mirror_that_ends_releases_the_ends_of_blobs() {
    let mut waiting = start_without(0, "drain_timeout = \"20s\"", then());
    assert_eq!(waiting.manifest().send().status, 200);
    waiting.gate.wait_for(1);
    let mut held = waiting.upper_layer().header(PODMAN.0, PODMAN.1).open();
    held.read(1000);
    waiting.mirror.terminate();
    held.end().expect("the whole blob");
    waiting.gate.open();
    waiting.mirror.wait(SOON);
}
