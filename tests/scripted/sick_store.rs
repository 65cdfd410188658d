//! A store that is full or fails: clients are served past it, a few at a time, and nothing partial stays.

use std::os::unix::fs::symlink;

use crate::support::curl::Answer;
use crate::support::gate::Gate;
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::store::{assert_blobs_are_whole, has_blob, wait_until_nothing_is_staged};
use crate::support::upstream::{OCI_MANIFEST, Upstream, anything, blob, blobs, bytes, descriptor, then};

use super::{
    APP, MIB, SOON, ask_until, assert_unavailable, blob_path, end_all, manifest_path, settle, wait_for_metric,
};

/// Too small for the blobs here, large enough for manifests, records and the index.
const MAX_FILE: u64 = MIB as u64;

fn full_mirror(upstream: &Upstream, keys: &str) -> Mirror {
    Mirror::start(
        &Options::new(upstream.address())
            .keys(keys)
            .max_file_bytes(MAX_FILE),
    )
}

#[test]
fn what_does_not_fit_is_served_all_the_same_and_not_kept() {
    let upstream = Upstream::start();
    let (large, small) = (bytes(3 * MIB, 1), bytes(1000, 2));
    let image = upstream.add_image(APP, "v1", &[large.clone(), small.clone()]);
    let mut mirror = full_mirror(&upstream, "");
    assert_eq!(mirror.ask(&manifest_path("v1")).send().body, image.manifest);
    for _ in 0..2 {
        assert!(
            mirror.ask(&blob_path(&image.layers[0])).send().body == large,
            "other bytes"
        );
        assert!(
            mirror.ask(&blob_path(&image.layers[1])).send().body == small,
            "other bytes"
        );
    }
    wait_for_metric(&mirror, "wharf_store_errors_total", "", |count| count >= 1.0);
    wait_for_metric(&mirror, "wharf_fills_total", "uncached", |count| count >= 1.0);
    assert!(!has_blob(mirror.store(), &image.layers[0]));
    // It is served before it has its name.
    wait_until("what fits to be kept", SOON, || {
        has_blob(mirror.store(), &image.layers[1]).then_some(())
    });
    assert_blobs_are_whole(mirror.store());
    wait_until_nothing_is_staged(mirror.store());
    mirror.stop();
    assert!(
        mirror.log().contains("ERROR") || mirror.log().contains("WARN"),
        "{}",
        mirror.log()
    );
}

#[test]
fn a_range_of_what_does_not_fit_is_served_too() {
    let upstream = Upstream::start();
    let large = bytes(3 * MIB, 1);
    let digest = upstream.add_blob(APP, large.clone());
    let mirror = full_mirror(&upstream, "");
    // The first one is surprised by the full store, the second one comes after it.
    for range in ["2000000-2999999", "100-199"] {
        let answer = mirror.ask(&blob_path(&digest)).range(range).send();
        let (start, end) = range.split_once('-').expect("a range");
        let part = start.parse().expect("a number")..=end.parse().expect("a number");
        assert_eq!(
            (answer.status, answer.body == large[part]),
            (206, true),
            "{range}"
        );
    }
}

#[test]
fn a_hundred_clients_of_a_full_store_cause_a_bounded_number_of_gets_at_a_time() {
    let upstream = Upstream::start();
    let digests: Vec<String> = (0..20)
        .map(|seed| upstream.add_blob(APP, bytes(2 * MIB, seed)))
        .collect();
    let mirror = full_mirror(&upstream, "uncached_streams = 3");
    // The first one finds out that the store is full.
    assert!(
        mirror.ask(&blob_path(&digests[0])).send().body == bytes(2 * MIB, 0),
        "other bytes"
    );
    let gate = Gate::new();
    upstream.script(blobs().get(), then().hold(&gate));
    let clients: Vec<_> = (0..100)
        .map(|client| mirror.ask(&blob_path(&digests[client % 20])).start())
        .collect();
    gate.wait_for(3);
    settle(&mirror);
    gate.open();
    let mut served = Vec::new();
    for (client, answer) in end_all(clients).into_iter().enumerate() {
        if answer.status == 200 {
            assert!(
                answer.body == bytes(2 * MIB, client as u64 % 20),
                "other bytes for {client}"
            );
            served.push(client % 20);
        } else {
            assert_unavailable(&answer);
        }
    }
    served.sort_unstable();
    served.dedup();
    assert!(
        served.len() >= 3,
        "who asks for one blob shares its stream: {served:?}"
    );
    assert_eq!(upstream.most_blob_gets_at_once(), 3);
    wait_for_metric(&mirror, "wharf_uncached_streams", "", |count| count == 0.0);
    wait_until_nothing_is_staged(mirror.store());
}

