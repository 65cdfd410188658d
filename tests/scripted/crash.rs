//! SIGKILL at the worst moments.

use crate::support::gate::Gate;
use crate::support::process::wait_until;
use crate::support::store::{assert_blobs_are_whole, assert_nothing_staged, has_blob, staged_bytes};
use crate::support::upstream::{blob, bytes, then};

use super::{APP, MIB, SOON, blob_path, manifest_path, start};

#[test]
fn after_a_kill_in_a_fill_nothing_partial_is_served_and_staging_is_cleared() {
    let (upstream, mut mirror) = start();
    let whole = bytes(MIB, 1);
    let digest = upstream.add_blob(APP, whole.clone());
    let gate = Gate::new();
    upstream.script(blob(&digest), then().pause(600_000, &gate).once());
    let mut reader = mirror.ask(&blob_path(&digest)).open();
    assert!(reader.read(600_000) == whole[..600_000], "other bytes");
    wait_until("the store to have some of it", SOON, || {
        (staged_bytes(mirror.store()) > 0).then_some(())
    });
    mirror.kill();
    let cut = reader.end().expect_err("a body that is cut");
    assert_eq!(cut.answer.expect("a head").body.len(), 0);
    assert!(!has_blob(mirror.store(), &digest));
    gate.open();

    mirror.start_again();
    let head = mirror.ask(&blob_path(&digest)).method("HEAD").send();
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("1048576"))
    );
    assert!(
        mirror.ask(&blob_path(&digest)).send().body == whole,
        "other bytes"
    );
    wait_until("the blob to be published", SOON, || {
        has_blob(mirror.store(), &digest).then_some(())
    });
    mirror.stop();
    assert_eq!(assert_blobs_are_whole(mirror.store()), 1);
    assert_nothing_staged(mirror.store());
}

#[test]
fn what_was_published_outlives_a_kill() {
    let (upstream, mut mirror) = start();
    let image = upstream.add_image(APP, "v1", &[bytes(100_000, 2)]);
    mirror.ask(&manifest_path("v1")).send();
    for digest in [&image.config, &image.layers[0]] {
        wait_until("the blobs to be published", SOON, || {
            has_blob(mirror.store(), digest).then_some(())
        });
    }
    mirror.kill();
    mirror.start_again();
    let asked = upstream.asked().len();
    for reference in ["v1", &image.digest] {
        assert_eq!(
            mirror.ask(&manifest_path(reference)).send().body,
            image.manifest,
            "{reference}"
        );
    }
    assert!(
        mirror.ask(&blob_path(&image.layers[0])).send().body == bytes(100_000, 2),
        "other bytes"
    );
    assert_eq!(upstream.asked().len(), asked, "without a question");
}

#[test]
fn a_lost_index_loses_nothing() {
    let (upstream, mut mirror) = start();
    let image = upstream.add_image(APP, "v1", &[bytes(1000, 3)]);
    mirror.ask(&manifest_path("v1")).send();
    for digest in [&image.config, &image.layers[0]] {
        wait_until("the blobs to be published", SOON, || {
            has_blob(mirror.store(), digest).then_some(())
        });
    }
    mirror.kill();
    std::fs::remove_dir_all(mirror.index()).expect("remove the index");
    mirror.start_again();
    let asked = upstream.asked().len();
    assert_eq!(mirror.ask(&manifest_path("v1")).send().body, image.manifest);
    assert_eq!(
        mirror.ask(&blob_path(&image.layers[0])).send().body,
        bytes(1000, 3)
    );
    assert_eq!(upstream.asked().len(), asked, "without a question");
}
