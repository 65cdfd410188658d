//! The one table of wharf's Prometheus metrics.
//!
//! A [`Metrics`] is made once and injected; a clone counts into the same table.
//! Every label has a closed set of values: upstreams that are not configured
//! share `other`, and no digest, repository or tag is ever a label.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

use super::labels::{
    BlobResult, FillOutcome, HoldOutcome, LayerOutcome, ManifestResult, StoreErrorKind, UpstreamKind,
    UpstreamOutcome,
};
use crate::oci::RegistryHost;

/// The media type of [`Metrics::render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The `upstream` label of every host that is not configured.
const OTHER_UPSTREAM: &str = "other";

/// The calls of the store that are counted from the start; rarer ones appear when they fail.
const STORE_OPERATIONS: [&str; 10] = [
    "open", "stat", "list", "read", "create", "stage", "reserve", "write", "rename", "publish",
];

/// Everything that wharf counts. A clone is the same table.
#[derive(Clone)]
pub struct Metrics(Arc<Table>);

struct Table {
    registry: Registry,
    configured: BTreeSet<RegistryHost>,
    http_requests: Family<HttpLabels, Counter>,
    http_response_bytes: Counter,
    blob_requests: Family<BlobLabels, Counter>,
    manifest_requests: Family<ManifestLabels, Counter>,
    upstream_requests: Family<UpstreamRequestLabels, Counter>,
    upstream_bytes: Family<UpstreamLabels, Counter>,
    rate_limit: Family<UpstreamLabels, Gauge>,
    rate_remaining: Family<UpstreamLabels, Gauge>,
    fills_running: Gauge,
    fills: Family<FillLabels, Counter>,
    fill_followers: Gauge,
    uncached_streams: Gauge,
    layers: Family<LayerLabels, Counter>,
    layers_running: Gauge,
    layers_seconds: Counter<f64, AtomicU64>,
    held: Family<HoldLabels, Counter>,
    held_seconds: Counter<f64, AtomicU64>,
    store_errors: Family<StoreErrorLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HttpLabels {
    method: &'static str,
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BlobLabels {
    result: BlobResult,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ManifestLabels {
    result: ManifestResult,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UpstreamRequestLabels {
    upstream: String,
    kind: UpstreamKind,
    outcome: UpstreamOutcome,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FillLabels {
    outcome: FillOutcome,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HoldLabels {
    outcome: HoldOutcome,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LayerLabels {
    outcome: LayerOutcome,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StoreErrorLabels {
    operation: &'static str,
    kind: StoreErrorKind,
}

/// Counts one in a gauge for as long as it lives.
#[must_use = "the gauge goes down again when this is dropped"]
pub struct Running(Gauge);

impl Running {
    fn start(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Running")
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// Registers a metric that starts at nothing, and returns it.
fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Makes the table; hosts that are not `configured` share one `upstream` label.
    pub fn new(configured: impl IntoIterator<Item = RegistryHost>) -> Self {
        let mut registry = Registry::with_prefix("wharf");
        let r = &mut registry;
        // Counters get their `_total` when they are rendered.
        let metrics = Self(Arc::new(Table {
            configured: configured.into_iter().collect(),
            http_requests: register(r, "http_requests", "Requests answered"),
            http_response_bytes: register(r, "http_response_bytes", "Bytes of bodies sent to clients"),
            blob_requests: register(r, "blob_requests", "Blob requests by how they were answered"),
            manifest_requests: register(
                r,
                "manifest_requests",
                "Manifest requests by how they were answered",
            ),
            upstream_requests: register(r, "upstream_requests", "Requests sent upstream"),
            upstream_bytes: register(r, "upstream_bytes", "Bytes of bodies received from upstream"),
            rate_limit: register(
                r,
                "upstream_rate_limit",
                "Pulls that upstream allows in its window, as it last said",
            ),
            rate_remaining: register(
                r,
                "upstream_rate_remaining",
                "Pulls left in upstream's window, as it last said",
            ),
            fills_running: register(r, "fills_running", "Fills under way"),
            fills: register(r, "fills", "Fills ended"),
            fill_followers: register(r, "fill_followers", "Clients that read from a fill under way"),
            uncached_streams: register(
                r,
                "uncached_streams",
                "Blobs being streamed from upstream past the store",
            ),
            layers: register(r, "layers", "Layers of images, by how their extraction ended"),
            layers_running: register(r, "layers_running", "Layers being extracted"),
            layers_seconds: register(
                r,
                "layers_extraction_seconds",
                "Time that extracted layers took, waiting for their bytes included",
            ),
            held: register(
                r,
                "manifests_held",
                "Manifests held until layers were published, by why they were released",
            ),
            held_seconds: register(r, "manifests_held_seconds", "Time that manifests were held"),
            store_errors: register(r, "store_errors", "Calls of the store that failed"),
            registry,
        }));
        metrics.start_at_zero();
        metrics
    }

    /// Shows every counter before its first event: an alert on a rise misses the first one of a new line.
    fn start_at_zero(&self) {
        let Table {
            blob_requests,
            manifest_requests,
            fills,
            layers,
            held,
            store_errors,
            ..
        } = &*self.0;
        for result in BlobResult::ALL.iter().copied() {
            drop(blob_requests.get_or_create(&BlobLabels { result }));
        }
        for result in ManifestResult::ALL.iter().copied() {
            drop(manifest_requests.get_or_create(&ManifestLabels { result }));
        }
        for outcome in FillOutcome::ALL.iter().copied() {
            drop(fills.get_or_create(&FillLabels { outcome }));
        }
        for outcome in LayerOutcome::ALL.iter().copied() {
            drop(layers.get_or_create(&LayerLabels { outcome }));
        }
        for outcome in HoldOutcome::ALL.iter().copied() {
            drop(held.get_or_create(&HoldLabels { outcome }));
        }
        for kind in StoreErrorKind::ALL.iter().copied() {
            for operation in STORE_OPERATIONS {
                drop(store_errors.get_or_create(&StoreErrorLabels { operation, kind }));
            }
        }
        for host in &self.0.configured {
            self.start_upstream_at_zero(host);
        }
    }

    fn start_upstream_at_zero(&self, host: &RegistryHost) {
        let UpstreamLabels { upstream } = self.upstream(host);
        for kind in UpstreamKind::ALL.iter().copied() {
            for outcome in UpstreamOutcome::ALL.iter().copied() {
                let labels = UpstreamRequestLabels {
                    upstream: upstream.clone(),
                    kind,
                    outcome,
                };
                drop(self.0.upstream_requests.get_or_create(&labels));
            }
        }
        drop(self.upstream_bytes(host));
    }

    /// Renders all metrics as OpenMetrics text, of type [`CONTENT_TYPE`].
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.0.registry);
        text
    }

    /// Counts a request answered; `route` is the route's fixed name, never the path.
    pub fn http_request(&self, method: &http::Method, route: &'static str, status: http::StatusCode) {
        let labels = HttpLabels {
            method: method_label(method),
            route,
            status: status.as_u16(),
        };
        self.0.http_requests.get_or_create(&labels).inc();
    }

    /// Counts bytes of bodies sent to clients.
    pub fn response_bytes(&self, bytes: u64) {
        self.0.http_response_bytes.inc_by(bytes);
    }

    /// Counts a blob request.
    pub fn blob(&self, result: BlobResult) {
        self.0.blob_requests.get_or_create(&BlobLabels { result }).inc();
    }

    /// Counts a manifest request.
    pub fn manifest(&self, result: ManifestResult) {
        let labels = ManifestLabels { result };
        self.0.manifest_requests.get_or_create(&labels).inc();
    }

    /// Counts a request sent upstream.
    pub fn upstream_request(&self, host: &RegistryHost, kind: UpstreamKind, outcome: UpstreamOutcome) {
        let UpstreamLabels { upstream } = self.upstream(host);
        let labels = UpstreamRequestLabels {
            upstream,
            kind,
            outcome,
        };
        self.0.upstream_requests.get_or_create(&labels).inc();
    }

    /// Returns the counter of bytes received from an upstream, to be kept while a body streams.
    pub fn upstream_bytes(&self, host: &RegistryHost) -> Counter<u64, AtomicU64> {
        self.0.upstream_bytes.get_or_create_owned(&self.upstream(host))
    }

    /// Notes an upstream's rate limit as its headers tell it; unknown upstreams' are not noted.
    pub fn rate_limit(&self, host: &RegistryHost, limit: Option<u64>, remaining: Option<u64>) {
        if !self.0.configured.contains(host) {
            return;
        }
        let labels = self.upstream(host);
        let set = |gauges: &Family<UpstreamLabels, Gauge>, value: Option<u64>| {
            if let Some(value) = value {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                gauges.get_or_create(&labels).set(value);
            }
        };
        set(&self.0.rate_limit, limit);
        set(&self.0.rate_remaining, remaining);
    }

    /// Counts a fill as running until the guard is dropped.
    pub fn fill_running(&self) -> Running {
        Running::start(&self.0.fills_running)
    }

    /// Counts a fill that ended.
    pub fn fill(&self, outcome: FillOutcome) {
        self.0.fills.get_or_create(&FillLabels { outcome }).inc();
    }

    /// Counts a follower of a fill until the guard is dropped.
    pub fn follower(&self) -> Running {
        Running::start(&self.0.fill_followers)
    }

    /// Counts an uncached stream until the guard is dropped.
    pub fn uncached_stream(&self) -> Running {
        Running::start(&self.0.uncached_streams)
    }

    /// Counts a layer of an image.
    pub fn layer(&self, outcome: LayerOutcome) {
        self.0.layers.get_or_create(&LayerLabels { outcome }).inc();
    }

    /// Counts a manifest that was held.
    pub fn held(&self, outcome: HoldOutcome, took: Duration) {
        self.0.held.get_or_create(&HoldLabels { outcome }).inc();
        self.0.held_seconds.inc_by(took.as_secs_f64());
    }

    /// Counts a layer as being extracted until the guard is dropped.
    pub fn layer_running(&self) -> Running {
        Running::start(&self.0.layers_running)
    }

    /// Adds the time that the extraction of a layer took.
    pub fn layer_seconds(&self, took: Duration) {
        self.0.layers_seconds.inc_by(took.as_secs_f64());
    }

    /// Counts a call of the store that failed; `operation` is its fixed name, never a path.
    pub fn store_error(&self, operation: &'static str, kind: StoreErrorKind) {
        let labels = StoreErrorLabels { operation, kind };
        self.0.store_errors.get_or_create(&labels).inc();
    }

    fn upstream(&self, host: &RegistryHost) -> UpstreamLabels {
        let known = self.0.configured.contains(host);
        let upstream = if known { host.as_str() } else { OTHER_UPSTREAM };
        UpstreamLabels {
            upstream: upstream.to_owned(),
        }
    }
}

/// Clients may send any word as a method; only known ones become a label.
fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> RegistryHost {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_counted_is_rendered_under_its_name() {
        let metrics = Metrics::new([host("docker.io")]);
        metrics.http_request(&http::Method::GET, "blob", http::StatusCode::OK);
        metrics.response_bytes(7);
        metrics.blob(BlobResult::Follow);
        metrics.manifest(ManifestResult::NotFound);
        metrics.upstream_request(&host("docker.io"), UpstreamKind::BlobGet, UpstreamOutcome::Ok);
        metrics.upstream_request(
            &host("evil.example"),
            UpstreamKind::Token,
            UpstreamOutcome::Denied,
        );
        metrics.upstream_bytes(&host("docker.io")).inc_by(9);
        metrics.rate_limit(&host("docker.io"), Some(100), Some(20));
        metrics.rate_limit(&host("evil.example"), Some(1), Some(1));
        metrics.fill(FillOutcome::Published);
        metrics.layer(LayerOutcome::Shared);
        metrics.layer_seconds(Duration::from_millis(1500));
        metrics.store_error("rename", StoreErrorKind::Full);
        let rendered = metrics.render();
        for line in [
            "wharf_http_requests_total{method=\"GET\",route=\"blob\",status=\"200\"} 1",
            "wharf_http_response_bytes_total 7",
            "wharf_blob_requests_total{result=\"follow\"} 1",
            "wharf_manifest_requests_total{result=\"not_found\"} 1",
            "wharf_upstream_requests_total{upstream=\"docker.io\",kind=\"blob_get\",outcome=\"ok\"} 1",
            "wharf_upstream_requests_total{upstream=\"other\",kind=\"token\",outcome=\"denied\"} 1",
            "wharf_upstream_bytes_total{upstream=\"docker.io\"} 9",
            "wharf_upstream_rate_limit{upstream=\"docker.io\"} 100",
            "wharf_upstream_rate_remaining{upstream=\"docker.io\"} 20",
            "wharf_fills_running 0",
            "wharf_fills_total{outcome=\"published\"} 1",
            "wharf_fill_followers 0",
            "wharf_uncached_streams 0",
            "wharf_layers_total{outcome=\"shared\"} 1",
            "wharf_layers_total{outcome=\"failed\"} 0",
            "wharf_layers_running 0",
            "wharf_layers_extraction_seconds_total 1.5",
            "wharf_store_errors_total{operation=\"rename\",kind=\"full\"} 1",
        ] {
            assert!(rendered.lines().any(|l| l == line), "no {line} in\n{rendered}");
        }
        assert!(!rendered.contains("evil.example"));
        assert!(rendered.ends_with("# EOF\n"));
    }

    #[test]
    fn what_has_not_happened_yet_is_rendered_as_zero() {
        let rendered = Metrics::new([host("ghcr.io")]).render();
        for line in [
            "wharf_blob_requests_total{result=\"hit\"} 0",
            "wharf_manifest_requests_total{result=\"stale\"} 0",
            "wharf_fills_total{outcome=\"failed\"} 0",
            "wharf_store_errors_total{operation=\"write\",kind=\"full\"} 0",
            "wharf_upstream_requests_total{upstream=\"ghcr.io\",kind=\"blob_get\",outcome=\"limited\"} 0",
            "wharf_upstream_bytes_total{upstream=\"ghcr.io\"} 0",
        ] {
            assert!(rendered.lines().any(|l| l == line), "no {line} in\n{rendered}");
        }
    }

    #[test]
    fn a_guard_counts_while_it_lives() {
        let metrics = Metrics::new([]);
        let running = metrics.fill_running();
        assert!(metrics.render().contains("wharf_fills_running 1\n"));
        drop(running);
        assert!(metrics.render().contains("wharf_fills_running 0\n"));
    }

    #[test]
    fn errors_of_the_file_system_have_a_kind() {
        for (errno, expected) in [
            (rustix::io::Errno::NOSPC, StoreErrorKind::Full),
            (rustix::io::Errno::DQUOT, StoreErrorKind::Full),
            (rustix::io::Errno::FBIG, StoreErrorKind::Full),
            (rustix::io::Errno::IO, StoreErrorKind::Io),
            (rustix::io::Errno::STALE, StoreErrorKind::Io),
            (rustix::io::Errno::TIMEDOUT, StoreErrorKind::Timeout),
            (rustix::io::Errno::ROFS, StoreErrorKind::Denied),
            (rustix::io::Errno::ACCESS, StoreErrorKind::Denied),
            (rustix::io::Errno::MFILE, StoreErrorKind::Other),
        ] {
            let error = std::io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(StoreErrorKind::of(&error), expected, "{errno:?}");
        }
    }
}
