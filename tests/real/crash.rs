//! SIGKILL and SIGTERM in the middle of a fill.

use std::time::Duration;

use crate::support::clients::Docker;
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::registry::Registry;
use crate::support::sha256;
use crate::support::store::{assert_blobs_are_whole, assert_nothing_staged, staged_bytes};
use crate::support::throttle::Throttle;

const MIDDLING: u64 = 16 << 20;
const FAST: u64 = 1 << 40;
/// How often the soak kills.
const SOAK_KILLS: u32 = 60;

#[test]
fn a_mirror_killed_during_a_docker_pull_serves_the_whole_image_after_its_restart() {
    let registry = Registry::filled();
    let throttle = Throttle::start(registry.address(), MIDDLING);
    let mut mirror = Mirror::start(&Options::new(throttle.address()));
    let docker = Docker::start(mirror.address());

    let mut pull = docker.start_pull("debian:bookworm");
    wait_until("the layer to be half there", Duration::from_secs(60), || {
        (staged_bytes(mirror.store()) > 4 << 20).then_some(())
    });
    mirror.kill();
    // docker waits and asks again: what comes of this pull is docker's, the next one is ours.
    pull.stop();
    assert_blobs_are_whole(mirror.store());

    throttle.set_rate(FAST);
    mirror.start_again();
    docker.pull("debian:bookworm");
    assert!(
        docker
            .run("debian:bookworm", &["cat", "/etc/debian_version"])
            .starts_with("12.")
    );
    mirror.stop();
    assert_nothing_staged(mirror.store());
    // Manifest, config and layer.
    assert_eq!(assert_blobs_are_whole(mirror.store()), 3);
}

#[test]
fn long_soak_kills_at_many_moments_lose_and_falsify_nothing() {
    // `tests/run --long` sets it; else this kills a few times only.
    let kills = if std::env::var_os("WHARF_LONG").is_some() {
        SOAK_KILLS
    } else {
        4
    };
    let registry = Registry::filled();
    let throttle = Throttle::start(registry.address(), 64 << 20);
    let mut mirror = Mirror::start(&Options::new(throttle.address()));
    let names = [("library/layers", "latest"), ("library/debian-zstd", "bookworm")];
    let blobs: Vec<(&str, String)> = names
        .iter()
        .flat_map(|&(name, tag)| {
            registry
                .blobs(name, tag)
                .into_iter()
                .map(move |blob| (name, blob))
        })
        .collect();
    for kill in 0..kills {
        let start = |(name, blob): &(&str, String)| {
            let request = mirror.get(&format!("/v2/{name}/blobs/{blob}"));
            (blob.clone(), request.argument("--fail").start())
        };
        let downloads: Vec<_> = blobs.iter().map(start).collect();
        // A moment that moves through the whole transfer, and is not synchronised with it on purpose.
        std::thread::sleep(Duration::from_millis(u64::from(kill * 37 % 1500)));
        mirror.kill();
        for (blob, mut download) in downloads {
            if download.wait(Duration::from_secs(10)) {
                assert_eq!(sha256(&download.body()), blob, "a whole answer with other bytes");
            }
        }
        assert_blobs_are_whole(mirror.store());
        mirror.start_again();
    }
    throttle.set_rate(FAST);
    for (name, blob) in &blobs {
        let answer = mirror.get(&format!("/v2/{name}/blobs/{blob}")).send();
        assert_eq!(sha256(&answer.body), *blob);
    }
    mirror.stop();
    assert_nothing_staged(mirror.store());
}

#[test]
fn sigterm_during_a_download_lets_it_end_and_exits_with_0() {
    let registry = Registry::filled();
    let throttle = Throttle::start(registry.address(), MIDDLING);
    let mut mirror = Mirror::start(&Options::new(throttle.address()));
    let blob = registry.layers("library/debian", "bookworm").remove(0);
    let mut download = mirror.get(&format!("/v2/library/debian/blobs/{blob}")).start();
    wait_until("the download to be under way", Duration::from_secs(30), || {
        (download.received() > 1 << 20).then_some(())
    });
    mirror.terminate();
    wait_until("new clients to be turned away", Duration::from_secs(10), || {
        mirror
            .get("/v2/")
            .argument("--max-time")
            .argument("5")
            .try_send()
            .is_none_or(|a| a.status == 503)
            .then_some(())
    });
    throttle.set_rate(FAST);
    assert!(download.wait(Duration::from_secs(60)), "the download ends");
    assert_eq!(sha256(&download.body()), blob);
    let status = mirror.wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0), "after SIGTERM: {status}");
    assert_nothing_staged(mirror.store());
}
