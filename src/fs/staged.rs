//! A file under a private name that becomes public by one rename, or is removed.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{FsError, make_dirs, sync_dir};

/// A file being written in staging; dropped unpublished, it is removed.
#[derive(Debug)]
pub struct StagedFile {
    path: PathBuf,
    file: Arc<File>,
    written: u64,
    is_published: bool,
}

impl StagedFile {
    /// Creates an empty file, readable and writable, whose name must be free.
    ///
    /// # Errors
    /// Any errno.
    pub fn create(path: PathBuf) -> Result<Self, FsError> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|source| FsError::new("create", &path, source))?;
        Ok(Self {
            path,
            file: Arc::new(file),
            written: 0,
            is_published: false,
        })
    }

    /// Returns a handle that reads what has been written; it outlives the name.
    pub fn reader(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// Any errno. Nothing of what failed counts as written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        self.file
            .write_all_at(bytes, self.written)
            .map_err(|source| FsError::new("write", &self.path, source))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Makes the content durable and gives it its final name, whose directory is made if needed.
    ///
    /// A final name that exists already stays: names are by content, so it holds the same bytes.
    ///
    /// # Errors
    /// Any errno; the staged file is removed then.
    pub fn publish(mut self, target: &Path) -> Result<(), FsError> {
        self.file
            .sync_all()
            .map_err(|source| FsError::new("sync", &self.path, source))?;
        let parent = target.parent().unwrap_or(Path::new("."));
        if super::stat(target)?.is_some() {
            return Ok(());
        }
        make_dirs(parent)?;
        std::fs::rename(&self.path, target).map_err(|source| FsError::new("rename", target, source))?;
        self.is_published = true;
        sync_dir(parent)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if self.is_published {
            return;
        }
        if let Err(error) = super::remove(&self.path) {
            tracing::warn!(error = error.full_text(), "a staged file stays behind");
        }
    }
}
