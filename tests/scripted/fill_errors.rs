//! Fills that fail for good: all who wait get the same error, and the next asker starts anew.

use crate::support::gate::Gate;
use crate::support::store::wait_until_nothing_is_staged;
use crate::support::upstream::{blob, bytes, then};

use super::{APP, ask_until, at_once, blob_path, start};

const LENGTH: usize = 300_000;

#[test]
fn a_fill_that_fails_before_its_first_byte_gives_everyone_the_same_error() {
    for (upstreams, expected) in [(500, 503), (502, 503), (404, 404), (429, 503)] {
        let (upstream, mirror) = start();
        let digest = upstream.add_blob(APP, bytes(LENGTH, 1));
        upstream.script(blob(&digest).get(), then().status(upstreams));
        let answers = at_once(8, |_| mirror.ask(&blob_path(&digest)).send());
        for answer in &answers {
            assert_eq!(answer.status, expected, "upstream's {upstreams}");
            assert_eq!(answer.error_code(), answers[0].error_code());
            assert_eq!(answer.header("retry-after").is_some(), expected == 503);
        }
        wait_until_nothing_is_staged(mirror.store());
    }
}

#[test]
fn a_fill_that_fails_midway_cuts_everyone_short() {
    let (upstream, mirror) = start();
    let whole = bytes(LENGTH, 2);
    let digest = upstream.add_blob(APP, whole.clone());
    let gate = Gate::new();
    upstream.script(
        blob(&digest).get(),
        then().pause(100_000, &gate).truncate(100_000).once(),
    );
    let clients = at_once(8, |_| {
        let mut response = mirror.ask(&blob_path(&digest)).open();
        assert!(response.read(100_000) == whole[..100_000], "other bytes");
        response
    });
    upstream.script(blob(&digest).get(), then().status(404));
    gate.open();
    for client in clients {
        let cut = client.end().expect_err("a body that is cut");
        assert_eq!(cut.answer.expect("a head").body.len(), 0);
    }
    upstream.clear_script();
    let answer = ask_until(&mirror, &blob_path(&digest), "the blob", |answer| {
        answer.status == 200
    });
    assert!(answer.body == whole, "other bytes");
}

#[test]
fn upstreams_that_break_every_connection_end_a_fill_at_last() {
    let (upstream, mirror) = start();
    let digest = upstream.add_blob(APP, bytes(LENGTH, 3));
    upstream.script(blob(&digest).get(), then().hang_up());
    let answer = mirror.ask(&blob_path(&digest)).send();
    assert_eq!(answer.status, 503);
    assert!(
        upstream.blob_gets(&digest) < 20,
        "{}",
        upstream.blob_gets(&digest)
    );
}
