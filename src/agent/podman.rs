//! Keeps this node's image store for Podman, CRI-O and Buildah up to date.
//!
//! A mirror tells when the store has something new: a question waits there until it does ([`ImageStoreQuestion`]). Then the
//! store is listed, and the next question says how far this node is, by which a mirror that holds a manifest for it knows
//! that its layers are listed here. Without a mirror the store is listed every few seconds.
//!
//! Leaves to others: the files ([`LocalImageStore`]), whom to ask ([`super::mirrors`]).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use super::mirrors::Mirrors;
use crate::api::{ImageStoreAnswer, ImageStoreQuestion};
use crate::fs::Disk;
use crate::local_image_store::{LocalImageStore, OpenError};
use crate::telemetry::full_text;

/// How long a question waits at a mirror: below the minute after which proxies give an idle answer up.
///
/// The store is listed after each answer, so this is also how late something is seen that no mirror has told.
const WAIT: Duration = Duration::from_secs(50);

/// How often the store is listed while no mirror answers: a listing of 20,000 names is some 100 KiB of each server.
const WITHOUT_MIRROR: Duration = Duration::from_secs(5);

/// How soon what could not be read is tried again, and how often at most a mirror is asked that does not wait.
const AGAIN: Duration = Duration::from_secs(1);

/// Where a node's image store is.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its directory, on a local disk.
    pub dir: PathBuf,
    /// The store's directory on this node.
    pub store: PathBuf,
    /// How long a call to the store may take.
    pub store_timeout: Duration,
}

impl Place {
    fn absolute(&self) -> anyhow::Result<Self> {
        let absolute =
            |path: &Path| std::path::absolute(path).with_context(|| format!("{} is no path", path.display()));
        Ok(Self {
            dir: absolute(&self.dir)?,
            store: absolute(&self.store)?,
            store_timeout: self.store_timeout,
        })
    }

    fn open(&self) -> Result<LocalImageStore, OpenError> {
        LocalImageStore::open(&self.dir, &self.store, Disk::new(self.store_timeout))
    }
}

/// Brings a node's image store up to date once.
///
/// # Errors
/// Fails if the store cannot be read or the directory not be written. That another process keeps the directory is
/// none: that one brings it up to date.
pub(super) async fn refresh_once(place: &Place) -> anyhow::Result<()> {
    let place = place.absolute()?;
    let mut images = match place.open() {
        Err(OpenError::Kept { dir }) => {
            tracing::info!(dir = %dir.display(), "another process keeps the image store up to date");
            return Ok(());
        }
        opened => opened?,
    };
    let refreshed = images.refresh().await?;
    tracing::info!(
        dir = %place.dir.display(), layers = refreshed.entries, unreadable = refreshed.unreadable,
        changed = refreshed.is_changed, "the image store is up to date"
    );
    Ok(())
}

/// Opens a node's image store, before it is kept up to date.
///
/// # Errors
/// Fails if the directory cannot be used.
pub(super) fn open(place: &Place) -> anyhow::Result<LocalImageStore> {
    let place = place.absolute()?;
    let images = place.open()?;
    tracing::info!(
        dir = %place.dir.display(), store = %place.store.display(), version = env!("CARGO_PKG_VERSION"),
        "keeping an image store"
    );
    Ok(images)
}

/// Keeps a node's image store up to date until it is dropped; without mirrors the store itself is asked.
pub(super) async fn keep(mut images: LocalImageStore, mirrors: Option<Mirrors>) {
    // What the lists carry, by the last mirror that has told something.
    let mut known: Option<ImageStoreAnswer> = None;
    let mut told: Option<ImageStoreAnswer> = None;
    loop {
        while !refresh(&mut images).await {
            sleep(AGAIN).await;
        }
        known = told.take().or(known);
        let Some(mirrors) = &mirrors else {
            sleep(WITHOUT_MIRROR).await;
            continue;
        };
        let asked_at = Instant::now();
        let question = ImageStoreQuestion {
            have: known.as_ref().map_or(0, |known| known.sequence),
            mirror: known.as_ref().map(|known| known.mirror.clone()),
            wait: WAIT.as_secs(),
        };
        match mirrors.image_store(&question).await {
            Ok(answer) => {
                // Asked again at once, a mirror that does not wait, or two that answer in turn, would be asked for ever.
                let is_same = question
                    .mirror
                    .as_ref()
                    .is_none_or(|mirror| *mirror == answer.mirror);
                let has_news = answer.sequence > question.have;
                if !is_same || (!has_news && asked_at.elapsed() < AGAIN) {
                    sleep(AGAIN).await;
                }
                told = Some(answer);
            }
            Err(error) => {
                tracing::debug!(error = full_text(&error), "no mirror tells of new layers");
                sleep(WITHOUT_MIRROR).await;
            }
        }
    }
}

/// Tells whether the lists have all that can be had; why they have not is in the log.
async fn refresh(images: &mut LocalImageStore) -> bool {
    match images.refresh().await {
        Ok(refreshed) => {
            if refreshed.is_changed {
                tracing::info!(layers = refreshed.entries, "the image store has changed");
            }
            refreshed.is_settled
        }
        Err(error) => {
            tracing::debug!(error = full_text(&error), "the image store is not up to date");
            false
        }
    }
}
