//! A file under a private name that becomes public by one rename, or is removed.

use std::fs::File;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::{FileIdentity, FsError, OpenFile, Published, make_dirs_durably, sync_dir};

/// Buffers of one write; the kernel takes 1024 (`UIO_MAXIOV`).
const MAX_SLICES: usize = 512;

/// A file being written in staging; dropped unpublished, it is removed.
#[derive(Debug)]
pub struct StagedFile {
    path: PathBuf,
    file: Arc<OpenFile>,
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
            file: Arc::new(file.into()),
            written: 0,
            is_published: false,
        })
    }

    /// Returns a handle that reads what has been written; it outlives the name.
    pub fn reader(&self) -> Arc<OpenFile> {
        Arc::clone(&self.file)
    }

    /// Asks for room for `bytes`, so that a full file system says so before the work begins.
    ///
    /// The file stays empty. A file system that cannot reserve says nothing, and a write will.
    ///
    /// # Errors
    /// Any errno but those that mean "not supported" (fallocate(2)).
    pub fn reserve(&self, bytes: u64) -> Result<(), FsError> {
        if bytes == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&**self.file, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(errno) => Err(FsError::new("reserve", &self.path, errno.into())),
        }
    }

    /// Appends pieces, in as few calls as they fit into.
    ///
    /// # Errors
    /// Any errno. Nothing of what failed counts as written.
    pub fn write<B: AsRef<[u8]>>(&mut self, pieces: &[B]) -> Result<(), FsError> {
        let error = |source| FsError::new("write", &self.path, source);
        let mut at = self.written;
        for group in pieces.chunks(MAX_SLICES) {
            let mut slices: Vec<IoSlice<'_>> =
                group.iter().map(|piece| IoSlice::new(piece.as_ref())).collect();
            let mut rest = slices.as_mut_slice();
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                match rustix::io::pwritev(&**self.file, rest, at) {
                    Ok(0) => return Err(error(io::ErrorKind::WriteZero.into())),
                    Ok(count) => {
                        at += count as u64;
                        IoSlice::advance_slices(&mut rest, count);
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(error(errno.into())),
                }
            }
        }
        self.written = at;
        Ok(())
    }

    /// Lets other nodes see what is written so far, soon (facts/dfs.md 2c).
    ///
    /// # Errors
    /// Any errno.
    pub fn show(&self) -> Result<(), FsError> {
        let synced = self.file.sync_data();
        synced.map_err(|source| FsError::new("sync", &self.path, source))
    }

    /// Makes the content durable and gives it a name in place of the file that has it; returns which file it is.
    ///
    /// Readers see the one or the other whole, some of them late (facts/dfs.md 2c).
    ///
    /// # Errors
    /// Any errno; the staged file is removed then.
    pub fn replace(mut self, target: &Path) -> Result<FileIdentity, FsError> {
        self.sync()?;
        // Before the rename: later the name may be another process's file.
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|source| FsError::new("stat", &self.path, source))?;
        self.rename(target)?;
        Ok(FileIdentity::of(&metadata))
    }

    /// Makes the content durable and gives it its final name, whose directory is made if needed.
    ///
    /// A final name that exists already stays: names are by content, so it holds the same bytes.
    ///
    /// # Errors
    /// Any errno; the staged file is removed then.
    pub fn publish(mut self, target: &Path) -> Result<(), FsError> {
        self.sync()?;
        self.is_published = publish_file(&self.path, target)? == Published::Ours;
        Ok(())
    }

    fn sync(&self) -> Result<(), FsError> {
        let synced = self.file.sync_all();
        synced.map_err(|source| FsError::new("sync", &self.path, source))
    }

    fn rename(&mut self, target: &Path) -> Result<(), FsError> {
        std::fs::rename(&self.path, target).map_err(|source| FsError::new("rename", target, source))?;
        self.is_published = true;
        sync_dir(parent_of(target))
    }
}

/// Gives a file, whose content is durable, its final name, whose directory is made if needed.
///
/// A final name that exists already stays, and what was to be published is then where it was.
///
/// # Errors
/// Any errno.
pub fn publish_file(staged: &Path, target: &Path) -> Result<Published, FsError> {
    if super::stat(target)?.is_some() {
        return Ok(Published::Theirs);
    }
    let parent = parent_of(target);
    make_dirs_durably(parent)?;
    std::fs::rename(staged, target).map_err(|source| FsError::new("rename", target, source))?;
    sync_dir(parent)?;
    Ok(Published::Ours)
}

fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
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
