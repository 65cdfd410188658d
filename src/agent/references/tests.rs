//! What mirrors are told, and who waits for it.

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;

use super::*;
use crate::agent::mirrors::tests::ScriptedMirror;
use crate::api::{NodeAnswer, NodeStatement};
use crate::oci::Algorithm;

/// How long a test waits for what must happen.
const SOON: Duration = Duration::from_secs(10);

/// Opens the references of a node that has just one mirror.
fn references_of(root: &tempfile::TempDir, mirror: &ScriptedMirror) -> References {
    References::open(root.path(), Mirrors::new(&[mirror.url()]).unwrap()).unwrap()
}

fn root() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn digest(seed: &str) -> Digest {
    Digest::of(Algorithm::Sha256, seed.as_bytes())
}

fn layer(seed: &str) -> ChainId {
    ChainId::new(digest(seed))
}

fn layers(seeds: &[&str]) -> BTreeSet<ChainId> {
    seeds.iter().map(|seed| layer(seed)).collect()
}

fn written() -> Response {
    counts(0)
}

fn counts(sequence: u64) -> Response {
    let answer = NodeAnswer {
        sequence,
        previous: None,
    };
    axum::Json(answer).into_response()
}

fn unavailable() -> Response {
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}

fn statements(mirror: &ScriptedMirror) -> Vec<NodeStatement> {
    let bodies = mirror.bodies();
    bodies
        .iter()
        .map(|body| serde_json::from_slice(body).unwrap())
        .collect()
}

/// Waits until a condition holds.
async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_true() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn blobs_that_are_set_are_told_and_one_more_can_be_waited_for() {
    let mirror = ScriptedMirror::start(|_, _, _| written()).await;
    let root = root();
    let references = references_of(&root, &mirror);
    let blobs = |seeds: &[&str]| -> BTreeSet<Digest> { seeds.iter().map(|seed| digest(seed)).collect() };
    references.set(layers(&["a"]), blobs(&["a", "b"]));
    assert!(references.told(SOON).await);
    references.set_blobs(blobs(&["b", "c"]));
    assert!(references.told(SOON).await);
    assert_eq!(statements(&mirror).last().unwrap().blobs, blobs(&["b", "c"]));
    let count = mirror.bodies().len();
    references.set_blobs(blobs(&["b", "c"]));
    references.set_blobs(blobs(&["c"]));
    until("the removal to be told", || {
        statements(&mirror).last().unwrap().blobs == blobs(&["c"])
    })
    .await;
    assert_eq!(mirror.bodies().len(), count + 1);
    assert_eq!(statements(&mirror).last().unwrap().layers, layers(&["a"]));
}

#[tokio::test]
async fn what_is_in_use_is_told_as_a_whole_and_once() {
    let mirror = ScriptedMirror::start(|_, _, _| written()).await;
    let root = root();
    let references = references_of(&root, &mirror);
    assert!(references.told(SOON).await, "there is nothing to tell");
    assert_eq!(mirror.bodies().len(), 0, "and nothing is given free");
    references.set(layers(&["a", "b"]), BTreeSet::new());
    assert!(references.told(SOON).await);
    references.add_layer(&layer("c"));
    references.add_blob(&digest("blob"));
    assert!(references.told(SOON).await);
    let count = mirror.bodies().len();
    references.add_layer(&layer("c"));
    references.remove_layer(&layer("never there"));
    for _ in 0..50 {
        assert!(references.told(SOON).await);
    }
    assert_eq!(mirror.bodies().len(), count, "nothing has changed");
    let statements = statements(&mirror);
    let last = statements.last().unwrap();
    assert_eq!(last.layers, layers(&["a", "b", "c"]));
    assert_eq!(last.blobs, [digest("blob")].into());
    assert_eq!(last.version, env!("CARGO_PKG_VERSION"));
    assert!(!last.host_name.is_empty());
    assert!(statements.is_sorted_by_key(|statement| statement.sequence));
}

#[tokio::test]
async fn changes_during_a_statement_share_the_next_one() {
    let (release, hold) = std::sync::mpsc::channel::<()>();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    // Its own thread, because the script blocks it.
    let mirror = runtime.spawn(ScriptedMirror::start(move |_, _, _| {
        let _ = hold.recv_timeout(SOON);
        written()
    }));
    let mirror = mirror.await.unwrap();
    let root = root();
    let references = references_of(&root, &mirror);
    references.set(layers(&[]), BTreeSet::new());
    let first = references.told(SOON);
    tokio::pin!(first);
    assert!(futures_util::poll!(&mut first).is_pending());
    // The sender takes the first one up.
    tokio::time::sleep(Duration::from_millis(100)).await;
    for number in 0..100 {
        references.add_layer(&layer(&number.to_string()));
    }
    drop(release);
    assert!(first.await);
    assert!(references.told(SOON).await);
    let statements = statements(&mirror);
    assert!(statements.len() <= 3, "{}", statements.len());
    assert_eq!(statements.last().unwrap().layers.len(), 100);
    drop(mirror);
    runtime.shutdown_background();
}

