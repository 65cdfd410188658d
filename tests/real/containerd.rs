//! containerd with `hosts.toml`, which names the host by `?ns=docker.io`.

use crate::support::clients::Containerd;
use crate::support::mirror::{Mirror, Options};
use crate::support::registry::Registry;

#[test]
fn ctr_pulls_and_unpacks_through_the_mirror() {
    let registry = Registry::filled();
    let mirror = Mirror::start(&Options::new(registry.address()));
    let containerd = Containerd::start(mirror.address());
    let images = [
        ("busybox", "latest"),
        ("layers", "latest"),
        ("debian-zstd", "bookworm"),
    ];
    for (name, tag) in images {
        containerd.pull(&format!("docker.io/library/{name}:{tag}"));
        let blobs = registry.blobs(&format!("library/{name}"), tag);
        let content = containerd.content();
        assert!(
            blobs.iter().all(|blob| content.contains(blob)),
            "{blobs:?} in {content:?}"
        );
        registry.assert_fetched_once(&blobs);
    }
}

#[test]
fn ctr_fetches_every_platform_of_an_index_with_attestations() {
    let registry = Registry::filled();
    let mirror = Mirror::start(&Options::new(registry.address()));
    let containerd = Containerd::start(mirror.address());
    containerd.fetch_all("docker.io/library/multi:latest");
    let (_, digest) = registry.manifest("library/multi", "latest");
    let content = containerd.content();
    assert!(content.contains(&digest), "{digest} in {content:?}");
    registry.assert_fetched_once(&registry.blobs("library/multi", "amd64"));
}

#[test]
fn ctr_pulls_from_a_host_that_only_the_default_folder_names() {
    let registry = Registry::filled();
    let mirror = Mirror::start(&Options::new(registry.address()));
    let containerd = Containerd::start(mirror.address());
    containerd.pull("example.test/team/app:latest");
    let (_, digest) = registry.manifest("team/app", "latest");
    assert!(containerd.content().contains(&digest));
    registry.assert_fetched_once(&registry.blobs("team/app", "latest"));
}
