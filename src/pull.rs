//! `wharf pull`: wires a mirror without clients, lets it bring images into the store, and ends.
//!
//! Several processes on one store are safe, so it runs beside mirrors. The index is the process's own: it
//! is derived, and a mirror keeps its own locked.

mod bars;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use crate::config::Config;
use crate::index::Index;
use crate::mirror::{Freshness, Image, LayerError, LayerStage, Mirror, Pulled};
use crate::oci::config::MAX_CONFIG_BYTES;
use crate::oci::image_name::ImageName;
use crate::oci::{ImageConfig, Manifest, Platform};
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::upstream::Upstreams;
use bars::Bars;

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

/// How a pull ended; the worst of all images counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Everything is in the store, and every layer that can be is extracted.
    Complete,
    /// Every blob is in the store, and some layers are not extracted.
    NotExtracted,
    /// Something could not be fetched or stored.
    Failed,
    /// A signal came first.
    Interrupted,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome.code())
    }
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
    // Not before: a store that hangs while it is opened must not keep a signal from ending the process.
    let mut signals = Signals::listen()?;
    let bars = Arc::new(Bars::new());
    let pulls = order.images.iter().map(|name| pull(&mirror, name, order, &bars));
    let ended = async {
        let outcomes = join_all(pulls).await;
        mirror.published().await;
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
            _ = timeout(LAST_CALLS, mirror.stop_extracting()) => {}
            () = signals.next() => last_calls = Duration::ZERO,
        }
        eprintln!("wharf: interrupted; what is complete stays in the store");
        if last_calls > Duration::ZERO {
            clean_up(&store, &mut signals, false).await;
        }
        return Ok((Outcome::Interrupted, last_calls));
    }
    let extracts = config.extract.is_none() || mirror.extracts();
    let outcomes = results.into_iter().zip(&order.images).map(|(result, name)| {
        let stale = match &result {
            Ok(pulled) if !config.offline => tell_stale(name, pulled.freshness),
            _ => Outcome::Complete,
        };
        tell(name, &result, &store, extracts, order, stale).unwrap_or_else(|error| {
            eprintln!("wharf: {name}: {error:#}");
            Outcome::Failed
        })
    });
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

async fn pull(mirror: &Mirror, name: &ImageName, order: &Order, bars: &Bars) -> anyhow::Result<Pulled> {
    let pulled = mirror.pull(name, &order.platform).await?;
    bars.follow(name, &pulled.image).await;
    Ok(pulled)
}

/// Says if upstream could not be asked what a tag means now, which a pull is for.
fn tell_stale(name: &ImageName, freshness: Freshness) -> Outcome {
    match freshness {
        Freshness::Fresh => Outcome::Complete,
        Freshness::Stale { age } => {
            let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
            eprintln!("wharf: {name}: upstream could not be asked; this is what the tag meant {age} ago");
            Outcome::Failed
        }
    }
}

/// Says if an image that no index chose is for another platform than was asked for.
fn tell_other_platform(
    name: &ImageName,
    image: &Image,
    store: &Store,
    wanted: &Platform,
) -> anyhow::Result<()> {
    let Some(config) = image.config() else {
        return Ok(());
    };
    let bytes = store.read_blob(&config.digest, MAX_CONFIG_BYTES)?;
    // An artifact's config may be anything.
    let parsed = bytes.and_then(|bytes| ImageConfig::parse(&bytes).ok());
    let Some(ImageConfig { os, architecture, .. }) = parsed else {
        return Ok(());
    };
    if !architecture.is_empty() && (&os, &architecture) != (&wanted.os, &wanted.architecture) {
        eprintln!(
            "wharf: {name}: it is for {os}/{architecture} and for nothing else, and {wanted} was asked for"
        );
    }
    Ok(())
}

/// Prints what came of an image: its name and digest to standard output, its layers to standard error.
fn tell(
    name: &ImageName,
    result: &anyhow::Result<Pulled>,
    store: &Store,
    extracts: bool,
    order: &Order,
    stale: Outcome,
) -> anyhow::Result<Outcome> {
    let image = match result {
        Ok(pulled) => &pulled.image,
        Err(error) => anyhow::bail!("{error:#}"),
    };
    let mut outcome = stale;
    tell_other_platform(name, image, store, &order.platform)?;
    for layer in image.layers() {
        let status = layer.status();
        eprintln!("{name}: {}", bars::last_line(layer, &status));
        if let LayerStage::Failed(_) = status.stage {
            outcome = outcome.max(Outcome::NotExtracted);
        }
    }
    if let Some(error) = image.config_failure() {
        eprintln!("{name}: its config cannot be read: {}", error.full_text());
        outcome = outcome.max(Outcome::NotExtracted);
    }
    if !extracts && is_image(store, image)? {
        eprintln!(
            "wharf: {name}: layers are not extracted here; `wharf doctor {}` says why",
            store.root().display()
        );
        outcome = outcome.max(Outcome::NotExtracted);
    }
    if let Some(missing) = missing_blob(store, image)? {
        let why = image
            .failures()
            .first()
            .map_or_else(|| "the store did not take it".to_owned(), LayerError::full_text);
        eprintln!("wharf: {name}: {missing} is not in the store: {why}");
        outcome = Outcome::Failed;
    }
    writeln!(std::io::stdout(), "{name} {} {}", image.digest, outcome.word())?;
    Ok(outcome)
}

impl Outcome {
    fn code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::NotExtracted => 3,
            Self::Failed => 1,
            Self::Interrupted => 130,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::NotExtracted => "not extracted",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

fn is_image(store: &Store, image: &Image) -> anyhow::Result<bool> {
    let bytes = store.read_blob(&image.digest, crate::oci::manifest::MAX_MANIFEST_BYTES)?;
    let manifest = bytes.and_then(|bytes| Manifest::parse(&bytes).ok());
    Ok(manifest.is_some_and(|manifest| manifest.image_blobs().is_some()))
}

/// Returns a blob of the image that is not in the store although it should be: not of a published layer.
fn missing_blob(store: &Store, image: &Image) -> anyhow::Result<Option<String>> {
    let layers = image.layers().iter();
    let unpublished = layers.filter(|layer| !matches!(layer.status().stage, LayerStage::Published));
    let needed = image
        .config()
        .into_iter()
        .chain(unpublished.map(|layer| &layer.blob));
    for blob in needed {
        if store.stat_blob(&blob.digest)?.is_none() {
            return Ok(Some(blob.digest.to_string()));
        }
    }
    Ok(None)
}
