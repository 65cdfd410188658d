//! Whatever requests, failures and restarts come in whatever order: what is
//! served as whole is byte for byte upstream's, or it is an error.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::client::Cut;
use crate::support::curl::Answer;
use crate::support::mirror::{Mirror, Options};
use crate::support::store::assert_blobs_are_whole;
use crate::support::upstream::{Then, Upstream, When, any_cdn, anything, blobs, bytes, manifests, then};

use super::{APP, blob_path, manifest_path};

/// The sizes of the blobs: tiny, about a buffer, several buffers.
const SIZES: [usize; 4] = [1, 5000, 262_144, 700_001];
/// How many sequences are tried, by default and by `tests/run --long`.
const CASES: u32 = 6;
const LONG_CASES: u32 = 300;

#[derive(Clone, Debug)]
enum Step {
    Get(usize),
    Head(usize),
    Range(usize, usize, usize),
    /// Reads a part and leaves.
    Leave(usize, usize),
    /// Several clients at once.
    Crowd(usize),
    Manifest,
    /// The tag names another image from now on.
    Retag(usize),
    Fail(Failure),
    Heal,
    ExpireUrls,
    Kill,
}

#[derive(Clone, Copy, Debug)]
enum Failure {
    Truncate(usize),
    Corrupt(usize),
    LengthOff(isize),
    WithoutLength,
    IgnoreRanges,
    ShiftRanges,
    Status(u16),
    HangUp,
    CdnRefuses,
    Slow,
}

