//! The index, in sled on a local disk: what the store says, found quickly.
//!
//! It holds which repository has which manifests and blobs, as the manifests in
//! the store tell, and which bytes may be given as a host's. What of it cannot be read from the
//! store again is asked upstream again; deleting the index loses nothing, and so what fails
//! here is logged and taken for "not known".
//!
//! | tree | key | value |
//! |---|---|---|
//! | `members` | `<host>/<name>` 0 `<digest>` | size in bytes, 8 bytes big-endian; empty if not known |
//! | `read` | `<host>/<name>` 0 `<digest of a manifest>` | empty: the manifest's members are in `members` |
//! | `shared` | `<host>` 0 `<digest>` | empty: these bytes may be given as the host's |

use std::fmt::Display;
use std::path::{Path, PathBuf};

use crate::oci::{Digest, RegistryHost, Repository};

/// sled's own default would be a gigabyte.
const CACHE_BYTES: u64 = 8 << 20;

/// An open index. Cheap to clone.
#[derive(Clone)]
pub struct Index {
    members: sled::Tree,
    read: sled::Tree,
    shared: sled::Tree,
}

/// Why the index cannot be opened. Each text says the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenIndexError {
    #[error(
        "index {} cannot be opened; give each wharf a directory of its own on a local disk (--index DIR), \
         or delete this one: it is made again from the store",
        path.display()
    )]
    Open { path: PathBuf, source: sled::Error },
}

/// What is known of a blob or manifest that a repository has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub size_bytes: Option<u64>,
}

impl Index {
    /// Opens the index at `path`, or makes it.
    ///
    /// # Errors
    /// Fails if another process has it open, if it cannot be written, or if it is damaged.
    pub fn open(path: &Path) -> Result<Self, OpenIndexError> {
        let error = |source| OpenIndexError::Open {
            path: path.to_owned(),
            source,
        };
        let db = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .open()
            .map_err(error)?;
        Ok(Self {
            members: db.open_tree("members").map_err(error)?,
            read: db.open_tree("read").map_err(error)?,
            shared: db.open_tree("shared").map_err(error)?,
        })
    }

    /// Returns what is known of `digest` in a repository; `None` if it is not known to be there.
    pub fn member(&self, repository: &Repository, digest: &Digest) -> Option<Member> {
        let found = self.members.get(key(repository, digest));
        let value = logged(found)??;
        Some(Member {
            size_bytes: value.as_ref().try_into().ok().map(u64::from_be_bytes),
        })
    }

    /// Notes that a repository has these manifests or blobs, with their sizes in bytes where known.
    pub fn add(&self, repository: &Repository, members: &[(Digest, Option<u64>)]) {
        for (digest, size) in members {
            let key = key(repository, digest);
            let added = match size {
                Some(size) => self.members.insert(key, &size.to_be_bytes()).map(drop),
                // A size that is known already stays.
                None => self
                    .members
                    .compare_and_swap(key, None::<&[u8]>, Some(b""))
                    .map(drop),
            };
            logged(added);
        }
    }

    /// Tells whether a manifest's members are noted.
    pub fn has_read(&self, repository: &Repository, manifest: &Digest) -> bool {
        logged(self.read.contains_key(key(repository, manifest))).unwrap_or(false)
    }

    /// Notes that a manifest's members are noted.
    pub fn mark_read(&self, repository: &Repository, manifest: &Digest) {
        logged(self.read.insert(key(repository, manifest), b""));
    }

    /// Tells whether it is known that the bytes of this digest may be given as a host's.
    pub fn may_share(&self, host: &RegistryHost, digest: &Digest) -> bool {
        logged(self.shared.contains_key(key(host, digest))).unwrap_or(false)
    }

    /// Notes that the bytes of this digest may be given as a host's.
    pub fn mark_shared(&self, host: &RegistryHost, digest: &Digest) {
        logged(self.shared.insert(key(host, digest), b""));
    }
}

/// Neither a repository, a host nor a digest has a zero byte.
fn key(of: &impl Display, digest: &Digest) -> Vec<u8> {
    format!("{of}\0{digest}").into_bytes()
}

fn logged<T>(result: sled::Result<T>) -> Option<T> {
    result
        .inspect_err(|error| tracing::warn!(%error, "the index fails; what it knows is looked up again"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn members_are_known_by_repository_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let repository = |name: &str| Repository::new("ghcr.io".parse().unwrap(), name.parse().unwrap());
        let digest = |content: &str| Digest::of(Algorithm::Sha256, content.as_bytes());
        let index = Index::open(dir.path()).unwrap();
        index.add(
            &repository("a/b"),
            &[(digest("one"), Some(7)), (digest("two"), None)],
        );
        index.add(&repository("a/b"), &[(digest("one"), None)]);
        index.mark_read(&repository("a/b"), &digest("manifest"));
        drop(index);
        // sled's own thread may hold the lock for a moment longer than the index.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let index = loop {
            match Index::open(dir.path()) {
                Err(_) if std::time::Instant::now() < deadline => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        let size_of = |name, content| {
            index
                .member(&repository(name), &digest(content))
                .map(|m| m.size_bytes)
        };
        assert_eq!(size_of("a/b", "one"), Some(Some(7)));
        assert_eq!(size_of("a/b", "two"), Some(None));
        assert_eq!(size_of("a/b", "three"), None);
        assert_eq!(size_of("a/c", "one"), None);
        assert!(index.has_read(&repository("a/b"), &digest("manifest")));
        assert!(!index.has_read(&repository("a/c"), &digest("manifest")));
    }

    #[test]
    fn a_second_process_is_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Index::open(dir.path()).unwrap();
        let error = Index::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("--index DIR"), "{error}");
    }
}
