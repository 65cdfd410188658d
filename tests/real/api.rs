//! Every endpoint of the pull API by curl, compared with the registry's own answers.

use std::time::Duration;

use serde_json::Value;

use crate::support::clients::client_file;
use crate::support::curl::{Answer, Curl, MANIFEST_TYPES};
use crate::support::mirror::{Mirror, Options};
use crate::support::process::{shell, wait_until};
use crate::support::registry::Registry;
use crate::support::sha256;
use crate::support::store::{blob_path, has_blob};

fn start() -> (Registry, Mirror) {
    let registry = Registry::filled();
    let mirror = Mirror::start(&Options::new(registry.address()));
    (registry, mirror)
}

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).expect("JSON")
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .expect("an array")
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

#[test]
fn every_manifest_and_blob_is_served_byte_for_byte() {
    let (registry, mirror) = start();
    let images = [
        ("library/busybox", "latest"),
        ("library/busybox-schema2", "latest"),
        ("library/debian", "bookworm"),
        ("library/debian-zstd", "bookworm"),
        ("library/layers", "latest"),
    ];
    for (name, tag) in images {
        let (manifest, digest) = registry.manifest(name, tag);
        for reference in [tag, &digest] {
            let answer = mirror
                .get(&format!("/v2/{name}/manifests/{reference}"))
                .accept(MANIFEST_TYPES)
                .send();
            assert_eq!(answer.status, 200, "{name}:{reference}");
            assert_eq!(answer.body, manifest, "{name}:{reference}");
            assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
            let media_type = json(&answer)["mediaType"].as_str().expect("a type").to_owned();
            assert_eq!(answer.header("content-type"), Some(media_type.as_str()));
        }
        for blob in registry.blobs(name, tag) {
            let path = format!("{name}/blobs/{blob}");
            let direct = Curl::new(&registry.url(&path)).send();
            let answer = mirror.get(&format!("/v2/{path}")).send();
            assert_eq!((answer.status, sha256(&answer.body)), (200, blob.clone()));
            assert_eq!(answer.body, direct.body);
            assert_eq!(answer.header("docker-content-digest"), Some(blob.as_str()));
            assert_eq!(answer.header("content-encoding"), None);
        }
    }
}

#[test]
fn a_name_is_reached_by_ns_by_path_prefix_and_by_default() {
    let (registry, mirror) = start();
    let (manifest, _) = registry.manifest("library/busybox", "latest");
    let (app, _) = registry.manifest("team/app", "latest");
    let table = [
        ("/v2/library/busybox/manifests/latest", &manifest),
        ("/v2/busybox/manifests/latest", &manifest),
        ("/v2/library/busybox/manifests/latest?ns=docker.io", &manifest),
        ("/v2/docker.io/library/busybox/manifests/latest", &manifest),
        ("/v2/docker.io/busybox/manifests/latest", &manifest),
        ("/v2/team/app/manifests/latest?ns=example.test", &app),
        ("/v2/example.test/team/app/manifests/latest", &app),
    ];
    for (path, expected) in table {
        let answer = mirror.get(path).accept(MANIFEST_TYPES).send();
        assert_eq!((answer.status, &answer.body), (200, expected), "{path}");
    }
    let answer = mirror
        .get("/v2/team/app/manifests/latest?ns=example.test")
        .accept(MANIFEST_TYPES)
        .send();
    assert_eq!(answer.header("oci-namespace"), Some("example.test"));
}

#[test]
fn head_tells_what_get_would() {
    let (registry, mirror) = start();
    let (manifest, digest) = registry.manifest("library/layers", "latest");
    for reference in ["latest", &digest] {
        let path = format!("/v2/library/layers/manifests/{reference}");
        let answer = mirror.get(&path).method("HEAD").accept(MANIFEST_TYPES).send();
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(
            answer.header("content-length"),
            Some(manifest.len().to_string().as_str())
        );
        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
    }
    let blob = &registry.layers("library/debian", "bookworm")[0];
    let answer = mirror
        .get(&format!("/v2/library/debian/blobs/{blob}"))
        .method("HEAD")
        .send();
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .header("content-length")
            .is_some_and(|length| length.len() > 6),
        "{answer:?}"
    );
    assert_eq!(registry.blob_gets().get(blob), None, "HEAD starts no fill");
}

