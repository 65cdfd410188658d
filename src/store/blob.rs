//! Blobs: verified bytes under their digest.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use crate::fs::{self, FsError, OpenFile, StagedFile};
use crate::oci::{Digest, Verified};

use super::Store;

/// A published blob, open for reading.
#[derive(Clone, Debug)]
pub struct StoredBlob {
    pub file: Arc<OpenFile>,
    pub size_bytes: u64,
}

/// How a layer's blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What a blob begins with that is compressed so (RFC 1952, RFC 8878).
const MAGICS: [(Compression, &[u8]); 2] = [
    (Compression::Gzip, &[0x1f, 0x8b]),
    (Compression::Zstd, &[0x28, 0xb5, 0x2f, 0xfd]),
];

impl Store {
    /// Tells how a layer's blob is compressed; a guess if it is not there.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn compression_of(&self, digest: &Digest) -> Result<Compression, FsError> {
        let path = self.blob_path(digest);
        let Some(file) = fs::open(&path)? else {
            return Ok(Compression::Gzip);
        };
        let mut bytes = Vec::new();
        (&*file)
            .take(4)
            .read_to_end(&mut bytes)
            .map_err(|source| FsError::new("read", &path, source))?;
        let magic = MAGICS.iter().find(|(_, magic)| bytes.starts_with(magic));
        Ok(magic.map_or(Compression::None, |(compression, _)| *compression))
    }

    /// Opens a blob; `None` if the store does not have it.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<StoredBlob>, FsError> {
        let path = self.blob_path(digest);
        let Some(file) = fs::open(&path)? else {
            return Ok(None);
        };
        let size_bytes = file
            .metadata()
            .map_err(|source| FsError::new("stat", &path, source))?
            .len();
        Ok(Some(StoredBlob {
            file: Arc::new(file),
            size_bytes,
        }))
    }

    /// Returns a blob's size in bytes; `None` if the store does not have it.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn stat_blob(&self, digest: &Digest) -> Result<Option<u64>, FsError> {
        fs::stat(&self.blob_path(digest))
    }

    /// Reads a small blob whole; `None` if the store does not have it or it is larger than `limit` bytes.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn read_blob(&self, digest: &Digest, limit: usize) -> Result<Option<Vec<u8>>, FsError> {
        let Some(blob) = self.open_blob(digest)? else {
            return Ok(None);
        };
        if blob.size_bytes > limit as u64 {
            return Ok(None);
        }
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        (&**blob.file)
            .read_to_end(&mut bytes)
            .map_err(|source| FsError::new("read", &path, source))?;
        Ok(Some(bytes))
    }

    /// Creates a file of this process to write a blob into.
    ///
    /// # Errors
    /// Any errno.
    pub fn stage(&self) -> Result<StagedFile, FsError> {
        self.work()?.stage()
    }

    /// Creates a file of this process to write a blob into, at the path under which other mirrors look for it
    /// ([`crate::flight::Claim::file`]).
    ///
    /// # Errors
    /// Any errno.
    pub fn stage_at(&self, path: PathBuf) -> Result<StagedFile, FsError> {
        self.work()?.stage_at(path)
    }

    /// Publishes a staged blob under the digest that it was verified to have.
    ///
    /// # Errors
    /// Any errno; nothing is published then.
    pub fn publish_blob(&self, staged: StagedFile, verified: &Verified) -> Result<(), FsError> {
        staged.publish(&self.blob_path(verified.digest()))
    }

    /// Publishes bytes that are all there.
    ///
    /// # Errors
    /// Any errno; nothing is published then.
    pub fn put_blob(&self, bytes: &[u8], verified: &Verified) -> Result<(), FsError> {
        let mut staged = self.stage()?;
        staged.write(&[bytes])?;
        self.publish_blob(staged, verified)
    }

    /// Returns the path of a blob, for messages and for [`crate::fs::Disk`].
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.layout().blob(digest)
    }
}