#[test]
fn a_client_that_takes_nothing_holds_up_the_others_for_seconds_and_once() {
    let upstream = Upstream::start();
    // More than the sockets on the way take.
    let whole = bytes(32 * MIB, 1);
    let digest = upstream.add_blob(APP, whole.clone());
    let mirror = full_mirror(&upstream, "buffer_memory = \"1MiB\"");
    let gate = Gate::new();
    upstream.script(blobs().get(), then().pause(100, &gate));
    let stalled = mirror.ask(&blob_path(&digest)).open();
    let reader = mirror.ask(&blob_path(&digest)).open();
    gate.open();
    let started = std::time::Instant::now();
    assert!(reader.end().expect("a whole body").body == whole, "other bytes");
    assert!(started.elapsed() < 2 * SOON, "{:?}", started.elapsed());
    assert!(stalled.end().is_err(), "it was left behind");
    assert_eq!(upstream.most_blob_gets_at_once(), 1);
}

#[test]
fn little_memory_is_enough_for_large_pieces_past_the_store() {
    let upstream = Upstream::start();
    let digests: Vec<String> = (0..4)
        .map(|seed| upstream.add_blob(APP, bytes(8 * MIB, seed)))
        .collect();
    let mirror = full_mirror(&upstream, "buffer_memory = \"1MiB\"");
    // What piles up here comes in pieces that are larger than a window.
    let gate = Gate::new();
    upstream.script(blobs().get(), then().pause(2 * MIB, &gate));
    let clients: Vec<_> = digests
        .iter()
        .map(|digest| mirror.ask(&blob_path(digest)).start())
        .collect();
    gate.wait_for(4);
    gate.open();
    for (seed, answer) in (0..).zip(end_all(clients)) {
        assert!(answer.body == bytes(8 * MIB, seed), "other bytes for {seed}");
    }
}

#[test]
fn a_blob_that_is_too_large_for_the_store_does_not_bound_the_others() {
    let upstream = Upstream::start();
    let large = upstream.add_blob(APP, bytes(1000, 1));
    let small = upstream.add_blob(APP, bytes(1000, 2));
    let mut layer = descriptor("application/octet-stream", &bytes(1000, 1));
    layer["size"] = (1_u64 << 60).into();
    let manifest = serde_json::json!({"schemaVersion": 2, "layers": [layer]});
    let manifest = upstream.add_manifest(APP, OCI_MANIFEST, manifest.to_string().into_bytes());
    let mirror = Mirror::start(&Options::new(upstream.address()).keys("uncached_streams = 1"));
    assert_eq!(mirror.ask(&manifest_path(&manifest)).send().status, 200);
    let gate = Gate::new();
    upstream.script(blob(&large).get(), then().hold(&gate));
    let waiting = mirror.ask(&blob_path(&large)).start();
    gate.wait_for(1);
    let answer = mirror.ask(&blob_path(&small)).send();
    assert_eq!((answer.status, answer.body), (200, bytes(1000, 2)));
    wait_until("the small one to be published", SOON, || {
        has_blob(mirror.store(), &small).then_some(())
    });
    gate.open();
    assert_eq!(
        waiting.end().status,
        502,
        "it is not as large as it was said to be"
    );
}

