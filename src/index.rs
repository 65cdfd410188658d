//! The index, in sled on a local disk: what the store says, found quickly.
//!
//! It holds which repository has which manifests and blobs, as the manifests in
//! the store tell, and which bytes may be given as a host's. What of it cannot be read from the
//! store again is asked upstream again; deleting the index loses nothing, and so what fails
//! here is logged and taken for "not known". What was used last is in memory too: sled on a disk
//! that was full once fails for as long as the process lives.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `members` | `<host>/<name>` 0 `<digest>` | size in bytes, 8 bytes big-endian; empty if not known |
//! | `read` | `<host>/<name>` 0 `<digest of a manifest>` | empty: the manifest's members are in `members` |
//! | `shared` | `<host>` 0 `<digest>` | empty: these bytes may be given as the host's |

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quick_cache::sync::Cache;
use sled::IVec;

use crate::oci::{Digest, RegistryHost, Repository};

/// sled's own default would be a gigabyte.
const CACHE_BYTES: u64 = 8 << 20;

/// How many entries of each tree are in memory, at some 250 bytes.
const MAX_IN_MEMORY: usize = 16 << 10;

/// An open index. Cheap to clone.
#[derive(Clone)]
pub struct Index {
    members: Tree,
    read: Tree,
    shared: Tree,
}

/// One tree, and the entries of it that were used last.
#[derive(Clone)]
struct Tree {
    stored: sled::Tree,
    in_memory: Arc<Cache<Vec<u8>, IVec>>,
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
        Self::of(sled::Config::new().path(path), path)
    }

    /// Makes an index that goes with the process.
    ///
    /// # Errors
    /// Fails if the machine has no room for it.
    pub fn temporary() -> Result<Self, OpenIndexError> {
        Self::of(
            sled::Config::new().temporary(true),
            Path::new("in a temporary directory"),
        )
    }

    fn of(config: sled::Config, path: &Path) -> Result<Self, OpenIndexError> {
        let error = |source| OpenIndexError::Open {
            path: path.to_owned(),
            source,
        };
        let db = config.cache_capacity(CACHE_BYTES).open().map_err(error)?;
        let tree = |name| {
            Ok(Tree {
                stored: db.open_tree(name).map_err(error)?,
                in_memory: Arc::new(Cache::new(MAX_IN_MEMORY)),
            })
        };
        Ok(Self {
            members: tree("members")?,
            read: tree("read")?,
            shared: tree("shared")?,
        })
    }

    /// Returns what is known of `digest` in a repository; `None` if it is not known to be there.
    pub fn member(&self, repository: &Repository, digest: &Digest) -> Option<Member> {
        let value = self.members.get(key(repository, digest))?;
        Some(Member {
            size_bytes: value.as_ref().try_into().ok().map(u64::from_be_bytes),
        })
    }

    /// Notes that a repository has these manifests or blobs, with their sizes in bytes where known.
    pub fn add(&self, repository: &Repository, members: &[(Digest, Option<u64>)]) {
        for (digest, size) in members {
            match size {
                Some(size) => self.members.insert(key(repository, digest), &size.to_be_bytes()),
                // A size that is known already stays.
                None => self.members.insert_new(key(repository, digest)),
            }
        }
    }

    /// Tells whether a manifest's members are noted.
    pub fn has_read(&self, repository: &Repository, manifest: &Digest) -> bool {
        self.read.get(key(repository, manifest)).is_some()
    }

    /// Notes that a manifest's members are noted.
    pub fn mark_read(&self, repository: &Repository, manifest: &Digest) {
        self.read.insert(key(repository, manifest), b"");
    }

    /// Tells whether it is known that the bytes of this digest may be given as a host's.
    pub fn may_share(&self, host: &RegistryHost, digest: &Digest) -> bool {
        self.shared.get(key(host, digest)).is_some()
    }

    /// Notes that the bytes of this digest may be given as a host's.
    pub fn mark_shared(&self, host: &RegistryHost, digest: &Digest) {
        self.shared.insert(key(host, digest), b"");
    }
}

impl Tree {
    fn get(&self, key: Vec<u8>) -> Option<IVec> {
        if let Some(value) = self.in_memory.get(&key) {
            return Some(value);
        }
        let value = logged(self.stored.get(&key))??;
        self.in_memory.insert(key, value.clone());
        Some(value)
    }

    fn insert(&self, key: Vec<u8>, value: &[u8]) {
        logged(self.stored.insert(&key, value));
        self.in_memory.insert(key, value.into());
    }

    /// Makes an empty entry, unless there is one.
    fn insert_new(&self, key: Vec<u8>) {
        if self.in_memory.get(&key).is_some() {
            return;
        }
        let inserted = logged(self.stored.compare_and_swap(&key, None::<&[u8]>, Some(b"")));
        let current = inserted.and_then(|inserted| inserted.err()?.current);
        self.in_memory.insert(key, current.unwrap_or_default());
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
