//! Connections to upstream that break or fall silent within a blob: the fill goes on where it stopped.

use crate::support::gate::Gate;
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::store::has_blob;
use crate::support::upstream::{Asked, Then, Upstream, blob, bytes, then};

use super::{APP, SOON, at_once, blob_path, start};

const LENGTH: usize = 300_000;

fn ranges(asked: &[Asked]) -> Vec<Option<&str>> {
    asked.iter().map(|asked| asked.header("range")).collect()
}

#[test]
fn a_broken_connection_is_resumed_with_range_and_no_byte_comes_twice() {
    let table: [(&str, Then, &[&str]); 4] = [
        ("once", then().truncate(100_000).once(), &["bytes=100000-"]),
        ("before the first byte", then().truncate(0).once(), &["bytes=0-"]),
        (
            "before the last byte",
            then().truncate(LENGTH - 1).once(),
            &["bytes=299999-"],
        ),
        (
            "again and again",
            then().truncate(100_000).times(2),
            &["bytes=100000-", "bytes=200000-"],
        ),
    ];
    for (what, script, resumed) in table {
        let (upstream, mirror) = start();
        let whole = bytes(LENGTH, 1);
        let digest = upstream.add_blob(APP, whole.clone());
        upstream.script(blob(&digest), script);
        for answer in at_once(4, |_| mirror.ask(&blob_path(&digest)).send()) {
            assert!(answer.body == whole, "{what}: other bytes");
        }
        let asked = upstream.asked_for(&blob(&digest).get());
        let ranges = ranges(&asked);
        assert_eq!(ranges[0], None, "{what}");
        let is_from_start = |range: &Option<&str>| matches!(range, None | Some("bytes=0-"));
        for (range, expected) in ranges[1..].iter().zip(resumed) {
            let is_same = *range == Some(expected) || (*expected == "bytes=0-" && is_from_start(range));
            assert!(is_same, "{what}: {ranges:?}");
        }
        assert_eq!(ranges.len(), 1 + resumed.len(), "{what}: {ranges:?}");
        let etag = format!("\"{digest}\"");
        for asked in asked[1..].iter().filter(|asked| asked.header("range").is_some()) {
            assert_eq!(asked.header("if-range"), Some(&*etag), "{what}");
        }
        assert_eq!(upstream.bytes_sent(&digest), LENGTH, "{what}");
    }
}

#[test]
fn upstreams_that_know_no_ranges_or_answer_other_ones_are_survived() {
    let table: [(&str, Then); 4] = [
        ("ignored", then().ignore_ranges()),
        ("shifted", then().shift_ranges(10).times(2)),
        (
            "of another version",
            then().header("etag", "\"changed\"").ignore_ranges(),
        ),
        ("refused", then().status(416).once()),
    ];
    for (what, lie) in table {
        let (upstream, mirror) = start();
        let whole = bytes(LENGTH, 2);
        let digest = upstream.add_blob(APP, whole.clone());
        let gate = Gate::new();
        upstream.script(
            blob(&digest),
            then().pause(100_000, &gate).truncate(100_000).once(),
        );
        let response = mirror.ask(&blob_path(&digest)).open();
        gate.wait_for(1);
        upstream.script(blob(&digest), lie);
        gate.open();
        // This client may be cut, but not misled; the next one gets everything.
        if let Ok(answer) = response.end() {
            assert!(answer.body == whole, "{what}: other bytes");
        }
        let answer = super::ask_until(&mirror, &blob_path(&digest), what, |answer| answer.status == 200);
        assert!(answer.body == whole, "{what}: other bytes");
    }
}

#[test]
fn the_prefix_that_upstream_repeats_is_not_sent_twice() {
    let (upstream, mirror) = start();
    let whole = bytes(LENGTH, 3);
    let digest = upstream.add_blob(APP, whole.clone());
    upstream.script(blob(&digest), then().ignore_ranges());
    upstream.script(blob(&digest), then().truncate(100_000).once());
    for answer in at_once(4, |_| mirror.ask(&blob_path(&digest)).send()) {
        assert!(answer.body == whole, "other bytes");
    }
    assert_eq!(upstream.blob_gets(&digest), 2);
}

#[test]
fn an_upstream_that_falls_silent_is_asked_again_after_the_idle_timeout() {
    let upstream = Upstream::start();
    let options = Options::new(upstream.address())
        .upstream("docker.io", &[&upstream.url()])
        .upstream_keys("idle_timeout = \"200ms\"");
    let mirror = Mirror::start(&options);
    let whole = bytes(LENGTH, 4);
    let digest = upstream.add_blob(APP, whole.clone());
    let never = Gate::new();
    upstream.script(blob(&digest), then().pause(100_000, &never).once());
    assert!(
        mirror.ask(&blob_path(&digest)).send().body == whole,
        "other bytes"
    );
    let asked = upstream.asked_for(&blob(&digest).get());
    assert_eq!(ranges(&asked), [None, Some("bytes=100000-")]);
}

#[test]
fn an_upstream_that_goes_down_and_comes_back_delays_a_fill_only() {
    let (upstream, mirror) = start();
    let whole = bytes(LENGTH, 5);
    let digest = upstream.add_blob(APP, whole.clone());
    let gate = Gate::new();
    upstream.script(blob(&digest), then().pause(100_000, &gate).once());
    let mut response = mirror.ask(&blob_path(&digest)).open();
    response.read(100_000);
    upstream.go_down();
    gate.open();
    upstream.come_back();
    assert!(
        response.end().expect("the rest").body == whole[100_000..],
        "other bytes"
    );
    wait_until("the blob to be published", SOON, || {
        has_blob(mirror.store(), &digest).then_some(())
    });
}
