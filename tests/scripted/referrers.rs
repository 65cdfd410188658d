//! What refers to a manifest: by upstream's API, or by its fallback tag.

use serde_json::{Value, json};

use crate::support::curl::Answer;
use crate::support::mirror::Mirror;
use crate::support::sha256;
use crate::support::upstream::{
    Image, OCI_INDEX, OCI_MANIFEST, Upstream, anything, bytes, descriptor, index, then,
};

use super::{APP, start};

const SIGNATURE: &str = "application/vnd.example.signature";
const SBOM: &str = "application/vnd.example.sbom+json";

/// Adds what refers to an image; returns its descriptors.
fn add_referrers(upstream: &Upstream, image: &Image) -> Vec<Value> {
    let subject = descriptor(OCI_MANIFEST, &image.manifest);
    let describe = |artifact_type: &str| {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": artifact_type,
            "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"), "layers": [], "subject": subject,
        });
        let manifest = manifest.to_string().into_bytes();
        let mut described = descriptor(OCI_MANIFEST, &manifest);
        described["artifactType"] = json!(artifact_type);
        upstream.add_manifest(APP, OCI_MANIFEST, manifest);
        described
    };
    vec![describe(SIGNATURE), describe(SBOM)]
}

fn ask(mirror: &Mirror, digest: &str, query: &str) -> Answer {
    mirror.ask(&format!("/v2/{APP}/referrers/{digest}{query}")).send()
}

/// The digests in an index of referrers, sorted.
fn digests(answer: &Answer) -> Vec<String> {
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some(OCI_INDEX))
    );
    let index = answer.json();
    assert_eq!(
        (index["schemaVersion"].as_u64(), index["mediaType"].as_str()),
        (Some(2), Some(OCI_INDEX))
    );
    let manifests = index["manifests"].as_array().expect("manifests");
    let mut digests: Vec<_> = manifests
        .iter()
        .map(|m| m["digest"].as_str().expect("a digest").to_owned())
        .collect();
    digests.sort();
    digests
}

fn assert_lists_and_filters(mirror: &Mirror, digest: &str, expected: &[Value]) {
    let digest_of = |described: &Value| described["digest"].as_str().expect("a digest").to_owned();
    let mut all: Vec<String> = expected.iter().map(digest_of).collect();
    all.sort();
    assert_eq!(digests(&ask(mirror, digest, "")), all);
    for described in expected {
        let artifact_type = described["artifactType"]
            .as_str()
            .expect("a type")
            .replace('+', "%2B");
        let answer = ask(mirror, digest, &format!("?artifactType={artifact_type}"));
        assert_eq!(digests(&answer), [digest_of(described)], "{artifact_type}");
        assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    }
    assert_eq!(
        digests(&ask(mirror, digest, "?artifactType=application/none")),
        Vec::<String>::new()
    );
}

#[test]
fn referrers_come_from_upstreams_api_and_are_filtered() {
    let (upstream, mirror) = start();
    let image = upstream.add_image(APP, "v1", &[]);
    let expected = add_referrers(&upstream, &image);
    assert_lists_and_filters(&mirror, &image.digest, &expected);
}

#[test]
fn referrers_come_from_the_fallback_tag_where_there_is_no_api() {
    let (upstream, mirror) = start();
    let image = upstream.add_image(APP, "v1", &[]);
    let expected = add_referrers(&upstream, &image);
    upstream.without_referrers_api();
    let fallback = upstream.add_manifest(APP, OCI_INDEX, index(&expected));
    upstream.tag(APP, &image.digest.replace(':', "-"), &fallback);
    assert_lists_and_filters(&mirror, &image.digest, &expected);
}

#[test]
fn what_nothing_refers_to_has_an_empty_list() {
    for has_api in [true, false] {
        let (upstream, mirror) = start();
        let image = upstream.add_image(APP, "v1", &[bytes(10, 1)]);
        if !has_api {
            upstream.without_referrers_api();
        }
        assert_eq!(
            digests(&ask(&mirror, &image.digest, "")),
            Vec::<String>::new(),
            "API: {has_api}"
        );
    }
}

#[test]
fn what_nothing_refers_to_takes_no_room_in_the_store_and_is_asked_once() {
    let (upstream, mirror) = start();
    upstream.add_image(APP, "v1", &[]);
    let made_up: Vec<String> = (0..3).map(|n| sha256(&[n])).collect();
    for digest in made_up.iter().chain(&made_up) {
        assert_eq!(digests(&ask(&mirror, digest, "")), Vec::<String>::new());
    }
    let questions = upstream.count(&anything().of(APP));
    assert_eq!(questions, made_up.len(), "{:?}", upstream.asked());
    let directories = mirror.store().join("tags/docker.io");
    assert!(!directories.exists(), "{}", directories.display());
}

#[test]
fn known_referrers_outlive_a_failing_upstream() {
    let (upstream, mirror) = start();
    let image = upstream.add_image(APP, "v1", &[]);
    let expected = add_referrers(&upstream, &image);
    let fresh = digests(&ask(&mirror, &image.digest, ""));
    assert_eq!(fresh.len(), expected.len());
    upstream.script(anything(), then().status(500));
    assert_eq!(digests(&ask(&mirror, &image.digest, "")), fresh);
}