#[tokio::test]
async fn removals_go_along_a_little_later() {
    let mirror = ScriptedMirror::start(|_, _, _| written()).await;
    let root = root();
    let references = references_of(&root, &mirror);
    references.set(layers(&["a", "b"]), [digest("blob")].into());
    assert!(references.told(SOON).await);
    references.remove_layer(&layer("a"));
    references.remove_blob(&digest("blob"));
    assert!(references.told(Duration::ZERO).await, "a removal harms nobody");
    until("it is stated", || mirror.bodies().len() > 1).await;
    let statements = statements(&mirror);
    assert_eq!(statements.len(), 2);
    assert_eq!(statements[1].layers, layers(&["b"]));
    assert!(statements[1].blobs.is_empty());
}

#[tokio::test]
async fn nobody_waits_while_no_mirror_answers_and_it_is_told_once_one_does() {
    let gone = ScriptedMirror::start(|_, _, _| written()).await;
    let (address, root) = (gone.address(), root());
    drop(gone);
    until("its port is closed", || {
        std::net::TcpStream::connect(address).is_err()
    })
    .await;
    let mirrors = Mirrors::new(&[format!("http://{address}").parse().unwrap()]).unwrap();
    let references = References::open(root.path(), mirrors).unwrap();
    references.set(layers(&["a"]), BTreeSet::new());
    let start = Instant::now();
    for _ in 0..20 {
        assert!(!references.told(SOON).await);
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let back = ScriptedMirror::start_at(address, |_, _, _| written()).await;
    until("it is told", || !back.bodies().is_empty()).await;
    until("it is known to be told", || {
        futures_util::FutureExt::now_or_never(references.told(SOON)) == Some(true)
    })
    .await;
    assert_eq!(statements(&back)[0].layers, layers(&["a"]));
}

#[tokio::test]
async fn a_mirror_that_takes_too_long_is_not_waited_for_beyond_patience() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let root = root();
    let mirrors = Mirrors::new(&[url.parse().unwrap()]).unwrap();
    let references = References::open(root.path(), mirrors).unwrap();
    references.set(layers(&["a"]), BTreeSet::new());
    assert!(!references.told(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn a_node_whose_clock_was_ahead_goes_on_above_what_the_store_has() {
    let ahead = 9_000_000_000_000_000_000_u64;
    let mirror = ScriptedMirror::start(move |_, _, body| {
        let statement: NodeStatement = serde_json::from_slice(body).unwrap();
        if statement.sequence > ahead {
            return written();
        }
        counts(ahead)
    })
    .await;
    let root = root();
    let references = references_of(&root, &mirror);
    references.set(layers(&["a"]), BTreeSet::new());
    assert!(references.told(SOON).await);
    assert_eq!(statements(&mirror).last().unwrap().sequence, ahead + 1);
}

#[tokio::test]
async fn a_statement_that_fails_is_made_again() {
    let mirror =
        ScriptedMirror::start(|count, _, _| if count == 0 { unavailable() } else { written() }).await;
    let root = root();
    let references = references_of(&root, &mirror);
    references.set(layers(&["a"]), BTreeSet::new());
    until("it is written", || mirror.bodies().len() > 1).await;
    let statements = statements(&mirror);
    assert_eq!(statements[1].layers, layers(&["a"]));
    assert!(statements[1].sequence > statements[0].sequence);
}

#[tokio::test]
async fn everything_is_stated_again_now_and_then() {
    let mirror = ScriptedMirror::start(|_, _, _| written()).await;
    let root = root();
    let mirrors = Mirrors::new(&[mirror.url()]).unwrap();
    let often = Duration::from_millis(10);
    let references = References::start(root.path(), mirrors, often).unwrap();
    references.set(layers(&["a"]), BTreeSet::new());
    until("it is stated three times", || mirror.bodies().len() >= 3).await;
    let statements = statements(&mirror);
    assert!(
        statements
            .iter()
            .all(|statement| statement.layers == layers(&["a"]))
    );
    assert!(statements.is_sorted_by_key(|statement| statement.sequence));
}
