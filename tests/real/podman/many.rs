//! Two mirrors of one store and eight Podman processes that publish and read at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::store::{assert_listed, listed};
use crate::support::cluster::Cluster;
use crate::support::dfs::Kind;
use crate::support::layers::Layered;
use crate::support::mirror::Options;
use crate::support::node::Node;
use crate::support::node_images::add_layered;
use crate::support::suite::Suite;
use crate::support::upstream::Upstream;

/// How many images there are, each with [`LAYERS`] layers of its own.
const IMAGES: usize = 8;
const LAYERS: usize = 3;
/// Podman processes on each of two nodes.
const PROCESSES: usize = 4;

/// How long an entry may be missing that another mirror has pushed out.
const LOST: Duration = Duration::from_secs(2);

/// For how long images are run again once all are published.
fn duration() -> Duration {
    let is_long = std::env::var_os("WHARF_LONG").is_some();
    Duration::from_secs(if is_long { 120 } else { 15 })
}

fn name(number: usize) -> String {
    format!("image-{number}")
}

/// Runs every image once, beginning with the `first`, and again until the time is over.
fn run_all(node: &Node, first: usize, until: Instant) {
    for round in 0.. {
        for number in 0..IMAGES {
            if round > 0 && Instant::now() >= until {
                return;
            }
            let name = name((first + number) % IMAGES);
            let options = if round % 2 == 0 {
                &["--pull=always"][..]
            } else {
                &[]
            };
            assert_eq!(node.podman_run_with(options, &name, "cat /name"), name);
        }
    }
}

fn nothing_is_lost(kind: Kind) {
    let upstream = Upstream::start();
    let images: Vec<Layered> = (0..IMAGES)
        .map(|number| add_layered(&upstream, &name(number), LAYERS))
        .collect();
    let cluster = Cluster::start_on(kind, Options::new(upstream.address()));
    let another = cluster.another_mirror(Options::new(upstream.address()));
    let nodes = [(Suite::Host, &cluster.mirror), (Suite::Forky, &another)].map(|(suite, mirror)| {
        Node::start_podman(suite, &cluster.mount(), mirror.address(), cluster.image_store())
    });
    let until = Instant::now() + duration();
    let all_have_run = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            // On ext4 a reader must never see a list that is not whole.
            let mut missed: BTreeMap<String, Option<Instant>> = BTreeMap::new();
            while kind == Kind::Ext4 && !all_have_run.load(Ordering::Relaxed) {
                let list = listed(cluster.mirror.store());
                let now = Instant::now();
                for (id, since) in &mut missed {
                    if !list.contains(id) {
                        assert!(now - *since.get_or_insert(now) < LOST, "{id} is lost");
                    }
                }
                for id in list {
                    missed.insert(id, None);
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        let runs: Vec<_> = (0..2 * PROCESSES)
            .map(|process| {
                let node = &nodes[process % 2];
                scope.spawn(move || run_all(node, process * IMAGES / (2 * PROCESSES), until))
            })
            .collect();
        let ended: Vec<_> = runs.into_iter().map(thread::ScopedJoinHandle::join).collect();
        all_have_run.store(true, Ordering::Relaxed);
        let failed = ended.iter().filter(|result| result.is_err()).count();
        assert_eq!(failed, 0, "runs that failed");
        reader.join().expect("layers.json is always whole");
    });
    let mut logs = another.log();
    logs += &cluster.mirror.log();
    for image in &images {
        assert_listed(cluster.mirror.store(), &image.layer_ids());
        for layer in &image.layers {
            let path = format!("/blobs/{layer}");
            let asked = logs
                .lines()
                .any(|line| line.contains("method=GET") && line.contains(&path));
            assert!(!asked, "{layer} was asked of a mirror");
        }
    }
    for node in &nodes {
        assert_eq!(node.own_layers(), Vec::<String>::new());
    }
}

#[test]
fn on_ext4_two_mirrors_and_eight_podmans_lose_nothing() {
    nothing_is_lost(Kind::Ext4);
}

#[test]
fn on_gluster_two_mirrors_and_eight_podmans_lose_nothing() {
    nothing_is_lost(Kind::Gluster);
}
