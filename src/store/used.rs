//! When images were last used: an empty mark, named by the second in which a mirror served the manifest.
//!
//! A new use is a new name, and then the earlier ones are removed. It tells whether anybody still pulls an image, also
//! nodes without an agent; nothing is kept or removed for it alone.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fs::{self, FsError, FsErrorKind};
use crate::oci::{Digest, Repository};

use super::Store;

impl Store {
    /// Marks that a manifest of a repository was served.
    ///
    /// # Errors
    /// Any errno.
    pub fn mark_used(&self, repository: &Repository, digest: &Digest, at: SystemTime) -> Result<(), FsError> {
        let dir = self.uses_path(repository, digest);
        let earlier = fs::list(&dir)?;
        let second = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        fs::make_dirs(&dir)?;
        match fs::create_new(&dir.join(second.to_string()), b"") {
            Err(error) if error.kind() == FsErrorKind::Exists => {}
            created => created?,
        }
        let is_earlier = |name: &&String| name.parse::<u64>().is_ok_and(|other| other < second);
        earlier
            .iter()
            .filter(is_earlier)
            .try_for_each(|name| fs::remove(&dir.join(name)))
    }

    /// Returns when a manifest of a repository was last served, by the clock of the mirror that did, to about an
    /// hour; `None` if it never was, as far as the store knows.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn last_used(&self, repository: &Repository, digest: &Digest) -> Result<Option<SystemTime>, FsError> {
        let names = fs::list(&self.uses_path(repository, digest))?;
        let latest = names.iter().filter_map(|name| name.parse().ok()).max();
        Ok(latest.and_then(|second| UNIX_EPOCH.checked_add(Duration::from_secs(second))))
    }

    /// Returns where the uses of a manifest are, for messages and for [`crate::fs::Disk`].
    pub fn uses_path(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.layout().uses(repository, digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn the_latest_use_counts_and_the_earlier_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let repository = Repository::new("ghcr.io".parse().unwrap(), "a/b".parse().unwrap());
        let digest = Digest::of(Algorithm::Sha256, b"manifest");
        assert_eq!(store.last_used(&repository, &digest).unwrap(), None);
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        // The clock of another mirror may be behind.
        for (second, latest, names) in [(1000, 1000, 1), (1000, 1000, 1), (5000, 5000, 1), (4000, 5000, 2)] {
            store.mark_used(&repository, &digest, at(second)).unwrap();
            assert_eq!(store.last_used(&repository, &digest).unwrap(), Some(at(latest)));
            let there = fs::list(&store.uses_path(&repository, &digest)).unwrap();
            assert_eq!(there.len(), names, "{there:?}");
        }
        assert_eq!(store.repositories().unwrap(), []);
    }
}
