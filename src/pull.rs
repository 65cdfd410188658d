//! `wharf pull`: wires a mirror without clients, lets it bring images into the store, and ends.
//!
//! Several processes on one store are safe, so it runs beside mirrors. The index is the process's own: it
//! is derived, and a mirror keeps its own locked.

mod bars;
pub mod by_mirror;
mod outcome;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use crate::api::ImageReport;
use crate::config::Config;
use crate::index::Index;
use crate::mirror::Mirror;
use crate::oci::Platform;
use crate::oci::image_name::ImageName;
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::upstream::Upstreams;
use bars::Bars;
pub use outcome::Outcome;
use outcome::{Wording, tell};

/// How long what was interrupted may take to remove what it staged.
const LAST_CALLS: Duration = Duration::from_secs(10);

/// What to pull.
#[derive(Debug)]
pub struct Order {
    pub images: Vec<ImageName>,
    pub platform: Platform,
    /// Use the index that the configuration names, and not a temporary one.
    pub own_index: bool,
}

/// What ends a pull early.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Pulls, and prints what came of each image.
///
/// # Errors
/// Fails if something that the configuration names cannot be used.
pub fn run(config: &Config, order: &Order) -> anyhow::Result<Outcome> {
    crate::server::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let ended = runtime.block_on(pull_all(config, order));
    runtime.shutdown_timeout(ended.as_ref().map_or(LAST_CALLS, |(_, last_calls)| *last_calls));
    ended.map(|(outcome, _)| outcome)
}

/// Returns beside the outcome how long calls that hang in the file system are to be waited for.
async fn pull_all(config: &Config, order: &Order) -> anyhow::Result<(Outcome, Duration)> {
    let _file_size = crate::server::outlive_file_size_limit()?;
    let store = crate::server::open_store(config).await?;
    let index = if order.own_index {
        Index::open(&config.index)?
    } else {
        Index::temporary()?
    };
    let metrics = Metrics::new(config.upstreams.keys().cloned());
    let upstreams = Upstreams::new(config, metrics.clone())?;
    // Who pulls wants what the tag means now.
    let asking = Config {
        tag_ttl: Duration::ZERO,
        ..config.clone()
    };
    let mirror = Mirror::new(&asking, store.clone(), index, upstreams, metrics);
    mirror.join_peers().await;
    mirror.keep_image_store();
    // Not before: a store that hangs while it is opened must not keep a signal from ending the process.
    let mut signals = Signals::listen()?;
    let bars = Arc::new(Bars::new());
    let pulls = order.images.iter().map(|name| pull(&mirror, name, order, &bars));
    let ended = async {
        let outcomes = join_all(pulls).await;
        mirror.published().await;
        mirror.list_layers().await;
        mirror.leave_peers().await;
        outcomes
    };
    let results = tokio::select! {
        outcomes = ended => outcomes,
        () = signals.next() => Vec::new(),
    };
    bars.clear();
    if results.is_empty() {
        // Whoever interrupts once more need not wait.
        let mut last_calls = LAST_CALLS;
        tokio::select! {
            _ = timeout(LAST_CALLS, async { tokio::join!(mirror.stop_extracting(), mirror.leave_peers()) }) => {}
            () = signals.next() => last_calls = Duration::ZERO,
        }
        eprintln!("wharf: interrupted; what is complete stays in the store");
        if last_calls > Duration::ZERO {
            clean_up(&store, &mut signals, false).await;
        }
        return Ok((Outcome::Interrupted, last_calls));
    }
    let why_packed = || {
        let store = store.root().display();
        format!("layers are not extracted here; `wharf doctor {store}` says why")
    };
    let wording = Wording {
        platform: &order.platform,
        is_offline: config.offline,
        why_packed: config.extract.is_some().then(why_packed),
    };
    let outcomes = results
        .iter()
        .zip(&order.images)
        .map(|(result, name)| tell(name, result, &wording));
    let outcome = outcomes.max().unwrap_or(Outcome::Complete);
    clean_up(&store, &mut signals, true).await;
    Ok((outcome, LAST_CALLS))
}

/// Removes what this pull has staged and not published, and waits for the removal of what killed ones left: no
/// mirror may ever run here that would do it. A signal ends that.
async fn clean_up(store: &Store, signals: &mut Signals, of_dead_too: bool) {
    let store = store.clone();
    let clearing = tokio::task::spawn_blocking(move || {
        if let Err(error) = store.discard_staging() {
            eprintln!("wharf: what was staged stays: {}", error.full_text());
        }
        if of_dead_too {
            store.wait_for_clearing();
        }
    });
    tokio::select! {
        _ = clearing => {}
        () = signals.next() => {}
    }
}

async fn pull(mirror: &Mirror, name: &ImageName, order: &Order, bars: &Bars) -> anyhow::Result<ImageReport> {
    let pulled = mirror.pull(name, &order.platform).await?;
    bars.follow(name, &pulled.image).await;
    Ok(mirror.last_report(&pulled).await?)
}