impl Failure {
    fn script(self) -> (When, Then) {
        let twice = |then: Then| then.times(2);
        match self {
            Self::Truncate(after) => (blobs(), twice(then().truncate(after))),
            Self::Corrupt(offset) => (blobs(), twice(then().corrupt(offset))),
            Self::LengthOff(by) => (blobs(), twice(then().length_off(by))),
            Self::WithoutLength => (blobs(), then().without_length()),
            Self::IgnoreRanges => (blobs(), then().ignore_ranges()),
            Self::ShiftRanges => (blobs(), twice(then().shift_ranges(7))),
            Self::Status(status) => (anything(), twice(then().status(status))),
            Self::HangUp => (manifests(), twice(then().hang_up())),
            Self::CdnRefuses => (any_cdn(), twice(then().status(403))),
            Self::Slow => (blobs(), then().bytes_per_second(8 << 20)),
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let blob = 0..SIZES.len();
    let offset = 0..800_000_usize;
    prop_oneof![
        4 => blob.clone().prop_map(Step::Get),
        1 => blob.clone().prop_map(Step::Head),
        3 => (blob.clone(), offset.clone(), offset.clone()).prop_map(|(b, first, last)| Step::Range(b, first, last)),
        2 => (blob.clone(), offset.clone()).prop_map(|(b, bytes)| Step::Leave(b, bytes)),
        1 => blob.clone().prop_map(Step::Crowd),
        2 => Just(Step::Manifest),
        1 => blob.prop_map(Step::Retag),
        5 => failure().prop_map(Step::Fail),
        2 => Just(Step::Heal),
        1 => Just(Step::ExpireUrls),
        1 => Just(Step::Kill),
    ]
}

fn failure() -> impl Strategy<Value = Failure> {
    let offset = 0..700_000_usize;
    prop_oneof![
        3 => offset.clone().prop_map(Failure::Truncate),
        2 => offset.prop_map(Failure::Corrupt),
        1 => (-50_isize..50).prop_map(Failure::LengthOff),
        1 => Just(Failure::WithoutLength),
        1 => Just(Failure::IgnoreRanges),
        1 => Just(Failure::ShiftRanges),
        2 => prop_oneof![Just(401), Just(403), Just(404), Just(429), Just(500), Just(503)].prop_map(Failure::Status),
        1 => Just(Failure::HangUp),
        1 => Just(Failure::CdnRefuses),
        1 => Just(Failure::Slow),
    ]
}

/// The world of one case.
struct World {
    upstream: Upstream,
    mirror: Mirror,
    blobs: Vec<(String, Vec<u8>)>,
    /// Every manifest that the tag has ever had.
    manifests: Vec<Vec<u8>>,
    /// Upstream has never lied about a length, which a HEAD would pass on.
    lengths_are_true: bool,
    /// Upstream has never sent a wrong byte, which may reach who leaves or asks for a part before the end.
    bytes_are_true: bool,
}

impl World {
    fn new(redirects: bool) -> Self {
        let upstream = Upstream::start();
        if redirects {
            upstream.redirect_blobs();
        }
        let blobs: Vec<_> = (SIZES.iter().zip(0..))
            .map(|(size, seed)| {
                let bytes = bytes(*size, seed);
                (upstream.add_blob(APP, bytes.clone()), bytes)
            })
            .collect();
        let mut options = Options::new(upstream.address())
            .keys("negative_ttl = \"0s\"")
            .upstream("docker.io", &[&upstream.url()])
            .upstream_keys(
                "connect_timeout = \"500ms\"\nanswer_timeout = \"500ms\"\nidle_timeout = \"500ms\"",
            );
        options.tag_ttl = "0s";
        let mut world = Self {
            mirror: Mirror::start(&options),
            upstream,
            blobs,
            manifests: Vec::new(),
            lengths_are_true: true,
            bytes_are_true: true,
        };
        world.retag(0);
        world
    }

    fn retag(&mut self, layer: usize) {
        let image = self
            .upstream
            .add_image(APP, "v1", std::slice::from_ref(&self.blobs[layer].1));
        self.manifests.push(image.manifest);
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Get(blob) => self.get(blob),
            Step::Head(blob) => self.head(blob),
            Step::Range(blob, first, last) => self.range(blob, first.min(last), first.max(last)),
            Step::Leave(blob, count) => self.leave(blob, count),
            Step::Crowd(blob) => {
                super::at_once(4, |_| self.get(blob));
            }
            Step::Manifest => {
                if let Ok(answer) = self.mirror.ask(&manifest_path("v1")).try_send()
                    && answer.status == 200
                {
                    assert!(self.manifests.contains(&answer.body), "a manifest that never was");
                    let is_newest = self.manifests.last() == Some(&answer.body);
                    assert!(
                        is_newest || answer.header("warning").is_some(),
                        "an old one without a warning"
                    );
                }
            }
            Step::Retag(layer) => self.retag(layer),
            Step::Fail(failure) => {
                self.bytes_are_true &= !matches!(failure, Failure::Corrupt(_));
                self.lengths_are_true &= !matches!(failure, Failure::LengthOff(_));
                let (when, then) = failure.script();
                self.upstream.script(when, then);
            }
            Step::Heal => self.upstream.clear_script(),
            Step::ExpireUrls => self.upstream.expire_urls(),
            Step::Kill => {
                self.mirror.kill();
                assert_blobs_are_whole(self.mirror.store());
                self.mirror.start_again();
            }
        }
    }

    fn get(&self, blob: usize) {
        let (digest, whole) = &self.blobs[blob];
        assert_right(self.mirror.ask(&blob_path(digest)).try_send(), whole);
    }

    fn head(&self, blob: usize) {
        let (digest, whole) = &self.blobs[blob];
        let answer = self.mirror.ask(&blob_path(digest)).method("HEAD").send();
        if answer.status == 200
            && self.lengths_are_true
            && let Some(length) = answer.header("content-length")
        {
            assert_eq!(length, whole.len().to_string());
        }
    }

    fn range(&self, blob: usize, first: usize, last: usize) {
        let (digest, whole) = &self.blobs[blob];
        let request = self
            .mirror
            .ask(&blob_path(digest))
            .range(&format!("{first}-{last}"));
        let outcome = request.try_send();
        let part = whole.get(first..(last + 1).min(whole.len())).unwrap_or_default();
        match outcome {
            // Without a length there are no parts: then the whole is right too.
            Ok(answer) if answer.status == 200 => assert!(answer.body == *whole, "other bytes"),
            // Clients check the parts together: only with the last one is a blob whole.
            Ok(answer) if answer.status == 206 && !self.bytes_are_true && last + 1 < whole.len() => {
                assert_eq!(answer.body.len(), part.len());
            }
            outcome => assert_right(outcome, part),
        }
    }

    fn leave(&self, blob: usize, count: usize) {
        let (digest, whole) = &self.blobs[blob];
        let Ok(mut response) = self.mirror.ask(&blob_path(digest)).try_open() else {
            return;
        };
        let mut received = Vec::new();
        while response.status == 200
            && received.len() < count
            && let Ok(more) = response.read_some(8192)
            && !more.is_empty()
        {
            received.extend(more);
        }
        assert!(
            !self.bytes_are_true || whole.starts_with(&received),
            "other bytes"
        );
    }

    /// In the end, once upstream is sound again, everything is to be had.
    fn ends_well(&self) {
        self.upstream.clear_script();
        for (digest, whole) in &self.blobs {
            let answer = super::ask_until(&self.mirror, &blob_path(digest), "the blob", |answer| {
                answer.status == 200
            });
            assert!(answer.body == *whole, "other bytes");
        }
        assert_blobs_are_whole(self.mirror.store());
    }
}

/// Asserts that an answer is an error, or exactly what upstream has; and of one that was cut, its beginning.
fn assert_right(outcome: Result<Answer, Cut>, expected: &[u8]) {
    match outcome {
        Ok(answer) if answer.status < 300 => assert!(answer.body == expected, "other bytes"),
        Ok(answer) => assert!(answer.status == 416 || !answer.error_code().is_empty()),
        // What was wrong may have begun to arrive, and even too much of it; it is the end that must not come.
        Err(_) => {}
    }
}

#[test]
fn what_is_served_as_whole_is_upstreams_or_an_error() {
    let is_long = std::env::var_os("WHARF_LONG").is_some();
    let config = Config {
        cases: if is_long { LONG_CASES } else { CASES },
        // A failing case takes seconds: some attempts to make it smaller must do.
        max_shrink_time: 40_000,
        failure_persistence: None,
        ..Config::default()
    };
    let strategy = (any::<bool>(), proptest::collection::vec(step(), 1..30));
    let result = TestRunner::new(config).run(&strategy, |(redirects, steps)| {
        let mut world = World::new(redirects);
        for step in &steps {
            world.take(step);
        }
        world.ends_well();
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
