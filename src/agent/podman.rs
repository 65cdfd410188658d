//! Keeps this node's image store for Podman, CRI-O and Buildah up to date.
//!
//! A mirror tells when the store has something new: a question waits there until it does
//! ([`ImageStoreQuestion`]). Then the store is listed, and the next question says how far this node is, by
//! which a mirror that holds a manifest for it knows that its layers are listed here. Every few seconds the
//! store is listed all the same: there may be other mirrors, or none that answers.
//!
//! Leaves to others: the files ([`LocalImageStore`]), whom to ask ([`super::mirrors`]).

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::mirrors::Mirrors;
use crate::api::{ImageStoreAnswer, ImageStoreQuestion};
use crate::fs::{Disk, random_name};
use crate::local_image_store::{LocalImageStore, OpenError};
use crate::telemetry::full_text;

/// How long a question waits at a mirror: below the minute after which proxies give an idle answer up.
const WAIT: Duration = Duration::from_secs(50);

/// How often the store is listed though no mirror has told of anything: what other mirrors publish, the one
/// that is asked may learn late. 20,000 names are some 2 MB of the file system's servers.
const LISTING_INTERVAL: Duration = Duration::from_secs(5);

/// How soon what could not be read is tried again, and how often at most a mirror is asked that does not
/// wait.
const AGAIN: Duration = Duration::from_secs(1);

/// Where a node's image store is; both paths are absolute.
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
    fn open(&self) -> Result<LocalImageStore, OpenError> {
        LocalImageStore::open(&self.dir, &self.store, Disk::new(self.store_timeout))
    }
}

/// Brings a node's image store up to date once.
///
/// # Errors
/// Fails if the store cannot be read or the directory not be written. That another process keeps the
/// directory is none: that one brings it up to date.
pub(super) async fn refresh_once(place: &Place) -> anyhow::Result<()> {
    let mut images = match place.open() {
        Err(OpenError::Kept { dir }) => {
            tracing::info!(dir = %dir.display(), "another process keeps the image store up to date");
            return Ok(());
        }
        opened => opened?,
    };
    let refreshed = images.refresh_once().await?;
    tracing::info!(
        dir = %place.dir.display(), layers = refreshed.entries, unreadable = refreshed.unreadable,
        changed = refreshed.is_changed, "the image store is up to date"
    );
    Ok(())
}

/// A node's image store that is to be kept up to date.
pub(super) struct Keeper {
    place: Place,
    /// `None` while another process keeps it.
    images: Option<LocalImageStore>,
}

impl Keeper {
    /// Opens a node's image store. One that another process keeps, such as a run for a timer, is waited for
    /// later.
    ///
    /// # Errors
    /// Fails if the directory cannot be used.
    pub(super) fn open(place: &Place) -> anyhow::Result<Self> {
        let images = match place.open() {
            Err(error @ OpenError::Kept { .. }) => {
                tracing::warn!(
                    error = full_text(&error),
                    "the image store is kept once that process ends"
                );
                None
            }
            opened => Some(opened?),
        };
        Ok(Self {
            place: place.clone(),
            images,
        })
    }

    /// Waits until no other process keeps it.
    async fn images(&mut self) -> LocalImageStore {
        loop {
            if let Some(images) = self.images.take() {
                tracing::info!(
                    dir = %self.place.dir.display(), store = %self.place.store.display(),
                    version = env!("CARGO_PKG_VERSION"), "keeping an image store"
                );
                return images;
            }
            sleep(AGAIN).await;
            match self.place.open() {
                Ok(images) => self.images = Some(images),
                Err(OpenError::Kept { .. }) => {}
                Err(error) => tracing::warn!(error = full_text(&error), "the image store cannot be used"),
            }
        }
    }
}

