//! Several mirrors of one store: processes of their own that share a file system and nothing else.
//!
//! Extracting needs root; the upstream is the scripted one, which counts what it sends.

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{Request, Response};
use crate::support::clients::Bindfs;
use crate::support::dfs::{Kind, Shared};
use crate::support::layers::{Layered, add, record, tar_of};
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::sha256;
use crate::support::store::{assert_blobs_are_whole, assert_nothing_staged};
use crate::support::upstream::{Upstream, blob, blobs, bytes, then};

const APP: &str = "library/app";
/// Longer than anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
const MIB: usize = 1 << 20;
/// As short as it may be, so that tests do not wait long.
const QUICK: &str = "stall_timeout = \"6s\"\n";

/// A file system, its upstream and mirrors, on its nodes in turn.
struct Mirrors {
    upstream: Upstream,
    shared: Shared,
    mirrors: Vec<Mirror>,
}

impl Mirrors {
    fn start(kind: Kind, count: usize, keys: &str) -> Self {
        let (upstream, shared) = (Upstream::start(), Shared::start(kind));
        let mut mirrors = Self {
            upstream,
            shared,
            mirrors: Vec::new(),
        };
        for _ in 0..count {
            mirrors.add(keys);
        }
        mirrors
    }

    fn add(&mut self, keys: &str) {
        let node = match self.mirrors.len() % 2 {
            0 => self.shared.a(),
            _ => self.shared.b(),
        };
        let mut options = Options::new(self.upstream.address())
            .keys("share_work = true")
            .keys(keys)
            .variable("WHARF_LOG_LEVEL", "wharf=debug");
        options.store = Some(node.join("store"));
        self.mirrors.push(Mirror::start(&options));
    }

    fn open(&self, mirror: usize, digest: &str) -> Response {
        let path = format!("/v2/{APP}/blobs/{digest}");
        self.mirrors[mirror].ask(&path).open()
    }

    /// How often something was done by all mirrors together.
    fn count(&self, metric: &str, labels: &str) -> f64 {
        let mirrors = self.mirrors.iter();
        mirrors.map(|mirror| mirror.metric(metric, labels)).sum()
    }

    /// Pulls as a client that keeps its own layers does; returns when all has proved right.
    fn pull(&self, mirror: usize, image: &Layered) {
        let mirror = &self.mirrors[mirror];
        let manifest = mirror.ask(&format!("/v2/{APP}/manifests/v1")).send();
        assert_eq!(manifest.status, 200);
        for digest in std::iter::once(&image.config).chain(&image.layers) {
            let answer = mirror.ask(&format!("/v2/{APP}/blobs/{digest}")).send();
            assert_eq!(sha256(&answer.body), *digest);
        }
    }

    /// Ends all mirrors, and asserts that they have left nothing but what is published.
    fn end(mut self) {
        let store = self.mirrors[0].store().to_owned();
        for mirror in &mut self.mirrors {
            mirror.stop();
        }
        assert_nothing_staged(&store);
        assert_blobs_are_whole(&store);
    }
}

fn a_cold_image_is_fetched_and_extracted_once(kind: Kind) {
    let mirrors = Mirrors::start(kind, 3, "");
    let layers: Vec<Vec<u8>> = (0..10)
        .map(|seed| tar_of(&[(&format!("file-{seed}"), &bytes(300_000, seed))]))
        .collect();
    let image = add(&mirrors.upstream, APP, "v1", &layers);
    let barrier = Barrier::new(24);
    std::thread::scope(|scope| {
        for client in 0..24 {
            let (mirrors, image, barrier) = (&mirrors, &image, &barrier);
            scope.spawn(move || {
                barrier.wait();
                mirrors.pull(client % 3, image);
            });
        }
    });
    for digest in &image.layers {
        assert_eq!(mirrors.upstream.blob_gets(digest), 1, "{digest}");
    }
    assert_eq!(mirrors.upstream.blob_gets(&image.config), 1);
    wait_until("all layers to be published", LIMIT, || {
        let store = mirrors.mirrors[0].store();
        image
            .chain_ids
            .iter()
            .all(|chain_id| record(store, chain_id).is_some())
            .then_some(())
    });
    // Counted when the store has told the mirror so, a moment after others see it.
    let extracted = wait_until("all layers to be counted", LIMIT, || {
        Some(mirrors.count("wharf_layers_total", "outcome=\"published\"")).filter(|count| *count >= 10.0)
    });
    assert_eq!(extracted, 10.0);
    assert_eq!(mirrors.count("wharf_layers_total", "outcome=\"failed\""), 0.0);
    mirrors.end();
}