#[test]
fn a_stream_that_nobody_reads_any_more_makes_room_though_upstream_stalls() {
    let upstream = Upstream::start();
    let digests: Vec<String> = (0..2)
        .map(|seed| upstream.add_blob(APP, bytes(2 * MIB, seed)))
        .collect();
    let mirror = full_mirror(&upstream, "uncached_streams = 1");
    assert!(
        mirror.ask(&blob_path(&digests[1])).send().body == bytes(2 * MIB, 1),
        "other bytes"
    );
    let gate = Gate::new();
    upstream.script(blob(&digests[0]).get(), then().pause(3 * MIB / 2, &gate));
    let mut reader = mirror.ask(&blob_path(&digests[0])).open();
    reader.read(MIB + 1000);
    assert_unavailable(&mirror.ask(&blob_path(&digests[1])).send());
    drop(reader);
    let answer = ask_until(&mirror, &blob_path(&digests[1]), "a permit", |answer| {
        answer.status == 200
    });
    assert!(answer.body == bytes(2 * MIB, 1), "other bytes");
    gate.open();
}

/// Makes every look at a blob fail with ELOOP, which is not "it is not there".
pub fn make_sick(mirror: &Mirror, digest: &str) {
    let hex = digest.trim_start_matches("sha256:");
    let directory = mirror.store().join("blobs/sha256");
    std::fs::create_dir_all(&directory).expect("make a directory");
    symlink(&hex[..2], directory.join(&hex[..2])).expect("link a directory to itself");
}

#[test]
fn an_error_of_the_file_system_is_not_a_miss_and_streams_are_bounded_and_shared() {
    let upstream = Upstream::start();
    let digests: Vec<String> = (0..6)
        .map(|seed| upstream.add_blob(APP, bytes(200_000, seed)))
        .collect();
    let mirror = Mirror::start(&Options::new(upstream.address()).keys("uncached_streams = 2"));
    let mut sick: Vec<&str> = digests.iter().map(|digest| &digest[7..9]).collect();
    sick.sort_unstable();
    sick.dedup();
    for digest in &digests {
        if sick.contains(&&digest[7..9]) {
            make_sick(&mirror, digest);
            sick.retain(|prefix| *prefix != &digest[7..9]);
        }
    }
    let gate = Gate::new();
    upstream.script(blobs().get(), then().pause(50_000, &gate));
    let readers: Vec<_> = [0, 1, 0, 1]
        .map(|blob| (blob, mirror.ask(&blob_path(&digests[blob])).open()))
        .into_iter()
        .collect();
    gate.wait_for(2);
    for digest in &digests[2..] {
        assert_unavailable(&mirror.ask(&blob_path(digest)).send());
    }
    wait_for_metric(&mirror, "wharf_uncached_streams", "", |count| count == 2.0);
    gate.open();
    for (blob, reader) in readers {
        assert_eq!(reader.status, 200);
        assert!(
            reader.end().expect("a whole body").body == bytes(200_000, blob as u64),
            "other bytes"
        );
    }
    assert_eq!(upstream.most_blob_gets_at_once(), 2);
    // Once a stream is free, the next one gets it.
    let answer: Answer = mirror.ask(&blob_path(&digests[5])).send();
    assert!(answer.body == bytes(200_000, 5), "other bytes");
    assert!(mirror.metric("wharf_store_errors_total", "") >= 1.0);
}

#[test]
fn a_store_that_is_well_again_keeps_what_comes() {
    let upstream = Upstream::start();
    let whole = bytes(200_000, 1);
    let digest = upstream.add_blob(APP, whole.clone());
    let mirror = Mirror::start(&Options::new(upstream.address()));
    make_sick(&mirror, &digest);
    assert!(
        mirror.ask(&blob_path(&digest)).send().body == whole,
        "other bytes"
    );
    std::fs::remove_file(mirror.store().join("blobs/sha256").join(&digest[7..9])).expect("remove a link");
    assert!(
        mirror.ask(&blob_path(&digest)).send().body == whole,
        "other bytes"
    );
    let kept = wait_until("the blob to be published", SOON, || {
        has_blob(mirror.store(), &digest).then_some(true)
    });
    assert!(kept);
}