/// Keeps a node's image store up to date until it is dropped; without mirrors the store itself is asked.
pub(super) async fn keep(mut keeper: Keeper, mirrors: Option<Mirrors>) {
    let mut images = keeper.images().await;
    // What the lists carry, by the last mirror that has told something.
    let mut known: Option<ImageStoreAnswer> = None;
    let mut told: Option<ImageStoreAnswer> = None;
    let agent = random_name();
    loop {
        while !refresh(&mut images).await {
            sleep(AGAIN).await;
        }
        known = told.take().or(known);
        let Some(mirrors) = &mirrors else {
            sleep(LISTING_INTERVAL).await;
            continue;
        };
        let asked_at = Instant::now();
        let question = ImageStoreQuestion {
            agent: agent.clone(),
            have: known.as_ref().map_or(0, |known| known.sequence),
            mirror: known.as_ref().map(|known| known.mirror.clone()),
            wait: WAIT.as_secs(),
        };
        let asking = mirrors.image_store(&question);
        tokio::pin!(asking);
        let answer = loop {
            match timeout(LISTING_INTERVAL, &mut asking).await {
                Ok(answer) => break answer,
                // What another mirror has published, this one learns later.
                Err(_) => drop(refresh(&mut images).await),
            }
        };
        match answer {
            Ok(answer) => {
                // Asked again at once, a mirror that does not wait, or two that answer in turn, would be
                // asked for ever.
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
                sleep(LISTING_INTERVAL).await;
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use axum::response::IntoResponse as _;
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;
    use crate::agent::mirrors::tests::ScriptedMirror;

    const LAYERS: [&str; 2] = ["a", "b"];

    fn place() -> (TempDir, Place) {
        let root = tempfile::tempdir().unwrap();
        let place = Place {
            dir: root.path().join("node"),
            store: root.path().join("store"),
            store_timeout: Duration::from_secs(10),
        };
        std::fs::create_dir_all(place.store.join("layers/entries")).unwrap();
        let format = r#"{"format": 1, "store_id": "0123456789abcdef"}"#;
        std::fs::write(place.store.join("wharf.json"), format).unwrap();
        (root, place)
    }

    fn publish(store: &Path, digit: &str) {
        let id = digit.repeat(64);
        let entry = serde_json::json!({
            "id": id, "created": "2026-11-24T00:00:00Z",
            "diff-digest": format!("sha256:{id}"), "diff-size": 1024,
            "compressed-diff-digest": format!("sha256:{id}"), "compressed-size": 512, "compression": 2,
        });
        std::fs::create_dir_all(store.join("layers/overlay").join(&id).join("diff")).unwrap();
        std::fs::write(store.join("layers/entries").join(id), entry.to_string()).unwrap();
    }

    fn listed(dir: &Path) -> usize {
        let list = std::fs::read(dir.join("overlay-layers/layers.json")).unwrap();
        serde_json::from_slice::<Vec<Value>>(&list).unwrap().len()
    }

    /// A mirror that publishes a layer with each answer, and then stops answering.
    #[tokio::test]
    async fn a_mirror_is_told_of_a_layer_once_it_is_listed_here() {
        let (_root, place) = place();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (notes, of_mirror) = (Arc::clone(&seen), place.clone());
        let mirror = ScriptedMirror::start(move |count, request, _| {
            let question = ImageStoreQuestion::parse(request.uri.query().unwrap_or_default());
            notes.lock().unwrap().push((question, listed(&of_mirror.dir)));
            match LAYERS.get(count) {
                Some(digit) => {
                    publish(&of_mirror.store, digit);
                    format!(r#"{{"sequence": {}, "mirror": "m1"}}"#, count + 1).into_response()
                }
                None => http::StatusCode::NOT_FOUND.into_response(),
            }
        })
        .await;
        let keeper = Keeper::open(&place).unwrap();
        let mirrors = Mirrors::new(&[mirror.url()]).unwrap();
        let keeping = tokio::spawn(keep(keeper, Some(mirrors)));
        let deadline = Instant::now() + Duration::from_secs(20);
        while seen.lock().unwrap().len() < 3 {
            assert!(Instant::now() < deadline, "{:?}", seen.lock().unwrap());
            sleep(Duration::from_millis(10)).await;
        }
        keeping.abort();
        let seen = seen.lock().unwrap();
        for (count, (question, listed)) in seen.iter().enumerate() {
            let have = count as u64;
            let mirror = (have > 0).then(|| "m1".to_owned());
            let agent = seen[0].0.agent.clone();
            let wait = WAIT.as_secs();
            assert_eq!(
                *question,
                ImageStoreQuestion {
                    agent,
                    have,
                    mirror,
                    wait
                }
            );
            assert_eq!(*listed, count);
        }
        assert!(!seen[0].0.agent.is_empty());
    }

    #[tokio::test]
    async fn a_layer_that_cannot_be_read_is_not_acknowledged_at_once_and_not_waited_for_for_ever() {
        let (_root, place) = place();
        let broken = place.store.join("layers/entries").join("c".repeat(64));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&seen);
        let mirror = ScriptedMirror::start(move |count, request, _| {
            let question = ImageStoreQuestion::parse(request.uri.query().unwrap_or_default());
            notes.lock().unwrap().push((question, Instant::now()));
            std::fs::write(&broken, "{").unwrap();
            match count {
                0 => r#"{"sequence": 1, "mirror": "m1"}"#.into_response(),
                _ => http::StatusCode::NOT_FOUND.into_response(),
            }
        })
        .await;
        let keeping = tokio::spawn(keep(
            Keeper::open(&place).unwrap(),
            Some(Mirrors::new(&[mirror.url()]).unwrap()),
        ));
        let deadline = Instant::now() + Duration::from_secs(20);
        while seen.lock().unwrap().len() < 2 {
            assert!(Instant::now() < deadline, "{:?}", seen.lock().unwrap());
            sleep(Duration::from_millis(10)).await;
        }
        keeping.abort();
        let seen = seen.lock().unwrap();
        assert_eq!((seen[1].0.have, seen[1].0.mirror.as_deref()), (1, Some("m1")));
        assert!(seen[1].1 - seen[0].1 >= AGAIN, "it is tried again first");
    }
}