#[test]
fn on_ext4_a_cold_image_is_fetched_and_extracted_once_for_three_mirrors() {
    a_cold_image_is_fetched_and_extracted_once(Kind::Ext4);
}

#[test]
fn on_gluster_a_cold_image_is_fetched_and_extracted_once_for_three_mirrors() {
    a_cold_image_is_fetched_and_extracted_once(Kind::Gluster);
}

#[test]
fn on_moosefs_a_cold_image_is_fetched_and_extracted_once_for_three_mirrors() {
    a_cold_image_is_fetched_and_extracted_once(Kind::MooseFs);
}

/// The owner is killed when it has sent its client such a part of the blob; others have begun to read it.
fn a_killed_owner_is_replaced(kind: Kind, percent: usize) {
    let mut mirrors = Mirrors::start(kind, 2, QUICK);
    let whole = bytes(10 * MIB, percent as u64);
    let digest = mirrors.upstream.add_blob(APP, whole.clone());
    // Ten seconds.
    mirrors
        .upstream
        .script(blob(&digest), then().bytes_per_second(MIB));
    let mut owner = mirrors.open(0, &digest);
    let first = owner.read(1000);
    let started = Instant::now();
    let mut follower = mirrors.open(1, &digest);
    let mut seen = follower.read(1000);
    let behind = started.elapsed();
    assert!(
        behind < Duration::from_secs(3),
        "the follower's first byte came {behind:?} later"
    );
    assert_eq!(first, seen);
    owner.read(whole.len() * percent / 100 - 1000);
    mirrors.mirrors[0].kill();
    seen.extend(follower.end().expect("the rest").body);
    assert!(seen == whole, "other bytes");
    let sent = mirrors.upstream.bytes_sent(&digest) as f64 / whole.len() as f64;
    println!("{kind:?}, {percent} %: {sent:.3} times the blob's bytes were fetched");
    assert!(sent <= 1.2, "{sent:.3} times the blob's bytes were fetched");
    // The dead one clears what it left when it starts again.
    mirrors.mirrors[0].start_again();
    mirrors.end();
}

#[test]
fn on_ext4_an_owner_that_is_killed_is_replaced() {
    std::thread::scope(|scope| {
        for percent in [10, 50, 99] {
            scope.spawn(move || a_killed_owner_is_replaced(Kind::Ext4, percent));
        }
    });
}

#[test]
fn on_gluster_an_owner_that_is_killed_is_replaced() {
    a_killed_owner_is_replaced(Kind::Gluster, 50);
}

#[test]
fn on_moosefs_an_owner_that_is_killed_is_replaced() {
    a_killed_owner_is_replaced(Kind::MooseFs, 50);
}

/// The owner is stopped for longer than others wait, and wakes up when another one has taken over.
fn an_owner_that_sleeps_is_replaced_and_wakes_up_as_a_follower(kind: Kind) {
    let mut mirrors = Mirrors::start(kind, 3, QUICK);
    // What the kernel takes while the owner sleeps is little beside sixteen seconds.
    let is_long = kind == Kind::Ext4 || std::env::var_os("WHARF_LONG").is_some();
    let (size, most) = if is_long { (64 * MIB, 1.2) } else { (16 * MIB, 1.5) };
    let whole = bytes(size, 77);
    let digest = mirrors.upstream.add_blob(APP, whole.clone());
    mirrors
        .upstream
        .script(blob(&digest), then().bytes_per_second(4 * MIB));
    let mut owner = mirrors.open(0, &digest);
    let mut of_owner = owner.read(whole.len() / 4);
    let mut follower = mirrors.open(1, &digest);
    let mut of_follower = follower.read(1000);
    mirrors.mirrors[0].pause();
    // Taken over: more comes than the first one had.
    of_follower.extend(follower.read(whole.len() / 2));
    mirrors.mirrors[0].go_on();
    let late = mirrors.open(2, &digest);
    assert!(late.end().expect("the blob").body == whole, "other bytes");
    of_follower.extend(follower.end().expect("the rest").body);
    assert!(of_follower == whole, "other bytes");
    // The sleeper's client gets the rest as well, or is cut, and gets it when it asks again.
    match owner.end() {
        Ok(rest) => of_owner.extend(rest.body),
        Err(_) => of_owner = mirrors.open(0, &digest).end().expect("the blob").body,
    }
    assert!(of_owner == whole, "other bytes");
    let sent = mirrors.upstream.bytes_sent(&digest) as f64 / whole.len() as f64;
    println!("{kind:?}: {sent:.3} times the blob's bytes were fetched");
    assert!(sent <= most, "{sent:.3} times the blob's bytes were fetched");
    mirrors.end();
}

