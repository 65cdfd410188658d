//! `docker pull` by Debian's dockerd with `registry-mirrors`.

use std::time::Duration;

use crate::support::clients::Docker;
use crate::support::mirror::{Mirror, Options};
use crate::support::registry::Registry;
use crate::support::store::assert_blobs_are_whole;

#[test]
fn docker_pulls_a_tag_and_a_digest_through_the_mirror_and_runs_them() {
    let registry = Registry::filled();
    let mirror = Mirror::start(&Options::new(registry.address()));
    let docker = Docker::start(mirror.address());
    let (_, digest) = registry.manifest("library/busybox", "latest");

    assert_eq!(docker.pull("busybox"), digest);
    assert_eq!(
        docker.run("busybox", &["echo", "pulled by tag"]),
        "pulled by tag\n"
    );
    docker.remove("busybox");

    let by_digest = format!("busybox@{digest}");
    assert_eq!(docker.pull(&by_digest), digest);
    assert_eq!(
        docker.run(&by_digest, &["echo", "pulled by digest"]),
        "pulled by digest\n"
    );
    registry.assert_fetched_once(&registry.blobs("library/busybox", "latest"));
}

#[test]
fn a_second_docker_daemon_causes_no_second_blob_get_upstream() {
    let registry = Registry::filled();
    let mirror = Mirror::start(&Options::new(registry.address()));
    let (first, second) = (Docker::start(mirror.address()), Docker::start(mirror.address()));
    let images = [
        ("busybox-schema2:latest", "library/busybox-schema2", "latest"),
        ("layers:latest", "library/layers", "latest"),
        ("debian:bookworm", "library/debian", "bookworm"),
    ];
    for (image, name, tag) in images {
        // Both at once, so that the second one follows the first one's fills.
        let (mut one, mut other) = (first.start_pull(image), second.start_pull(image));
        for pull in [&mut one, &mut other] {
            let status = pull.wait(Duration::from_secs(100));
            assert!(status.success(), "{image}: {}", pull.stderr());
        }
        registry.assert_fetched_once(&registry.blobs(name, tag));
    }
    second.remove("layers");
    second.pull("layers");
    registry.assert_fetched_once(&registry.blobs("library/layers", "latest"));
    assert_eq!(second.run("layers", &["ls", "/extra"]), "noise6\n");
    assert_eq!(
        first
            .run("debian:bookworm", &["cat", "/etc/hostname"])
            .lines()
            .count(),
        1
    );
    assert!(assert_blobs_are_whole(mirror.store()) > 10);
}

#[test]
fn docker_pulls_the_platform_of_an_index_that_it_runs_on() {
    let registry = Registry::filled();
    let mirror = Mirror::start(&Options::new(registry.address()));
    let docker = Docker::start(mirror.address());
    docker.pull("multi");
    assert_eq!(docker.run("multi", &["echo", "amd64"]), "amd64\n");
    let arm_config = &registry.blobs("library/multi", "arm64")[0];
    assert_eq!(
        registry.blob_gets().get(arm_config),
        None,
        "an index starts no fills"
    );
}

#[test]
fn a_cached_image_is_pulled_with_a_stale_tag_while_the_registry_is_down() {
    let mut registry = Registry::filled();
    let mut options = Options::new(registry.address());
    options.tag_ttl = "0s";
    let mirror = Mirror::start(&options);
    let docker = Docker::start(mirror.address());
    let (_, digest) = registry.manifest("library/layers", "latest");
    assert_eq!(docker.pull("layers"), digest);
    docker.remove("layers");

    registry.kill();
    assert_eq!(docker.pull("layers"), digest);
    assert_eq!(docker.run("layers", &["echo", "stale"]), "stale\n");
    let answer = mirror
        .get("/v2/library/layers/manifests/latest")
        .accept("*/*")
        .send();
    let warning = answer.header("warning").expect("a Warning");
    assert!(warning.starts_with("299 - \""), "{warning}");
    let failed = docker.try_pull("busybox");
    assert!(
        !failed.status.success(),
        "an image that was never cached cannot come"
    );
}