#[test]
fn an_etag_that_matches_is_answered_without_a_body() {
    let (registry, mirror) = start();
    let (_, digest) = registry.manifest("library/busybox", "latest");
    let path = format!("/v2/library/busybox/manifests/{digest}");
    let answer = mirror.get(&path).accept(MANIFEST_TYPES).send();
    let etag = answer.header("etag").expect("an ETag").to_owned();
    let again = mirror
        .get(&path)
        .accept(MANIFEST_TYPES)
        .header("If-None-Match", &etag)
        .send();
    assert_eq!((again.status, again.body.len()), (304, 0));
}

#[test]
fn ranges_of_a_blob_are_what_the_registry_has_there() {
    let (registry, mirror) = start();
    let blob = &registry.layers("library/debian", "bookworm")[0];
    let path = format!("library/debian/blobs/{blob}");
    let whole = Curl::new(&registry.url(&path)).send().body;
    let last = whole.len() - 1;
    let table = [
        ("bytes=0-0", 0..1),
        ("bytes=0-1048575", 0..1 << 20),
        ("bytes=1000000-", 1_000_000..whole.len()),
        ("bytes=-1000", last - 999..whole.len()),
        (&format!("bytes={last}-{}", last + 500), last..whole.len()),
    ];
    // The first one is cold: it waits for the bytes, or starts in the middle of a fill.
    for (range, expected) in table {
        let answer = mirror.get(&format!("/v2/{path}")).header("Range", range).send();
        let content_range = format!("bytes {}-{}/{}", expected.start, expected.end - 1, whole.len());
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(
            answer.header("content-range"),
            Some(content_range.as_str()),
            "{range}"
        );
        assert!(
            answer.body == whole[expected],
            "{range}: {} other bytes",
            answer.body.len()
        );
    }
    let beyond = mirror
        .get(&format!("/v2/{path}"))
        .header("Range", &format!("bytes={}-", whole.len()))
        .send();
    assert_eq!(beyond.status, 416);
    assert_eq!(
        beyond.header("content-range"),
        Some(format!("bytes */{}", whole.len()).as_str())
    );
    // One by this test itself, and one by the mirror.
    assert_eq!(registry.blob_gets()[blob], 2);
}

#[test]
fn tags_are_listed_page_by_page_along_the_link_header() {
    let (registry, mirror) = start();
    let all = json(&Curl::new(&registry.url("library/busybox/tags/list")).send());
    let all = strings(&all["tags"]);
    assert_eq!(
        strings(&json(&mirror.get("/v2/library/busybox/tags/list").send())["tags"]),
        all
    );

    let mut paged = Vec::new();
    let mut path = "/v2/library/busybox/tags/list?n=2".to_owned();
    loop {
        let answer = mirror.get(&path).send();
        let page = json(&answer);
        paged.extend(strings(&page["tags"]).into_iter().map(str::to_owned));
        let Some(link) = answer.header("link") else { break };
        let (target, relation) = link.split_once('>').expect("a link");
        assert_eq!(relation.trim_start_matches([';', ' ']), "rel=\"next\"");
        path = target.trim_start_matches('<').to_owned();
        assert!(path.starts_with("/v2/"), "{path}");
        assert!(paged.len() <= all.len(), "{paged:?}");
    }
    // distribution 2.8 knows no pages and no order; the mirror cuts its list as the specification says.
    let mut sorted = all.clone();
    sorted.sort_unstable();
    assert_eq!(paged, sorted);
}

