//! Which repositories the store knows, which manifests came from which, and which bytes from which host.

use std::path::{Path, PathBuf};

use crate::fs::{self, FsError, FsErrorKind};
use crate::oci::{Digest, RegistryHost, Repository};

use super::Store;
use super::layout::digest_of;

/// No repository name of 255 bytes has more components than this.
const MAX_DEPTH: usize = 128;

impl Store {
    /// Marks that a manifest was fetched from a repository.
    ///
    /// # Errors
    /// Any errno.
    pub fn mark_manifest(&self, repository: &Repository, digest: &Digest) -> Result<(), FsError> {
        let dir = self.layout().manifest_marks(repository);
        mark(&dir, &self.layout().manifest_mark(repository, digest))
    }

    /// Marks that a host sent the bytes of a digest.
    ///
    /// # Errors
    /// Any errno.
    pub fn mark_sent(&self, host: &RegistryHost, digest: &Digest) -> Result<(), FsError> {
        mark(
            &self.layout().sent_marks(host),
            &self.layout().sent_mark(host, digest),
        )
    }

    /// Tells whether one of `hosts` sent the bytes of a digest.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn was_sent_by(&self, hosts: &[RegistryHost], digest: &Digest) -> Result<bool, FsError> {
        for host in hosts {
            if fs::stat(&self.layout().sent_mark(host, digest))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the manifests that were fetched from a repository.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn manifests_of(&self, repository: &Repository) -> Result<Vec<Digest>, FsError> {
        let names = fs::list(&self.layout().manifest_marks(repository))?;
        Ok(names.iter().filter_map(|name| digest_of(name)).collect())
    }

    /// Returns every repository from which the store holds something, sorted.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn repositories(&self) -> Result<Vec<Repository>, FsError> {
        let mut found = Vec::new();
        for name in fs::list(&self.layout().hosts())? {
            if let Ok(host) = name.parse::<RegistryHost>() {
                walk(&self.layout().host(&host), &host, "", 0, &mut found)?;
            }
        }
        found.sort();
        Ok(found)
    }

    /// Returns the path of a repository's records, for messages and for [`crate::fs::Disk`].
    pub fn repository_path(&self, repository: &Repository) -> PathBuf {
        self.layout().repository(repository)
    }
}

/// Makes an empty file, and its directory, unless it is there.
pub(super) fn mark(dir: &Path, path: &Path) -> Result<(), FsError> {
    if fs::stat(path)?.is_some() {
        return Ok(());
    }
    fs::make_dirs(dir)?;
    match fs::create_new(path, b"") {
        Err(error) if error.kind() == FsErrorKind::Exists => Ok(()),
        created => created,
    }
}

fn walk(
    dir: &Path,
    host: &RegistryHost,
    name: &str,
    depth: usize,
    found: &mut Vec<Repository>,
) -> Result<(), FsError> {
    let entries = fs::list(dir)?;
    if entries.iter().any(|entry| entry == "_manifests")
        && let Ok(name) = name.parse()
    {
        found.push(Repository {
            host: host.clone(),
            name,
        });
    }
    for entry in entries
        .iter()
        // Neither records nor what a file system shows of its own (`.snapshot`).
        .filter(|entry| !entry.starts_with(['_', '.']) && depth < MAX_DEPTH)
    {
        let name = if name.is_empty() {
            entry.clone()
        } else {
            format!("{name}/{entry}")
        };
        walk(&dir.join(entry), host, &name, depth + 1, found)?;
    }
    Ok(())
}
