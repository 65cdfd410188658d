//! `Range` on blobs that are cached and on blobs that are still arriving (RFC 9110, section 14).

use std::ops::Range;

use crate::support::gate::Gate;
use crate::support::mirror::Mirror;
use crate::support::upstream::{Upstream, blob, bytes, then};

use super::{APP, blob_path, start};

const LENGTH: usize = 300_000;
const FIRST: usize = 100_000;

/// What is asked for, and what comes of it.
const TABLE: [(&str, Range<usize>); 7] = [
    ("0-0", 0..1),
    ("0-", 0..LENGTH),
    ("10-99", 10..100),
    ("250000-", 250_000..LENGTH),
    ("-1", LENGTH - 1..LENGTH),
    ("-400000", 0..LENGTH),
    ("299999-400000", LENGTH - 1..LENGTH),
];

fn with_blob() -> (Upstream, Mirror, String, Vec<u8>) {
    let (upstream, mirror) = start();
    let whole = bytes(LENGTH, 1);
    let digest = upstream.add_blob(APP, whole.clone());
    (upstream, mirror, digest, whole)
}

fn content_range(part: &Range<usize>) -> String {
    format!("bytes {}-{}/{LENGTH}", part.start, part.end - 1)
}

#[test]
fn ranges_of_a_cached_blob_are_its_parts() {
    let (upstream, mirror, digest, whole) = with_blob();
    mirror.ask(&blob_path(&digest)).send();
    for (range, part) in TABLE {
        let answer = mirror.ask(&blob_path(&digest)).range(range).send();
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(
            answer.header("content-range"),
            Some(&*content_range(&part)),
            "{range}"
        );
        assert!(answer.body == whole[part], "{range}: other bytes");
    }
    assert_eq!(upstream.blob_gets(&digest), 1);
}

#[test]
fn every_range_of_a_cold_blob_starts_one_fill_of_the_whole() {
    for (range, part) in TABLE {
        let (upstream, mirror, digest, whole) = with_blob();
        let answer = mirror.ask(&blob_path(&digest)).range(range).send();
        assert_eq!(
            answer.header("content-range"),
            Some(&*content_range(&part)),
            "{range}"
        );
        assert!(answer.body == whole[part], "{range}: other bytes");
        let asked = upstream.asked_for(&blob(&digest).get());
        assert_eq!(asked.len(), 1, "{range}");
        assert_eq!(asked[0].header("range"), None, "{range}");
    }
}

#[test]
fn a_range_that_has_arrived_is_served_and_one_beyond_waits() {
    let (upstream, mirror, digest, whole) = with_blob();
    let gate = Gate::new();
    upstream.script(blob(&digest), then().pause(FIRST, &gate));
    let mut leader = mirror.ask(&blob_path(&digest)).open();
    leader.read(FIRST);
    let there = mirror.ask(&blob_path(&digest)).range("100-99999").send();
    assert_eq!((there.status, there.body == whole[100..FIRST]), (206, true));
    // Its first half is there; its head and all of that half come at once.
    let mut half = mirror.ask(&blob_path(&digest)).range("50000-149999").open();
    assert_eq!(half.status, 206);
    assert!(half.read(50_000) == whole[50_000..FIRST], "other bytes");
    let beyond = mirror.ask(&blob_path(&digest)).range("-1000").open();
    assert_eq!(
        (beyond.status, beyond.header("content-length")),
        (206, Some("1000"))
    );
    assert_eq!(upstream.bytes_sent(&digest), FIRST);
    gate.open();
    assert!(
        half.end().expect("the rest").body == whole[FIRST..150_000],
        "other bytes"
    );
    assert!(
        beyond.end().expect("the end").body == whole[LENGTH - 1000..],
        "other bytes"
    );
    assert!(
        leader.end().expect("the rest").body == whole[FIRST..],
        "other bytes"
    );
    assert_eq!(upstream.blob_gets(&digest), 1);
}

#[test]
fn a_range_beyond_the_end_is_refused_with_the_length() {
    let (_upstream, mirror, digest, _) = with_blob();
    // Cold, then cached.
    for _ in 0..2 {
        for range in ["300000-", "300000-400000", "-0"] {
            let answer = mirror.ask(&blob_path(&digest)).range(range).send();
            assert_eq!(answer.status, 416, "{range}");
            assert_eq!(answer.header("content-range"), Some("bytes */300000"), "{range}");
        }
        mirror.ask(&blob_path(&digest)).send();
    }
}

#[test]
fn what_is_no_single_range_is_answered_with_the_whole() {
    let (_upstream, mirror, digest, whole) = with_blob();
    for range in ["bytes=0-1,5-6", "lines=1-2", "bytes=9-1", "bytes=x", ""] {
        let answer = mirror.ask(&blob_path(&digest)).header("range", range).send();
        assert_eq!((answer.status, answer.body == whole), (200, true), "{range}");
    }
}

#[test]
fn a_range_of_another_version_is_answered_with_the_whole() {
    let (_upstream, mirror, digest, whole) = with_blob();
    let etag = mirror
        .ask(&blob_path(&digest))
        .send()
        .header("etag")
        .expect("an ETag")
        .to_owned();
    for (if_range, status) in [(&*etag, 206), ("\"other\"", 200)] {
        let request = mirror
            .ask(&blob_path(&digest))
            .range("0-99")
            .header("if-range", if_range);
        let answer = request.send();
        assert_eq!(answer.status, status, "{if_range}");
        assert!(answer.body == whole[..answer.body.len()], "other bytes");
    }
}

#[test]
fn a_client_that_closes_its_open_ended_range_early_disturbs_nobody() {
    let (upstream, mirror, digest, whole) = with_blob();
    let gate = Gate::new();
    upstream.script(blob(&digest), then().pause(FIRST, &gate));
    // As containerd fetches in parallel: open-ended ranges, each closed where the next begins.
    let mut parts: Vec<_> = ["0-", "30000-", "60000-"]
        .into_iter()
        .map(|range| mirror.ask(&blob_path(&digest)).range(range).open())
        .collect();
    for (part, start) in parts.iter_mut().zip([0, 30_000, 60_000]) {
        assert!(part.read(30_000) == whole[start..start + 30_000], "other bytes");
    }
    drop(parts);
    gate.open();
    assert!(
        mirror.ask(&blob_path(&digest)).send().body == whole,
        "other bytes"
    );
    assert_eq!(
        (upstream.blob_gets(&digest), upstream.bytes_sent(&digest)),
        (1, LENGTH)
    );
}
