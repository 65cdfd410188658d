//! Remembers for a short while what upstream does not have, so that it is not asked again and again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::MirrorError;
use crate::oci::{Digest, Reference, Repository};

/// How many answers are remembered; clients choose the names, so there must be a bound.
const MAX_REMEMBERED: usize = 4096;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    Manifest(Repository, Reference),
    Blob(Repository, Digest),
}

/// The answers of upstream that were "no". Cheap to clone.
#[derive(Clone)]
pub(super) struct Negatives {
    ttl: Duration,
    answers: Arc<Cache<Asked, (Instant, MirrorError)>>,
}

impl Negatives {
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            answers: Arc::new(Cache::new(MAX_REMEMBERED)),
        }
    }

    /// Returns the answer that is still remembered.
    pub(super) fn get(&self, asked: &Asked) -> Option<MirrorError> {
        let (answered, error) = self.answers.get(asked)?;
        (answered.elapsed() < self.ttl).then_some(error)
    }

    /// Remembers an answer if it is a final "no", and returns it.
    ///
    /// To be called before the question ends for its askers: who asks after them must find it.
    pub(super) fn noted(&self, asked: Asked, error: MirrorError) -> MirrorError {
        if error.is_final() {
            self.answers.insert(asked, (Instant::now(), error.clone()));
        }
        error
    }
}
