//! Two mirrors on one store.

use std::path::Path;

use crate::support::gate::Gate;
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::store::{
    assert_blobs_are_whole, assert_nothing_staged, has_blob, staged_bytes, wait_until_nothing_is_staged,
};
use crate::support::upstream::{Upstream, blob, blobs, bytes, then};

use super::{APP, MIB, SOON, at_once, blob_path, manifest_path};

fn options(upstream: &Upstream, directory: &Path) -> Options {
    let mut options = Options::new(upstream.address()).keys("share_work = true");
    options.store = Some(directory.join("store"));
    options
}

#[test]
fn a_mirror_that_starts_or_stops_does_not_disturb_a_fill_of_another_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = Upstream::start();
    let whole = bytes(MIB, 1);
    let digest = upstream.add_blob(APP, whole.clone());
    let gate = Gate::new();
    upstream.script(blob(&digest), then().pause(500_000, &gate));
    let options = options(&upstream, directory.path());
    let first = Mirror::start(&options);
    let mut reader = first.ask(&blob_path(&digest)).open();
    assert!(reader.read(500_000) == whole[..500_000], "other bytes");
    let mut second = Mirror::start(&options);
    // It reads what the first one has written.
    let mut follower = second.ask(&blob_path(&digest)).open();
    assert!(follower.read(400_000) == whole[..400_000], "other bytes");
    drop(follower);
    second.stop();
    assert!(
        staged_bytes(first.store()) >= 400_000,
        "the first one's work is still there"
    );
    gate.open();
    assert!(
        reader.end().expect("the rest").body == whole[500_000..],
        "other bytes"
    );
    wait_until_nothing_is_staged(first.store());
    assert_eq!(assert_blobs_are_whole(first.store()), 1);
    assert_eq!(upstream.blob_gets(&digest), 1);
}

#[test]
fn what_one_mirror_fetched_the_other_one_serves_without_a_question() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = Upstream::start();
    let image = upstream.add_image(APP, "v1", &[bytes(100_000, 2)]);
    let options = options(&upstream, directory.path());
    let (first, second) = (Mirror::start(&options), Mirror::start(&options));
    first.ask(&manifest_path("v1")).send();
    for digest in [&image.config, &image.layers[0]] {
        wait_until("the blobs to be published", SOON, || {
            has_blob(first.store(), digest).then_some(())
        });
    }
    let asked = upstream.asked().len();
    for reference in ["v1", &image.digest] {
        assert_eq!(
            second.ask(&manifest_path(reference)).send().body,
            image.manifest,
            "{reference}"
        );
    }
    assert!(
        second.ask(&blob_path(&image.layers[0])).send().body == bytes(100_000, 2),
        "other bytes"
    );
    assert_eq!(upstream.asked().len(), asked);
}

#[test]
fn two_mirrors_that_are_asked_for_the_same_blobs_at_once_fetch_each_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = Upstream::start();
    let digests: Vec<String> = (0..4)
        .map(|seed| upstream.add_blob(APP, bytes(200_000, seed)))
        .collect();
    let gate = Gate::new();
    upstream.script(blobs(), then().pause(100_000, &gate));
    let options = options(&upstream, directory.path());
    let mirrors = [Mirror::start(&options), Mirror::start(&options)];
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            at_once(8, |client| {
                mirrors[client % 2].ask(&blob_path(&digests[client / 2])).send()
            })
        });
        gate.wait_for(4);
        gate.open();
        for (client, answer) in clients.join().expect("the clients").iter().enumerate() {
            assert!(
                answer.body == bytes(200_000, client as u64 / 2),
                "other bytes for {client}"
            );
        }
    });
    for digest in &digests {
        assert_eq!(upstream.blob_gets(digest), 1);
    }
    let [mut first, mut second] = mirrors;
    first.stop();
    second.stop();
    assert_eq!(assert_blobs_are_whole(first.store()), 4);

    assert_nothing_staged(first.store());
}

#[test]
fn a_new_digest_of_a_tag_is_seen_by_both_mirrors() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = Upstream::start();
    upstream.add_image(APP, "v1", &[]);
    let mut options = options(&upstream, directory.path());
    options.tag_ttl = "0s";
    let (first, second) = (Mirror::start(&options), Mirror::start(&options));
    for mirror in [&first, &second] {
        mirror.ask(&manifest_path("v1")).send();
    }
    let changed = upstream.add_image(APP, "v1", &[bytes(10, 3)]);
    for mirror in [&first, &second] {
        assert_eq!(mirror.ask(&manifest_path("v1")).send().body, changed.manifest);
    }
}
