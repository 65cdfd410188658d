//! A layer's compressed tar stream becomes a directory that overlayfs can use as a lower one.
//!
//! Knows no store and no network.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use serde::{Deserialize, Serialize};

use crate::fs::{Abilities, FsError};
use crate::oci::DiffId;

/// How to unpack.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the file system of the target can keep.
    pub abilities: Arc<Abilities>,
    /// How many threads create files.
    pub writers: usize,
    /// Mark opaque directories with `user.overlay.opaque` too, for rootless overlay mounts.
    pub user_opaque: bool,
    pub limits: Limits,
}

/// What a layer may be at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed stream.
    pub max_layer_bytes: u64,
    pub max_entries: u64,
    /// Bytes of the window that a zstd frame may ask for.
    pub max_zstd_window_bytes: u64,
}

/// How far an unpacking is; read by others while it runs. All in all, never reset.
#[derive(Debug, Default)]
pub struct Progress {
    /// Entries that are in the directory.
    pub entries: AtomicU64,
    /// Bytes of the uncompressed stream that have been read.
    pub bytes: AtomicU64,
    /// Set to end it with [`UnpackError::Cancelled`].
    pub cancelled: AtomicBool,
}

/// What a layer needs and its directory does not have, each with how many entries it concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compromises {
    /// Hard links that became copies, for the file system refused them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub copied_links: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_capabilities: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_xattrs: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_acls: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_devices: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_owners: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_modes: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A directory that holds a layer, but for what depends on the layers below.
#[derive(Debug)]
pub struct Unpacked {
    pub diff_id: DiffId,
    /// Bytes of the uncompressed stream.
    pub size_bytes: u64,
    pub entries: u64,
    /// A digest over names, kinds, metadata and contents, in an order of its own.
    pub tree_digest: String,
    pub compromises: Compromises,
    /// What [`settle`] has to do; relative paths.
    pub unsettled: Unsettled,
}

/// What of a layer depends on the layers below. If there is none, all chains can share the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// Directories without an entry of their own: they look as below.
    pub implied: Vec<PathBuf>,
    /// Opaque directories that cannot be marked as such, and get a whiteout for each name below.
    pub opaque: Vec<PathBuf>,
}

/// Why a layer cannot be unpacked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error("cancelled")]
    Cancelled,
}

/// Unpacks a layer into `target`, an empty directory of the caller's alone, and makes it durable.
///
/// The source is read to its end, beyond the archive's; compression is told from its first bytes.
/// The caller checks the DiffID (and the digest of what it gave).
///
/// # Errors
/// The directory's content is then of no use; nothing outside it has been touched.
pub fn unpack(
    _source: impl Read + Send,
    _target: &Path,
    _options: &Options,
    _progress: &Progress,
) -> Result<Unpacked, UnpackError> {
    Err(UnpackError::Cancelled)
}

/// Finishes a directory, once the layers below it are known: `below` are their directories, the topmost first.
///
/// # Errors
/// As [`unpack`].
pub fn settle(
    _target: &Path,
    _unsettled: &Unsettled,
    _below: &[PathBuf],
    _options: &Options,
) -> Result<(), UnpackError> {
    Ok(())
}
