//! Notes in the store when an image was last used: at each manifest that a client gets.
//!
//! In the background, and once an hour for each image and process, so that the next thousand nodes cost nothing.

use std::time::{Duration, SystemTime};

use quick_cache::sync::Cache;
use tokio::time::Instant;

use super::Inner;
use crate::oci::{Digest, Repository};

/// How often the use of one image is noted.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Of how many images it is known that a use was noted.
const MAX_IMAGES: usize = 16 << 10;

/// When uses were last noted.
pub(super) struct NotedUses(Cache<(Repository, Digest), Instant>);

impl NotedUses {
    pub(super) fn new() -> Self {
        Self(Cache::new(MAX_IMAGES))
    }

    /// Tells whether a use is to be noted, and takes it as noted.
    fn is_due(&self, key: (Repository, Digest), now: Instant) -> bool {
        let is_recent = self
            .0
            .get(&key)
            .is_some_and(|noted| now.duration_since(noted) < INTERVAL);
        if !is_recent {
            self.0.insert(key, now);
        }
        !is_recent
    }
}

impl Inner {
    /// Notes that a client got a manifest, without waiting for that.
    pub(super) fn note_use(&self, repository: &Repository, digest: &Digest) {
        let (repository, digest) = (repository.clone(), digest.clone());
        if !self
            .noted_uses
            .is_due((repository.clone(), digest.clone()), Instant::now())
        {
            return;
        }
        let (store, disk) = (self.store.clone(), self.disk.clone());
        tokio::spawn(async move {
            let path = store.uses_path(&repository, &digest);
            let mark = move || store.mark_used(&repository, &digest, SystemTime::now());
            // Nothing but a date in a list depends on it.
            if let Err(error) = disk.run("create", &path, mark).await {
                tracing::debug!(
                    error = error.full_text(),
                    "when an image was last used is not noted"
                );
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_use_is_noted_once_an_hour_for_each_image() {
        let (noted, now) = (NotedUses::new(), Instant::now());
        let key = |name: &str| {
            let repository = Repository::new("ghcr.io".parse().unwrap(), name.parse().unwrap());
            (repository, Digest::of(Algorithm::Sha256, b"manifest"))
        };
        for (name, seconds, expected) in [
            ("a", 0, true),
            ("b", 1, true),
            ("a", 3599, false),
            ("a", 3600, true),
            ("a", 7199, false),
        ] {
            let now = now + Duration::from_secs(seconds);
            assert_eq!(noted.is_due(key(name), now), expected, "{name} {seconds}");
        }
    }
}