#[test]
fn a_stored_blob_that_cannot_be_read_is_served_past_the_store() {
    let upstream = Upstream::start();
    let mirror = Mirror::start(&Options::new(upstream.address()));
    // It opens like a file, and reading it fails.
    let directory = tempfile::tempdir_in(mirror.store()).expect("a directory");
    std::fs::write(directory.path().join("x"), "x").expect("write a file");
    let length = std::fs::metadata(directory.path()).expect("its metadata").len();
    let whole = bytes(usize::try_from(length).expect("a length"), 1);
    let digest = upstream.add_blob(APP, whole.clone());
    assert!(
        mirror.ask(&blob_path(&digest)).send().body == whole,
        "other bytes"
    );
    wait_until("the blob to be published", SOON, || {
        has_blob(mirror.store(), &digest).then_some(())
    });
    let path = crate::support::store::blob_path(mirror.store(), &digest);
    std::fs::remove_file(&path).expect("remove a blob");
    std::fs::rename(directory.keep(), &path).expect("move a directory");
    let cut = mirror.ask(&blob_path(&digest)).try_send();
    assert!(cut.is_err(), "its headers were sent: {cut:?}");
    for _ in 0..2 {
        assert!(
            mirror.ask(&blob_path(&digest)).send().body == whole,
            "other bytes"
        );
    }
    wait_for_metric(&mirror, "wharf_store_errors_total", "read", |count| count == 1.0);
}

#[test]
fn while_the_store_fails_nobody_follows_a_fill_whose_beginning_only_the_store_has() {
    let upstream = Upstream::start();
    let whole = bytes(4 * MIB, 1);
    let digest = upstream.add_blob(APP, whole.clone());
    let mirror = Mirror::start(&Options::new(upstream.address()));
    let gate = Gate::new();
    upstream.script(blobs().get(), then().pause(3 * MIB, &gate).once());
    let mut first = mirror.ask(&blob_path(&digest)).open();
    assert!(first.read(3 * MIB) == whole[..3 * MIB], "other bytes");
    make_sick(&mirror, &digest);
    assert!(
        mirror.ask(&blob_path(&digest)).send().body == whole,
        "other bytes"
    );
    gate.open();
    assert!(
        first.end().expect("a whole body").body == whole[3 * MIB..],
        "other bytes"
    );
}

#[test]
fn what_is_cached_is_served_though_the_index_has_no_room() {
    let upstream = Upstream::start();
    let image = upstream.add_image(APP, "v1", &[bytes(1000, 1)]);
    let digests: Vec<String> = (0..1000)
        .map(|seed| upstream.add_blob("library/other", bytes(8, seed)))
        .collect();
    let options = Options::new(upstream.address()).max_file_bytes(1 << 16);
    let mut mirror = Mirror::start(&options.table("[log]\naccess = false"));
    for digest in &digests {
        let path = format!("/v2/library/other/blobs/{digest}");
        assert_eq!(mirror.ask(&path).method("HEAD").send().status, 200);
    }
    assert_eq!(mirror.ask(&manifest_path("v1")).send().status, 200);
    wait_until("the layer to be published", SOON, || {
        has_blob(mirror.store(), &image.layers[0]).then_some(())
    });
    upstream.script(anything(), then().hang_up());
    for _ in 0..2 {
        assert_eq!(
            mirror.ask(&blob_path(&image.layers[0])).send().body,
            bytes(1000, 1)
        );
        assert_eq!(
            mirror.ask(&manifest_path(&image.digest)).send().body,
            image.manifest
        );
    }
    mirror.stop();
    assert!(mirror.log().contains("the index fails"), "{}", mirror.log());
}

#[test]
fn a_log_that_takes_nothing_more_stops_nobody() {
    let upstream = Upstream::start();
    let digest = upstream.add_blob(APP, bytes(1000, 1));
    let options = Options::new(upstream.address()).max_file_bytes(1 << 16);
    let mut mirror = Mirror::start(&options);
    for _ in 0..600 {
        assert_eq!(mirror.ask(&blob_path(&digest)).send().body, bytes(1000, 1));
    }
    mirror.stop();
    assert_eq!(mirror.log().len(), 1 << 16, "it was full");
}
