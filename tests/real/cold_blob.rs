//! Many clients on one blob that is not there yet.

use std::time::Duration;

use crate::support::curl::{Curl, Download};
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::registry::Registry;
use crate::support::sha256;
use crate::support::throttle::Throttle;

/// Slow enough to act in the middle of the big layer, fast enough for a test.
const MIDDLING: u64 = 8 << 20;
const FAST: u64 = 1 << 40;

#[test]
fn sixteen_clients_on_a_cold_blob_cause_one_get_though_half_leave_and_one_crawls() {
    let registry = Registry::filled();
    let throttle = Throttle::start(registry.address(), MIDDLING);
    let mirror = Mirror::start(&Options::new(throttle.address()));
    let blob = registry.layers("library/debian", "bookworm").remove(0);
    let path = format!("/v2/library/debian/blobs/{blob}");
    let whole = Curl::new(&registry.url(path.trim_start_matches("/v2/")))
        .send()
        .body;
    let before = registry.blob_gets()[&blob];

    // The first asker leads, and is among those who leave.
    let mut leaving: Vec<Download> = (0..8).map(|_| mirror.get(&path).start()).collect();
    let mut staying: Vec<Download> = (0..7).map(|_| mirror.get(&path).start()).collect();
    let crawling = mirror.get(&path).argument("--limit-rate").argument("1").start();
    for download in &leaving {
        wait_until("everyone to be in the middle", Duration::from_secs(30), || {
            (download.received() > 1 << 20).then_some(())
        });
    }
    for download in &mut leaving {
        download.leave();
        let received = download.body();
        assert!(
            received.len() < whole.len(),
            "a client that leaves midway had everything"
        );
        assert!(received == whole[..received.len()], "other bytes before leaving");
    }
    throttle.set_rate(FAST);
    for download in &mut staying {
        assert!(
            download.wait(Duration::from_secs(60)),
            "a client that stays gets everything"
        );
        assert_eq!(sha256(&download.body()), blob);
    }
    let crawled = crawling.body();
    assert!(
        crawled == whole[..crawled.len()],
        "other bytes for the slow client"
    );
    assert_eq!(
        registry.blob_gets()[&blob] - before,
        1,
        "GETs at the registry: {:?}",
        registry.log()
    );
}

#[test]
fn a_fill_goes_on_when_every_client_has_left() {
    let registry = Registry::filled();
    let throttle = Throttle::start(registry.address(), MIDDLING);
    let mirror = Mirror::start(&Options::new(throttle.address()));
    let blob = registry.layers("library/debian", "bookworm").remove(0);
    let path = format!("/v2/library/debian/blobs/{blob}");
    let mut only = mirror.get(&path).start();
    wait_until("the first bytes", Duration::from_secs(30), || {
        (only.received() > 0).then_some(())
    });
    only.leave();
    throttle.set_rate(FAST);
    wait_until("the blob to be published", Duration::from_secs(60), || {
        crate::support::store::has_blob(mirror.store(), &blob).then_some(())
    });
    assert_eq!(sha256(&mirror.get(&path).send().body), blob);
    registry.assert_fetched_once(&[blob]);
}