#[test]
fn on_ext4_an_owner_that_sleeps_is_replaced() {
    an_owner_that_sleeps_is_replaced_and_wakes_up_as_a_follower(Kind::Ext4);
}

#[test]
fn on_gluster_an_owner_that_sleeps_is_replaced() {
    an_owner_that_sleeps_is_replaced_and_wakes_up_as_a_follower(Kind::Gluster);
}

#[test]
fn on_moosefs_an_owner_that_sleeps_is_replaced() {
    an_owner_that_sleeps_is_replaced_and_wakes_up_as_a_follower(Kind::MooseFs);
}

#[test]
fn mirrors_are_restarted_in_turn_while_clients_pull() {
    let mut mirrors = Mirrors::start(Kind::Ext4, 3, "drain_timeout = \"20s\"");
    let images: Vec<Layered> = (0..12)
        .map(|seed| {
            let layers: Vec<Vec<u8>> = (0..2)
                .map(|layer| tar_of(&[("file", &bytes(400_000, 100 + seed * 2 + layer))]))
                .collect();
            add(&mirrors.upstream, APP, &format!("r{seed}"), &layers)
        })
        .collect();
    mirrors.upstream.script(blobs(), then().bytes_per_second(MIB));
    let addresses: Vec<_> = mirrors.mirrors.iter().map(Mirror::address).collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let (images, addresses, is_over) = (&images, &addresses, &is_over);
                scope.spawn(move || {
                    let mut pulls = 0;
                    while !is_over.load(Ordering::Relaxed) || pulls < 4 {
                        let image = &images[(client * 2 + pulls) % images.len()];
                        for digest in &image.layers {
                            // As containerd does: the next mirror if this one refuses, and a few times in all.
                            let got = (0..12).find_map(|attempt| {
                                let address = addresses[(client + attempt) % addresses.len()];
                                let path = format!("/v2/{APP}/blobs/{digest}");
                                let answer = Request::get(address, &path).try_send();
                                if answer.is_err() {
                                    std::thread::sleep(Duration::from_millis(200));
                                }
                                answer.ok().filter(|answer| answer.status == 200)
                            });
                            assert_eq!(sha256(&got.expect("a layer").body), *digest);
                        }
                        pulls += 1;
                    }
                })
            })
            .collect();
        for mirror in &mut mirrors.mirrors {
            mirror.stop();
            mirror.start_again();
        }
        is_over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("a client");
        }
    });
    mirrors.end();
}

/// The owner's file system hangs, as if its node were cut off, and goes on when another mirror has taken over.
#[test]
fn an_owner_whose_file_system_hangs_is_replaced_and_does_no_harm_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let backing = folder.path().join("backing");
    std::fs::create_dir(&backing).expect("make a directory");
    let cut_off = Bindfs::over(&backing, &[]);
    let upstream = Upstream::start();
    let start = |place: &Path| {
        let keys = format!("share_work = true\n{QUICK}store_timeout = \"2s\"\n");
        let mut options = Options::new(upstream.address()).keys(&keys);
        options.store = Some(place.join("store"));
        Mirror::start(&options)
    };
    let (mut owner, mut other) = (start(cut_off.path()), start(&backing));
    let whole = bytes(20 * MIB, 5);
    let digest = upstream.add_blob(APP, whole.clone());
    upstream.script(blob(&digest), then().bytes_per_second(2 * MIB));
    let path = format!("/v2/{APP}/blobs/{digest}");
    let mut of_owner = owner.ask(&path).open();
    let mut seen = of_owner.read(whole.len() / 4);
    let mut follower = other.ask(&path).open();
    let mut followed = follower.read(1000);
    cut_off.hang();
    followed.extend(follower.end().expect("the rest").body);
    assert!(followed == whole, "other bytes");
    cut_off.go_on();
    // Past its store, or cut.
    match of_owner.end() {
        Ok(rest) => seen.extend(rest.body),
        Err(_) => seen = owner.ask(&path).send().body,
    }
    assert!(seen == whole, "other bytes");
    let sent = upstream.bytes_sent(&digest) as f64 / whole.len() as f64;
    println!("{sent:.3} times the blob's bytes were fetched");
    assert!(sent <= 2.0, "{sent:.3} times the blob's bytes were fetched");
    owner.stop();
    other.stop();
    assert_eq!(assert_blobs_are_whole(&backing.join("store")), 1);
}
