//! Upstream sends other bytes than the digest names: nobody takes them for whole, nothing is stored.

use crate::support::client::Cut;
use crate::support::curl::Answer;
use crate::support::sha256;
use crate::support::store::{files_below, wait_until_nothing_is_staged};
use crate::support::upstream::{OCI_MANIFEST, Then, blob, bytes, image_manifest, manifest, then};

use super::{APP, ask_until, at_once, blob_path, manifest_path, start, wait_for_metric};

const LENGTH: usize = 300_000;

/// Asserts that a client cannot think that it has the whole of something else than `digest` names.
fn assert_not_taken_for_whole(outcome: &Result<Answer, Cut>, digest: &str, what: &str) {
    if let Ok(answer) = outcome {
        let is_right = answer.status == 200 && sha256(&answer.body) == digest;
        assert!(
            is_right || answer.status >= 400,
            "{what}: {} whole bytes",
            answer.body.len()
        );
    }
}

#[test]
fn wrong_bytes_are_cut_short_and_leave_nothing() {
    let table: [(&str, Then); 6] = [
        ("the first byte", then().corrupt(0)),
        ("a byte in the middle", then().corrupt(150_000)),
        ("the last byte", then().corrupt(LENGTH - 1)),
        (
            "a byte of a body without length",
            then().corrupt(150_000).without_length(),
        ),
        ("a length that is too small", then().length_off(-1000)),
        ("a length that is too large", then().length_off(1000)),
    ];
    for (what, lie) in table {
        let (upstream, mirror) = start();
        let whole = bytes(LENGTH, 1);
        let digest = upstream.add_blob(APP, whole.clone());
        upstream.script(blob(&digest).get(), lie);
        for outcome in at_once(4, |_| mirror.ask(&blob_path(&digest)).try_send()) {
            assert_not_taken_for_whole(&outcome, &digest, what);
        }
        if what != "a length that is too large" {
            wait_for_metric(&mirror, "wharf_fills_total", "failed", |count| count >= 1.0);
            assert_eq!(files_below(&mirror.store().join("blobs")).len(), 0, "{what}");
        }
        wait_until_nothing_is_staged(mirror.store());
        upstream.clear_script();
        let answer = ask_until(&mirror, &blob_path(&digest), what, |answer| answer.status == 200);
        assert!(answer.body == whole, "{what}: other bytes");
    }
}

#[test]
fn a_range_of_wrong_bytes_is_never_the_end_of_them() {
    let (upstream, mirror) = start();
    let digest = upstream.add_blob(APP, bytes(LENGTH, 2));
    upstream.script(blob(&digest).get(), then().corrupt(LENGTH - 1));
    for range in ["0-", "-1", "-1000", "200000-"] {
        let outcome = mirror.ask(&blob_path(&digest)).range(range).try_send();
        assert!(
            !matches!(&outcome, Ok(answer) if answer.status < 400),
            "{range}: {outcome:?}"
        );
    }
}

#[test]
fn a_blob_that_is_another_one_is_never_served() {
    let (upstream, mirror) = start();
    let digest = sha256(b"what was asked for");
    upstream.add_blob_as(APP, &digest, b"something else".to_vec());
    let outcome = mirror.ask(&blob_path(&digest)).try_send();
    assert_not_taken_for_whole(&outcome, &digest, "another blob");
    assert_eq!(files_below(&mirror.store().join("blobs")).len(), 0);
}

#[test]
fn a_size_that_the_manifest_does_not_say_is_wrong() {
    let (upstream, mirror) = start();
    let layer = bytes(LENGTH, 3);
    // The digest is right, and the size is not: such a manifest lies, and clients would refuse the layer.
    let text = String::from_utf8(image_manifest(b"{}", std::slice::from_ref(&layer))).expect("text");
    let lie = text.replace(&format!("\"size\":{LENGTH}"), "\"size\":299999");
    upstream.add_blob(APP, b"{}".to_vec());
    let layer = upstream.add_blob(APP, layer);
    let digest = upstream.add_manifest(APP, OCI_MANIFEST, lie.into_bytes());
    assert_eq!(mirror.ask(&manifest_path(&digest)).send().status, 200);
    let outcome = mirror.ask(&blob_path(&layer)).try_send();
    assert_not_taken_for_whole(&outcome, &layer, "a size that differs");
}

#[test]
fn a_length_that_only_a_head_told_decides_nothing() {
    for by in [-1, 2] {
        let (upstream, mirror) = start();
        let whole = bytes(LENGTH, 5);
        let digest = upstream.add_blob(APP, whole.clone());
        upstream.script(blob(&digest).head(), then().length_off(by));
        for _ in 0..2 {
            assert_eq!(mirror.ask(&blob_path(&digest)).method("HEAD").send().status, 200);
            assert!(
                mirror.ask(&blob_path(&digest)).send().body == whole,
                "other bytes, {by}"
            );
        }
    }
}

#[test]
fn a_manifest_by_digest_that_is_another_one_is_never_served() {
    let (upstream, mirror) = start();
    let image = upstream.add_image(APP, "v1", &[]);
    upstream.script(manifest(&image.digest).get(), then().corrupt(10));
    let outcome = mirror.ask(&manifest_path(&image.digest)).try_send();
    assert!(
        !matches!(&outcome, Ok(answer) if answer.status < 400),
        "{outcome:?}"
    );
    upstream.clear_script();
    let path = manifest_path(&image.digest);
    let answer = ask_until(&mirror, &path, "the manifest", |answer| answer.status == 200);
    assert_eq!(answer.body, image.manifest);
}

#[test]
fn a_digest_header_of_upstream_is_not_believed() {
    let (upstream, mirror) = start();
    let image = upstream.add_image(APP, "v1", &[bytes(1000, 4)]);
    let lie = sha256(b"a lie");
    upstream.script(manifest("v1"), then().header("docker-content-digest", &lie));
    upstream.script(
        blob(&image.layers[0]),
        then().header("docker-content-digest", &lie),
    );
    if let Ok(answer) = mirror.ask(&manifest_path("v1")).try_send()
        && answer.status == 200
    {
        let told = answer.header("docker-content-digest").expect("a digest");
        assert_eq!(sha256(&answer.body), told);
    }
    assert_eq!(
        sha256(&mirror.ask(&blob_path(&image.layers[0])).send().body),
        image.layers[0]
    );
}

/// There is no last byte to hold back. Which of the fill's ends a client meets is a race, so many try.
#[test]
fn a_blob_that_upstream_calls_empty_is_not_served_as_empty() {
    let (upstream, mirror) = start();
    for seed in 0..40 {
        let digest = upstream.add_blob(APP, bytes(1, seed));
        upstream.script(blob(&digest).get(), then().length_off(-1));
        for outcome in at_once(8, |_| mirror.ask(&blob_path(&digest)).try_send()) {
            assert_not_taken_for_whole(&outcome, &digest, "a blob called empty");
        }
    }
}
