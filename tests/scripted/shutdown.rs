//! SIGTERM: no new clients, those under way are served to their end, exit code 0.

use std::time::{Duration, Instant};

use crate::support::gate::Gate;
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::store::{assert_nothing_staged, has_blob};
use crate::support::upstream::{Upstream, blob, bytes, then};

use super::{APP, MIB, SOON, blob_path, start};

#[test]
fn sigterm_lets_downloads_end_turns_new_clients_away_and_exits_with_0() {
    let (upstream, mut mirror) = start();
    let whole = bytes(MIB, 1);
    let digest = upstream.add_blob(APP, whole.clone());
    let gate = Gate::new();
    upstream.script(blob(&digest), then().pause(100_000, &gate));
    let mut reader = mirror.ask(&blob_path(&digest)).open();
    assert!(reader.read(100_000) == whole[..100_000], "other bytes");
    mirror.terminate();
    wait_until("new clients to be turned away", SOON, || {
        let answer = mirror.ask("/v2/").try_send();
        answer.map_or(true, |answer| answer.status == 503).then_some(())
    });
    gate.open();
    assert!(
        reader.end().expect("the rest").body == whole[100_000..],
        "other bytes"
    );
    assert_eq!(mirror.wait(SOON).code(), Some(0));
    assert_nothing_staged(mirror.store());
}

#[test]
fn sigterm_without_clients_ends_at_once() {
    let (_upstream, mut mirror) = start();
    // A connection that is kept alive is no client that is being served.
    let idle = std::net::TcpStream::connect(mirror.address()).expect("connect");
    let start = Instant::now();
    mirror.stop();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(idle);
}

#[test]
fn clients_that_do_not_end_are_cut_after_drain_timeout() {
    let upstream = Upstream::start();
    let digest = upstream.add_blob(APP, bytes(MIB, 2));
    let never = Gate::new();
    upstream.script(blob(&digest), then().pause(100_000, &never));
    let options = Options::new(upstream.address()).keys("drain_timeout = \"300ms\"");
    let mut mirror = Mirror::start(&options);
    let mut reader = mirror.ask(&blob_path(&digest)).open();
    reader.read(100_000);
    mirror.terminate();
    assert_eq!(mirror.wait(SOON).code(), Some(0));
    assert!(
        reader.end().is_err(),
        "what is not whole does not end as if it were"
    );
    assert_nothing_staged(mirror.store());
}

#[test]
fn a_blob_that_a_client_has_whole_is_published_before_the_end() {
    let (upstream, mut mirror) = start();
    for seed in 0..5 {
        let digest = upstream.add_blob(APP, bytes(2 * MIB, seed));
        assert_eq!(mirror.ask(&blob_path(&digest)).send().status, 200);
        mirror.stop();
        assert!(has_blob(mirror.store(), &digest), "fetched, and thrown away");
        mirror.start_again();
    }
}
