//! Held manifests: whose body waits until the image's layers are published.
//!
//! A client that reads layers from the store looks for them right after the manifest, and fetches all that it does not find
//! there. So it gets the manifest's headers at once, and its body when the layers have their names: its wait is bounded by
//! nothing shorter then (tried: skopeo, dockerd and ctr waited 100 s for a body once the headers were there),
//! while an answer to the snapshotter would be awaited with containerd's locks held.
//!
//! ```text
//! held ──→ all layers published ──→ the body       the client finds every layer
//!   ├────→ a layer failed, or none is extracted    it fetches the blobs as usual
//!   ├────→ `hold_timeout` is over                  the same
//!   └────→ this process is to end                  the same, from another mirror
//! ```
//! Meanwhile a byte of the body is sent every few seconds, so that no idle timeout on the way strikes. HEAD, 304
//! and indexes are never held, nor is what is published. Who was held and fetches those layers' blobs all the same does not
//! see the store, and is not held for a while.
//!
//! A client of containers/storage that fetches a layer's blob while the layer is on its way fails if the directory appears
//! just when it is about to make it. So the last bytes of the blob are held too, until the layer is listed and the client
//! finds it, or will not be.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use quick_cache::sync::Cache;
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::drip;
use crate::mirror::{Awaited, Mirror};
use crate::oci::Digest;
use crate::telemetry::Metrics;
use crate::telemetry::labels::HoldOutcome;

/// The header by which a client says that it reads layers from the store: hosts.toml can set one.
const READS_STORE: HeaderName = HeaderName::from_static("wharf-reads-store");

/// What containerd puts into the User-Agent of a Docker or containerd whose snapshotter is `wharf agent`.
const SNAPSHOTTER: &str = "storage-driver/wharf";

/// The products that look layers up in an additional image store: Podman, CRI-O, Buildah, and what else is made with
/// containers/image and does not say what it is. Not skopeo, which wants the blobs.
const IMAGE_STORE_READERS: [&str; 4] = ["libpod", "cri-o", "buildah", "containers"];

/// How long a client is not held that was, and fetched blobs all the same.
const DISTRUST: Duration = Duration::from_secs(600);

/// How soon after its manifest a pull fetches layers. Later ones are another's: BuildKit's, or of a node with the
/// same address.
const SAME_PULL: Duration = Duration::from_secs(60);

/// How long the ends of all blobs of a pull are held at most. Not `hold_timeout`, which may be short: to have a layer a moment
/// too early can break a node.
const BLOBS_PATIENCE: Duration = Duration::from_secs(600);

/// How many clients are remembered.
const MAX_CLIENTS: usize = 8192;

/// Who is held, and who was for nothing.
pub struct Holds {
    timeout: Duration,
    draining: CancellationToken,
    /// The layers that each client was last held for, and when it got its manifest.
    released: Cache<Client, (Arc<[Digest]>, Instant)>,
    /// Until when clients are not held.
    distrusted: Cache<Client, Instant>,
    blobs_patience: Duration,
    /// Until when the ends of the blobs of a client's last pull are held.
    blobs_until: Cache<Client, Instant>,
}

/// A client, as far as clients can be told apart.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Client {
    address: IpAddr,
    user_agent: String,
}

impl Client {
    fn of(headers: &HeaderMap, address: IpAddr) -> Self {
        let user_agent = headers
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok());
        Self {
            address,
            user_agent: user_agent.unwrap_or_default().to_owned(),
        }
    }
}

/// How a client reads layers from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// By their chains, through a snapshotter.
    Snapshotter,
    /// By layers.json, as an additional image store.
    ImageStore,
}

impl Reader {
    /// Tells how a client reads layers from the store, if its headers say that it may.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let says_so = |value: &http::HeaderValue| value.to_str().is_ok_and(|value| value.trim() == "true");
        if headers.get_all(READS_STORE).iter().any(says_so) {
            return Some(Self::Snapshotter);
        }
        let agents = headers.get_all(header::USER_AGENT).iter();
        let products = agents.flat_map(|agent| agent.to_str().unwrap_or_default().split(' '));
        products.into_iter().find_map(|product| {
            if product == SNAPSHOTTER {
                return Some(Self::Snapshotter);
            }
            let (name, _) = product.split_once('/')?;
            let reads = IMAGE_STORE_READERS
                .iter()
                .any(|reader| name.eq_ignore_ascii_case(reader));
            reads.then_some(Self::ImageStore)
        })
    }
}

impl Holds {
    /// Holds manifests for at most `timeout`, and none once `draining` is cancelled.
    pub fn new(timeout: Duration, draining: CancellationToken) -> Self {
        Self {
            timeout,
            draining,
            released: Cache::new(MAX_CLIENTS),
            distrusted: Cache::new(MAX_CLIENTS),
            blobs_patience: BLOBS_PATIENCE,
            blobs_until: Cache::new(MAX_CLIENTS),
        }
    }

    /// Tells whether a client's manifest of an image that is on its way is to be held.
    fn is_held(&self, client: &Client) -> bool {
        let until = self.distrusted.get(client);
        !self.draining.is_cancelled() && until.is_none_or(|until| until <= Instant::now())
    }

    /// Makes the body of a manifest, which waits for the image's layers if this client reads them from the store.
    pub(super) fn body(
        self: &Arc<Self>,
        headers: &HeaderMap,
        address: IpAddr,
        manifest: Bytes,
        awaited: impl FnOnce(Reader) -> Option<Awaited>,
        metrics: &Metrics,
    ) -> Body {
        let client = Client::of(headers, address);
        self.blobs_until.remove(&client);
        let reader = Reader::of(headers).filter(|_| self.is_held(&client));
        match reader.and_then(awaited) {
            Some(awaited) => {
                let release = Arc::clone(self).release(client, awaited, metrics.clone());
                drip::whole(manifest, release)
            }
            None => Body::from(manifest),
        }
    }

