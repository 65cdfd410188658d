//! Remembers which blobs in the store could not be read to their end.
//!
//! Their readers were cut, for they had their headers; who comes next is served past the store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use crate::oci::Digest;

/// How long the store is not asked for such a blob: longer than clients take to come back.
const UNREADABLE_FOR: Duration = Duration::from_secs(60);

/// How many are remembered.
const MAX_REMEMBERED: usize = 1024;

/// The blobs whose reading failed lately. Cheap to clone.
#[derive(Clone)]
pub(super) struct Unreadable(Arc<Cache<Digest, Instant>>);

impl Unreadable {
    pub(super) fn new() -> Self {
        Self(Arc::new(Cache::new(MAX_REMEMBERED)))
    }

    /// Notes that a blob could not be read.
    pub(super) fn note(&self, digest: &Digest) {
        self.0.insert(digest.clone(), Instant::now());
    }

    /// Tells whether that was so lately.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        let noted = self.0.get(digest);
        noted.is_some_and(|noted| noted.elapsed() < UNREADABLE_FOR)
    }
}
