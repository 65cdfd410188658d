//! A store whose file system stops answering: the calls hang, as those of NFS or FUSE do.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::clients::Bindfs;
use crate::support::curl::{Curl, MANIFEST_TYPES};
use crate::support::gate::Gate;
use crate::support::mirror::{Mirror, Options, wharf};
use crate::support::process::{Service, free_address, wait_until};
use crate::support::registry::Registry;
use crate::support::sha256;
use crate::support::store::{assert_blobs_are_whole, has_blob};
use crate::support::upstream::{Upstream, blob, bytes, then};

/// containerd waits so long for headers.
const PATIENCE: Duration = Duration::from_secs(30);

fn in_time(request: Curl) -> (u16, Vec<u8>) {
    let started = Instant::now();
    let answer = request.accept(MANIFEST_TYPES).send();
    assert!(started.elapsed() < PATIENCE, "after {:?}", started.elapsed());
    (answer.status, answer.body)
}

#[test]
fn a_store_that_hangs_delays_clients_by_seconds_and_is_used_again_when_it_answers() {
    let registry = Registry::filled();
    let file_system = Bindfs::mount();
    let mut options = Options::new(registry.address()).keys("store_timeout = \"3s\"");
    options.store = Some(file_system.path().join("store"));
    let mirror = Mirror::start(&options);
    let cached = registry.layers("library/layers", "latest").remove(1);
    let manifest = mirror
        .get("/v2/library/layers/manifests/latest")
        .accept(MANIFEST_TYPES)
        .send();
    wait_until("a layer to be cached", Duration::from_secs(30), || {
        has_blob(mirror.store(), &cached).then_some(())
    });

    file_system.hang();
    let started = Instant::now();
    assert_eq!(
        in_time(mirror.get("/readyz")).0,
        200,
        "it serves, and so is ready"
    );
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "kubelet waits no longer"
    );
    let served = in_time(mirror.get("/v2/library/layers/manifests/latest"));
    assert_eq!(served, (200, manifest.body));
    for _ in 0..3 {
        let (status, body) = in_time(mirror.get(&format!("/v2/library/layers/blobs/{cached}")));
        assert_eq!((status, sha256(&body)), (200, cached.clone()));
    }
    let (status, _) = in_time(mirror.get("/v2/library/busybox/manifests/latest"));
    assert_eq!(status, 200, "a manifest that was never asked for");
    for cold in registry.blobs("library/busybox", "latest") {
        let (status, body) = in_time(mirror.get(&format!("/v2/library/busybox/blobs/{cold}")));
        assert_eq!((status, sha256(&body)), (200, cold));
    }
    assert!(mirror.metric("wharf_store_errors_total", "timeout") >= 1.0);

    file_system.go_on();
    let path = format!("/v2/library/layers/blobs/{cached}");
    wait_until("the store to be used again", Duration::from_secs(30), || {
        let hits = mirror.metric("wharf_blob_requests_total", "\"hit\"");
        assert_eq!(sha256(&mirror.get(&path).send().body), cached);
        (mirror.metric("wharf_blob_requests_total", "\"hit\"") > hits).then_some(())
    });
    for blob in registry.blobs("library/busybox", "latest") {
        wait_until(
            "what was streamed past it to be cached",
            Duration::from_secs(30),
            || {
                mirror.get(&format!("/v2/library/busybox/blobs/{blob}")).send();
                has_blob(mirror.store(), &blob).then_some(())
            },
        );
    }
    assert_blobs_are_whole(mirror.store());
}

#[test]
fn who_reads_when_the_store_begins_to_hang_is_served_or_cut_in_time() {
    let upstream = Upstream::start();
    let file_system = Bindfs::mount();
    let mut options = Options::new(upstream.address()).keys("store_timeout = \"3s\"");
    options.store = Some(file_system.path().join("store"));
    let mirror = Mirror::start(&options);
    let ask = |digest: &str| mirror.ask(&format!("/v2/library/app/blobs/{digest}"));
    let [cached, cold] = [1, 2].map(|seed| bytes(24 << 20, seed));
    let [of_cached, of_cold] = [&cached, &cold].map(|whole| upstream.add_blob("library/app", whole.clone()));
    assert!(ask(&of_cached).send().body == cached, "other bytes");
    wait_until("the blob to be published", Duration::from_secs(30), || {
        has_blob(mirror.store(), &of_cached).then_some(())
    });
    let (gate, half) = (Gate::new(), cold.len() / 2);
    upstream.script(blob(&of_cold).get(), then().pause(half, &gate).once());
    let mut follower = ask(&of_cold).open();
    assert!(follower.read(half) == cold[..half], "other bytes");
    let mut readers: Vec<_> = (0..40).map(|_| ask(&of_cached).open()).collect();

    file_system.hang();
    gate.open();
    let started = Instant::now();
    readers.truncate(20);
    std::thread::scope(|scope| {
        for reader in readers {
            // Of the kernel's cache there may be enough.
            scope.spawn(|| assert!(reader.end().map_or(true, |answer| answer.body == cached)));
        }
        let rest = follower.end().expect("a whole body").body;
        assert!(rest == cold[half..], "what is in memory goes on past the store");
    });
    for (digest, whole) in [(&of_cached, &cached), (&of_cold, &cold)] {
        assert!(ask(digest).send().body == *whole, "other bytes");
    }
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
}

#[test]
fn a_start_on_a_store_that_hangs_ends_with_an_error_and_meanwhile_refuses_clients() {
    let directory = tempfile::tempdir().expect("a directory");
    let file_system = Bindfs::mount();
    let listen = free_address();
    let config = directory.path().join("wharf.toml");
    std::fs::write(&config, "store_timeout = \"1s\"").expect("write a configuration");
    let mut command = wharf();
    command
        .arg("serve")
        .arg("--config")
        .arg(&config)
        .arg("--store")
        .arg(file_system.path().join("store"))
        .arg("--index")
        .arg(directory.path().join("index"))
        .args(["--listen", &listen.to_string()]);
    file_system.hang();
    let mut mirror = Service::start("wharf", directory.path(), command);
    let error = wait_until("the error", Duration::from_secs(30), || {
        let refused = TcpStream::connect(listen).expect_err("nothing is served");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let stderr = mirror.stderr();
        stderr.contains("wharf: ").then_some(stderr)
    });
    assert!(error.contains("has not answered within 3s"), "{error}");
    // The kernel lets no process end whose call is with a FUSE server.
    file_system.go_on();
    assert_eq!(mirror.wait(Duration::from_secs(30)).code(), Some(1));
}