    /// Waits until a manifest is to be held no longer.
    async fn release(self: Arc<Self>, client: Client, awaited: Awaited, metrics: Metrics) {
        let started = Instant::now();
        let outcome = tokio::select! {
            () = self.draining.cancelled() => HoldOutcome::Draining,
            published = timeout(self.timeout, awaited.ready) => match published {
                Ok(true) => HoldOutcome::Published,
                Ok(false) => HoldOutcome::Failed,
                Err(_) => HoldOutcome::TimedOut,
            },
        };
        metrics.held(outcome, started.elapsed());
        tracing::debug!(
            client = %client.address, user_agent = client.user_agent, ?outcome, waited = ?started.elapsed(),
            "a manifest was held"
        );
        if outcome == HoldOutcome::Published {
            self.released
                .insert(client, (awaited.layers.into(), Instant::now()));
        }
    }

    /// Returns what the end of a blob waits for, if this client must not have it while the layer is on its way: until
    /// `has_come`, or all blobs of a pull together have been held for long.
    pub(super) fn blob_end(
        self: &Arc<Self>,
        headers: &HeaderMap,
        address: IpAddr,
        has_come: impl Future<Output = ()> + Send + 'static,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        if Reader::of(headers) != Some(Reader::ImageStore) {
            return None;
        }
        let (holds, client) = (Arc::clone(self), Client::of(headers, address));
        Some(async move {
            let until = Instant::now() + holds.blobs_patience;
            let known = holds
                .blobs_until
                .get_or_insert_with::<_, Infallible>(&client, || Ok(until));
            let until = known.unwrap_or(until).into();
            tokio::select! {
                () = holds.draining.cancelled() => {}
                // Past the limit the client makes the layer itself.
                _ = timeout_at(until, has_come) => {}
            }
        })
    }

    /// Notes that a client fetches a blob: if it is a layer that it was held for, it does not see the store.
    pub(super) fn note_blob(&self, mirror: &Mirror, headers: &HeaderMap, address: IpAddr, digest: &Digest) {
        match Reader::of(headers) {
            Some(Reader::ImageStore) => mirror.note_image_store_fetch(digest),
            Some(Reader::Snapshotter) => {}
            None => return,
        }
        let client = Client::of(headers, address);
        let is_for_it = |(layers, released_at): (Arc<[Digest]>, Instant)| {
            released_at.elapsed() < SAME_PULL && layers.contains(digest)
        };
        if self.released.get(&client).is_some_and(is_for_it) {
            tracing::info!(
                client = %client.address, user_agent = client.user_agent,
                "a client that says that it reads layers from the store fetches one; its manifests are not held for \
                 {DISTRUST:?}"
            );
            self.released.remove(&client);
            self.distrusted.insert(client, Instant::now() + DISTRUST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_reads_from_the_store_if_it_says_so() {
        let (snapshotter, image_store) = (Some(Reader::Snapshotter), Some(Reader::ImageStore));
        for (name, value, expected) in [
            (
                "user-agent",
                "containerd-client/2.1.9+unknown storage-driver/wharf",
                snapshotter,
            ),
            (
                "user-agent",
                "docker/28.5.2 go/go1.24 storage-driver/wharf UpstreamClient(x)",
                snapshotter,
            ),
            (
                "user-agent",
                "containerd-client/2.1.9 storage-driver/overlayfs",
                None,
            ),
            ("user-agent", "docker/20.10.24 storage-driver/wharfage", None),
            ("user-agent", "curl/8", None),
            ("user-agent", "libpod/5.8.6", image_store),
            ("user-agent", "Buildah/1.28.2", image_store),
            (
                "user-agent",
                "cri-o/1.30.1 go/go1.22 os/linux arch/amd64",
                image_store,
            ),
            (
                "user-agent",
                "containers/5.23.1 (github.com/containers/image)",
                image_store,
            ),
            ("user-agent", "skopeo/1.9.3", None),
            ("wharf-reads-store", "true", snapshotter),
            ("wharf-reads-store", "false", None),
            ("wharf-reads-store", "", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(Reader::of(&headers), expected, "{name}: {value}");
        }
        assert_eq!(Reader::of(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn all_blobs_of_a_pull_are_held_for_one_patience_and_those_of_the_next_anew() {
        let patience = Duration::from_millis(200);
        let holds = Arc::new(Holds {
            blobs_patience: patience,
            ..Holds::new(Duration::ZERO, CancellationToken::new())
        });
        let podman = HeaderMap::from_iter([(header::USER_AGENT, "libpod/5.8.6".parse().unwrap())]);
        let address = IpAddr::from([10, 0, 0, 1]);
        let wait = async || {
            let started = Instant::now();
            holds
                .blob_end(&podman, address, std::future::pending())
                .expect("a client of containers/storage")
                .await;
            started.elapsed()
        };
        assert!(wait().await >= patience);
        assert!(wait().await < patience);
        let metrics = Metrics::new(std::iter::empty());
        drop(holds.body(&podman, address, Bytes::new(), |_| None, &metrics));
        assert!(wait().await >= patience);
        let skopeo = HeaderMap::from_iter([(header::USER_AGENT, "skopeo/1.9.3".parse().unwrap())]);
        assert!(holds.blob_end(&skopeo, address, std::future::pending()).is_none());
    }
}
