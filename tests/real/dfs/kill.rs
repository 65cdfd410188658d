//! SIGKILL at many points of an extraction: a layer is absent or whole, and the next pull completes the image.

use std::path::Path;
use std::time::{Duration, Instant};

use super::assert_as_gnu_tar;
use crate::support::archives::{made, written};
use crate::support::dfs::{Kind, Shared};
use crate::support::layers::{Layered, add, directory, record};
use crate::support::mirror::{Mirror, Options, wharf};
use crate::support::process::Service;
use crate::support::store::{assert_blobs_are_whole, assert_nothing_staged, wait_until_nothing_is_staged};
use crate::support::upstream::Upstream;

const APP: &str = "library/app";
const PULL_TIMEOUT: Duration = Duration::from_secs(60);
/// How many files a layer has: on GlusterFS a second's work.
const FILES: u32 = 250;

/// How often an extraction is killed; `tests/run --long` takes its time.
fn kills() -> u32 {
    if std::env::var_os("WHARF_LONG").is_some() {
        60
    } else {
        6
    }
}

/// An image of two layers that no other image has.
struct App {
    tag: String,
    tars: Vec<Vec<u8>>,
    image: Layered,
}

impl App {
    fn add(upstream: &Upstream, number: u32) -> Self {
        let (tag, tars) = (format!("v{number}"), made::changed(number, FILES));
        let image = add(upstream, APP, &tag, &tars);
        Self { tag, tars, image }
    }

    fn start_pull(&self, upstream: &Upstream, store: &Path, logs: &Path) -> Service {
        let mut command = wharf();
        command.args(["pull", "--upstream", &upstream.url(), "--store"]);
        command.arg(store).arg(format!("app:{}", self.tag));
        Service::start(&format!("pull-{}", self.tag), logs, command)
    }

    fn pull(&self, upstream: &Upstream, store: &Path, logs: &Path) {
        let mut pull = self.start_pull(upstream, store, logs);
        let status = pull.wait(PULL_TIMEOUT);
        assert!(status.success(), "{}: {status}\n{}", self.tag, pull.stderr());
    }

    /// Asserts that each layer that has a record is whole, as the other node sees it; returns how many there are.
    fn assert_layers_are_whole(&self, shared: &Shared, work: &Path) -> usize {
        let store = shared.b().join("store");
        let tars = written(&work.join(&self.tag), &self.tars);
        let published = self
            .image
            .chain_ids
            .iter()
            .zip(&tars)
            .filter(|(chain_id, _)| record(&store, chain_id).is_some());
        published
            .map(|(chain_id, tar)| {
                assert_as_gnu_tar(&directory(&store, chain_id), tar, &shared.tolerance(), &self.tag);
            })
            .count()
    }
}

fn killed_pulls_leave_layers_absent_or_whole(kind: Kind) {
    let (upstream, shared) = (Upstream::start(), Shared::start(kind));
    let work = tempfile::tempdir().expect("a directory");
    let store = shared.a().join("store");
    // The first makes the store, which takes a while; the second tells how long a pull is.
    App::add(&upstream, 0).pull(&upstream, &store, work.path());
    let whole = App::add(&upstream, 1);
    let started = Instant::now();
    whole.pull(&upstream, &store, work.path());
    let duration = started.elapsed();
    assert_eq!(whole.assert_layers_are_whole(&shared, work.path()), 2);

    let (mut last, mut counts) = (None, [0; 3]);
    for kill in 0..kills() {
        let app = App::add(&upstream, 2 + kill);
        let mut pull = app.start_pull(&upstream, &store, work.path());
        // Moments all over the pull, not synchronised with it on purpose.
        std::thread::sleep(duration * (2 * kill + 1) / (2 * kills()));
        pull.kill();
        counts[app.assert_layers_are_whole(&shared, work.path())] += 1;
        assert_blobs_are_whole(&shared.b().join("store"));
        last = Some(app);
    }
    let last = last.expect("one was killed");
    last.pull(&upstream, &store, work.path());
    assert_eq!(last.assert_layers_are_whole(&shared, work.path()), 2);
    // A pull may end before it has cleared what its predecessors left; a mirror does not.
    let mut options = Options::new(upstream.address());
    options.store = Some(store.clone());
    let mut mirror = Mirror::start(&options);
    wait_until_nothing_is_staged(&store);
    mirror.stop();
    assert_nothing_staged(&store);
    assert!(
        counts[0] > 0,
        "all were killed too late: {counts:?} after {duration:?}"
    );
}

#[test]
fn long_ext4_kills_leave_layers_absent_or_whole() {
    killed_pulls_leave_layers_absent_or_whole(Kind::Ext4);
}

#[test]
fn long_gluster_kills_leave_layers_absent_or_whole() {
    killed_pulls_leave_layers_absent_or_whole(Kind::Gluster);
}

#[test]
fn long_moosefs_kills_leave_layers_absent_or_whole() {
    killed_pulls_leave_layers_absent_or_whole(Kind::MooseFs);
}