#[test]
fn referrers_come_from_the_fallback_tag_and_are_filtered() {
    let (registry, mirror) = start();
    let (_, digest) = registry.manifest("library/busybox", "latest");
    let path = format!("/v2/library/busybox/referrers/{digest}");
    let answer = mirror.get(&path).send();
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        Some("application/vnd.oci.image.index.v1+json")
    );
    assert_eq!(json(&answer)["manifests"].as_array().expect("manifests").len(), 1);
    for (artifact_type, count) in [("application/vnd.example.signature", 1), ("application/none", 0)] {
        let answer = mirror.get(&format!("{path}?artifactType={artifact_type}")).send();
        assert_eq!(
            json(&answer)["manifests"].as_array().expect("manifests").len(),
            count
        );
        assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    }
    let (_, other) = registry.manifest("library/debian", "bookworm");
    let none = mirror
        .get(&format!("/v2/library/debian/referrers/{other}"))
        .send();
    assert_eq!(
        (none.status, json(&none)["manifests"].as_array().map(Vec::len)),
        (200, Some(0))
    );
}

#[test]
fn the_catalog_names_what_the_store_holds() {
    let (_registry, mirror) = start();
    for name in ["library/busybox", "library/layers"] {
        mirror
            .get(&format!("/v2/{name}/manifests/latest"))
            .accept(MANIFEST_TYPES)
            .send();
    }
    let answer = mirror.get("/v2/_catalog").send();
    let catalog = json(&answer);
    let names = strings(&catalog["repositories"]);
    for name in ["library/busybox", "library/layers"] {
        assert!(
            names.iter().any(|listed| listed.ends_with(name)),
            "{name} in {names:?}"
        );
    }
    assert!(
        !names.iter().any(|listed| listed.ends_with("library/debian")),
        "{names:?}"
    );
}

#[test]
fn what_is_not_a_pull_gets_an_error_of_the_specification() {
    let (registry, mirror) = start();
    let (_, digest) = registry.manifest("library/busybox", "latest");
    let absent = format!("sha256:{}", "0".repeat(64));
    let table = [
        (
            "PUT",
            "library/busybox/manifests/latest".to_owned(),
            405,
            "UNSUPPORTED",
        ),
        (
            "DELETE",
            format!("library/busybox/manifests/{digest}"),
            405,
            "UNSUPPORTED",
        ),
        (
            "POST",
            "library/busybox/blobs/uploads/".to_owned(),
            405,
            "UNSUPPORTED",
        ),
        (
            "DELETE",
            format!("library/busybox/blobs/{digest}"),
            405,
            "UNSUPPORTED",
        ),
        (
            "GET",
            "library/busybox/manifests/no-such-tag".to_owned(),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            "GET",
            format!("library/busybox/manifests/{absent}"),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            "GET",
            format!("library/busybox/blobs/{absent}"),
            404,
            "BLOB_UNKNOWN",
        ),
    ];
    for (method, path, status, code) in table {
        let answer = mirror
            .get(&format!("/v2/{path}"))
            .method(method)
            .accept(MANIFEST_TYPES)
            .send();
        assert_eq!(
            (answer.status, answer.error_code()),
            (status, code.to_owned()),
            "{method} {path}"
        );
    }
    let base = mirror.get("/v2/").send();
    assert_eq!(base.status, 200);
    assert_eq!(mirror.get("/healthz").send().status, 200);
}

#[test]
fn the_documented_curl_commands_are_answered() {
    let (registry, mirror) = start();
    let (manifest, _) = registry.manifest("library/busybox", "latest");
    let script = client_file("curl.sh", mirror.address());
    let output = shell(&format!("export no_proxy='*'\n{script}"));
    let (first, lists) = output.split_at(manifest.len());
    assert_eq!(first.as_bytes(), manifest);
    assert_eq!(lists.matches("\"v1\"").count(), 2, "{lists}");
}

#[test]
fn a_blob_that_was_deleted_from_the_store_is_fetched_again() {
    let (registry, mirror) = start();
    let blob = &registry.layers("library/layers", "latest")[0];
    let path = format!("/v2/library/layers/blobs/{blob}");
    for times in 1..=2 {
        assert_eq!(sha256(&mirror.get(&path).send().body), *blob);
        wait_until("a GET and a published blob", Duration::from_secs(10), || {
            let gets = registry.blob_gets().get(blob).copied();
            (gets == Some(times) && has_blob(mirror.store(), blob)).then_some(())
        });
        std::fs::remove_file(blob_path(mirror.store(), blob)).expect("delete a blob");
    }
}
