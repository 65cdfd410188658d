//! Manifests: byte for byte, in a type that the client accepts, with everything that it may check.

use crate::support::sha256;
use crate::support::upstream::{OCI_INDEX, OCI_MANIFEST, bytes, descriptor, index, manifests};

use super::{APP, manifest_path, start};

const SCHEMA_2: &str = "application/vnd.docker.distribution.manifest.v2+json";

#[test]
fn a_manifest_is_served_byte_for_byte_with_its_type_and_digest() {
    let (upstream, mirror) = start();
    // White space at its end is part of a manifest: its digest says so.
    let odd = format!(
        "{{\n  \"schemaVersion\": 2,\n  \"mediaType\": \"{OCI_INDEX}\",\n  \"manifests\": []\n}}\n\n"
    );
    let digest = upstream.add_manifest(APP, OCI_INDEX, odd.clone().into_bytes());
    upstream.tag(APP, "odd", &digest);
    // Cold, then from the store.
    for reference in ["odd", "odd", &digest, &digest] {
        for method in ["GET", "HEAD"] {
            let answer = mirror.ask(&manifest_path(reference)).method(method).send();
            assert_eq!(answer.status, 200, "{method} {reference}");
            assert_eq!(
                answer.header("content-type"),
                Some(OCI_INDEX),
                "{method} {reference}"
            );
            assert_eq!(
                answer.header("docker-content-digest"),
                Some(&*digest),
                "{method} {reference}"
            );
            assert_eq!(answer.header("content-length"), Some(&*odd.len().to_string()));
            assert_eq!(answer.header("content-encoding"), None);
            let body = if method == "GET" { odd.as_bytes() } else { b"" };
            assert_eq!(answer.body, body, "{method} {reference}");
        }
    }
}

#[test]
fn the_type_that_upstream_says_is_passed_on_for_a_manifest_that_says_none() {
    let (upstream, mirror) = start();
    let config = descriptor("application/vnd.oci.image.config.v1+json", b"{}");
    let bare = serde_json::json!({"schemaVersion": 2, "config": config, "layers": []});
    upstream.add_blob(APP, b"{}".to_vec());
    let digest = upstream.add_manifest(APP, OCI_MANIFEST, bare.to_string().into_bytes());
    for _ in 0..2 {
        let answer = mirror.ask(&manifest_path(&digest)).send();
        assert_eq!(answer.header("content-type"), Some(OCI_MANIFEST));
    }
}

#[test]
fn several_accept_lines_and_lists_mean_the_same() {
    let (upstream, mirror) = start();
    let image = upstream.add_image(APP, "v1", &[]);
    let table: [&[&str]; 7] = [
        &[],
        &["*/*"],
        &["application/*"],
        &[OCI_MANIFEST],
        &[SCHEMA_2, OCI_INDEX, OCI_MANIFEST],
        &[
            "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json;q=0.5",
        ],
        &[SCHEMA_2, "*/*;q=0.1"],
    ];
    for lines in table {
        for reference in ["v1", &image.digest] {
            let request = mirror.ask(&manifest_path(reference));
            let answer = lines
                .iter()
                .fold(request, |request, line| request.header("accept", line))
                .send();
            assert_eq!((answer.status, &answer.body), (200, &image.manifest), "{lines:?}");
        }
    }
    // Upstream is told every type: what one client accepts must not decide what is cached for all.
    for asked in upstream.asked_for(&manifests()) {
        let accepted: Vec<&str> = asked
            .headers
            .iter()
            .filter(|(name, _)| name == "accept")
            .map(|(_, value)| value.as_str())
            .collect();
        let accepted = accepted.join(",");
        for media_type in [OCI_MANIFEST, OCI_INDEX, SCHEMA_2] {
            assert!(accepted.contains(media_type), "{media_type} in {accepted}");
        }
    }
}

#[test]
fn a_client_that_accepts_no_index_is_not_given_one() {
    let (upstream, mirror) = start();
    let image = upstream.add_image(APP, "amd64", &[]);
    let mut described = descriptor(OCI_MANIFEST, &image.manifest);
    described["platform"] = serde_json::json!({"os": "linux", "architecture": "amd64"});
    let digest = upstream.add_manifest(APP, OCI_INDEX, index(&[described]));
    upstream.tag(APP, "v1", &digest);
    let answer = mirror
        .ask(&manifest_path("v1"))
        .header("accept", OCI_MANIFEST)
        .send();
    assert_eq!(answer.header("vary"), Some("Accept"), "for caches on the way");
    match answer.status {
        200 => assert_eq!(answer.body, image.manifest),
        status => assert_eq!((status, &*answer.error_code()), (404, "MANIFEST_UNKNOWN")),
    }
    let all = mirror
        .ask(&manifest_path("v1"))
        .header("accept", OCI_INDEX)
        .send();
    assert_eq!(all.header("docker-content-digest"), Some(&*digest));
}

#[test]
fn an_etag_that_matches_is_answered_without_a_body() {
    let (upstream, mirror) = start();
    let image = upstream.add_image(APP, "v1", &[bytes(1000, 1)]);
    let paths = [
        manifest_path("v1"),
        manifest_path(&image.digest),
        super::blob_path(&image.layers[0]),
    ];
    for path in paths {
        let etag = mirror
            .ask(&path)
            .send()
            .header("etag")
            .expect("an ETag")
            .to_owned();
        let weak = format!("W/{etag}");
        for (if_none_match, status) in [
            (&*etag, 304),
            (&*weak, 304),
            ("*", 304),
            (&*format!("\"other\", {etag}"), 304),
            ("\"other\"", 200),
        ] {
            let answer = mirror.ask(&path).header("if-none-match", if_none_match).send();
            assert_eq!(answer.status, status, "{path} with {if_none_match}");
            assert_eq!(answer.header("etag"), Some(&*etag), "{path}");
            assert_eq!(answer.body.is_empty(), status == 304, "{path}");
        }
    }
}

#[test]
fn a_manifest_that_is_too_large_or_none_at_all_is_an_error_and_not_cached() {
    for body in [vec![b' '; 5 << 20], b"<html>a login page</html>".to_vec()] {
        let (upstream, mirror) = start();
        let digest = sha256(&body);
        upstream.add_manifest(APP, OCI_MANIFEST, body);
        upstream.tag(APP, "v1", &digest);
        for reference in ["v1", &digest] {
            let answer = mirror.ask(&manifest_path(reference)).send();
            assert!(answer.status >= 400, "{}", answer.status);
            assert!(!answer.error_code().is_empty());
        }
        assert!(!crate::support::store::has_blob(mirror.store(), &digest));
    }
}
