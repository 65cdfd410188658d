//! The one error of file operations.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file operation that failed, with its path.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct FsError {
    operation: &'static str,
    path: PathBuf,
    source: Arc<io::Error>,
}

/// What a failed file operation means to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsErrorKind {
    /// ENOENT: the name is not there.
    Missing,
    /// EEXIST: the name is taken.
    Exists,
    /// ENOSPC, EDQUOT, EFBIG: no room.
    Full,
    /// EACCES, EPERM, EROFS: not allowed.
    Denied,
    /// The file system did not answer in time.
    Timeout,
    /// Everything else: a sick file system.
    Sick,
}

impl FsError {
    /// Names what failed.
    pub fn new(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            operation,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }

    /// Returns the operation, one of a closed set of verbs.
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// Returns what the operating system said.
    pub fn io_error(&self) -> &io::Error {
        &self.source
    }

    /// Returns the path that the operation was about.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether the name does not exist (ENOENT and nothing else).
    pub fn is_missing(&self) -> bool {
        self.kind() == FsErrorKind::Missing
    }

    /// Returns what the error means.
    pub fn kind(&self) -> FsErrorKind {
        use io::ErrorKind as Io;
        match self.source.kind() {
            Io::NotFound => FsErrorKind::Missing,
            Io::AlreadyExists => FsErrorKind::Exists,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => FsErrorKind::Full,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => FsErrorKind::Denied,
            Io::TimedOut => FsErrorKind::Timeout,
            _ => FsErrorKind::Sick,
        }
    }

    /// Returns the error and its cause in one line.
    pub fn full_text(&self) -> String {
        format!("{self}: {}", self.source)
    }
}
