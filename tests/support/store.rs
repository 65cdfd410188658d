//! What must hold of a store's files, looked at from outside.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::wait_until;
use super::sha256_file;

/// Returns every regular file below `root`.
pub fn files_below(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&entry.path())),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}

/// Asserts that every published blob has the digest that it is named after; returns how many there are.
pub fn assert_blobs_are_whole(store: &Path) -> usize {
    let blobs = files_below(&store.join("blobs/sha256"));
    for blob in &blobs {
        let name = blob.file_name().expect("a name").to_string_lossy();
        assert_eq!(sha256_file(blob), format!("sha256:{name}"), "{}", blob.display());
    }
    blobs.len()
}

/// Returns where a blob is once it is published.
pub fn blob_path(store: &Path, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").expect("a sha256 digest");
    store.join("blobs/sha256").join(&hex[..2]).join(hex)
}

/// Returns whether a blob is published.
pub fn has_blob(store: &Path, digest: &str) -> bool {
    blob_path(store, digest).exists()
}

/// The bytes in staged files.
pub fn staged_bytes(store: &Path) -> u64 {
    files_below(&store.join("staging/work"))
        .iter()
        .map(|file| super::file_length(file))
        .sum()
}

/// Waits until a mirror that still runs has put away what it staged.
pub fn wait_until_nothing_is_staged(store: &Path) {
    wait_until("staging to be empty", Duration::from_secs(10), || {
        (staged_bytes(store) == 0).then_some(())
    });
}

/// Asserts that no work is left in staging.
pub fn assert_nothing_staged(store: &Path) {
    let left: Vec<_> = files_below(&store.join("staging/work"))
        .into_iter()
        .filter(|file| super::file_length(file) > 0)
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "files with content in staging/work");
}
