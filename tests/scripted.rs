//! The binary against an upstream that lies, stalls and breaks (`support::upstream`).
//!
//! Nothing here waits by the clock: a test holds the upstream at a
//! [`Gate`](crate::support::gate::Gate), acts, and opens the gate.

mod access;
mod agent_socket;
mod background;
mod cold_blob;
mod command_line;
mod crash;
mod credentials;
mod doctor;
mod endpoints;
mod fill_errors;
mod lists;
mod manifests;
mod missing;
mod names;
mod nodes;
mod offline;
mod property;
mod proxies;
mod pull_by_mirror;
mod ranges;
mod redirects;
mod referrers;
mod resume;
mod setup;
mod shutdown;
mod sick_store;
mod stale;
mod tags;
mod tls;
mod tokens;
mod two_mirrors;
mod unsupported;
mod upstream;
mod wrong_bytes;

use std::sync::Barrier;
use std::time::Duration;

use crate::support::client::Asked;
use crate::support::curl::Answer;
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::upstream::Upstream;

/// A repository of docker.io.
const APP: &str = "library/app";
/// How long anything may take that should take milliseconds.
const SOON: Duration = Duration::from_secs(10);
const MIB: usize = 1 << 20;

/// Starts an upstream and a mirror of it.
fn start() -> (Upstream, Mirror) {
    let upstream = Upstream::start();
    let mirror = Mirror::start(&Options::new(upstream.address()));
    (upstream, mirror)
}

/// The path of a blob of [`APP`].
fn blob_path(digest: &str) -> String {
    format!("/v2/{APP}/blobs/{digest}")
}

/// The path of a manifest of [`APP`].
fn manifest_path(reference: &str) -> String {
    format!("/v2/{APP}/manifests/{reference}")
}

/// Lets `count` clients act at the same moment; returns what came of it.
fn at_once<T: Send>(count: usize, act: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(count);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..count)
            .map(|client| {
                let (barrier, act) = (&barrier, &act);
                scope.spawn(move || {
                    barrier.wait();
                    act(client)
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .collect()
    })
}

/// Reads the answers of all clients at the same time.
fn end_all(clients: Vec<Asked>) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let ends: Vec<_> = clients
            .into_iter()
            .map(|client| scope.spawn(|| client.end()))
            .collect();
        ends.into_iter()
            .map(|end| end.join().expect("a client"))
            .collect()
    })
}

/// Lets the mirror take up what was sent to it before: it accepts connections in their order.
fn settle(mirror: &Mirror) {
    for _ in 0..20 {
        assert_eq!(mirror.ask("/healthz").send().status, 200);
    }
}

/// Asks until the answer is the one that must come in the end.
fn ask_until(mirror: &Mirror, path: &str, what: &str, is_meant: impl Fn(&Answer) -> bool) -> Answer {
    wait_until(&format!("{path}: {what}"), SOON, || {
        mirror.ask(path).try_send().ok().filter(|answer| is_meant(answer))
    })
}

/// Waits until a metric has the value that it must have in the end; what is counted after an answer may come after it.
fn wait_for_metric(mirror: &Mirror, name: &str, labels: &str, is_meant: impl Fn(f64) -> bool) {
    wait_until(&format!("{name} {labels}"), SOON, || {
        is_meant(mirror.metric(name, labels)).then_some(())
    });
}

/// Asserts that an answer is an error of the specification's form.
fn assert_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (status, code),
        "{answer:?}"
    );
    let media_type = answer.header("content-type").unwrap_or_default();
    assert!(media_type.starts_with("application/json"), "{media_type}");
}

/// Asserts that an answer asks its client to come again: 503, and in how many seconds.
fn assert_unavailable(answer: &Answer) {
    assert_error(answer, 503, "UNAVAILABLE");
    let seconds = answer
        .header("retry-after")
        .and_then(|seconds| seconds.parse::<u32>().ok());
    assert!(seconds.is_some_and(|seconds| seconds > 0), "{answer:?}");
}
